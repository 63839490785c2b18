"""Reports as a session writes them: which files, what travels to them from workers, and what happens where they fail.

Oracle: XML and JSON read by the standard library, numbers that the terminal summary and the JSON report share.
"""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from pytest_bertology.plugin.reports import extras, properties
from tests.report.content import HOSTILE, verdict

CHECKS = """
    import pytest
    from pytest_bertology import HeadMap, HeadScores, assert_heads_in_top, assert_metric_retained

    SCORES = HeadScores([8, 7, 6, 5, 4, 3, 2, 1], HeadMap([4, 4]), "by hand")

    def test_holds(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, heads=[(0, 1), (1, 2)], tolerance=0.975)

    def test_top(head_importance):
        assert_heads_in_top(SCORES, [(0, 1)], k=4)
        assert_heads_in_top(SCORES, [(0, 2)], k=2)

    def test_breaks(bertology_model):
        raise ValueError("<script>another error</script>")
"""
UNCLEAR = """
    import warnings
    from pytest_bertology import BertologyWarning
    from pytest_bertology.checks.verdicts import Verdict, give

    def test_unclear(bertology_model):
        warnings.warn("mind this", BertologyWarning)
        give(Verdict("ours", False, 0.02, "<= 0.01", "bound", inconclusive=True, p_value=0.25), lambda: "too few")
"""


def read(suite, name="report.json"):
    return json.loads((suite.path / name).read_text(encoding="utf-8"))


def by_name(content):
    return {test["test"].split("::")[1]: test for test in content["tests"]}


# -- what each test carries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_test_carries_its_error_provenance_properties_and_figures(suite, workers):
    pytest.importorskip("pytest_html")
    files = ("--junitxml=junit.xml", "--html=out.html", "--self-contained-html", "--bertology-report-html=page.html")
    result = suite.run(CHECKS, "--bertology-report-json=report.json", *files, workers)

    result.assert_outcomes(passed=1, failed=2)
    content = read(suite)
    tests = by_name(content)
    assert tests["test_breaks"]["error"] == "ValueError: <script>another error</script>"
    assert tests["test_top"]["error"] == tests["test_top"]["verdicts"][1]["message"]
    assert tests["test_holds"]["error"] == ""
    (model,) = tests["test_holds"]["provenance"]["models"]
    assert (model["name"], model["heads"], model["dtype"], model["device"]) == (
        "tiny", "2 layers of 4 heads", "float32", "cpu",
    )  # fmt: skip
    assert re.fullmatch("[0-9a-f]{16}", model["weights"])
    assert model["attention"] in ("sdpa", "eager")
    (task,) = tests["test_holds"]["provenance"]["tasks"]
    assert (task["name"], task["examples"], task["metric"]) == ("reviews.csv", 40, "accuracy")
    assert content["provenance"] == {"models": [model], "tasks": [task]}
    assert tests["test_breaks"]["provenance"] == {"models": [model], "tasks": []}
    assert content["summary"]["verdict"] == "failed"
    assert content["summary"]["outcomes"] == {"failed": 2, "passed": 2}

    cases = ElementTree.parse(suite.path / "junit.xml").iter("testcase")
    found = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    (held,) = tests["test_holds"]["verdicts"]
    assert found["test_holds"] == {
        "bertology_model": "tiny",
        "bertology_task": "reviews.csv",
        "bertology_check": "assert_metric_retained",
        "bertology_outcome": "passed",
        "bertology_observed": repr(held["observed"]),
        "bertology_required": "<= 0.975",
    }
    assert found["test_top"]["bertology_outcome"] == "passed"
    assert found["test_top"]["bertology_outcome_2"] == "failed"
    assert found["test_top"]["bertology_required_2"] == "< 2"
    assert found["test_breaks"] == {}

    page = (suite.path / "page.html").read_text(encoding="utf-8")
    assert page.count('<symbol id="p-') == 1
    assert "gradient importance" in page
    assert "HTML report: page.html" in result.outlines
    other = (suite.path / "out.html").read_text(encoding="utf-8")
    assert "assert_heads_in_top failed: lowest rank 2, required &amp;lt; 2" in other
    assert "data:image/svg+xml;base64," in other
    assert not list(suite.path.rglob("*.png"))


def test_an_inconclusive_check_and_its_warnings_are_told(suite):
    result = suite.run(UNCLEAR, "--bertology-report-json=report.json", "--junitxml=junit.xml", "-Wdefault")

    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "INCONCLUSIVE test_release.py::test_unclear: bound 0.02, required <= 0.01" in text
    content = read(suite)
    assert content["summary"] == {
        "verdict": "inconclusive", "headline": "1 of 1 check inconclusive", "outcomes": {"inconclusive": 1},
    }  # fmt: skip
    assert by_name(content)["test_unclear"]["warnings"] == ["mind this"]
    (case,) = ElementTree.parse(suite.path / "junit.xml").iter("testcase")
    found = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert (found["bertology_outcome"], found["bertology_p_value"]) == ("inconclusive", "0.25")


