"""The HTML report as a file: what is in it, and what is not.

Oracle: Python's reader of HTML, numbers written by hand, and Pillow for the pixels of maps. How it looks and acts is
for `tests/browser`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from pytest_bertology.report.html.heat import heat_maps, most_changed
from pytest_bertology.report.html.page import page
from pytest_bertology.report.pictures import Picture
from tests.report import content
from tests.report.content import HOSTILE, large, run, verdict

VOID = {"meta", "link", "input", "wbr", "br", "img"}
DRAWN = Picture(
    "curve", "pruning curve\nmodel on data", '<svg viewBox="0 0 9 9"><path d="M0 0"/></svg>', "0 0.9"
).to_jsonable()


class Read(HTMLParser):
    """Elements, attributes and text; raises where elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.elements)


def hostile():
    worst = [{"example": 1, "text": HOSTILE, "label": HOSTILE, "before": HOSTILE, "after": HOSTILE, "margin": 1.0}]
    heads = {"heads": ["L0H0", HOSTILE], "baseline": [1.0, 2.0], "candidate": [1.0, 2.0]}
    return verdict(
        passed=False, check=HOSTILE, message=HOSTILE, model=HOSTILE, task=HOSTILE, metric=HOSTILE, judged=HOSTILE,
        required=HOSTILE, heads=[HOSTILE], details={HOSTILE: HOSTILE, "power": [[HOSTILE, HOSTILE]]},
        evidence={"changed": {"lost": 1, "gained": 0, "worst": worst}, "heads": heads, HOSTILE: {HOSTILE: [HOSTILE]}},
    )  # fmt: skip


def test_no_text_of_data_models_or_tests_becomes_markup():
    test = content.tested(f"t.py::test[{HOSTILE}]", hostile(), error=f"{HOSTILE} error", warnings=[HOSTILE])
    provenance = {"models": [{"name": HOSTILE, HOSTILE: HOSTILE}], "tasks": [{"name": HOSTILE}]}
    settings = {"model": {"value": [HOSTILE], "source": HOSTILE}}
    picture = DRAWN | {"title": HOSTILE, "alt": HOSTILE}

    text = page(
        run(test, provenance=provenance, settings=settings, notes=[HOSTILE], created=HOSTILE),
        {test["test"]: [picture]},
        note=HOSTILE,
    )
    found = Read(text)

    assert found.count("script") == 1
    assert found.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "".join(found.text).count('<script>document.title="hacked"</script>') > 20


def test_one_file_that_loads_nothing_and_runs_only_its_own_script():
    text = page(large(10), {})
    found = Read(text)

    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    (policy,) = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{own}'" in policy
    assert policy.startswith("default-src 'none'")
    links = [a[name] for _, a in found.elements for name in ("src", "href") if name in a]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "http://" not in text
    assert "https://" not in text.replace("https://matplotlib.org", "")


def test_each_check_has_a_row_and_its_evidence():
    found = Read(page(large(30), {}))

    assert sum(tag == "tbody" and "check" in a.get("class", "").split() for tag, a in found.elements) == 30
    words = " ".join("".join(found.text).split())
    assert "17 became wrong; 11 became right" in words
    assert "smallest drop that 872 examples can show" in words
    assert "baselines/test_gate.json" in words


def test_equal_figures_are_stored_once():
    tests = [content.tested(f"t.py::test_{name}", verdict()) for name in "abc"]
    other = DRAWN | {"title": "another"}

    text = page(run(*tests), {"t.py::test_a": [DRAWN], "t.py::test_b": [DRAWN, other], "t.py::test_c": [DRAWN]})
    found = Read(text)

    assert sum(tag == "symbol" for tag, _ in found.elements) == 2
    assert sum(a.get("class") == "drawn" for _, a in found.elements) == 4
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in found.elements if tag == "use"} <= set(ids)


