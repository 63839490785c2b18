"""What became of a run, in one word and one line: never better than the worst that happened.

Oracle: small runs written by hand.
"""

from __future__ import annotations

import pytest

from pytest_bertology.report import rows
from pytest_bertology.report.rows import rows_of, run_verdict
from pytest_bertology.report.text import visible
from tests.report import content
from tests.report.content import run, verdict

HELD = content.tested("t.py::test_held", verdict())
FAILED = content.tested("t.py::test_failed", verdict(passed=False, message="too low"))
UNCLEAR = content.tested("t.py::test_unclear", verdict(passed=False, inconclusive=True, message="too few"))
BROKEN = content.tested("t.py::test_broken", outcome="error", error="OSError: no weights")
SKIPPED = content.tested("t.py::test_skipped", outcome="skipped", error="no GPU")
SILENT = content.tested("t.py::test_silent")


def state(*tests, exit_status=None):
    whole = run(*tests, exit_status=exit_status)
    found = rows_of(whole["tests"])
    return run_verdict(found, whole["tests"], whole["exit_status"])


@pytest.mark.parametrize(
    ("tests", "exit_status", "expected", "headline"),
    [
        ([HELD], 0, "passed", "1 check passed"),
        ([HELD, HELD | {"test": "t.py::b"}], 0, "passed", "all 2 checks passed"),
        ([HELD, FAILED], 1, "failed", "1 of 2 checks failed"),
        ([HELD, FAILED, UNCLEAR], 1, "failed", "1 of 3 checks failed, 1 inconclusive"),
        ([HELD, UNCLEAR], 1, "inconclusive", "1 of 2 checks inconclusive"),
        ([HELD, UNCLEAR | {"outcome": "passed"}], 0, "inconclusive", "1 of 2 checks inconclusive"),
        ([HELD, BROKEN], 1, "failed", "1 test failed for other reasons"),
        ([HELD], 1, "failed", "1 check held, but other tests of the run failed"),
        ([HELD], 2, "failed", "the run was interrupted"),
        ([HELD], 3, "failed", "the run ended with an internal error"),
        ([UNCLEAR], 2, "failed", "the run was interrupted"),
        ([SKIPPED], 0, "empty", "nothing was checked"),
        ([SILENT], 0, "empty", "nothing was checked"),
        ([], 5, "empty", "nothing was checked"),
        ([], 1, "failed", "no check ran, and other tests of the run failed"),
    ],
)
def test_a_run_is_as_good_as_its_worst(tests, exit_status, expected, headline):
    found = state(*tests, exit_status=exit_status)

    assert (found.state, found.headline) == (expected, headline)


def test_notes_say_what_was_not_checked():
    assert state(HELD, SKIPPED, SILENT).notes == (
        "1 test was skipped and checked nothing",
        "1 test passed without a check of this plugin, and is not listed",
    )
    assert "tests may be missing" in state(HELD, exit_status=2).notes[0]


def test_the_worst_rows_come_first():
    found = rows_of([HELD, SKIPPED, UNCLEAR, FAILED, BROKEN, SILENT])

    assert [row.outcome for row in found] == ["failed", "error", "inconclusive", "skipped", "passed"]
    assert [row.outcome for row in found] == sorted((row.outcome for row in found), key=rows.OUTCOMES.index)


def test_a_check_that_a_test_expected_to_fail_is_no_failure():
    refuted = FAILED | {"outcome": "passed", "error": ""}
    expected = FAILED | {"outcome": "xfailed", "test": "t.py::x"}

    assert [row.outcome for row in rows_of([refuted, expected])] == ["refuted", "xfailed"]
    assert state(refuted, expected, HELD).state == "passed"
    assert state(refuted, expected, HELD).headline == "all 3 checks came out as expected"


def test_a_test_that_fails_beside_its_checks_has_a_row_for_that():
    other = HELD | {"outcome": "failed", "error": "assert 1 == 2"}
    both = FAILED | {"outcome": "failed", "error": "ValueError: another thing", "test": "t.py::both"}
    torn = HELD | {"outcome": "error", "error": "weights were changed", "test": "t.py::torn"}

    found = [(row.name, row.outcome, row.check) for row in rows_of([other, both, torn])]

    assert ("test_held", "failed", "") in found
    assert ("test_held", "passed", "assert_metric_retained") in found
    assert [name for name, outcome, _ in found if outcome == "failed"].count("both") == 2
    assert ("torn", "error", "") in found


def test_what_belongs_to_a_test_is_shown_at_its_worst_row():
    test = content.tested("t.py::a", verdict(), verdict(passed=False, judged="bound", message="no"))

    assert [(row.outcome, row.first) for row in rows_of([test])] == [("failed", True), ("passed", False)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof two lines", "plain\ttext\nof two lines"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("zero\u200bwidth \ufeff", "zero\\u200bwidth \\ufeff"),
        ("half \ud800", "half \\ud800"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("new\r\nline", "new\nline"),
        ("שלום 日本 é 🎬", "שלום 日本 é 🎬"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert visible(text) == shown
