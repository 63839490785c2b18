"""Measures and checks find the one head that does all the work, and it alone.

Oracle: planted models, whose working head is known because it was set by hand (`tests/planted.py`).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from pytest_bertology import (
    CheckFailed,
    Head,
    ResultStore,
    assert_heads_in_top,
    assert_metric_retained,
    evaluate,
    head_importance,
    using_store,
)
from pytest_bertology.errors import BertologyWarning
from pytest_bertology.strategies import head_sets
from tests.families import few
from tests.planted import HEADS, LAYERS, planted_model, planted_task

WORKING = [Head(0, 0), Head(1, 2), Head(2, 1), Head(2, 3)]
EVERYWHERE = pytest.mark.parametrize("head", WORKING, ids=str)
shared = cache(planted_model)
TASK = planted_task()


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@EVERYWHERE
def test_the_planted_model_is_always_right(head):
    found = evaluate(shared(head), TASK)

    assert found.score == 1.0
    assert found.losses.max() < 0.7


@EVERYWHERE
def test_the_proof_calls_all_other_heads_dead(head):
    model = shared(head)

    assert model.check.dead == tuple(other for other in model.heads if other != head)
    assert model.check.silent == ()


@EVERYWHERE
def test_the_working_head_is_the_most_important_and_the_others_not_at_all(head):
    scores = head_importance(shared(head), TASK)

    assert scores.rank(head) == 0
    assert scores[head] > 0.01
    assert np.count_nonzero(scores.values) == 1
    assert_heads_in_top(scores, [head], k=1)


@EVERYWHERE
def test_without_the_working_head_the_accuracy_is_chance(head):
    model = shared(head)

    found = evaluate(model, TASK, mask=[head])

    assert found.score == 0.5
    assert set(found.predictions.tolist()) == {0}
    assert len(np.unique(found.logits, axis=0)) == 1


@EVERYWHERE
@few
@given(data=st.data())
def test_masking_any_other_heads_changes_nothing_bit_for_bit(head, data):
    model = shared(head)
    plain = evaluate(model, TASK)
    others = [other for other in model.heads if other != head]
    masked = data.draw(st.sets(st.sampled_from(others), min_size=1))

    found = evaluate(model, TASK, mask=masked)

    assert np.array_equal(found.logits, plain.logits)
    assert np.array_equal(found.losses, plain.losses)


@EVERYWHERE
def test_the_working_head_alone_is_enough(head):
    model = shared(head)
    others = [other for other in model.heads if other != head]

    with pytest.warns(BertologyWarning, match="idle"):
        found = assert_metric_retained(model, TASK, heads=others, tolerance=0.0)

    assert (found.baseline.score, found.masked.score) == (1.0, 1.0)


@EVERYWHERE
def test_pruning_by_importance_keeps_the_working_head_to_the_last(head):
    model = shared(head)
    all_but_one = (LAYERS * HEADS - 1) / (LAYERS * HEADS)

    with pytest.warns(BertologyWarning, match="idle"):
        kept = assert_metric_retained(model, TASK, prune=all_but_one, tolerance=0.0)

    assert head not in kept.heads
    assert len(kept.heads) == LAYERS * HEADS - 1
    with pytest.raises(CheckFailed):
        assert_metric_retained(model, TASK, prune=1.0, tolerance=0.49)


@EVERYWHERE
def test_a_failing_check_on_all_heads_is_right_about_the_drop(head):
    model = shared(head)

    with pytest.raises(CheckFailed) as error:
        assert_metric_retained(model, TASK, heads=[head], tolerance=0.1, early=False)

    assert str(head) in str(error.value)
    assert "0.5" in str(error.value)


_THOROUGH = settings(
    max_examples=60, deadline=None, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink]
)


def test_a_failing_head_set_shrinks_to_the_working_head():
    smallest = {head: _smallest_that_hurts(shared(head)) for head in WORKING}

    assert smallest == {head: (head,) for head in WORKING}


@pytest.mark.filterwarnings("ignore:all .* masked heads .* are idle")
def test_a_failing_property_reports_the_working_head():
    reported = {head: _reported(shared(head)) for head in WORKING}

    assert reported == {head: (head,) for head in WORKING}


def _smallest_that_hurts(model):
    return find(head_sets(model), lambda heads: evaluate(model, TASK, heads).score < 1.0, settings=_THOROUGH)


def _reported(model):
    """The falsifying example of "accuracy stays": the last run of a failing property is its smallest."""
    ran = []

    @_THOROUGH
    @given(heads=head_sets(model))
    def accuracy_stays(heads):
        ran.append(heads)
        assert_metric_retained(model, TASK, heads=heads, tolerance=0.01)

    with pytest.raises(CheckFailed):
        accuracy_stays()
    return ran[-1]
