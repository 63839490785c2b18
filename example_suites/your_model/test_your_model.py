"""A suite with nothing of any model in it: point it at yours by options alone.

    pytest example_suites/your_model --bertology-model=./release-candidate --bertology-task=dev.tsv

It asks what can be asked of every model: that a tenth of the heads can go, that which heads are chosen matters, and
that masks do what they say on your data.
"""

from __future__ import annotations

import numpy as np
import pytest

from pytest_bertology import HeadMask, assert_metric_retained, evaluate, head_importance


def test_a_tenth_of_the_heads_can_go(bertology_model, bertology_task):
    assert_metric_retained(bertology_model, bertology_task, prune=0.1, tolerance=0.05, relative=True)


def test_ranked_pruning_is_no_worse_than_random_pruning(bertology_model, bertology_task):
    half = len(bertology_model.heads) // 2
    ranked = head_importance(bertology_model, bertology_task).normalized(per_layer=True, min_max=False)
    drawn = [head_importance(bertology_model, bertology_task, method="random", seed=seed) for seed in range(3)]

    def score(scores):
        return evaluate(bertology_model, bertology_task, scores.bottom(half)).score

    baseline = evaluate(bertology_model, bertology_task).score
    mean_of_random = float(np.mean([score(scores) for scores in drawn]))
    assert bertology_task.metric.drop(mean_of_random, score(ranked)) <= 0.01 * abs(baseline)


def test_the_model_leans_on_its_heads(bertology_model, bertology_task):
    """Without any head the score must fall: a model that keeps it does not read its input's context at all."""
    without_heads = HeadMask.only(bertology_model.heads, [])

    with pytest.raises(AssertionError, match="is not retained"):
        assert_metric_retained(bertology_model, bertology_task, mask=without_heads, tolerance=0.0)


def test_masks_are_gone_after_use(bertology_model, bertology_task):
    before = evaluate(bertology_model, bertology_task)
    head = bertology_model.heads[0]

    with bertology_model.masked([head]):
        evaluate(bertology_model, bertology_task)

    assert np.array_equal(evaluate(bertology_model, bertology_task).losses, before.losses)
