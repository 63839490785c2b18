"""What the checks of a run found: gathered from the tests' reports, shown at the end, written as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.files import written_whole
from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.workers import ungrouped

SCHEMA = "pytest-bertology report 1"


@dataclass(eq=False)  # a plugin must be hashable
class Gathered:
    """Per test its outcome and verdicts, as plain values; filled from reports, so that xdist workers' arrive too."""

    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)
    """Files that were written."""
    problems: list[str] = field(default_factory=list)
    """Why the JSON report, or a figure, could not be written."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's report, where the test has to do with this plugin."""
        drawn = getattr(report, "bertology_figures", {"written": [], "problems": []})
        self.figures += drawn["written"]
        self.problems += drawn["problems"]
        verdicts = getattr(report, "bertology_verdicts", None)
        if verdicts is None or (report.passed and report.when != "call"):
            return
        name = ungrouped(report.nodeid)
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
            }
        self.tests[name] = found if crashed is None else {**found, "crashed": crashed}

    def write(self, path: Path, settings: Settings, exit_status: int) -> None:
        """Write everything as JSON, whole or not at all."""
        content = {
            "schema": SCHEMA,
            "exit_status": int(exit_status),
            "settings": {name: {"value": s.value, "source": s.source} for name, s in settings.given.items()},
            "versions": _versions(),
            "tests": [self.tests[name] for name in sorted(self.tests)],
        }
        with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, allow_nan=False, ensure_ascii=False)
            file.write("\n")

    def lines(self) -> list[str]:
        """The terminal summary: per model its baseline scores, then each check's observed against required."""
        rows = [(test, verdict) for name, test in sorted(self.tests.items()) for verdict in merged(test["verdicts"])]
        lines = _baselines(verdict for _, verdict in rows)
        for test, verdict in rows:
            lines.append(_line(test, verdict))
        for name, test in sorted(self.tests.items()):
            if "crashed" in test:
                lines.append(f"  FAILED  {_short(name)}: crashed: {test['crashed']}")
        if self.figures:
            count = len(set(self.figures))
            lines.append(f"{count} figure{'s' if count != 1 else ''} in {Path(self.figures[0]).parent}")
        return lines + [f"  FAILED  {problem}" for problem in self.problems]


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


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return "error" if report.failed and report.when != "call" else str(report.outcome)


def merged(verdicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per kind of verdict in a test: the last that failed, else the last; with how often it was given."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for verdict in verdicts:
        key = tuple(verdict[name] for name in ("check", "judged", "required", "model", "task", "metric"))
        known = rows.get(key)
        times = 1 if known is None else known["times"] + 1
        keep = known is not None and not known["passed"] and verdict["passed"]
        rows[key] = {**(known if keep and known is not None else verdict), "times": times}
    return list(rows.values())


def _baselines(verdicts: Iterable[dict[str, Any]]) -> list[str]:
    lines = (
        f"{verdict['model']}: baseline {verdict['baseline']:.4f} {verdict['metric']} on {verdict['task']} "
        f"({verdict['examples']} examples)"
        for verdict in verdicts
        if verdict["baseline"] is not None and not _probed(verdict)  # a probe's score is none of the model's own
    )
    return list(dict.fromkeys(lines))


def _line(test: dict[str, Any], verdict: dict[str, Any]) -> str:
    # A test may pass because a check failed: it expected that.
    outcome = "passed " if verdict["passed"] else "refuted" if test["outcome"] == "passed" else "FAILED "
    judged = verdict["judged"] + (f" in {verdict['metric']}" if verdict["metric"] else "")
    heads, layers = len(verdict["heads"]), len(verdict["details"].get("layers", ()))
    masked = scores = ""
    early = _early(verdict)
    if (verdict["score"] is not None and verdict["baseline"] is not None) or early:
        details = verdict["details"]
        masked = f", {layers} layer{'s' if layers != 1 else ''} skipped" if layers else ""
        if "property" in details:
            masked = f", {details['property']} erased"
        elif heads or not layers:
            done = "cut" if details.get("structural") else "changed" if "change" in details else "masked"
            masked += f", {heads} head{'s' if heads != 1 else ''} {done}"
        scores = "" if early else f" ({verdict['baseline']:.4f} → {verdict['score']:.4f}{_probed(verdict)})"
    times = f", {verdict['times']} times" if verdict["times"] > 1 else ""
    name = _short(test["test"])
    observed = "undefined" if verdict["observed"] is None else f"{verdict['observed']:.4g}"
    least = "at least " if early else ""
    return (
        f"  {outcome} {name}: {judged} {least}{observed}{scores}, required {verdict['required']}{masked}{early}{times}"
    )


def _short(test: str) -> str:
    """A test's id without the folders of its file."""
    file, *function = test.split("::", maxsplit=1)
    return "::".join([file.split("/")[-1], *function])


def _probed(verdict: dict[str, Any]) -> str:
    """Of which probe, on how many items, the scores are; "" where they are the model's."""
    details = verdict["details"]
    if "probed" not in details:
        return ""
    return f" by probes of layer {details['layer']} on {verdict['examples']} {details['probed']} of {verdict['task']}"


def _early(verdict: dict[str, Any]) -> str:
    """How much of the data it took, where a failure was certain before all of it was run."""
    needed, total = (verdict["details"].get(name) for name in ("examples_needed", "examples"))
    return f", decided after {needed / total:.0%} of {total} examples" if needed and total else ""


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("pytest-bertology", "torch", "transformers", "pytest"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
