"""How much of the accuracy survives when heads are pruned, and how sure that is.

The thresholds are the embedded model's (0.80 on 600 reviews); the summary shows each score, which together are its
pruning curve. Yours belong in your suite.
"""

from __future__ import annotations

import pytest

from pytest_bertology import assert_heads_prunable, assert_metric_retained


@pytest.mark.parametrize(
    ("fraction", "tolerance"), [(0.1, 0.02), (0.2, 0.04), (0.3, 0.08), (0.5, 0.20), (0.7, 0.26), (0.9, 0.32)]
)
def test_accuracy_along_the_pruning_curve(bertology_model, bertology_task, fraction, tolerance):
    assert_metric_retained(bertology_model, bertology_task, prune=fraction, tolerance=tolerance)


def test_half_of_the_heads_are_needed(bertology_model, bertology_task):
    """Pruning must cost: a task that survives anything cannot tell a good model from a broken one."""
    with pytest.raises(AssertionError, match="is not retained"):
        assert_metric_retained(bertology_model, bertology_task, prune=0.5, tolerance=0.05)


def test_a_tenth_of_the_heads_can_go_with_confidence(bertology_model, bertology_task):
    """Not only on these 600 sentences: the true drop is below five points, with 95 % confidence."""
    assert_metric_retained(bertology_model, bertology_task, prune=0.1, tolerance=0.05, confidence=0.95)


def test_f1_is_retained_too(bertology_model, bertology_task):
    assert_metric_retained(bertology_model, bertology_task, prune=0.1, metric="f1", tolerance=0.05, relative=True)


def test_the_least_important_heads_can_go(bertology_model, bertology_task, head_importance):
    assert_heads_prunable(bertology_model, bertology_task, head_importance.bottom(7), tolerance=0.02)


@pytest.mark.bertology(heads_masked=[(0, 0)])
def test_one_head_fewer_is_no_loss(bertology_model, bertology_task):
    """The marker masks the head for the length of the test; the baseline is the model as trained."""
    assert_metric_retained(bertology_model, bertology_task, tolerance=0.02)
