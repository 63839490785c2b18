"""What the tests of a run say together: p-values corrected for their number, and what was established jointly.

Comparisons with baselines that ask whether anything changed form one family. Of m of them, each at 5 %, some alarm on
two equally good models in up to 1 − 0.95ᵐ of runs; Holm's method (1979) keeps the chance of any false alarm at 5 %,
under any dependence. It needs all p-values, and a test must be judged when it runs: there it fails at 5 % / m
(Bonferroni), m being the number of comparisons known beforehand, and at the end Holm's method, which refuses all that
Bonferroni's does and some more, is applied to those that ran. What it refuses then fails the run.

Checks that a drop is within a tolerance, with confidence, are not corrected. Each tests that the drop is too large, and
a release needs all of them to pass: that is an intersection-union test (Berger 1982, Technometrics 24, 295-300). A
release that is worse than allowed in any of them passes that one, and so all of them, in at most 5 % of samples,
however many checks there are. Correcting them would only refuse good releases more often.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.session import session_key
from pytest_bertology.plugin.summary import Gathered
from pytest_bertology.plugin.workers import is_worker
from pytest_bertology.report.rows import outcome_in

LEVEL = 0.05
"""The chance of any false alarm among a run's comparisons with baselines."""
CHECK = "bertology_baseline.check"
_NONE = "none"
_FINISHED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def level(config: pytest.Config, m: int) -> float:
    """At which p-value a comparison is refused when its test runs; `m` is how many comparisons the run will make."""
    corrected = config.stash[session_key].settings.value("correction") != _NONE
    return LEVEL / max(1, m) if corrected else LEVEL


def enable(config: pytest.Config, settings: Settings, gathered: Gathered) -> None:
    """Judge the run's comparisons together once it is over."""
    if not is_worker(config):
        config.pluginmanager.register(Together(settings, gathered), "bertology-multiplicity")


class Together:
    """Refuses at the end what Holm's method refuses, and says what was established jointly."""

    def __init__(self, settings: Settings, gathered: Gathered) -> None:
        self._settings = settings
        self._gathered = gathered

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Before reports are written: verdicts, tests and notes are what they show."""
        tests = self._gathered.tests
        family = family_of(tests)
        if family and self._settings.value("correction") != _NONE:
            refused = refuse(family)
            for test, verdict in refused:
                self._gathered.notes.append(f"changed: {_said(test, verdict)}")
            if refused:
                _tell_junit(session.config, [_said(*each) for each in refused])
                if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if exitstatus in _FINISHED:  # of a run that was cut short nothing can be said as a whole
            self._gathered.notes += jointly(tests, family, corrected=self._settings.value("correction") != _NONE)


Family = list[tuple[dict[str, Any], dict[str, Any]]]
"""Tests, each with a verdict of its own."""


def family_of(tests: dict[str, dict[str, Any]]) -> Family:
    """The verdicts that test for a change from a baseline; of one baseline asked for several times, the surest.

    One that was refused without a p-value, such as for a head that is idle now, is settled and none of them.
    Values that are written are none: their baselines are replaced.
    """
    found: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
    for name, test in sorted(tests.items()):
        for verdict in test["verdicts"]:
            details = verdict["details"]
            if verdict["check"] != CHECK or details.get("tests") != "change" or verdict.get("p_value") is None:
                continue
            baseline = details.get("baseline", {})
            if baseline.get("written"):
                continue
            key = (name, str(baseline.get("name")))
            if key not in found or verdict["p_value"] < found[key][1]["p_value"]:
                found[key] = test, verdict
    return list(found.values())


def refuse(family: Family) -> Family:
    """Note each p-value's adjusted one (Holm); make those failed that passed by themselves and are refused by it."""
    import numpy as np

    from pytest_bertology.significance import adjusted_p_values

    adjusted = adjusted_p_values(np.array([verdict["p_value"] for _, verdict in family]), "holm")
    refused = []
    for (test, verdict), p in zip(family, adjusted, strict=True):
        verdict["details"]["p_adjusted"] = float(p)
        if p > LEVEL or not verdict["passed"]:
            continue
        verdict |= {"passed": False, "inconclusive": False, "outcome": "failed"}
        verdict["message"] = (
            f"{_said(test, verdict)}\n\n  Its test passed: whether a change is more than chance is known only once all "
            f"{len(family)} comparisons\n  of the run have been made (Holm's method). If the change is meant, write "
            "the baseline anew with\n  --bertology-update=all and this test alone."
        )
        if test["outcome"] == "passed":
            test |= {"outcome": "failed", "error": verdict["message"]}
        refused.append((test, verdict))
    return refused


def jointly(tests: dict[str, dict[str, Any]], family: Family, *, corrected: bool) -> list[str]:
    """What the run established as a whole, a line for each kind of test."""
    lines = []
    if family:
        changed = sum(not verdict["passed"] for _, verdict in family)
        count = f"{len(family)} comparison{'s' if len(family) != 1 else ''} with baselines by p-value"
        found = "no change beyond chance" if not changed else f"{changed} changed"
        if corrected:
            least = min(verdict["details"]["p_adjusted"] for _, verdict in family)
            how = f"smallest p {least:.2g} by Holm's method; any false alarm: at most {LEVEL:.0%}"
        else:
            how = f"p-values are not corrected; a false alarm: at most {LEVEL:.0%} for each"
        lines.append(f"{count}: {found} ({how})")
    drops = [verdict for test in tests.values() for verdict in test["verdicts"] if _is_claim(test, verdict)]
    if len(drops) > 1:  # of one its own line says all
        sure = min(verdict["details"]["confidence"] for verdict in drops)
        held = sum(verdict["passed"] for verdict in drops)
        if held == len(drops):
            lines.append(
                f"jointly: all {held} drops are within tolerance; were any of them not, all would pass in at most "
                f"{1.0 - sure:.0%} of samples (no correction is needed where all must pass)"
            )
        else:
            lines.append(f"jointly: {held} of {len(drops)} drops are established to be within tolerance")
    return lines


def _is_claim(test: dict[str, Any], verdict: dict[str, Any]) -> bool:
    """Whether a verdict is on a confidence bound of a drop, and none that its test expects to be exceeded."""
    bound = verdict["judged"].startswith("bound on the ") and verdict["details"].get("confidence") is not None
    return bound and outcome_in(test, verdict) in ("passed", "failed", "inconclusive")


def _said(test: dict[str, Any], verdict: dict[str, Any]) -> str:
    name = verdict["details"].get("baseline", {}).get("name", "")
    p, adjusted = verdict["p_value"], verdict["details"]["p_adjusted"]
    return f"{test['test']}: {name}: p = {p:.2g}, Holm-adjusted {adjusted:.2g}"


def _tell_junit(config: pytest.Config, said: list[str]) -> None:
    """Its cases are recorded by now: the suite has properties of its own."""
    for plugin in config.pluginmanager.get_plugins():
        add = getattr(plugin, "add_global_property", None)
        if add is not None:
            for number, line in enumerate(said, 1):
                add(f"bertology_changed_{number}", line)
