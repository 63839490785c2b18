"""A measured value as a plain record: what a later value is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_bertology.baselines.series import Series, series_of
from pytest_bertology.errors import InvalidArgument, NonFinite
from pytest_bertology.tasks.metrics import CLASSIFICATION, LANGUAGE, REGRESSION, TOKENS

if TYPE_CHECKING:
    from pytest_bertology.heads import HeadMap, HeadScores
    from pytest_bertology.measures.ablation import AblationReport
    from pytest_bertology.measures.evaluation import Outcomes

OUTCOMES, SCORES, FIGURES = "outcomes", "scores of heads", "figures"
"""The three ways of comparing."""
_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_WIDE = 80
"""Characters of a row of predictions."""


@dataclass(frozen=True)
class Record:
    """What is kept of a value, made of plain values, and what is known of it beside."""

    way: str
    """OUTCOMES, SCORES or FIGURES."""
    match: Mapping[str, Any]
    """What the value itself says of what it is of: metric, method, number of examples, labels."""
    content: Mapping[str, Any]
    warn: Mapping[str, Any] = field(default_factory=dict)
    by_head: bool = False
    """Whether there is a number for each head."""
    live: Any = None
    """The value, for what a comparison needs and a file does not hold: texts and labels."""


def record(value: Any, labels: Mapping[int, str] | None = None) -> Record:
    """The record of a value: Outcomes, HeadScores, a report, a number or a dict of numbers.

    `labels` are the names of a classifier's labels. Raises InvalidArgument for what cannot be kept, NonFinite for a
    number that is none.
    """
    from pytest_bertology.heads import HeadScores
    from pytest_bertology.measures.ablation import AblationReport
    from pytest_bertology.measures.evaluation import Outcomes

    makers: tuple[tuple[type, Callable[[Any], Record]], ...] = (
        (Outcomes, lambda found: _outcomes(found, labels)),
        (HeadScores, lambda found: _scores(found, "HeadScores")),
        (AblationReport, _ablation),
    )
    for kind, make in makers:
        if isinstance(value, kind):
            return make(value)
    found = series_of(value)
    if found is None:
        expected = (
            "Outcomes (evaluate), HeadScores (head_importance), a report (attention_statistics, ablate_heads, probe, "
            "edge_probe, pruning_curve, head_relations, …), a number, a dict of numbers, or a function of a model that "
            "gives one of these"
        )
        raise InvalidArgument("value", type(value).__name__, expected)
    return _figures(*found)


def rows_by_layer(values: Any, heads: HeadMap) -> dict[str, list[float]]:
    """One number per head as a list for each layer, so that a file shows which layer changed."""
    found: dict[str, list[float]] = {}
    for head, value in zip(heads, np.asarray(values, dtype=np.float64).tolist(), strict=True):
        found.setdefault(str(head).split("H")[0], []).append(value)
    return found


def flat(rows: Mapping[str, list[float]], heads: HeadMap) -> Any:
    """The reverse of `rows_by_layer`."""
    names = dict.fromkeys(str(head).split("H")[0] for head in heads)
    return np.array([value for name in names for value in rows[name]], dtype=np.float64)


def _outcomes(found: Outcomes, labels: Mapping[int, str] | None) -> Record:
    kind, metric, raw = found.task.kind, found.metric, found.raw
    names = None if labels is None or kind not in (CLASSIFICATION, TOKENS) else [labels[i] for i in sorted(labels)]
    match = {
        "value": "Outcomes",
        "kind": kind,
        "metric": metric.name,
        "examples": len(found),
        "items": len(raw.labels),
        "data": found.task.digest[:16],
        **({} if names is None else {"labels": names}),
    }
    content: dict[str, Any] = {"score": found.score, "loss": float(np.average(raw.losses, weights=raw.counts))}
    if kind == REGRESSION:
        content["predictions"] = _significant(raw.predictions)
    elif kind == LANGUAGE:
        content["right"] = _characters(found.right.astype(np.int64))
    else:
        content["predictions"] = _characters(raw.predictions) if found.n_labels <= 36 else raw.predictions.tolist()
    if by_loss(metric.name):
        content["losses"] = _significant(raw.losses)
    masked = " ".join(map(str, found.mask.touched))
    return Record(OUTCOMES, match, content, {"masked": masked}, live=found)


def by_loss(metric: str) -> bool:
    """Whether a score is made of the losses of examples."""
    return metric in ("loss", "perplexity")


def outcomes_of(content: Mapping[str, Any], now: Outcomes) -> Outcomes:
    """The outcomes that were kept, of the task and labels of `now`: those of the same data.

    Losses are NaN where they were not kept, and there are no logits.
    """
    from dataclasses import replace

    raw = now.raw
    if "right" in content:
        right = _numbers(content["right"]).astype(bool)
        predictions = np.where(right, raw.labels, -1)
    else:
        kept = content["predictions"]
        predictions = _numbers(kept) if kept and isinstance(kept[0], str) else np.array(kept, dtype=np.float64)
    if predictions.dtype != raw.predictions.dtype:
        predictions = predictions.astype(raw.predictions.dtype)
    losses = np.array(content["losses"]) if "losses" in content else np.full(len(raw.losses), np.nan)
    if now.task.kind == REGRESSION:
        losses = (predictions - raw.labels) ** 2
    empty = np.zeros((len(predictions), 0), dtype=np.float32)
    return replace(now, raw=replace(raw, predictions=predictions, losses=losses, logits=empty))


def _significant(values: Any) -> list[float]:
    """To six digits: what batching moves is far less."""
    return [float(f"{value:.6g}") for value in np.asarray(values, dtype=np.float64)]


def _characters(predictions: Any) -> list[str]:
    text = "".join(_CHARACTERS[int(each)] for each in predictions)
    return [text[start : start + _WIDE] for start in range(0, len(text), _WIDE)]


def _numbers(rows: list[str]) -> Any:
    return np.array([_CHARACTERS.index(each) for each in "".join(rows)], dtype=np.int64)


def _scores(found: HeadScores, value: str, content: Mapping[str, Any] | None = None) -> Record:
    kept: dict[str, Any] = {"scores": rows_by_layer(found.values, found.heads), **(content or {})}
    if found.standard_errors is not None:
        kept["standard_errors"] = rows_by_layer(found.standard_errors, found.heads)
    match = {"value": value, "method": found.method, "heads": found.heads.describe()}
    return Record(SCORES, match, kept, by_head=True, live=found)


def _ablation(report: AblationReport) -> Record:
    """What each head is worth by loss, which every head moves; scores move by whole examples."""
    from dataclasses import replace

    baseline = report.baseline
    heads = report.loss_change.heads
    errors = np.array([_error(report.outcomes(head), baseline) for head in heads])
    known = None if len(baseline) < 2 else errors
    found = replace(report.loss_change, standard_errors=known)
    made = _scores(found, "AblationReport", {"score": baseline.score})
    match = {**made.match, "metric": baseline.metric.name, "examples": len(baseline), "data": baseline.task.digest[:16]}
    return replace(made, match=match)


def _error(without: Outcomes, baseline: Outcomes) -> float:
    """The standard error of the change in mean loss over items; examples are drawn, not items."""
    counts = baseline.raw.counts.astype(np.float64)
    changes, n = without.losses - baseline.losses, len(counts)
    residuals = counts * (changes - np.average(changes, weights=counts))
    return float(np.sqrt(n / max(n - 1, 1) * np.square(residuals).sum()) / counts.sum())


def _figures(kind: str, heads: HeadMap | None, match: Mapping[str, Any], found: list[Series]) -> Record:
    content: dict[str, Any] = {}
    for each in found:
        numbers = np.asarray(each.values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            first = each.names[int(np.argmin(np.isfinite(numbers)))]
            raise NonFinite(f"{each.name} of {first}", f"the {kind} that is to be a baseline")
        kept: dict[str, Any] = {"values": _listed(numbers, each, heads)}
        if each.errors is not None:
            kept["errors"] = _listed(np.asarray(each.errors, dtype=np.float64), each, heads)
        content[each.name] = kept
    said = {"heads": heads.describe()} if heads is not None else {}
    shape = {"figures": [f"{each.name} of {', '.join(each.names)}" for each in found if not each.by_head]}
    return Record(FIGURES, {"value": kind, **match, **said, **shape}, content, by_head=heads is not None, live=found)


def _listed(numbers: Any, each: Series, heads: HeadMap | None) -> Any:
    if each.by_head and heads is not None:
        return rows_by_layer(numbers, heads)
    return dict(zip(each.names, numbers.tolist(), strict=True))
