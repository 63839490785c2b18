"""The baseline of a retention check is the model as trained, whatever is in force around the call.

Oracle: single evaluations outside of all contexts, and inside of them under the same mask.
"""

from __future__ import annotations

import numpy as np
import pytest

from pytest_bertology import (
    CheckFailed,
    ResultStore,
    assert_head_redundant,
    assert_heads_prunable,
    assert_layer_survives_one_head,
    assert_layers_droppable,
    assert_metric_retained,
    evaluate,
    find_prunable_heads,
    pruning_curve,
    using_store,
)
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import CannotPrune
from tests.tiny import tiny_model, tiny_task

MODEL = tiny_model()
TASK = tiny_task(40, MODEL)
ROOMY = 0.99


@pytest.fixture(autouse=True)
def _own_store(tmp_path):
    with using_store(ResultStore(tmp_path)):
        yield


def few():
    return MODEL.with_top_k_attention(1)


def skips():
    return MODEL.skipping([1])


@pytest.mark.parametrize("entering", [few, skips])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("first", ["outside", "inside"])
def test_the_baseline_is_the_model_as_trained_and_the_rest_counts_beside_the_mask(entering, early, first):
    if first == "outside":
        trained, masked = evaluate(MODEL, TASK).logits, evaluate(MODEL, TASK, [(0, 3)]).logits
    with entering():
        found = assert_metric_retained(MODEL, TASK, heads=[(0, 3)], tolerance=ROOMY, early=early)
        expected = evaluate(MODEL, TASK, [(0, 3)]).logits
    if first == "inside":
        trained, masked = evaluate(MODEL, TASK).logits, evaluate(MODEL, TASK, [(0, 3)]).logits

    assert np.array_equal(found.baseline.logits, trained)
    assert np.allclose(found.masked.logits, expected, atol=1e-6)
    assert not np.allclose(found.masked.logits, masked, atol=1e-4)


@pytest.mark.parametrize("early", [True, False])
def test_a_change_that_costs_too_much_fails_the_check_and_is_named(early):
    verdicts = []
    with few(), hearing(verdicts.append), pytest.raises(CheckFailed) as failed:
        assert_heads_prunable(MODEL, TASK, [(0, 3)], 0.01, early=early)
    with few():
        expected = evaluate(MODEL, TASK, [(0, 3)]).score

    assert evaluate(MODEL, TASK).score == 1.0
    assert expected < 0.99
    (verdict,) = verdicts
    assert (verdict.baseline, verdict.score) == (1.0, expected)
    assert verdict.details["attention"] == ["top 1 key in all layers"]
    text = " ".join(str(failed.value).split())
    assert "attention changed: top 1 key in all layers; not so for the baseline" in text


@pytest.mark.parametrize("entering", [few, skips])
def test_single_heads_and_layers_are_held_against_the_model_as_trained(entering):
    trained = evaluate(MODEL, TASK).logits
    with entering():
        found = assert_head_redundant(MODEL, TASK, [(0, 1), (0, 2)], ROOMY)
        (one,) = assert_head_redundant(MODEL, TASK, (0, 1), ROOMY).values()
        reduced = assert_layer_survives_one_head(MODEL, TASK, 0, ROOMY)
        expected = {head: evaluate(MODEL, TASK, [head]).logits for head in found}

    for head, each in found.items():
        assert np.allclose(each.baseline.logits, trained, atol=1e-6)
        assert np.allclose(each.masked.logits, expected[head], atol=1e-6)
    assert np.allclose(one.baseline.logits, trained, atol=1e-6)
    assert all(np.allclose(each.baseline.logits, trained, atol=1e-6) for each in reduced.retained.values())


def test_skipped_layers_are_held_against_attention_as_trained():
    trained = evaluate(MODEL, TASK).logits
    with few():
        found = assert_layers_droppable(MODEL, TASK, [1], tolerance=ROOMY)

    assert np.allclose(found.baseline.logits, trained, atol=1e-6)


def test_curves_and_searches_go_by_the_model_as_trained():
    trained = evaluate(MODEL, TASK).score
    with few():
        curve = pruning_curve(MODEL, TASK, "random", [0.0, 0.5])
        found = find_prunable_heads(MODEL, TASK, floor=0.5)

        assert curve.scores[0] == evaluate(MODEL, TASK).score < trained
    assert curve.baseline == found.baseline == trained


def test_changes_are_named_as_they_were_entered():
    with MODEL.with_top_k_attention(2, [1]), MODEL.with_attention_pattern([(0, 1), (1, 0)], "first"):
        assert MODEL.attention_changes() == ("top 2 keys in layer 1", "the pattern first in L0H1 L1H0")
    assert MODEL.attention_changes() == ()


def test_heads_are_not_cut_for_a_check_that_would_lose_what_is_in_force():
    with skips(), pytest.raises(CannotPrune, match="leave the context first"):
        assert_metric_retained(MODEL, TASK, heads=[(0, 3)], tolerance=ROOMY, structural=True)
