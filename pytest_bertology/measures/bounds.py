"""How large the true drop of a score may be, given results of the same examples before and after a change."""

from __future__ import annotations

import numpy as np

from pytest_bertology.bootstrap import bootstrap_upper_bound
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.resampling import right_items, scores_of
from pytest_bertology.statistics import Bound, ProportionDrop, mean_upper_bound
from pytest_bertology.tasks.metrics import CLASSIFICATION, METRICS, REGRESSION, Array, Metric, Results

_BY_LOSS = (METRICS["loss"], METRICS["perplexity"])
_UP_TO_ONE = tuple(METRICS[name] for name in ("accuracy", "f1", "f1_macro", "f1_micro", "matthews"))


def drop_bound(baseline: Outcomes, masked: Outcomes, confidence: float) -> Bound:
    """An upper confidence bound on the drop from `baseline` to `masked`, results of the same examples.

    Exact, ordered by Tango's score interval, for the accuracy of classifications; Student's t for mean losses; else a
    paired bootstrap over examples, and at least Student's t with the jackknife's error: examples are independent, the
    tokens of one are not. No resample can show a change that no example shows, so for the other scores of predictions
    the bound is at least the exact one on the examples that became worse.

    Raises UndefinedScore for a metric of the user's own where no prediction changed: nothing bounds it then.
    """
    return drop_bound_of(baseline.results(), masked.results(), baseline.metric, baseline.task.kind, confidence)


def drop_bound_of(before: Results, after: Results, metric: Metric, kind: str, confidence: float) -> Bound:
    """The same, of results alone; `kind` is that of their task."""
    if metric == METRICS["loss"] and kind in (CLASSIFICATION, REGRESSION):
        return mean_upper_bound(after.losses - before.losses, confidence)
    worse = _worse_examples(before, after) if metric in _UP_TO_ONE else None
    if metric == METRICS["accuracy"] and kind == CLASSIFICATION and worse is not None:
        return Bound.of(worse, confidence)
    if metric not in _BY_LOSS and kind != REGRESSION and np.array_equal(before.predictions, after.predictions):
        if worse is not None:
            return Bound.of(worse, confidence)
        raise UndefinedScore(
            f"the confidence bound on {metric.name}", "no prediction changed, and its scale is not known"
        )
    scores = scores_of(metric, [before, after])

    def drops(counts: Array) -> Array:
        found = scores(counts)
        change: Array = found[:, 0] - found[:, 1]
        return change if metric.higher_is_better else -change

    return bootstrap_upper_bound(drops, len(before.losses), confidence, at_least=worse)


def _worse_examples(before: Results, after: Results) -> ProportionDrop:
    """The share of examples of which fewer items are right, less that of which more are."""
    change = right_items(after) - right_items(before)
    return ProportionDrop(int((change < 0).sum()), int((change > 0).sum()), len(change))