def test_a_model_of_a_store_is_told_without_being_loaded(suite):
    source = """
        from pytest_bertology import evaluate

        def test_good(bertology_model, bertology_task):
            assert evaluate(bertology_model, bertology_task).score > 0.9
    """
    arguments = ("--bertology-store=store", "--bertology-report-json=report.json")

    suite.run(source, *arguments)
    first = read(suite)["provenance"]
    suite.run(source, *arguments)

    assert read(suite)["provenance"] == first
    assert "weights" in first["models"][0]


def test_of_equal_verdicts_there_is_one_property_and_none_is_empty():
    found = properties(
        [verdict(observed=0.5, p_value=None), verdict(observed=0.25), verdict(judged="bound", model=None)]
    )

    assert found == [
        ("bertology_model", "minilm-sst2"), ("bertology_task", "sst2"), ("bertology_check", "assert_metric_retained"),
        ("bertology_outcome", "passed"), ("bertology_observed", "0.25"), ("bertology_required", "<= 0.01"),
        ("bertology_task_2", "sst2"), ("bertology_check_2", "assert_metric_retained"),
        ("bertology_outcome_2", "passed"), ("bertology_observed_2", "0.0046"), ("bertology_required_2", "<= 0.01"),
    ]  # fmt: skip


# -- the HTML report ---------------------------------------------------------------------------------------------


DRAWS = """
    from pytest_bertology import assert_heads_in_top, head_importance

    def test_drawn(bertology_model, bertology_task):
        scores = head_importance(bertology_model, bertology_task)
        assert_heads_in_top(scores, scores.top(1), k=1)
"""


def test_figures_of_a_store_are_shown_without_being_computed(suite):
    arguments = ("--bertology-store=store", "--bertology-report-html=report.html")
    suite.run(DRAWS, *arguments)
    first = (suite.path / "report.html").read_text(encoding="utf-8")
    suite.run(DRAWS, *arguments)

    again = (suite.path / "report.html").read_text(encoding="utf-8")

    symbols = [re.search("<symbol.*</symbol>", text, re.DOTALL) for text in (first, again)]
    assert symbols[0][0] == symbols[1][0]


def test_without_matplotlib_the_page_is_written_and_says_what_to_install(suite, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec

    def found(name, *more):
        return None if name == "matplotlib" else find(name, *more)

    monkeypatch.setattr("pytest_bertology.plugin.figures.find_spec", found)
    monkeypatch.setattr("pytest_bertology.plugin.reports.find_spec", found)

    result = suite.run(DRAWS, "--bertology-report-html=report.html")

    result.assert_outcomes(passed=1)
    text = (suite.path / "report.html").read_text(encoding="utf-8")
    assert "pytest-bertology[figures]" in text
    assert "<symbol" not in text


@pytest.mark.parametrize("kind", ["html", "markdown"])
def test_a_report_that_cannot_be_written_leaves_the_earlier_one_and_fails_the_session(suite, kind, monkeypatch):
    file = suite.path / f"report.{kind}"
    file.write_text("an earlier report")

    def full(path, text):
        raise OSError("the disk is full")

    monkeypatch.setattr("pytest_bertology.plugin.reports._write_text", full)

    result = suite.run(CHECKS, f"--bertology-report-{kind}={file.name}", "-k", "test_holds")

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert f"  FAILED  the report {file.name} could not be written: the disk is full" in result.outlines
    assert file.read_text() == "an earlier report"


def test_unrelated_tests_write_an_empty_page_that_says_so(suite):
    suite.run("def test_other(): pass", "--bertology-report-html=report.html")

    assert "Nothing was checked" in (suite.path / "report.html").read_text(encoding="utf-8")


# -- Markdown ----------------------------------------------------------------------------------------------------


def test_markdown_is_written_where_asked_and_appended_to_the_jobs_page(suite, monkeypatch):
    (suite.path / "page.md").write_text("what another step said\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "page.md"))

    suite.run(CHECKS, "--bertology-report-markdown=report.md")

    file = (suite.path / "report.md").read_text(encoding="utf-8")
    page = (suite.path / "page.md").read_text(encoding="utf-8")
    assert file.startswith("## ❌ 1 of 3 checks failed, 1 test failed for other reasons\n")
    assert page == "what another step said\n\n" + file
    assert "<script>" not in file


def test_a_run_that_is_none_of_ours_adds_nothing_to_the_jobs_page(suite, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "page.md"))

    suite.run("def test_other(): pass")

    assert not (suite.path / "page.md").exists()


def test_a_jobs_page_that_cannot_be_written_is_told_and_fails_nothing(suite, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "no" / "page.md"))

    result = suite.run(CHECKS, "-k", "test_holds")

    assert result.ret == 0
    assert "(GITHUB_STEP_SUMMARY) could not be written" in result.stdout.str()


# -- pytest-html -------------------------------------------------------------------------------------------------


def test_extras_of_pytest_html_show_text_as_text():
    pytest.importorskip("pytest_html")
    held = verdict(passed=False, message=HOSTILE, judged=HOSTILE)

    first, picture = extras([held], [{"kind": "curve", "title": HOSTILE, "svg": "<svg/>", "alt": ""}])

    assert "<script>" not in first["content"] + picture["name"]
    assert first["content"].count("&lt;script&gt;") == 2
    assert "\x1b" not in first["content"]
