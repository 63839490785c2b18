"""Which heads matter: a release must not move the work to other heads unnoticed."""

from __future__ import annotations

import pytest

from pytest_bertology import assert_heads_in_top, assert_metric_retained, assert_ranking_agrees, head_importance

KEY_HEADS = [(5, 7), (5, 10), (5, 11)]


def test_key_heads_rank_high(head_importance):
    assert_heads_in_top(head_importance, KEY_HEADS, k=8)


def test_key_heads_cannot_go(bertology_model, bertology_task):
    with pytest.raises(AssertionError, match="is not retained"):
        assert_metric_retained(bertology_model, bertology_task, heads=KEY_HEADS, tolerance=0.05)


@pytest.mark.bertology(task="embedded", split="test")
def test_importance_is_alike_on_both_halves_of_the_data(bertology_model, bertology_task):
    first, second = (
        head_importance(bertology_model, bertology_task.subset(part)) for part in (range(300), range(300, 600))
    )

    assert_ranking_agrees(first, second, min_correlation=0.6)


@pytest.mark.bertology(importance="random")
def test_a_random_ranking_does_not_know_the_key_heads(head_importance):
    with pytest.raises(AssertionError, match="not among the 8 most important"):
        assert_heads_in_top(head_importance, KEY_HEADS, k=8)
