"""Scores of many results on the same resamples of their examples, quickly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.tasks.metrics import METRICS, Array

_RATIOS = tuple(METRICS[name] for name in ("accuracy", "loss", "perplexity"))


def scores_on(results: Sequence[Outcomes]) -> Callable[[Array], Array]:
    """A function that gives the (rows, results) scores for (rows, examples) counts of how often each is drawn.

    All results are of the same examples and metric. NaN where a resample has no score.
    """
    metric = results[0].metric
    if metric in _RATIOS:
        return _ratios(results)
    if metric.from_confusion is not None:
        return lambda counts: np.stack([_confused(result, counts) for result in results], axis=1)
    if metric == METRICS["pearson"]:
        return lambda counts: np.stack([_pearson(result, counts) for result in results], axis=1)
    return lambda counts: np.stack([_one_by_one(result, counts) for result in results], axis=1)


def closed_form(result: Outcomes) -> bool:
    """Whether many resamples cost little: the metric is not computed anew for each of them."""
    metric = result.metric
    return metric in _RATIOS or metric.from_confusion is not None or metric == METRICS["pearson"]


def _ratios(results: Sequence[Outcomes]) -> Callable[[Array], Array]:
    """Means over items: sums of the examples drawn, divided by how many items those have."""
    metric, items = results[0].metric, results[0].raw.counts.astype(np.float64)
    if metric == METRICS["accuracy"]:
        sums = np.stack([_right_items(result) for result in results], axis=1)
    else:
        sums = np.stack([result.losses * items for result in results], axis=1)

    def scores(counts: Array) -> Array:
        means: Array = (counts @ sums) / (counts @ items)[:, None]
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(means)) if metric == METRICS["perplexity"] else means

    return scores


def _confused(result: Outcomes, counts: Array) -> Array:
    """From the confusion of labels and predictions, which is a sum over examples."""
    assert result.metric.from_confusion is not None
    raw, k = result.raw, result.n_labels
    cells = _example_of_items(result) * k * k + raw.labels * k + raw.predictions
    each = np.bincount(cells, minlength=len(result) * k * k).reshape(len(result), k * k).astype(np.float64)
    return np.asarray(result.metric.from_confusion((counts @ each).reshape(-1, k, k), k))


def _pearson(result: Outcomes, counts: Array) -> Array:
    """From sums of products; centred on the whole first, so that small spreads keep their digits."""
    x, y = (values - values.mean() for values in (result.raw.labels, result.raw.predictions.astype(np.float64)))
    means = (counts @ np.stack([x, y, x * x, y * y, x * y], axis=1)) / len(result)
    mx, my, xx, yy, xy = means.T
    spread = (xx - mx * mx) * (yy - my * my)
    limit = 1e-20 * float(x @ x) * float(y @ y) / len(result) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > limit, (xy - mx * my) / np.sqrt(np.maximum(spread, 0.0)), np.nan)


def _one_by_one(result: Outcomes, counts: Array) -> Array:
    positions = np.arange(len(result))
    return np.array([_score(result, np.repeat(positions, row.astype(np.int64))) for row in counts])


def _score(result: Outcomes, positions: Array) -> float:
    try:
        return result.resampled(positions)
    except UndefinedScore:
        return float("nan")


def _right_items(result: Outcomes) -> Array:
    return np.bincount(_example_of_items(result), weights=result.right, minlength=len(result))


def _example_of_items(result: Outcomes) -> Array:
    """The example that each judged item belongs to."""
    raw = result.raw
    if len(raw.labels) == len(raw.losses):
        return np.arange(len(result))
    return np.repeat(np.arange(len(result)), raw.counts)
