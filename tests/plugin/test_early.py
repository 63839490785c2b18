"""What a user sees of a check that was decided before all its data was run.

Oracle: the same check with early=False, and a tolerance that lies between nothing and its drop.
"""

from __future__ import annotations

import json
import re

import pytest

SUITE = """
    import pytest
    from pytest_bertology import assert_metric_retained

    def test_early(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.01)

    def test_whole(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.01, early=False)

    def test_bound(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.01, confidence=0.9)
"""


@pytest.fixture
def told(suite):
    """The result, and the verdict of each test."""

    def run(*arguments):
        result = suite.run(SUITE, "--bertology-report-json=report.json", *arguments)
        tests = json.loads((suite.path / "report.json").read_text(encoding="utf-8"))["tests"]
        return result, {test["test"].split("::")[1]: test["verdicts"][0] for test in tests}

    return run


def line_of(result, test):
    (line,) = [line for line in result.outlines if f"::{test}: " in line and line.startswith("  FAILED")]
    return line


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_the_summary_says_how_much_data_was_needed(told, workers):
    result, verdicts = told("-k", "test_early", workers)

    result.assert_outcomes(failed=1)
    needed = verdicts["test_early"]["details"]["examples_needed"]
    assert 0 < needed < 40
    assert re.fullmatch(
        r"  FAILED  test_release.py::test_early: drop in accuracy at least 0\.\d+, required <= 0.01, "
        rf"8 heads masked, decided after {needed / 40:.0%} of 40 examples",
        line_of(result, "test_early"),
    )


def test_what_is_said_early_holds_for_all_the_data(told):
    _, verdicts = told()

    early, whole = verdicts["test_early"], verdicts["test_whole"]
    assert (early["passed"], early["score"]) == (whole["passed"], None) == (False, None)
    assert 0.01 < early["observed"] <= whole["observed"]
    assert early["details"]["examples"] == early["examples"] == whole["examples"] == 40
    assert "examples_needed" not in whole["details"]
    for same in ("baseline", "heads", "required", "judged", "metric"):
        assert early[same] == whole[same]


def test_the_message_says_what_is_certain_and_how_to_see_all(told, section):
    result, verdicts = told("-k", "test_early")

    text = " ".join(section(result, "test_early").replace("\nE  ", " ").split())
    needed, least = verdicts["test_early"]["details"]["examples_needed"], verdicts["test_early"]["observed"]
    said = re.search(
        rf"decided after {needed} of 40 examples \({needed / 40:.0%}\): even if all the others were right the drop "
        r"would be at least (0\.\d{4})\. early=False runs them all and shows the whole drop\.",
        text,
    )
    assert said
    assert least - 1e-4 < float(said[1]) <= least
    assert f"drop at least {said[1]}; required: at most 0.01" in text
    assert re.search(rf"of these {needed}, \d+ became wrong and \d+ right; the worst of them: #\d+ '", text)
    assert "masked" not in text.split("baseline")[1].split("heads")[0]


def test_a_bound_is_told_as_one(told, section):
    result, _ = told("-k", "test_bound")

    assert "bound on the drop in accuracy at least 0." in line_of(result, "test_bound")
    text = " ".join(section(result, "test_bound").replace("\nE  ", " ").split())
    assert re.search(r"bound at least 0\.\d{4} on the true drop with 90% confidence; required: at most 0\.01", text)
