"""Checks on how many heads can go, and on one mask for several tasks.

Oracle: every subset of the heads, by a plain transformers model (`tests/search/subsets.py`).
"""

from __future__ import annotations

import json
from functools import partial

import pytest

from pytest_bertology import (
    CheckFailed,
    HeadMask,
    PruningResult,
    ResultStore,
    Retention,
    assert_prunable,
    assert_shared_mask,
    evaluate,
    load_model,
    load_task,
    using_store,
)
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import InvalidArgument, NoHeadSelected
from tests.search.subsets import best, every_score
from tests.tiny import WIDTH, tiny_model, tiny_task

TOTAL = 8


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def task(model):
    """The model is right on all of it."""
    return tiny_task(24, model)


@pytest.fixture(scope="module")
def other():
    """Labels that it knows nothing of."""
    return tiny_task(30, seed=5)


@pytest.fixture(scope="module")
def scores(model, task):
    return every_score(model, task, WIDTH)


def told(check) -> tuple[Verdict, str]:
    """The verdict of a check, and its message if it failed."""
    heard: list[Verdict] = []
    message = ""
    with hearing(heard.append):
        try:
            check()
        except CheckFailed as error:
            message = str(error)
    (verdict,) = heard
    assert verdict.passed == (not message)
    assert json.loads(json.dumps(verdict.to_jsonable()))
    return verdict, message


@pytest.mark.parametrize("floor", [0.55, 0.7, 0.8, 0.9])
def test_a_proven_search_passes_up_to_the_largest_set_and_no_further(model, task, scores, floor):
    most, _ = best(scores, floor)

    for needed in {max(most, 1), most + 1}:
        verdict, message = told(partial(assert_prunable, model, task, needed / TOTAL, floor, search="astar"))
        assert verdict.passed == (needed <= most)
        if message:
            assert f"{most} of 8 heads can be masked with accuracy at least {floor:g}; required: {needed}" in message
            assert "proven" in message


def test_the_set_is_returned_and_holds(model, task, scores):
    found = assert_prunable(model, task, 0.25, 0.7)

    assert isinstance(found, PruningResult)
    assert len(found.heads) == 2
    assert found.score == pytest.approx(scores[tuple((h.layer, h.head) for h in found.heads)][0])
    assert found.score >= 0.7


def test_the_search_ends_when_the_set_is_large_enough(model, task):
    found = assert_prunable(model, task, 0.25, 0.7)

    assert found.evaluations == 8 + 7
    assert found.stopped == "the 2 heads asked for were found"


def test_a_fraction_between_two_numbers_of_heads_asks_for_the_larger(model, task):
    assert len(assert_prunable(model, task, 0.2, 0.7).heads) == 2
    assert len(assert_prunable(model, task, 0.125, 0.7).heads) == 1


def test_a_failure_says_how_near_it_came_and_that_others_may_be_found(model, task):
    verdict, message = told(lambda: assert_prunable(model, task, 0.5, 0.75))

    assert message.startswith("3 of 8 heads can be masked with accuracy at least 0.75; required: 4 (50%)")
    assert "not proven: sets of up to 8 heads are not excluded" in message
    assert "with 4    the best of 5 sets tried reaches accuracy 0.7083" in message
    assert "heads     L0H0 L0H2 L1H0" in message
    assert (verdict.observed, verdict.required, verdict.judged) == (
        3 / 8,
        ">= 0.5",
        "share of heads prunable at the floor",
    )
    assert verdict.heads == ("L0H0", "L0H2", "L1H0")


def test_a_budget_that_ran_out_is_named(model, task):
    _, message = told(lambda: assert_prunable(model, task, 0.5, 0.7, budget=5))

    assert "ended early  its budget of 5 evaluations was used up; a larger budget may find more" in message


def test_a_single_evaluation_is_told_as_one(model, task):
    _, message = told(lambda: assert_prunable(model, task, 0.5, 0.7, budget=1))

    assert "greedy, 1 evaluation; " in message
    assert "its budget of 1 evaluation was used up" in message


def test_a_failure_says_where_the_model_as_trained_misses_the_floor(model, task, other):
    _, message = told(lambda: assert_prunable(model, other, 0.5, 0.99, search="threshold"))
    _, kept = told(lambda: assert_prunable(model, task, 0.5, 0.75))

    assert f"floor     as trained {evaluate(model, other).score:.4f}: below the floor already" in message
    assert "already" not in kept


def test_held_out_data_decides(model, task):
    held = tiny_task(20, model, seed=8)

    verdict, message = told(lambda: assert_prunable(model, task, 0.75, 0.82, search="astar", held_out=held))

    assert message.startswith("accuracy of the given columns misses the floor on held-out data with 6 of 8 heads")
    assert "held out  accuracy 0.6500 of 1.0000 as trained on 20 examples; required: at least 0.8200" in message
    assert (verdict.observed, verdict.required, verdict.judged) == (0.65, ">= 0.82", "held-out score")
    assert (verdict.baseline, verdict.score, verdict.examples) == (1.0, 0.65, 20)


def test_held_out_data_can_agree(model, task):
    held = tiny_task(20, model, seed=8)

    found = assert_prunable(model, task, 0.25, 0.55, held_out=held)

    assert found.held_out_holds
    assert assert_prunable(model, task, 0.25, 0.5, held_out=0.5).held_out_holds


def test_of_several_tasks_the_message_shows_each(model, task, other):
    verdict, message = told(lambda: assert_prunable(model, {task: 0.8, other: 0.6}, 0.9))

    assert "with accuracy at least 0.8 and accuracy at least 0.6; required: 8 (100%)" in message
    assert "searched (2)" in message
    assert verdict.task == "the given columns, the given columns"


