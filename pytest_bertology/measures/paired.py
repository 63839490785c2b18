"""Did a score change? Two results of the same examples, compared: a test of no change, and bounds on the drop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_bertology.bootstrap import jackknifed
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.bounds import drop_bound_of
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.resampling import closed_form_of, right_items, scores_of
from pytest_bertology.significance import drop_p_values, mcnemar
from pytest_bertology.statistics import Bound, MeanDrop
from pytest_bertology.tasks.metrics import CLASSIFICATION, METRICS, REGRESSION, Array, Metric, Results

_RESAMPLES, _OF_OTHERS = 10_000, 2_000
"""Where a resample costs little, and of metrics that are computed anew for each."""


@dataclass(frozen=True)
class Comparison:
    """What two results of the same examples say about a change of the score."""

    metric: str
    before: float
    after: float
    drop: float
    """How much worse `after` is; negative where it is better."""
    p_value: float
    """Two-sided, of no change."""
    p_worse: float
    """One-sided: of a score that is no worse."""
    bound: Bound
    """One-sided bounds on the true drop, each alone at the confidence asked for."""
    method: str
    """The test that the p-values are of."""
    lost: int
    """Examples of which fewer items are right (regression: whose error is greater)."""
    gained: int
    """Examples of which more are."""
    examples: int

    @property
    def changed(self) -> float:
        """The share of the examples that changed, either way."""
        return (self.lost + self.gained) / self.examples


def compare(before: Outcomes, after: Outcomes, *, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Compare two results of the same task, judged by the metric of `before`; see `compare_results`."""
    kind, metric = before.task.kind, before.metric
    return compare_results(before.results(), after.results(), metric, kind, confidence=confidence, seed=seed)


def compare_results(
    before: Results, after: Results, metric: Metric, kind: str, *, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare results of the same examples in the same order; `kind` is that of their task.

    The p-values are of no change: McNemar's exact test for the accuracy of single labels, Student's paired t for mean
    losses of whole examples, and for every other score a paired bootstrap over examples, drawn with `seed` (see
    `drop_p_values`; tokens of one example are drawn together), which is no smaller than 1 / 10,001 (1 / 2,001 for
    scores computed one by one). With few examples a bootstrap is too sure; its p-values are therefore at least those
    of Student's t with the jackknife's standard error.

    Raises InvalidArgument for results of other examples, UndefinedScore where there is no score.
    """
    check_paired(before, after)
    old, new = metric(before), metric(after)
    drop = metric.drop(old, new)
    lost, gained = changes(before, after, kind)
    p_value, p_worse, method = _p_values(before, after, metric, kind, drop, seed)
    return Comparison(
        metric=metric.name,
        before=old,
        after=new,
        drop=drop,
        p_value=p_value,
        p_worse=p_worse,
        bound=drop_bound_of(before, after, metric, kind, confidence),
        method=method,
        lost=lost,
        gained=gained,
        examples=len(before.losses),
    )


def paired_p_value(before: Outcomes, after: Outcomes, *, alternative: str = "two-sided", seed: int = 0) -> float:
    """The p-value of no change between two results of the same task ("worse": of no drop); see `compare_results`."""
    if alternative not in ("two-sided", "worse"):
        raise InvalidArgument("alternative", alternative, "'two-sided' or 'worse'")
    one, other, metric = before.results(), after.results(), before.metric
    check_paired(one, other)
    drop = metric.drop(metric(one), metric(other))
    two_sided, worse, _ = _p_values(one, other, metric, before.task.kind, drop, seed)
    return worse if alternative == "worse" else two_sided


def check_paired(before: Results, after: Results) -> None:
    """Raise InvalidArgument unless both are of the same examples."""
    sizes = [(len(each.losses), len(each.labels)) for each in (before, after)]
    if sizes[0] != sizes[1] or not np.array_equal(before.labels, after.labels):
        found = f"{sizes[1][0]} examples, {sizes[1][1]} labels"
        raise InvalidArgument("after", found, f"results of the same {sizes[0][0]} examples, the same labels in order")


def changes(before: Results, after: Results, kind: str) -> tuple[int, int]:
    """How many examples are worse and better: fewer or more items are right (regression: the error grew or shrank)."""
    moved = before.losses - after.losses if kind == REGRESSION else right_items(after) - right_items(before)
    return int((moved < 0).sum()), int((moved > 0).sum())


def _p_values(
    before: Results, after: Results, metric: Metric, kind: str, drop: float, seed: int
) -> tuple[float, float, str]:
    """Two-sided, one-sided, and the test's name."""
    if metric == METRICS["accuracy"] and kind == CLASSIFICATION:
        lost, gained = changes(before, after, kind)
        return mcnemar(lost, gained), mcnemar(lost, gained, alternative="worse"), "McNemar's exact test"
    if metric == METRICS["loss"] and kind in (CLASSIFICATION, REGRESSION):
        return *_of_mean(MeanDrop.of(after.losses - before.losses)), "Student's paired t test"
    return *_resampled(before, after, metric, drop, seed), "paired bootstrap over examples"


def _of_mean(found: MeanDrop) -> tuple[float, float]:
    """Two-sided and one-sided, of a mean of 0."""
    if found.mean == 0.0:
        return 1.0, 1.0
    worse = 1.0 - found.p_value(0.0, 0.95) if found.n > 1 else 1.0
    sided = MeanDrop(-abs(found.mean), found.error, found.n).p_value(0.0, 0.95)
    worse = sided if found.mean > 0.0 else worse
    return min(1.0, 2.0 * sided), worse


def _resampled(before: Results, after: Results, metric: Metric, drop: float, seed: int) -> tuple[float, float]:
    """Of the bootstrap, and at least those of Student's t."""
    n = len(before.losses)
    if drop == 0.0 or n < 2:
        return 1.0, 1.0
    scores = scores_of(metric, [before, after])

    def drops(counts: Array) -> Array:
        found = scores(counts)
        change: Array = found[:, 0] - found[:, 1]
        return change if metric.higher_is_better else -change

    resamples = _RESAMPLES if closed_form_of(metric) else _OF_OTHERS
    by_bootstrap = drop_p_values(drops, drop, n, resamples=resamples, seed=seed)
    by_t = _of_mean(jackknifed(drops, n))
    return max(float(by_bootstrap[0]), by_t[0]), max(float(by_bootstrap[1]), by_t[1])
