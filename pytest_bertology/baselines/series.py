"""Reports as series of named figures: what is compared figure by figure, each with how far chance may move it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_bertology.errors import InvalidArgument, UndefinedScore

if TYPE_CHECKING:
    from pytest_bertology.heads import HeadMap

HIGHER, LOWER, EITHER = "higher", "lower", "either"
"""Which way is better: a figure that goes that way is no fault; EITHER where each change is one."""
ATTENTION = {"entropy": 0.05, "cls_entropy": 0.05, "distance": 0.1}
"""How far statistics of attention may move unless told otherwise: nats, nats, tokens."""
SHARE = 0.02
"""How far shares of attention, and scores without an error of their own, may move unless told otherwise."""


@dataclass(frozen=True)
class Series:
    """Figures of one kind, one for each of `names`."""

    name: str
    names: tuple[str, ...]
    """Heads, layers, fractions: what each is of."""
    values: Any
    errors: Any = None
    """Standard errors, one each; None where there are none."""
    better: str = EITHER
    tolerance: float | None = None
    """How far each may go the wrong way, unless told otherwise; with errors they say."""
    by_head: bool = False


Found: TypeAlias = "tuple[str, HeadMap | None, Mapping[str, Any], list[Series]]"


def series_of(value: Any) -> Found | None:
    """Kind of value, heads where there is a figure for each, what must match, and the figures; None for others."""
    if not isinstance(value, bool) and isinstance(value, Real):
        return "number", None, {}, [Series("number", ("value",), [float(value)])]
    if isinstance(value, Mapping):
        return _mapping(value)
    module, name = type(value).__module__, type(value).__name__
    maker = _MAKERS.get(name) if module.startswith("pytest_bertology.") else None
    return None if maker is None else maker(value)


def _mapping(value: Mapping[Any, Any]) -> Found:
    if not value:
        raise InvalidArgument("value", {}, "a dict of at least one number")
    for name, number in value.items():
        if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, Real):
            raise InvalidArgument("value", {name: number}, "a dict with names for its keys and numbers for its values")
    names = tuple(sorted(value))
    return "numbers", None, {}, [Series("numbers", names, [float(value[name]) for name in names])]


def _attention(found: Any) -> Found:
    names = tuple(map(str, found.heads))
    series = [
        Series(name, names, found.statistic(name).values, tolerance=ATTENTION.get(name, SHARE), by_head=True)
        for name in found.available
    ]
    return "AttentionStatistics", found.heads, {"texts": found.texts, "tokens counted": dict(found.counts)}, series


def _probe(found: Any) -> Found:
    names = tuple(f"layer {layer}" for layer in found.layers)
    z = _quantile(found.confidence)
    better = HIGHER if found.metric.higher_is_better else LOWER
    errors = [(high - low) / (2 * z) for low, high in found.intervals]
    match = {"kind": found.kind, "metric": found.metric.name, "items": len(found), "trained on": found.trained_on}
    return "ProbeReport", None, match, [Series("score", names, found.scores, errors, better, SHARE)]


def _edge_probe(found: Any) -> Found:
    names = tuple(f"layer {layer}" for layer in found.layers)
    match = {"metric": found.metric, "items": found.items, "trained on": found.trained_on, "seeds": list(found.seeds)}
    z = _quantile(found.confidence)
    weights = None if len(found.seeds) < 2 else [(b - a) / (2 * z) for a, b in found.mixing_intervals]
    series = [
        Series("score", ("all layers",), [found.score], _half(found.score_interval, z), HIGHER, SHARE),
        Series("mixing weight", names, found.mixing_weights, weights, EITHER, 0.05),
    ]
    if found.cumulative:
        errors = None if len(found.seeds) < 2 else [(b - a) / (2 * z) for a, b in found.cumulative_intervals]
        series.append(Series("cumulative score", names, found.cumulative_scores, errors, HIGHER, SHARE))
    return "EdgeProbeReport", None, match, series


def _half(interval: Any, z: float) -> Any:
    return None if interval is None else [(interval[1] - interval[0]) / (2 * z)]


def _curve(found: Any) -> Found:
    names = tuple(f"{fraction:.4g}" for fraction in found.fractions)
    better = HIGHER if found.metric.higher_is_better else LOWER
    match = {"metric": found.metric.name, "by": found.by}
    return "PruningCurve", None, match, [Series("score", names, found.scores, None, better, SHARE)]


def _relations(found: Any) -> Found:
    bests = found.bests
    z = _quantile(found.confidence)
    names = tuple(each.relation for each in bests)
    errors = [(each.interval[1] - each.interval[0]) / (2 * z) for each in bests]
    accuracies = [each.accuracy for each in bests]
    match = {"sentences": found.sentences, "offsets": list(found.offsets), "min cases": found.min_cases}
    return "RelationReport", None, match, [Series("accuracy", names, accuracies, errors, HIGHER, SHARE)]


def _quantile(confidence: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf(0.5 + confidence / 2.0))


def _plain_report(kind: str, names: Mapping[str, str]) -> Callable[[Any], Found]:
    """Of a report whose figures are plain numbers: their names, and which way is better."""

    def make(found: Any) -> Found:
        series = []
        for name, better in names.items():
            try:
                number = getattr(found, name)
            except UndefinedScore:
                continue
            if number is not None:
                series.append(Series(name, ("value",), [float(number)], None, better, None))
        return kind, None, {}, series

    return make


_MAKERS: dict[str, Callable[[Any], Found]] = {
    "AttentionStatistics": _attention,
    "ProbeReport": _probe,
    "EdgeProbeReport": _edge_probe,
    "PruningCurve": _curve,
    "RelationReport": _relations,
    "AttentionProbe": _plain_report(
        "AttentionProbe", {"uas": HIGHER, "head_uas": EITHER, "offset_uas": EITHER, "random_uas": EITHER}
    ),
}
