"""Why a check on heads and dependency relations failed, for a tired engineer."""

from __future__ import annotations

from pytest_bertology.checks.explain import idle, table, were
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.relation_report import RelationReport, TrackedRelation
from pytest_bertology.models import ModelUnderTest

_EXAMPLES = 5
_ARROWS = {"to_head": "the dependent attends to its syntactic head", "from_head": "the syntactic head attends to it"}


def head_does_not_track(
    model: ModelUnderTest,
    report: RelationReport,
    found: TrackedRelation,
    at_least: float,
    bound: float | None,
    confidence: float | None,
    beats_offset: bool,
) -> str:
    """The failure page of a check on one head and one relation."""
    missed = _missed(found, at_least, bound, beats_offset)
    said = f"; required: at least {at_least:g}, {'missed' if 'accuracy' in missed else 'kept'}"
    low, high = found.interval
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "data": f"{report.data}: {found.cases} cases in {found.sentences} of {report.sentences} sentences",
        "direction": f"{found.direction} ({_ARROWS[found.direction]})",
        "accuracy": f"{found.accuracy:.4f} [{low:.4f}, {high:.4f}]" + (said if bound is None else ""),
        **_bound(found, at_least, bound, confidence, said),
        "best offset": _offset(found, beats_offset),
        "best head": _best(report, found),
        **were(model.heads, [found.head]),
        **idle(model, [found.head]),
        **_missing(report),
    }
    title = f"{found.head} does not track {found.relation}: {' and '.join(missed.values())}"
    return "\n".join([title, "", *table(rows), *_wrong(model, report, found)])


def _missed(found: TrackedRelation, at_least: float, bound: float | None, beats_offset: bool) -> dict[str, str]:
    """Which of what was required does not hold."""
    missed = {}
    if (found.accuracy if bound is None else bound) < at_least - ROUNDING:
        surely = bound is not None and found.accuracy >= at_least - ROUNDING
        missed["accuracy"] = f"{'not surely right as often as' if surely else 'less often right than'} {at_least:g}"
    if beats_offset and not found.beats_offset:
        missed["offset"] = f"{'not surely' if found.difference > 0.0 else 'no'} better than the best fixed offset"
    return missed


def _bound(
    found: TrackedRelation, at_least: float, bound: float | None, confidence: float | None, required: str
) -> dict[str, str]:
    if bound is None or confidence is None:
        return {}
    said = f"at least {bound:.4f} with {confidence:.0%} confidence{required}"
    if bound < at_least <= found.accuracy:
        said += (
            f". The accuracy itself is enough, but {found.cases} cases in {found.sentences} sentences cannot establish "
            "that: give more sentences, or require less"
        )
    return {"true accuracy": said}


def _offset(found: TrackedRelation, required: bool) -> str:
    low, high = found.difference_interval
    said = (
        f"{found.offset:+d}: {found.offset_accuracy:.4f}, a difference of {found.difference:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] at {found.confidence:.0%}"
    )
    return f"{said}; required: above 0, {'kept' if found.beats_offset else 'missed'}" if required else said


def _best(report: RelationReport, found: TrackedRelation) -> str:
    best = report.best(found.relation)
    if (best.head, best.direction) == (found.head, found.direction):
        return f"this one, of {2 * len(report.heads)} heads and directions on {report.selection}"
    low, high = best.interval
    return (
        f"{best.head} ({best.direction}), {best.accuracy:.4f} [{low:.4f}, {high:.4f}]; chosen on {report.selecting} "
        f"sentences of {report.selection}"
    )


def _missing(report: RelationReport) -> dict[str, str]:
    if not report.missing:
        return {}
    words = f"{report.missing} words have no token (cut off, or dropped by the tokenizer)"
    return {"not judged": f"{report.skipped} dependencies, as {words}"}


def _wrong(model: ModelUnderTest, report: RelationReport, found: TrackedRelation) -> list[str]:
    """Words that the head is wrong about."""
    lines = []
    for each in report.mistakes(model, found, _EXAMPLES):
        pointed = "nowhere" if each.found is None else repr(each.found)
        text = each.text if len(each.text) <= 80 else each.text[:79] + "…"
        lines.append(f"    {each.dependent!r}: {pointed}, and not {each.governor!r}, in {text!r}")
    return ["", "  where it points instead; for example:", *lines] if lines else []
