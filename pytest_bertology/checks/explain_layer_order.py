"""Why a check on the order of tasks over layers failed, for a tired engineer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_bertology.checks.explain import table
from pytest_bertology.measures.edge_order import LayerStep, unplaced
from pytest_bertology.measures.edge_report import CENTRE, EXPECTED, EdgeProbeReport
from pytest_bertology.measures.relation_intervals import Interval

NAMES = {EXPECTED: "expected layers", CENTRE: "centres of gravity"}


def out_of_order(
    reports: Mapping[str, EdgeProbeReport], steps: Sequence[LayerStep], by: str, confidence: float | None
) -> str:
    """The failure page: every task with its layer, and every step that does not hold."""
    first = next(iter(reports.values()))
    missed = [each for each in steps if not each.holds]
    rows = {
        "model": f"{first.model}, layers {first.layers[0]} (the embeddings) to {first.layers[-1]}"
        if first.layers[0] == 0
        else f"{first.model}, layers {', '.join(map(str, first.layers))}",
        "required": " < ".join(reports) + f", by {NAMES[by]}" + (f" ({confidence:.0%})" if confidence else ""),
    }
    lines = [f"{NAMES[by]} are not in order: {'; '.join(_missed(missed))}", "", *table(rows), ""]
    wide = max(4, *(len(repr(name)) for name in reports))
    head = f"    {'task':<{wide}}  {'layer':>9}  {f'{first.confidence:.0%} over seeds':>16}  {'score':>7}  "
    lines.append(f"{head}{'commonest':>9}  data")
    for name, each in reports.items():
        reason = unplaced(each, by)
        known = by == CENTRE or each.undefined is None
        layer, around = (f"{each.layer(by):.2f}", _around(_interval(each, by))) if known else ("undefined", "")
        lines.append(
            f"    {name!r:<{wide}}  {layer:>9}  {around:>16}  {each.score:>7.4f}  {each.majority_baseline:>9.4f}  "
            f"{each.data} ({each.items} items, trained on {each.trained_on})"
        )
        if reason is not None:
            lines.append(f"    {'':<{wide}}  has no place: {reason}")
    lines.append("")
    for step in steps:
        lines.append(f"    {step.first!r} to {step.second!r}: {_difference(step)}{'' if step.holds else ', missed'}")
    return "\n".join(lines)


def _missed(steps: Sequence[LayerStep]) -> list[str]:
    """Each task without a place once, though it may be of two steps; and each step that goes the wrong way."""
    without = list(dict.fromkeys(name for step in steps for name in step.without))
    names = " and ".join(map(repr, without))
    said = [f"{names} ha{'s' if len(without) == 1 else 've'} no place in it"] if without else []
    return said + [_said(step, step.difference) for step in steps if step.difference is not None]


def _said(step: LayerStep, difference: float) -> str:
    if difference <= 0.0:
        return f"{step.second!r} is not above {step.first!r}"
    return f"{step.second!r} is not surely above {step.first!r}"


def _difference(step: LayerStep) -> str:
    if step.difference is None:
        return "not known"
    return f"{step.difference:+.2f}{' ' + _around(step.interval) if step.interval else ''}"


def _interval(report: EdgeProbeReport, by: str) -> Interval | None:
    return report.expected_interval if by == EXPECTED else report.centre_interval


def _around(interval: Interval | None) -> str:
    return "one seed" if interval is None else f"[{interval[0]:.2f}, {interval[1]:.2f}]"
