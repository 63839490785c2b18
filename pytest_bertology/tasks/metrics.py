"""Metrics by their usual names, through scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import UndefinedScore, UnknownMetric

Array: TypeAlias = npt.NDArray[Any]

CLASSIFICATION = "sequence-classification"
REGRESSION = "regression"
TOKENS = "token-classification"
LANGUAGE = "language-modelling"
SPANS = "span-labelling"


@dataclass(frozen=True)
class Results:
    """What a metric may look at: labels and predictions of every judged item, and the losses of the examples."""

    labels: Array
    """One per judged item (example, or token)."""
    predictions: Array
    """Aligned with `labels`."""
    losses: Array
    """One mean loss per example, in nats."""
    counts: Array
    """Items that each example's loss is a mean of."""
    n_labels: int
    """How many labels the model knows; 0 where there are no classes."""


@dataclass(frozen=True)
class Metric:
    """A number computed from results, and which way is better."""

    name: str
    kinds: tuple[str, ...]
    function: Callable[[Results], float]
    higher_is_better: bool = True
    from_confusion: Callable[[Array, int], Any] | None = None
    """The same from counts (…, labels, predictions) and the number of labels: what thousands of resamples need."""

    def __call__(self, results: Results) -> float:
        """The score; raises UndefinedScore where it has none."""
        value = float(self.function(results))
        if not np.isfinite(value):
            raise UndefinedScore(self.name, f"it comes out as {value} on {len(results.losses)} examples")
        return value

    def drop(self, baseline: float, observed: float) -> float:
        """How much worse `observed` is than `baseline`; negative where it is better."""
        return baseline - observed if self.higher_is_better else observed - baseline


def find_metric(metric: str | Metric | Callable[[Any, Any], float] | None, kind: str) -> Metric:
    """The metric of this name for a kind of task; None gives the kind's default.

    A function is called as `function(labels, predictions)` and greater is better. Raises UnknownMetric.
    """
    if metric is None:
        return METRICS[_DEFAULTS[kind]]
    if isinstance(metric, Metric):
        if kind not in metric.kinds:
            raise UnknownMetric(metric.name, kind, _names(kind))
        return metric
    if callable(metric):
        function = metric
        name = getattr(metric, "__name__", "metric")
        return Metric(name, (kind,), lambda results: function(results.labels, results.predictions))
    found = METRICS.get(metric)
    if found is None or kind not in found.kinds:
        raise UnknownMetric(str(metric), kind, _names(kind))
    return found


def _names(kind: str) -> list[str]:
    return [name for name, metric in METRICS.items() if kind in metric.kinds]


def _accuracy(results: Results) -> float:
    return float(np.mean(results.labels == results.predictions))


def _f1(average: str) -> Callable[[Results], float]:
    def f1(results: Results) -> float:
        from sklearn.metrics import f1_score

        chosen = ("binary" if results.n_labels == 2 else "macro") if average == "default" else average
        return float(f1_score(results.labels, results.predictions, average=chosen, zero_division=0))

    return f1


def _confused_f1(average: str) -> Callable[[Array, int], Any]:
    def f1(confusion: Array, n_labels: int) -> Any:
        hits = np.diagonal(confusion, axis1=-2, axis2=-1)
        said, real = confusion.sum(axis=-2), confusion.sum(axis=-1)
        if average == "micro":
            return hits.sum(axis=-1) / real.sum(axis=-1)
        present = said + real > 0
        each = np.where(present, 2 * hits / np.maximum(said + real, 1), 0.0)
        if average == "default" and n_labels == 2:
            return each[..., 1]
        return each.sum(axis=-1) / present.sum(axis=-1)

    return f1


def _confused_matthews(confusion: Array, n_labels: int) -> Any:
    hits, total = np.trace(confusion, axis1=-2, axis2=-1).astype(float), confusion.sum(axis=(-2, -1)).astype(float)
    said, real = confusion.sum(axis=-2).astype(float), confusion.sum(axis=-1).astype(float)
    spread = (total**2 - (said**2).sum(axis=-1)) * (total**2 - (real**2).sum(axis=-1))
    agreement = hits * total - (said * real).sum(axis=-1)
    return np.where(spread > 0.0, agreement / np.sqrt(np.where(spread > 0.0, spread, 1.0)), 0.0)


def _matthews(results: Results) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(results.labels, results.predictions))


def _correlation(name: str) -> Callable[[Results], float]:
    def correlation(results: Results) -> float:
        from scipy import stats

        for what, values in (("labels", results.labels), ("predictions", results.predictions)):
            if len(values) < 2 or np.ptp(values) == 0:
                raise UndefinedScore(name, f"all {what} are equal")
        function = stats.pearsonr if name == "pearson" else stats.spearmanr
        return float(function(results.labels, results.predictions)[0])

    return correlation


def _loss(results: Results) -> float:
    return float(np.average(results.losses, weights=results.counts))


def _perplexity(results: Results) -> float:
    with np.errstate(over="ignore"):  # infinity is refused by its own error
        return float(np.exp(_loss(results)))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", (CLASSIFICATION, TOKENS, SPANS, LANGUAGE), _accuracy),
        Metric("f1", (CLASSIFICATION, TOKENS, SPANS), _f1("default"), from_confusion=_confused_f1("default")),
        Metric("f1_macro", (CLASSIFICATION, TOKENS, SPANS), _f1("macro"), from_confusion=_confused_f1("macro")),
        Metric("f1_micro", (CLASSIFICATION, TOKENS, SPANS), _f1("micro"), from_confusion=_confused_f1("micro")),
        Metric("matthews", (CLASSIFICATION, TOKENS, SPANS), _matthews, from_confusion=_confused_matthews),
        Metric("pearson", (REGRESSION,), _correlation("pearson")),
        Metric("spearman", (REGRESSION,), _correlation("spearman")),
        Metric("perplexity", (LANGUAGE,), _perplexity, higher_is_better=False),
        Metric("loss", (CLASSIFICATION, REGRESSION, TOKENS, LANGUAGE), _loss, higher_is_better=False),
    )
}
_DEFAULTS = {
    CLASSIFICATION: "accuracy",
    REGRESSION: "pearson",
    TOKENS: "accuracy",
    SPANS: "accuracy",
    LANGUAGE: "perplexity",
}
