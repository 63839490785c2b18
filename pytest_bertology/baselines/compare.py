"""A value beside its baseline: first whether they can be compared, then by the way of its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_bertology.baselines.compare_figures import compare_figures
from pytest_bertology.baselines.compare_outcomes import compare_outcomes
from pytest_bertology.baselines.compare_scores import compare_scores
from pytest_bertology.baselines.comparison import Comparison, Limits
from pytest_bertology.baselines.files import Entry, as_stored
from pytest_bertology.baselines.provenance import Provenance, advice, differing
from pytest_bertology.baselines.records import FIGURES, OUTCOMES, Record
from pytest_bertology.errors import InvalidBaselines

_NOISE = {"float64": 1e-9, "float32": 1e-4}
_OF_DATA = ("tokens", "tokens counted", "items")
"""What cannot match where the data do not."""
_OF_HALVES = 3e-2
"""What batching may move a loss by, by dtype (`engine.results.noise`)."""


def entry_of(found: Record, provenance: Provenance) -> Entry:
    """What is written of a value."""
    return as_stored(
        {
            "match": {**provenance.match, **found.match, "way": found.way},
            "warn": {**provenance.warn, **found.warn},
            "recorded": dict(provenance.recorded),
            "content": dict(found.content),
        }
    )


def compare_entries(
    before: Entry, found: Record, now: Entry, limits: Limits, *, between_models: bool = False
) -> Comparison:
    """Judge a value (`found`, its entry `now`) by an entry that was kept, or that is of another model.

    What must match and does not is a failure of its own, and nothing else is looked at. `between_models`: that a
    tokenizer reads the data otherwise, or that options were defaults of another version, is told and no failure.
    """
    warned = differing(before["warn"], now["warn"])
    unmatched = differing(before["match"], now["match"])
    for name in ("tokens", "tokenizer"):
        if between_models and name in unmatched:
            warned[name] = unmatched.pop(name)
    names = ({*before["match"]} ^ {*now["match"]}) - {"tokens", "tokenizer", "labels"}
    for name in sorted(names):
        here, there = (each["match"].get(name, "not set") for each in (before, now))
        unmatched[name] = f"{here} → {there}"
    if "data" in unmatched:  # other data are other tokens: that says nothing of the tokenizer
        unmatched = {name: change for name, change in unmatched.items() if name not in _OF_DATA}
    if unmatched:
        data = [str(each["recorded"].get("data") or "") for each in (before, now)]
        return replace(_refused(unmatched, data, between_models=between_models), differs=warned)
    return replace(_judged(before, found, now, limits), differs=warned)


def _judged(before: Entry, found: Record, now: Entry, limits: Limits) -> Comparison:
    try:
        if found.way == OUTCOMES:
            names = now["match"].get("labels")
            labels = None if names is None else dict(enumerate(names))
            noise = _NOISE.get(str(now["warn"].get("dtype", "float32")), _OF_HALVES)
            return compare_outcomes(before["content"], found.live, limits, labels, noise)
        if found.way == FIGURES:
            return compare_figures(before["content"], found.live, now["match"]["value"], limits)
        live = found.live
        return compare_scores(before["content"], now["content"], live.heads, live.method, limits)
    except (KeyError, TypeError) as error:
        raise InvalidBaselines("the baseline", f"what it holds is not what it says it is ({error!r})") from error


def _refused(unmatched: Mapping[str, str], data: Sequence[str], *, between_models: bool) -> Comparison:
    """Of what must match and does not; `data` are the names of the baseline's and of today's."""
    named = ", ".join(unmatched)
    rows = {name: f"{change}{_because(name)}" for name, change in unmatched.items()}
    lines = ["  If that is meant to be, write the baseline anew with --bertology-update=changed."]
    if between_models:
        lines = ["  Measure both models in the same way, of the same data."]
    elif "data" in unmatched:
        before, now = (name or "data without a name" for name in data)
        another = "another file of that name" if before == now else now
        lines = [
            f"  Give the data it was written with ({before}): this is {another}.",
            "  If other data are meant from now on, write the baseline anew with --bertology-update=changed.",
        ]
    return Comparison(
        passed=False,
        observed=float(len(unmatched)),
        judged="what must match the baseline and does not",
        told=f"{named} differ{'' if len(unmatched) > 1 else 's'} from the baseline's",
        required="<= 0",
        title=f"nothing can be compared with the baseline: {named} {'differ' if len(unmatched) > 1 else 'differs'}",
        rows=rows,
        lines=tuple(lines),
    )


def _because(name: str) -> str:
    said = advice(name)
    return f" ({said})" if said else ""
