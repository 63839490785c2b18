"""What the checks of a run found: gathered from the tests' reports, shown at the end; plain values for every report."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.files import written_whole
from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.workers import ungrouped
from pytest_bertology.report.rows import outcome_in, rows_of, run_verdict
from pytest_bertology.report.text import visible
from pytest_bertology.report.wording import entry, merged, probed, sentence

SCHEMA = "pytest-bertology report 1"
_LABELS = {"failed": "FAILED", "inconclusive": "INCONCLUSIVE"}
_OWN_ERROR = re.compile(r"pytest_bertology\.(\w+\.)*[A-Z]\w*: ")
"""How the message of an error of this package's own begins."""
_LINE, _WARNINGS = 200, 5
"""Characters of an error or a warning on the terminal, and how many warnings."""
_LONGEST = 20_000
"""Characters of an error that a report keeps."""


@dataclass(eq=False)  # a plugin must be hashable
class Gathered:
    """Per test its outcome and verdicts, as plain values; filled from reports, so that xdist workers' arrive too."""

    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Per test what was drawn of its results."""
    figures: list[str] = field(default_factory=list)
    """Files that were written."""
    notes: list[str] = field(default_factory=list)
    """What else every report is to say of the run, a line each."""
    problems: list[str] = field(default_factory=list)
    """Why a report, or a figure, could not be written."""
    noise_floor: list[dict[str, Any]] = field(default_factory=list)
    """What the machine alone does to the scores of each model and task, where that was measured."""
    warned: dict[str, list[str]] = field(default_factory=dict)
    """Per test the warnings of this package."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's report, where the test has to do with this plugin."""
        drawn = getattr(report, "bertology_figures", {})
        self.figures += drawn.get("written", [])
        self.problems += drawn.get("problems", [])
        self.notes += drawn.get("notes", [])
        name = ungrouped(report.nodeid)
        if drawn.get("pictures"):
            self.pictures[name] = drawn["pictures"]
        verdicts = getattr(report, "bertology_verdicts", None)
        if verdicts is None or (report.passed and report.when != "call"):
            return
        known = self.tests.get(name, {"test": name, "seconds": 0.0, "verdicts": []})
        crashed = getattr(report, "bertology_crashed", known.get("crashed"))
        if hasattr(report, "bertology_crashed") or (report.when == "teardown" and name in self.tests):
            found = {**known, "outcome": "error"}
        else:
            found = {
                "test": name,
                "outcome": _outcome(report) if crashed is None else "error",
                "seconds": round(report.duration, 3),
                "verdicts": verdicts,
                "provenance": getattr(report, "bertology_provenance", {"models": [], "tasks": []}),
            }
        errors = [text for text in (known.get("error"), crashed or _error(report)) if text]
        if errors:
            found["error"] = "\n\n".join(dict.fromkeys(errors))
        self.tests[name] = found if crashed is None else {**found, "crashed": crashed}

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        """Note a warning of this package, given in a test."""
        if warning_message.category.__name__ == "BertologyWarning" and nodeid:
            told = self.warned.setdefault(ungrouped(nodeid), [])
            if str(warning_message.message) not in told:
                told.append(str(warning_message.message))

    def content(self, settings: Settings, exit_status: int) -> dict[str, Any]:
        """All that reports show, but for pictures: plain dictionaries, lists, text and numbers; NaN is None."""
        tests = []
        for name in sorted(self.tests):
            own = {"provenance": {"models": [], "tasks": []}, **self.tests[name]}
            tests.append({**own, "error": own.get("error", ""), "warnings": self.warned.get(name, [])})
        rows = rows_of(tests)
        verdict = run_verdict(rows, tests, exit_status)
        return {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "exit_status": int(exit_status),
            "summary": {"verdict": verdict.state, "headline": verdict.headline, "outcomes": verdict.counts},
            "notes": list(dict.fromkeys(self.notes)),
            "noise_floor": self.noise_floor,
            "settings": {name: {"value": s.value, "source": s.source} for name, s in settings.given.items()},
            "versions": _versions(),
            "provenance": {
                kind: _each_once(test["provenance"][kind] for test in tests) for kind in ("models", "tasks")
            },
            "tests": tests,
        }

    def lines(self, allowed: str = "") -> list[str]:
        """The terminal summary: per model its baseline scores, then each check's observed against required.

        `allowed` is the option that lets checks be inconclusive, where it is in force.
        """
        pairs = [(test, verdict) for name, test in sorted(self.tests.items()) for verdict in merged(test["verdicts"])]
        lines = _baselines(verdict for _, verdict in pairs)
        labels = [_label(test, verdict) for test, verdict in pairs]
        width = max(map(len, labels), default=0)
        for label, (test, verdict) in zip(labels, pairs, strict=True):
            let_pass = f", allowed by {allowed}" if allowed and label == "INCONCLUSIVE" else ""
            lines.append(f"  {label:<{max(width, 7)}} {_short(test['test'])}: {sentence(verdict)}{let_pass}")
        for name, test in sorted(self.tests.items()):
            if "crashed" in test:
                lines.append(f"  FAILED  {_short(name)}: crashed: {test['crashed']}")
            elif _OWN_ERROR.match(test.get("error", "")) and test["outcome"] in ("failed", "error"):
                lines.append(f"  ERROR   {_short(name)}: {_first_line(test['error'])}")
        lines += self._warnings()
        if self.figures:
            count = len(set(self.figures))
            lines.append(f"{count} figure{'s' if count != 1 else ''} in {Path(self.figures[0]).parent}")
        return lines + list(dict.fromkeys(self.notes)) + [f"  FAILED  {problem}" for problem in self.problems]

    def _warnings(self) -> list[str]:
        """A line for each of the first warnings, and how many more there are."""
        told: dict[str, list[str]] = {}
        for name, texts in sorted(self.warned.items()):
            for text in texts:
                told.setdefault(_first_line(text), []).append(_short(name))
        lines = [
            f"  warning {names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {text}"
            for text, names in list(told.items())[:_WARNINGS]
        ]
        more = len(told) - _WARNINGS
        return lines + [f"  and {more} more warning{'s' * (more != 1)}, above and in the reports"] * (more > 0)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a run's content as JSON, whole or not at all; raises OSError."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(content, file, indent=1, allow_nan=False, ensure_ascii=False)
        file.write("\n")


def plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, NaN and infinity as None: what JSON and xdist can carry."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if value is None or isinstance(value, str):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    return number if isinstance(number, bool | int) else str(value)


def each_last(verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of equal verdicts the last alone: how often Hypothesis runs an example again is up to tracebacks and timing."""
    return list({json.dumps(each): each for each in reversed(verdicts)}.values())[::-1]


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return "error" if report.failed and report.when != "call" else str(report.outcome)


def _error(report: pytest.TestReport) -> str:
    """Why a test failed or was skipped: its error's own words, without the way there."""
    found: Any = report.longrepr
    if report.passed or found is None:
        return ""
    if isinstance(found, tuple):  # of a skipped test: file, line, reason
        return str(found[-1]).removeprefix("Skipped: ")
    crash = getattr(found, "reprcrash", None)
    text = str(getattr(crash, "message", None) or found)
    text = re.sub(r"^(pytest_bertology\.(CheckFailed|Inconclusive)|Failed): ", "", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _each_once(lists: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    found = {json.dumps(each, sort_keys=True): each for own in lists for each in own}
    return [found[key] for key in sorted(found)]


def _baselines(verdicts: Iterable[dict[str, Any]]) -> list[str]:
    lines = (
        f"{verdict['model']}: baseline {verdict['baseline']:.4f} {verdict['metric']} on {verdict['task']} "
        f"({verdict['examples']} examples)"
        for verdict in verdicts
        # A probe's score is none of the model's own, and a stored baseline is none of this model's.
        if verdict["baseline"] is not None and not probed(verdict) and not entry(verdict)
    )
    return list(dict.fromkeys(lines))


def _label(test: dict[str, Any], verdict: dict[str, Any]) -> str:
    """What came of a check, in capitals where it made its test fail, or nobody can tell."""
    outcome = outcome_in(test, verdict)
    return outcome if test["outcome"] == "passed" and outcome != "inconclusive" else _LABELS.get(outcome, outcome)


def _first_line(text: str) -> str:
    """Of an error or a warning, on one line of the terminal."""
    line = visible(text.strip().partition("\n")[0].removeprefix("pytest_bertology.").removeprefix("errors."))
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"


def _short(test: str) -> str:
    """A test's id without the folders of its file."""
    file, *function = test.split("::", maxsplit=1)
    return "::".join([file.split("/")[-1], *function])


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("pytest-bertology", "torch", "transformers", "pytest"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
