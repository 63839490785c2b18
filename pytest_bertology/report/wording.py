"""A verdict in one sentence, from its plain values: the same in the terminal and in every report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_bertology.report.text import counted, number
from pytest_bertology.rounding import rounded_up

Plain = dict[str, Any]
"""What JSON can carry."""


def merged(verdicts: Sequence[Plain]) -> list[Plain]:
    """One row per kind of verdict in a test: the last that did not hold, else the last; with how often it was given."""
    rows: dict[tuple[Any, ...], Plain] = {}
    for verdict in verdicts:
        key = tuple(verdict[name] for name in ("check", "judged", "required", "model", "task", "metric"))
        key = (*key, entry(verdict))
        known = rows.get(key)
        times = 1 if known is None else known["times"] + 1
        keep = known is not None and not known["passed"] and verdict["passed"]
        rows[key] = {**(known if keep and known is not None else verdict), "times": times}
    return list(rows.values())


def outcome_of(verdict: Plain) -> str:
    """ "passed", "failed" or "inconclusive"."""
    return str(verdict.get("outcome") or ("passed" if verdict["passed"] else "failed"))


def sentence(verdict: Plain) -> str:
    """What was observed and what was required, such as "drop in accuracy 0.002 (0.904 → 0.902), required <= 0.01"."""
    times = f", {verdict['times']} times" if verdict.get("times", 1) > 1 else ""
    about = verdict["details"].get("baseline")
    if isinstance(about, dict) and about.get("told"):  # of a baseline that is written, or that there is none to compare
        return f"{about['told']}{times}"
    layers, heads = len(verdict["details"].get("layers", ())), len(verdict["heads"])
    masked = scores = ""
    early = _early(verdict)
    if (verdict["score"] is not None and verdict["baseline"] is not None) or early:
        masked = f", {counted(layers, 'layer')} skipped" if layers else ""
        if "property" in verdict["details"]:
            masked = f", {verdict['details']['property']} erased"
        elif (heads or not layers) and not entry(verdict):
            masked += f", {counted(heads, 'head')} {_done(verdict['details'])}"
        scores = "" if early else f" ({verdict['baseline']:.4f} → {verdict['score']:.4f}{probed(verdict)})"
    observed = observed_in(verdict)
    least = "at least " if early else ""
    name = entry(verdict).rpartition("/")[2]
    said = f"{name}: {judged(verdict)}" if name else judged(verdict)
    return f"{said} {least}{observed}{scores}, required {verdict['required']}{masked}{early}{times}"


def judged(verdict: Plain) -> str:
    """What the number is, such as "drop in accuracy"."""
    return str(verdict["judged"]) + (f" in {verdict['metric']}" if verdict["metric"] else "")


def observed_in(verdict: Plain) -> str:
    """The number with four digits; a bound on a drop so that it can be used as the tolerance."""
    observed = verdict["observed"]
    bound = judged(verdict).startswith("bound on the ") and "drop" in judged(verdict)
    return rounded_up(observed) if bound and observed is not None else number(observed)


def entry(verdict: Plain) -> str:
    """The name of the stored baseline that the verdict is on; "" where there is none."""
    baseline = verdict["details"].get("baseline")
    return str(baseline["name"]) if isinstance(baseline, dict) else ""


def _done(details: Plain) -> str:
    return "cut" if details.get("structural") else "changed" if "change" in details else "masked"


def probed(verdict: Plain) -> str:
    """Of which probe, on how many items, the scores are; "" where they are the model's."""
    details = verdict["details"]
    if "probed" not in details:
        return ""
    return f" by probes of layer {details['layer']} on {verdict['examples']} {details['probed']} of {verdict['task']}"


def _early(verdict: Plain) -> str:
    """How much of the data it took, where a failure was certain before all of it was run."""
    needed, total = (verdict["details"].get(name) for name in ("examples_needed", "examples"))
    return f", decided after {needed / total:.0%} of {total} examples" if needed and total else ""
