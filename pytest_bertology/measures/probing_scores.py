"""Scores of predictions with intervals for which texts, not items, are drawn; and differences of two on the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.relation_intervals import Interval, paired_difference, share_interval
from pytest_bertology.tasks.metrics import METRICS, Metric, Results

Array = npt.NDArray[Any]

_RESAMPLES = 1000
_CELLS = 2**24
"""Numbers of resampled confusions that are held at a time."""


@dataclass(frozen=True)
class Difference:
    """How much greater one score is than another, on the same items."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Judge:
    """A metric of items that stand in texts, of labels numbered from 0."""

    metric: Metric
    classes: int
    """How many labels there are, those that are not trained on counted as one."""
    texts: Array
    """(items,) which text each is of."""
    confidence: float
    seed: int

    def score(self, labels: Array, predictions: Array) -> float:
        """The metric; raises UndefinedScore where it has no value."""
        return score_of(self.metric, self.classes, labels, predictions)

    def interval(self, labels: Array, predictions: Array) -> Interval:
        """Of the score: Wilson's with the effective number of items for accuracy, else a bootstrap of texts."""
        if self._accuracy:
            return share_interval((labels == predictions).astype(np.float64), self.texts, self.confidence)
        return self._percentiles(self._resampled(labels, predictions))

    def difference(self, labels: Array, ours: Array, theirs: Array, their_labels: Array | None = None) -> Difference:
        """The first's score less the second's, which may be of other labels of the same items.

        Tango's interval with the effective number of items for accuracy, else a bootstrap of texts.
        """
        other = labels if their_labels is None else their_labels
        if self._accuracy:
            first, second = (labels == ours).astype(np.float64), (other == theirs).astype(np.float64)
            found = paired_difference(first, second, self.texts, self.confidence)
            return Difference(found.difference, found.interval)
        value = self.score(labels, ours) - self.score(other, theirs)
        return Difference(value, self._percentiles(self._resampled(labels, ours) - self._resampled(other, theirs)))

    @property
    def _accuracy(self) -> bool:
        return self.metric == METRICS["accuracy"]

    def _resampled(self, labels: Array, predictions: Array) -> Array:
        """(resamples,) scores of as many texts drawn with replacement: the same draws whatever is asked."""
        _, member = np.unique(self.texts, return_inverse=True)
        count, k = int(member.max()) + 1, self.classes
        generator = np.random.default_rng(self.seed)
        draws = generator.multinomial(count, np.full(count, 1.0 / count), size=_RESAMPLES)
        if self.metric.from_confusion is None:
            each = np.argsort(member, kind="stable")
            return np.array(
                [_nan_score(self, labels, predictions, np.repeat(each, draw[member[each]])) for draw in draws]
            )
        cells = labels * k + predictions
        used, cells = np.unique(cells, return_inverse=True)
        tables = np.bincount(member * len(used) + cells, minlength=count * len(used)).reshape(count, len(used))
        found = []
        rows = max(1, _CELLS // (k * k))
        for start in range(0, _RESAMPLES, rows):
            part = draws[start : start + rows]
            confusion = np.zeros((len(part), k * k))
            confusion[:, used] = part @ tables
            found.append(np.asarray(self.metric.from_confusion(confusion.reshape(-1, k, k), k)))
        return np.concatenate(found)

    def _percentiles(self, values: Array) -> Interval:
        tail = 50.0 * (1.0 - self.confidence)
        known = values[np.isfinite(values)]
        if len(np.unique(self.texts)) < 2 or not len(known):
            return float("-inf"), float("inf")  # one text says nothing of others
        low, high = np.percentile(known, [tail, 100.0 - tail])
        return float(low), float(high)


def score_of(metric: Metric, classes: int, labels: Array, predictions: Array) -> float:
    """The metric of these labels and predictions; raises UndefinedScore where it has no value."""
    ones = np.ones(len(labels))
    return metric(Results(np.asarray(labels), np.asarray(predictions), np.full(len(labels), np.nan), ones, classes))


def _nan_score(judge: Judge, labels: Array, predictions: Array, at: Array) -> float:
    try:
        return judge.score(labels[at], predictions[at])
    except UndefinedScore:
        return float("nan")