def test_a_relative_floor(model, task):
    found = assert_prunable(model, task, 0.25, 0.7, relative=True)

    assert found.tasks[0].floor == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("fraction", "options", "expected"),
    [
        (0.0, {"floor": 0.5}, "fraction=0.0"),
        (1.5, {"floor": 0.5}, "fraction=1.5"),
        (True, {"floor": 0.5}, "fraction=True"),
        (0.5, {}, "floor=None"),
        (0.5, {"floor": 0.0}, "nothing could fail"),
        (0.5, {"floor": 95}, r"nothing could keep it; did you mean 0\.95"),
        (0.5, {"floor": 0.5, "search": "dfs"}, "greedy, threshold, beam, astar"),
    ],
)
def test_arguments_on_which_it_could_not_fail_are_refused(model, task, fraction, options, expected):
    with pytest.raises(InvalidArgument, match=expected):
        assert_prunable(model, task, fraction, **options)
    with pytest.raises(InvalidArgument, match="load_model"):
        assert_prunable("model", task, 0.5, 0.5)


@pytest.fixture(scope="module")
def accuracies(model, other, scores):
    """Of both tasks, without each set of heads."""
    others = every_score(model, other, WIDTH)
    return {heads: (scores[heads][0], others[heads][0]) for heads in scores}


def test_one_mask_is_judged_by_each_tasks_own_tolerance(model, task, other, accuracies):
    heads = ((0, 1), (1, 2))
    first, second = accuracies[heads]

    found = assert_shared_mask(model, heads, {task: 1 - first + 1e-12, other: 0.0})

    assert all(isinstance(one, Retention) for one in found)
    assert [one.masked.score for one in found] == [pytest.approx(first), pytest.approx(second)]
    assert found[0].drop == pytest.approx(1 - first)


def test_a_mask_that_costs_one_task_too_much_fails_and_names_every_task(model, task, other, accuracies):
    heads = ((0, 1), (1, 2))
    first, second = accuracies[heads]
    mask = HeadMask.without(model.heads, heads)

    verdict, message = told(lambda: assert_shared_mask(model, mask, [(other, 0.5), (task, 0.01)]))

    assert message.startswith("1 of 2 tasks is not retained with 2 of 8 heads masked")
    assert f"1.0000 → {first:.4f} on 24 examples, drop {1 - first:.4f}; required: at most 0.01: FAILED" in message
    assert f"→ {second:.4f} on 30 examples" in message
    assert "required: at most 0.5: ok" in message
    assert "heads                  L0H1 L1H2" in message
    assert verdict.observed == pytest.approx(1 - first)
    assert verdict.required == "<= 0.01"
    assert [one["tolerance"] for one in verdict.details["tasks"]] == [0.5, 0.01]


def test_with_confidence_the_bounds_are_judged(model, task, other):
    heads = [(0, 1)]
    drops = [one.drop for one in assert_shared_mask(model, heads, {task: 0.9, other: 0.9})]

    found = assert_shared_mask(model, heads, {task: 0.9, other: 0.9}, confidence=0.95)

    assert all(one.bound.upper > drop for one, drop in zip(found, drops, strict=True))
    with pytest.raises(CheckFailed, match="bound on the drop"):
        assert_shared_mask(model, heads, {task: max(drops[0], 0.0), other: 0.9}, confidence=0.95)


def test_a_mask_in_force_may_be_what_is_judged(model, task, other):
    with model.masked([(0, 1)]):
        found = assert_shared_mask(model, (), {task: 0.9, other: 0.9})

    assert found[0].heads == ((0, 1),)
    assert found[0].baseline.score == 1.0


def test_relative_tolerances_are_shares_of_the_baselines(model, task, other):
    drop = assert_shared_mask(model, [(0, 1)], {task: 0.9}, relative=True)[0].relative_drop

    assert_shared_mask(model, [(0, 1)], {task: drop}, relative=True)
    with pytest.raises(CheckFailed, match="relative drop"):
        assert_shared_mask(model, [(0, 1)], {task: drop - 0.001}, relative=True)


@pytest.mark.parametrize("tolerances", [0.1, [0.1, 0.2], None, "ab", [(0.1,)]])
def test_what_is_no_tasks_with_tolerances_is_refused(model, tolerances):
    with pytest.raises(InvalidArgument, match=r"tolerances=.*at least one task and its tolerance: \{task: 0\.01\}"):
        assert_shared_mask(model, [(0, 0)], tolerances)


def test_masks_and_tolerances_that_judge_nothing_are_refused(model, task):
    with pytest.raises(InvalidArgument, match="at least one task"):
        assert_shared_mask(model, [(0, 1)], {})
    with pytest.raises(NoHeadSelected):
        assert_shared_mask(model, [], {task: 0.1})
    with pytest.raises(InvalidArgument, match="tolerance"):
        assert_shared_mask(model, [(0, 1)], {task: -0.1})
    with pytest.raises(InvalidArgument, match="what load_task"):
        assert_shared_mask(model, [(0, 1)], {"dev.tsv": 0.1})
    with pytest.raises(InvalidArgument, match="load_model"):
        assert_shared_mask(model.model, [(0, 1)], {task: 0.1})


@pytest.mark.slow
@pytest.mark.assets
def test_a_third_of_minilms_heads_can_go_and_that_holds_on_other_data(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(240))

    found = assert_prunable(model, task, 0.33, 0.95, relative=True, search="threshold", held_out=0.5)

    assert len(found.heads) >= 24
    assert found.score >= 0.95 * found.baseline
    assert found.held_out_score >= 0.95 * found.held_out_baseline
