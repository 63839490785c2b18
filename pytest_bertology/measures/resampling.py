"""Scores of many results on the same resamples of their examples, quickly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.tasks.metrics import METRICS, Array, Metric, Results

_RATIOS = tuple(METRICS[name] for name in ("accuracy", "loss", "perplexity"))


def scores_on(results: Sequence[Outcomes]) -> Callable[[Array], Array]:
    """A function that gives the (rows, results) scores for (rows, examples) counts of how often each is drawn.

    All results are of the same examples and metric. NaN where a resample has no score.
    """
    return scores_of(results[0].metric, [result.results() for result in results])


def scores_of(metric: Metric, results: Sequence[Results]) -> Callable[[Array], Array]:
    """The same, of results alone."""
    if metric in _RATIOS:
        return _ratios(metric, results)
    if metric.from_confusion is not None:
        return lambda counts: np.stack([_confused(metric, result, counts) for result in results], axis=1)
    if metric == METRICS["pearson"]:
        return lambda counts: np.stack([_pearson(result, counts) for result in results], axis=1)
    return lambda counts: np.stack([_one_by_one(metric, result, counts) for result in results], axis=1)


def closed_form(result: Outcomes) -> bool:
    """Whether many resamples cost little: the metric is not computed anew for each of them."""
    return closed_form_of(result.metric)


def closed_form_of(metric: Metric) -> bool:
    """The same, of a metric."""
    return metric in _RATIOS or metric.from_confusion is not None or metric == METRICS["pearson"]


def right_items(result: Results) -> Array:
    """(examples,) how many items of each are right."""
    right = result.labels == result.predictions
    return np.bincount(_example_of_items(result), weights=right, minlength=len(result.losses))


def _ratios(metric: Metric, results: Sequence[Results]) -> Callable[[Array], Array]:
    """Means over items: sums of the examples drawn, divided by how many items those have."""
    items = results[0].counts.astype(np.float64)
    if metric == METRICS["accuracy"]:
        sums = np.stack([right_items(result) for result in results], axis=1)
    else:
        sums = np.stack([result.losses * items for result in results], axis=1)

    def scores(counts: Array) -> Array:
        means: Array = (counts @ sums) / (counts @ items)[:, None]
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(means)) if metric == METRICS["perplexity"] else means

    return scores


def _confused(metric: Metric, result: Results, counts: Array) -> Array:
    """From the confusion of labels and predictions, which is a sum over examples."""
    assert metric.from_confusion is not None
    n, k = len(result.losses), result.n_labels
    cells = _example_of_items(result) * k * k + result.labels * k + result.predictions
    each = np.bincount(cells, minlength=n * k * k).reshape(n, k * k).astype(np.float64)
    return np.asarray(metric.from_confusion((counts @ each).reshape(-1, k, k), k))


def _pearson(result: Results, counts: Array) -> Array:
    """From sums of products; centred on the whole first, so that small spreads keep their digits."""
    x, y = (values - values.mean() for values in (result.labels, result.predictions.astype(np.float64)))
    n = len(result.losses)
    drawn = counts.sum(axis=1, keepdims=True)
    means = (counts @ np.stack([x, y, x * x, y * y, x * y], axis=1)) / drawn
    mx, my, xx, yy, xy = means.T
    spread = (xx - mx * mx) * (yy - my * my)
    limit = 1e-20 * float(x @ x) * float(y @ y) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > limit, (xy - mx * my) / np.sqrt(np.maximum(spread, 0.0)), np.nan)


def _one_by_one(metric: Metric, result: Results, counts: Array) -> Array:
    positions = np.arange(len(result.losses))
    return np.array([_score(metric, result, np.repeat(positions, row.astype(np.int64))) for row in counts])


def _score(metric: Metric, result: Results, positions: Array) -> float:
    try:
        return metric(_taken(result, positions))
    except UndefinedScore:
        return float("nan")


def _taken(result: Results, positions: Array) -> Results:
    """The results of these examples, repeated as they are repeated in `positions`."""
    items = positions
    if len(result.labels) != len(result.losses):
        starts = np.concatenate([[0], np.cumsum(result.counts)])
        items = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in positions])
    return Results(
        result.labels[items],
        result.predictions[items],
        result.losses[positions],
        result.counts[positions],
        result.n_labels,
    )


def _example_of_items(result: Results) -> Array:
    """The example that each judged item belongs to."""
    n = len(result.losses)
    return np.arange(n) if len(result.labels) == n else np.repeat(np.arange(n), result.counts)
