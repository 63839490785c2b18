"""The rows of a report: one for each check of each test, and one for each test that did not get as far as a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_bertology.report.text import counted
from pytest_bertology.report.wording import Plain, judged, merged, outcome_of, sentence

OUTCOMES = ("failed", "error", "inconclusive", "xpassed", "refuted", "xfailed", "skipped", "passed")
"""What can become of a check, the worst first. A refuted one did not hold in a test that expected this and passed."""
_BAD = ("failed", "error")
_ENDED = {2: "was interrupted", 3: "ended with an internal error", 4: "was started wrongly", 5: "found no test"}


@dataclass(frozen=True)
class Row:
    """One check, or a test that ended without one."""

    test: str
    outcome: str
    """One of OUTCOMES."""
    sentence: str
    """What was observed and required, or why there is no check."""
    verdict: Plain | None
    """None for a test without a check."""
    of_test: Plain
    """All that is known of the test."""
    first: bool
    """Whether it is the row of its test to show what belongs to the whole test, such as its figures."""

    @property
    def message(self) -> str:
        """The page that explains a check that did not hold, or the error of a test."""
        if self.verdict is None:
            return str(self.of_test.get("error") or "")
        return str(self.verdict.get("message") or "")

    @property
    def file(self) -> str:
        """The file of the test, with its folders."""
        return self.test.partition("::")[0]

    @property
    def name(self) -> str:
        """The test within its file."""
        return self.test.partition("::")[2] or self.test

    @property
    def check(self) -> str:
        """The check's function; "" where there is none."""
        return "" if self.verdict is None else str(self.verdict["check"])

    @property
    def judged(self) -> str:
        """What the check's number is."""
        return "" if self.verdict is None else judged(self.verdict)

    @property
    def severity(self) -> int:
        """0 for the worst outcome."""
        return OUTCOMES.index(self.outcome)


@dataclass(frozen=True)
class RunVerdict:
    """What came of the run as a whole."""

    state: str
    """ "failed", "inconclusive", "passed", or "empty" where nothing was checked."""
    headline: str
    notes: tuple[str, ...]
    """What else should be known before the headline is believed."""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows of each outcome, the worst first."""


def rows_of(tests: Sequence[Plain]) -> list[Row]:
    """The rows of these tests, the worst outcome first, then by test."""
    found = [row for test in tests for row in _of_test(test)]
    return sorted(found, key=lambda row: (row.severity, row.test))


def _of_test(test: Plain) -> list[Row]:
    verdicts = merged(test["verdicts"])
    pairs: list[tuple[str, str, Plain | None]] = [
        (outcome_in(test, verdict), sentence(verdict), verdict) for verdict in verdicts
    ]
    if not _accounted(test, verdicts):
        pairs.append((str(test["outcome"]), _without_check(test), None))
    if not pairs:
        return []
    worst = min(range(len(pairs)), key=lambda i: OUTCOMES.index(pairs[i][0]))
    return [
        Row(str(test["test"]), outcome, said, verdict, test, first=i == worst)
        for i, (outcome, said, verdict) in enumerate(pairs)
    ]


def outcome_in(test: Plain, verdict: Plain) -> str:
    """What came of a check in its test: one that did not hold is refuted, or xfailed, where the test expected that."""
    found = outcome_of(verdict)
    if found == "failed" and test["outcome"] in ("passed", "xpassed"):
        return "refuted"
    return "xfailed" if found != "passed" and test["outcome"] == "xfailed" else found


def _accounted(test: Plain, verdicts: Sequence[Plain]) -> bool:
    """Whether the rows of its checks say what came of the test."""
    if test["outcome"] == "passed":
        return True
    if test["outcome"] in ("failed", "xfailed"):
        error = test.get("error")
        bad = [verdict for verdict in verdicts if not verdict["passed"]]
        return any(not error or (v.get("message") or "") in error for v in bad)
    return False


def _without_check(test: Plain) -> str:
    """The first line of what became of a test, where no check says it."""
    said = str(test.get("error") or "").strip().partition("\n")[0]
    ended = {
        "skipped": "skipped",
        "error": "the test could not be set up, run or taken down",
        "xpassed": "expected to fail, and did not",
        "xfailed": "failed, as expected",
    }.get(str(test["outcome"]), "the test failed outside of our checks")
    return f"{ended}: {said}" if said else ended


def run_verdict(rows: Sequence[Row], tests: Sequence[Plain], exit_status: int) -> RunVerdict:
    """What came of the run: failed wherever anything did, passed only where something was checked and held."""
    counts = Counter(row.outcome for row in rows)
    checks = sum(row.verdict is not None for row in rows)
    bad, unclear = sum(counts[name] for name in _BAD), counts["inconclusive"]
    notes = _notes(rows, tests, exit_status)
    ordered = {name: counts[name] for name in OUTCOMES if counts[name]}
    if bad:
        headline = f"{_of_checks(rows, checks)}{f', {unclear} inconclusive' if unclear else ''}"
        return RunVerdict("failed", headline, notes, ordered)
    if exit_status not in (0, 1, 5):
        return RunVerdict("failed", f"the run {_ended(exit_status)}", notes, ordered)
    if unclear:
        return RunVerdict("inconclusive", f"{unclear} of {counted(checks, 'check')} inconclusive", notes, ordered)
    if exit_status == 1:
        held = f"{'all ' * (checks > 1)}{counted(checks, 'check')} held, but" if checks else "no check ran, and"
        return RunVerdict("failed", f"{held} other tests of the run failed", notes, ordered)
    if not checks:
        return RunVerdict("empty", "nothing was checked", notes, ordered)
    came = "came out as expected" if counts["refuted"] or counts["xfailed"] else "passed"
    return RunVerdict("passed", f"{'all ' * (checks > 1)}{counted(checks, 'check')} {came}", notes, ordered)


def _of_checks(rows: Sequence[Row], checks: int) -> str:
    """How many checks failed, and how many tests for other reasons."""
    failed = sum(row.outcome == "failed" and row.verdict is not None for row in rows)
    tests = sum(row.outcome in _BAD and row.verdict is None for row in rows)
    said = [f"{failed} of {counted(checks, 'check')} failed"] if failed else []
    said += [f"{counted(tests, 'test')} failed for other reasons"] if tests else []
    return ", ".join(said)


def _notes(rows: Sequence[Row], tests: Sequence[Plain], exit_status: int) -> tuple[str, ...]:
    notes = []
    if exit_status not in (0, 1, 5) or (exit_status == 5 and tests):
        notes.append(f"pytest {_ended(exit_status)} (exit status {exit_status}): tests may be missing here")
    skipped = sum(row.outcome == "skipped" for row in rows)
    if skipped:
        notes.append(f"{counted(skipped, 'test')} {'was' if skipped == 1 else 'were'} skipped and checked nothing")
    silent = sum(test["outcome"] == "passed" and not test["verdicts"] for test in tests)
    if silent:
        notes.append(f"{counted(silent, 'test')} passed without a check of this plugin, and {_is(silent)} not listed")
    return tuple(notes)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _ended(exit_status: int) -> str:
    return _ENDED.get(exit_status, f"ended with exit status {exit_status}")
