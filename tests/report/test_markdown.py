"""The Markdown summary.

Oracle: markdown-it, a reader of CommonMark and GitHub's tables, and the number of bytes.
"""

from __future__ import annotations

import html
import re

import pytest

from pytest_bertology.report.markdown import LIMIT, escaped, markdown
from tests.report import content
from tests.report.content import HOSTILE, large, run, verdict

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")


def read(text):
    return markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def cells(page):
    """Each row of each table, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)
    return [
        [html.unescape(re.sub("<[^>]+>", " ", cell)).strip() for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.S)]
        for row in rows
    ]


def test_what_failed_comes_first_with_observed_and_required():
    page = read(markdown(large(40)))

    outcomes = [row[0].split()[-1] for row in cells(page) if row and row[0].split()]
    assert page.startswith("<h2>❌ ")
    assert outcomes == sorted(outcomes, key=["failed", "error", "inconclusive", "skipped", "passed"].index)
    assert outcomes.count("failed") >= 3
    row = next(row for row in cells(page) if "failed" in row[0])
    assert row[4] == "<= 0.01"
    assert float(row[3]) > 0.01
    assert page.count("<details>") == page.count("</details>")


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "a|b\nc",
        "`code` ``more``",
        "<b>bold</b> &amp; &lt;",
        "[link](http://example.org) ![image](x) http://example.org www.example.org",
        "*stars* __lines__ ~~gone~~ # head\n# line",
        "@everyone #123 $x^2$ :smile:",
        "\\| \\` \\",
        "</details></pre><script>alert(1)</script>",
    ],
)
def test_any_text_is_shown_as_it_is(text):
    page = read(f"| a |\n|---|\n| {escaped(text)} |\n")

    (shown,) = [row for row in cells(page)[1:] if row]
    plain = text.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert shown == [" ".join(plain.split())]
    assert "<script" not in page
    assert not re.search("<(b|a|img|em|strong|code|del)\\b", page)


def test_names_of_tests_and_files_stay_readable_in_the_raw_file():
    text = "tests/test_gate.py::test_it_holds[minilm-sst2]: required <= 0.01"

    assert escaped(text) == "tests/test_gate.py::test_it_holds&#91;minilm-sst2&#93;: required &#60;= 0.01"


def test_hostile_text_of_data_sets_stays_text():
    found = verdict(passed=False, message=f"{HOSTILE}\n\n</pre></details>{HOSTILE}", model=HOSTILE, task=HOSTILE)
    page = markdown(run(content.tested("t.py::test[|`<b>]", found), notes=[HOSTILE]))

    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</details>") == page.count("<details>") == 1
    assert len(cells(read(page))[1]) == 8


def test_a_run_that_is_too_long_says_how_much_is_left_out():
    whole = large(3000)
    text = markdown(whole)
    short = markdown(whole, limit=20_000)

    assert len(text.encode()) <= LIMIT
    assert len(short.encode()) <= 20_000
    assert re.search(r"\*\*\d+ parts \(rows and explanations\) left out", short)
    page = read(short)
    assert page.count("<details>") == page.count("</details>")
    outcomes = [row[0] for row in cells(page) if row and row[0]]
    assert outcomes
    assert all("failed" in each or "error" in each for each in outcomes)


def test_models_and_tasks_are_named():
    text = markdown(large(10))

    assert "model **minilm-sst2**" in text
    assert "0405e80d82f08387" in text
