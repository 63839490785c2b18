"""How each search goes, and that every one ends: against loops written out here, and planted models."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import (
    Head,
    HeadMask,
    HeadScores,
    ResultStore,
    evaluate,
    find_prunable_heads,
    head_importance,
    using_store,
)
from pytest_bertology.errors import InvalidArgument, MaskNotApplied, UndefinedScore
from pytest_bertology.measures.sweeping import evaluate_masks
from pytest_bertology.search import judging
from tests.families import few, under_test
from tests.families import task_for as letters
from tests.planted import HEADS as WIDE
from tests.planted import LAYERS as DEEP
from tests.planted import planted_model, planted_task
from tests.tiny import HEADS, LAYERS, tiny_model, tiny_task

SEARCHES = ("threshold", "greedy", "beam", "astar")
TOTAL = LAYERS * HEADS
everywhere = pytest.mark.parametrize("search", SEARCHES)


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def task(model):
    return tiny_task(24, model)


def test_greedy_masks_the_head_without_which_the_score_is_best(model, task):
    masked, floor = [], 0.6
    while True:
        options = [[*masked, head] for head in model.heads if head not in masked]
        tried = [evaluate(model, task, heads) for heads in options]
        holding = [(-found.score, round(found.losses.mean(), 5), at) for at, found in enumerate(tried)]
        holding = [one for one in holding if -one[0] >= floor]
        if not holding:
            break
        masked = options[min(holding)[2]]

    found = find_prunable_heads(model, task, floor=floor)

    assert set(found.heads) == set(masked)
    assert len(masked) >= 2


def test_greedy_sets_are_nested(model, task):
    found = find_prunable_heads(model, task, floor=0.6)

    held = [set(step.heads) for step in found.trace if step.held]
    assert [len(heads) for heads in held] == list(range(1, len(held) + 1))
    assert all(small < large for small, large in pairwise(held))
    assert held[-1] == set(found.heads)
    assert [step.evaluations for step in found.trace] == sorted(step.evaluations for step in found.trace)


def test_the_threshold_loop_is_the_scripts_with_its_end_mended(model, task):
    masked, floor = [], 0.6
    while True:
        with model.masked(masked):
            scores = head_importance(model, task).normalized()
        order = [head for head in scores.bottom(TOTAL) if head not in masked]
        if not order or evaluate(model, task, [*masked, *order[:2]]).score < floor:
            break
        masked += order[:2]

    found = find_prunable_heads(model, task, floor=floor, search="threshold", step=0.25)

    assert set(found.heads) == set(masked)
    assert len(masked) >= 2
    assert found.evaluations == len(masked) // 2 + 1


def test_the_threshold_loop_follows_scores_that_are_given(model, task):
    scores = HeadScores(np.arange(TOTAL)[::-1], model.heads, "mine")

    found = find_prunable_heads(model, task, floor=0.01, search="threshold", by=scores, step=1 / TOTAL)

    assert [step.heads for step in found.trace] == [tuple(model.heads)[-k:] for k in range(1, TOTAL + 1)]


@everywhere
@pytest.mark.parametrize("least", [0, 1, 3])
def test_every_search_ends_where_everything_may_go(model, task, search, least):
    found = find_prunable_heads(model, task, floor=0.01, search=search, least_per_layer=least)

    assert len(found.heads) == TOTAL - LAYERS * least
    for layer in range(LAYERS):
        assert sum(head.layer == layer for head in found.heads) == HEADS - least
    assert found.bound == len(found.heads)
    assert found.proven_optimal or least > 0


@everywhere
@few
@given(least=st.integers(0, HEADS - 1), floor=st.sampled_from([0.5, 0.6, 0.8]))
def test_each_layer_keeps_its_heads(model, task, search, least, floor):
    found = find_prunable_heads(model, task, floor=floor, search=search, least_per_layer=least)

    for step in found.trace:
        for layer in range(LAYERS):
            assert sum(head.layer == layer for head in step.heads) <= HEADS - least


@everywhere
@pytest.mark.parametrize("head", [Head(0, 0), Head(1, 2), Head(2, 3)], ids=str)
def test_everything_goes_but_the_planted_head(head, search):
    model, task = planted_model(head), planted_task()

    found = find_prunable_heads(model, task, floor=0.9, relative=True, search=search)

    assert set(found.heads) == set(model.heads) - {head}
    assert found.score == 1.0
    assert found.bound == DEEP * WIDE - 1
    if search != "threshold":
        assert found.evaluations == 1
        assert found.proven_optimal


def test_where_layers_keep_heads_the_planted_one_is_among_them():
    head = Head(1, 2)

    found = find_prunable_heads(planted_model(head), planted_task(), floor=1.0, search="astar", least_per_layer=1)

    assert len(found.heads) == DEEP * (WIDE - 1)
    assert head not in found.heads
    assert found.proven_optimal


@everywhere
def test_masks_in_force_stay_in_force_and_are_not_found(model, task, search):
    with model.masked([(0, 1)]):
        found = find_prunable_heads(model, task, floor=0.6, search=search)

    assert (0, 1) not in found.heads
    assert set(found.mask.masked) == {(0, 1), *found.heads}
    assert found.score == evaluate(model, task, found.mask).score >= 0.6
    assert found.baseline == evaluate(model, task).score
    assert model.masks_open() == 0


@everywhere
def test_the_same_search_gives_the_same_result(model, task, search):
    first = find_prunable_heads(model, task, floor=0.7, search=search)

    with using_store(ResultStore()):
        again = find_prunable_heads(model, task, floor=0.7, search=search)

    assert first == again


@everywhere
@pytest.mark.parametrize("seconds", [0.5, 3.0, 20.0])
def test_seconds_are_respected_and_something_that_holds_is_returned(model, task, search, seconds, monkeypatch):
    clock = [0.0]

    def slow(function):
        def watched(model, task, masks, *rest, **options):
            clock[0] += len(masks) if isinstance(masks, list) else 1.0
            return function(model, task, masks, *rest, **options)

        return watched

    monkeypatch.setattr(judging, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(judging, "evaluate_masks", slow(judging.evaluate_masks))
    monkeypatch.setattr(judging, "evaluate_exactly", slow(judging.evaluate_exactly))

    found = find_prunable_heads(model, task, floor=0.55, search=search, seconds=seconds)

    assert found.stopped == f"its {seconds:g} seconds were over" or search == "threshold"
    assert found.evaluations <= seconds + 1
    assert found.score == evaluate(model, task, found.mask).score >= 0.55


def test_a_wider_beam_finds_no_less_here(model, task):
    sizes = [len(find_prunable_heads(model, task, floor=0.8, search="beam", beam=width).heads) for width in (1, 2, 8)]

    assert sizes == sorted(sizes)
    assert sizes[0] == len(find_prunable_heads(model, task, floor=0.8).heads)


def test_what_a_budget_cannot_prove_goes_to_wider_beams(model, task):
    found = find_prunable_heads(model, task, floor=0.8, search="astar", budget=45)

    assert found.evaluations == 45
    assert found.stopped == "its budget of 45 evaluations was used up"
    assert not found.proven_optimal
    assert any(step.phase == "beam of 2" for step in found.trace)
    assert found.bound == TOTAL - 2  # the one set of all and the eight of all but one were evaluated
    assert f"sets of up to {found.bound} heads are not excluded" in repr(found)
    assert len(found.heads) > len(find_prunable_heads(model, task, floor=0.8).heads)


@pytest.mark.parametrize("floor", [0.55, 0.7, 0.8])
def test_with_a_small_budget_astar_has_at_least_what_the_threshold_loop_finds(model, task, floor):
    loop = find_prunable_heads(model, task, floor=floor, search="threshold")

    found = find_prunable_heads(model, task, floor=floor, search="astar", budget=loop.evaluations)

    assert len(found.heads) >= len(loop.heads)


def test_each_set_is_evaluated_once(model, task, monkeypatch):
    ran = []

    def watched(model, task, masks, **options):
        ran.extend(masks)
        return evaluate_masks(model, task, masks, **options)

    monkeypatch.setattr(judging, "evaluate_masks", watched)

    find_prunable_heads(model, task, floor=0.6, search="astar")

    assert len(ran) == len(set(ran)) > 20


def test_a_score_that_is_undefined_keeps_no_floor(model, monkeypatch):
    def fragile(labels, predictions):
        return float("nan") if (labels == predictions).all() is np.False_ else 1.0

    task = tiny_task(24, model).with_metric(fragile)

    found = find_prunable_heads(model, task, floor=0.5)

    assert found.heads == ()
    assert found.trace[0].held == 0


def test_masks_that_do_nothing_are_refused(model, task, monkeypatch):
    def unmasked(model, task, masks, **options):
        return evaluate_masks(model, task, [HeadMask.keep_all(model.heads)] * len(masks), **options)

    def plain(model, task, mask, batching):
        return unmasked(model, task, [mask]).variants[0]

    monkeypatch.setattr(judging, "evaluate_masks", unmasked)
    monkeypatch.setattr(judging, "evaluate_exactly", plain)

    with pytest.raises(MaskNotApplied, match="changes no result"):
        find_prunable_heads(model, task, floor=0.5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "floor=None"),
        ({"floor": "0.9"}, "floor='0.9'"),
        ({"floor": float("nan")}, "floor=nan"),
        ({"floor": True}, "floor=True"),
        ({"floor": 1.2, "relative": True}, "a share of the baseline"),
        ({"floor": 95, "relative": True}, "a share of the baseline .* did you mean 0.95"),
        ({"floor": 0.0, "relative": True}, "a share of the baseline"),
        ({"floor": 0.5, "search": "dfs"}, "greedy, threshold, beam, astar"),
        ({"floor": 0.5, "budget": 0}, "a whole number from 1"),
        ({"floor": 0.5, "budget": 2.5}, "a whole number from 1"),
        ({"floor": 0.5, "seconds": 0}, "a number above 0"),
        ({"floor": 0.5, "beam": 0}, "a whole number from 1"),
        ({"floor": 0.5, "step": 0}, "a share of the heads"),
        ({"floor": 0.5, "seed": -1}, "a whole number from 0"),
        ({"floor": 0.5, "by": "size"}, "gradient"),
        ({"floor": 0.5, "least_per_layer": HEADS}, f"from 0 to {HEADS - 1}"),
    ],
)
def test_bad_arguments_are_refused(model, task, options, expected):
    with pytest.raises(InvalidArgument, match=expected):
        find_prunable_heads(model, task, **options)


def test_several_tasks_come_with_their_own_floors(model, task):
    with pytest.raises(InvalidArgument, match="maps tasks to their floors"):
        find_prunable_heads(model, {task: 0.5}, floor=0.5)
    with pytest.raises(InvalidArgument, match="what load_task"):
        find_prunable_heads(model, {"sst2": 0.5})
    with pytest.raises(InvalidArgument, match="what load_task"):
        find_prunable_heads(model, {})


def test_a_proof_for_many_heads_needs_a_budget():
    model = under_test("bert", num_hidden_layers=6)

    with pytest.raises(InvalidArgument, match="all sets of 24 heads"):
        find_prunable_heads(model, letters("sequence-classification"), floor=0.5, search="astar")


def test_where_all_heads_are_masked_there_is_nothing_to_search(model, task):
    with model.masked(list(model.heads)), pytest.raises(InvalidArgument, match="none can be"):
        find_prunable_heads(model, task, floor=0.5)


def test_a_relative_floor_of_a_baseline_of_zero_is_undefined(model, task):
    wrong = tiny_task(24, model)
    labels = tuple("positive" if label == "negative" else "negative" for label in wrong.labels)
    wrong = type(wrong)("wrong", wrong.kind, wrong.texts, labels)

    with pytest.raises(UndefinedScore, match="the relative floor"):
        find_prunable_heads(model, wrong, floor=0.9, relative=True)