def test_figures_beyond_the_room_are_left_out_and_counted():
    big = '<svg viewBox="0 0 9 9">' + "<path d='M0 0 L 9 8'/>" * 15_000 + "</svg>"
    tests = [content.tested(f"t.py::test_{number}", verdict()) for number in range(12)]
    drawn = {test["test"]: [DRAWN | {"svg": big.replace("9 8", f"9 {i}")}] for i, test in enumerate(tests)}

    text = page(run(*tests), drawn)

    shown = sum(tag == "symbol" for tag, _ in Read(text).elements)
    assert 0 < shown < 12
    assert f"{12 - shown} figures left out" in text
    assert len(text) < 3_500_000


@pytest.mark.parametrize("broken", ["", "no svg", "<svg>"])
def test_a_figure_that_is_no_svg_is_left_out_and_counted(broken):
    text = page(run(content.tested("t.py::test_a", verdict())), {"t.py::test_a": [DRAWN | {"svg": broken}]})

    assert "1 figure left out" in text


def test_what_is_missing_for_want_of_matplotlib_is_said():
    assert "pytest-bertology[figures]" in page(run(), {}, note='pip install "pytest-bertology[figures]"')


def test_500_checks_with_all_evidence_stay_below_5_megabytes():
    assert len(page(large(500), {}).encode()) < 5_000_000


def test_the_same_run_gives_the_same_page():
    assert page(large(20), {}) == page(large(20), {})


# -- maps of heads -------------------------------------------------------------------------------------------------


def pixels(heat):
    with Image.open(io.BytesIO(base64.b64decode(heat.png))) as image:
        return image.convert("RGBA")


def test_candidate_baseline_and_difference_are_drawn_on_common_scales():
    evidence = {"heads": ["L0H0", "L0H1", "L1H0"], "baseline": [0.0, 2.0, 1.0], "candidate": [0.0, 4.0, None]}

    candidate, baseline, difference = heat_maps(evidence)

    assert [each.title for each in (candidate, baseline, difference)] == ["candidate", "baseline", "difference"]
    assert (candidate.low, candidate.high) == (baseline.low, baseline.high) == (0.0, 4.0)
    assert (difference.low, difference.high) == (-2.0, 2.0)
    drawn = pixels(candidate)
    assert drawn.size == (2, 2)
    assert drawn.getpixel((0, 1))[:3] == (0x44, 0x01, 0x54)  # layer 0 is the lowest row; the least is viridis' first
    assert drawn.getpixel((1, 1))[:3] == (0xFD, 0xE7, 0x25)
    assert drawn.getpixel((0, 0))[3] == 0  # no number
    assert drawn.getpixel((1, 0))[3] == 0  # no head
    assert pixels(difference).getpixel((0, 1))[:3] == (0xF7, 0xF7, 0xF7)  # no difference is the middle
    assert pixels(difference).getpixel((1, 1))[:3] == (0x05, 0x30, 0x61)
    assert "to 4 (L0H1)" in candidate.words


def test_stacks_stand_one_above_the_other():
    (heat,) = heat_maps({"heads": ["encoder.L0H0", "decoder.L0H0", "decoder.L1H0"], "scores": [1.0, 2.0, 3.0]})

    assert pixels(heat).size == (1, 3)
    assert [label for label, *_ in heat.frame.labels] == ["encoder 0", "decoder 0", "1", "0"]


@pytest.mark.parametrize(
    "evidence",
    [
        {},
        {"heads": []},
        {"heads": ["L0H0"]},
        {"heads": ["L0H0"], "baseline": [1.0, 2.0]},
        {"heads": ["a head"], "baseline": [1.0]},
    ],
)
def test_what_cannot_be_read_as_heads_gives_no_map(evidence):
    assert heat_maps(evidence) == []
    assert most_changed(evidence) == []


def test_heads_without_a_number_are_no_colour_and_no_error():
    maps = heat_maps({"heads": ["L0H0", "L0H1"], "baseline": [None, None], "candidate": [None, None]})

    assert [pixels(each).getextrema()[3] for each in maps] == [(0, 0)] * 3


def test_the_heads_that_changed_most_are_named():
    evidence = {"heads": ["L0H0", "L0H1", "L0H2"], "baseline": [1.0, 1.0, None], "candidate": [1.5, 0.0, 1.0]}

    assert most_changed(evidence) == [("L0H1", 1.0, 0.0, -1.0), ("L0H0", 1.0, 1.5, 0.5)]
