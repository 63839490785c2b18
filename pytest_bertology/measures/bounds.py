"""How large the true drop of a score may be, given results of the same examples without and with a mask."""

from __future__ import annotations

import numpy as np

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.statistics import Bound, bootstrap_upper_bound, mean_upper_bound, tango_upper_bound
from pytest_bertology.tasks.metrics import CLASSIFICATION, LANGUAGE, METRICS, REGRESSION, TOKENS, Array

_BY_LOSS = (METRICS["loss"], METRICS["perplexity"])
_UP_TO_ONE = tuple(METRICS[name] for name in ("accuracy", "f1", "f1_macro", "f1_micro", "matthews"))


def drop_bound(baseline: Outcomes, masked: Outcomes, confidence: float) -> Bound:
    """An upper confidence bound on the drop from `baseline` to `masked`, results of the same examples.

    Tango's score interval for the accuracy of classifications, Student's t for mean losses, else a paired bootstrap
    over examples. No resample can show a change that no example shows, so for the other scores of predictions the
    bound is at least Tango's on the examples that became worse.

    Raises UndefinedScore for a metric of the user's own where no prediction changed: nothing bounds it then.
    """
    metric, kind, n = baseline.metric, baseline.task.kind, len(baseline)
    if metric == METRICS["loss"] and kind in (CLASSIFICATION, REGRESSION):
        return mean_upper_bound(masked.losses - baseline.losses, confidence)
    if metric == METRICS["accuracy"] and kind == CLASSIFICATION:
        return _worse_examples(baseline, masked, confidence)
    unchanged = np.array_equal(baseline.raw.predictions, masked.raw.predictions)
    if unchanged and metric not in (*_BY_LOSS, *_UP_TO_ONE):
        raise UndefinedScore(
            f"the confidence bound on {metric.name}", "no prediction changed, and its scale is not known"
        )
    floor = _worse_examples(baseline, masked, confidence) if metric in _UP_TO_ONE else None
    if unchanged and floor is not None:
        return floor
    bound = bootstrap_upper_bound(lambda chosen: _resampled_drop(baseline, masked, chosen), n, confidence)
    return floor if floor is not None and floor.upper > bound.upper else bound


def _worse_examples(baseline: Outcomes, masked: Outcomes, confidence: float) -> Bound:
    """Tango's bound on the share of examples of which fewer items are right, less that of which more are."""
    change = _right_items(masked) - _right_items(baseline)
    return tango_upper_bound(int((change < 0).sum()), int((change > 0).sum()), len(baseline), confidence)


def _right_items(outcomes: Outcomes) -> Array:
    """How many items of each example are right."""
    if outcomes.task.kind not in (TOKENS, LANGUAGE):
        return outcomes.right.astype(np.int64)
    starts = np.cumsum(outcomes.raw.counts) - outcomes.raw.counts
    return np.add.reduceat(outcomes.right.astype(np.int64), starts)


def _resampled_drop(baseline: Outcomes, masked: Outcomes, chosen: Array) -> float:
    try:
        return baseline.metric.drop(baseline.resampled(chosen), masked.resampled(chosen))
    except UndefinedScore:
        return float("nan")
