"""Searches against every subset of the heads.

Oracle: `tests/search/subsets.py`, a plain transformers model run once for each of all subsets.
"""

from __future__ import annotations

from functools import cache

import pytest

from pytest_bertology import ResultStore, find_prunable_heads, load_model, using_store
from pytest_bertology.errors import BertologyWarning
from pytest_bertology.tasks import Task
from tests.families import family, task_for, tokenizer
from tests.search.subsets import best, every_score
from tests.tiny import WIDTH, says, tiny_model, tiny_task

SEARCHES = ("threshold", "greedy", "beam", "astar")


@pytest.fixture(autouse=True, scope="module")
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@cache
def eight_heads():
    """A model of 2 layers of 4 heads, a task on which it is always right, and the scores of all 256 subsets."""
    model = tiny_model()
    task = tiny_task(24, model)
    return model, task, every_score(model, task, WIDTH)


@cache
def ten_heads():
    """A model of 5 layers of 2 heads, likewise: 1,024 subsets."""
    live = family("bert", num_hidden_layers=5, num_attention_heads=2)
    model = load_model(live, tokenizer=tokenizer(), kind="sequence-classification")
    drawn = task_for("sequence-classification", 20)
    labels = tuple(int(label) for label in says(live, model.tokenizer, drawn.texts))
    task = Task("letters", drawn.kind, drawn.texts, labels)
    return model, task, every_score(model, task, 12)


def plain(heads):
    return tuple((head.layer, head.head) for head in heads)


FLOORS = {eight_heads: (0.55, 0.75, 0.8, 0.95), ten_heads: (0.5, 0.7, 0.85)}
CASES = [(made, floor) for made, floors in FLOORS.items() for floor in floors]


@pytest.mark.parametrize(("made", "floor"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_astar_finds_the_largest_set_of_the_best_score_and_proves_it(made, floor):
    model, task, scores = made()

    found = find_prunable_heads(model, task, floor=floor, search="astar")

    assert (len(found.heads), pytest.approx(found.score)) == best(scores, floor)
    assert found.score == pytest.approx(scores[plain(found.heads)][0])
    assert found.proven_optimal
    assert found.bound == len(found.heads)
    assert found.distance == 0
    assert found.evaluations < len(scores)
    assert found.stopped is None


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("made", "floor"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_no_search_claims_more_than_it_reaches(made, floor, search):
    model, task, scores = made()
    most, score = best(scores, floor)

    found = find_prunable_heads(model, task, floor=floor, search=search)

    assert found.score == pytest.approx(scores[plain(found.heads)][0])
    assert found.holds
    assert found.score >= floor
    assert len(found.heads) <= most <= found.bound
    assert found.distance >= most - len(found.heads)
    if found.proven_optimal:
        assert (len(found.heads), found.score) == (most, pytest.approx(score))


def test_the_floors_leave_sets_of_several_sizes():
    sizes = {best(made()[2], floor)[0] for made, floor in CASES}

    assert len(sizes) >= 4


@pytest.mark.parametrize("budget", [1, 5, 11, 37, 60, 100])
@pytest.mark.parametrize("search", SEARCHES)
def test_under_a_budget_what_is_returned_holds_and_the_bound_is_true(search, budget):
    model, task, scores = eight_heads()
    most, _ = best(scores, 0.8)

    found = find_prunable_heads(model, task, floor=0.8, search=search, budget=budget)

    assert found.evaluations <= budget
    assert found.score == pytest.approx(scores[plain(found.heads)][0])
    assert found.score >= 0.8
    assert len(found.heads) <= most <= found.bound
    assert found.proven_optimal <= (len(found.heads) == most)
    assert (found.stopped is not None) <= (found.evaluations == budget)


def test_astar_keeps_layers_their_heads():
    model, task, scores = eight_heads()
    kept = {
        heads: score
        for heads, score in scores.items()
        if all(sum(layer == one for one, _ in heads) <= 2 for layer in (0, 1))
    }

    found = find_prunable_heads(model, task, floor=0.55, search="astar", least_per_layer=2)

    assert (len(found.heads), pytest.approx(found.score)) == best(kept, 0.55)
    assert found.proven_optimal
    assert found.evaluations < len(kept)


def test_a_relative_floor_is_a_share_of_the_baseline():
    model, _, _ = eight_heads()
    task = tiny_task(30, seed=5)
    scores = every_score(model, task, WIDTH)
    baseline = scores[()][0]

    found = find_prunable_heads(model, task, floor=0.9, relative=True, search="astar")

    assert found.baseline == pytest.approx(baseline)
    assert found.tasks[0].floor == pytest.approx(0.9 * baseline)
    assert (len(found.heads), pytest.approx(found.score)) == best(scores, 0.9 * baseline)


def test_of_a_loss_the_floor_is_an_upper_limit():
    model, task, scores = eight_heads()
    task = task.with_metric("loss")
    losses = {heads: loss for heads, (_, loss) in scores.items()}
    limit = sorted(losses.values())[len(losses) // 3]
    holding = {heads: loss for heads, loss in losses.items() if loss <= limit + 1e-6}
    most = max(map(len, holding))

    found = find_prunable_heads(model, task, floor=limit + 1e-6, search="astar")
    relative = find_prunable_heads(model, task, floor=0.5, relative=True)

    assert len(found.heads) == most
    assert found.score == pytest.approx(min(loss for heads, loss in holding.items() if len(heads) == most), abs=1e-5)
    assert relative.tasks[0].floor == pytest.approx(2 * losses[()], rel=1e-4)
    assert relative.score <= relative.tasks[0].floor


def test_one_mask_keeps_every_task_at_its_own_floor():
    model, task, scores = eight_heads()
    other = tiny_task(30, seed=5)
    others = every_score(model, other, WIDTH)
    floors = {task: 0.7, other: 0.45}
    holding = [h for h in scores if scores[h][0] >= 0.7 - 1e-9 and others[h][0] >= 0.45 - 1e-9]

    for search in SEARCHES:
        found = find_prunable_heads(model, floors, search=search)

        heads = plain(found.heads)
        assert [one.score for one in found.tasks] == pytest.approx([scores[heads][0], others[heads][0]])
        assert all(one.holds for one in found.tasks)
        assert len(found.heads) <= max(map(len, holding)) <= found.bound
    assert (len(found.heads), found.proven_optimal) == (max(map(len, holding)), True)


def test_where_the_model_itself_misses_the_floor_sets_that_keep_it_are_still_found():
    model, _, _ = eight_heads()
    task = tiny_task(30, seed=5)
    scores = every_score(model, task, WIDTH)
    floor = scores[()][0] + 0.05
    expected = best(scores, floor)

    with pytest.warns(BertologyWarning, match="the model as trained has accuracy"):
        found = find_prunable_heads(model, task, floor=floor, search="astar")

    assert expected is not None
    assert (len(found.heads), pytest.approx(found.score)) == expected
    assert found.proven_optimal


@pytest.mark.parametrize("search", SEARCHES)
def test_where_nothing_keeps_the_floor_nothing_is_claimed(search):
    model, _, _ = eight_heads()
    task = tiny_task(30, seed=5)
    scores = every_score(model, task, WIDTH)
    floor = max(score for score, _ in scores.values()) + 0.01

    with pytest.warns(BertologyWarning, match="the model as trained has accuracy"):
        found = find_prunable_heads(model, task, floor=floor, search=search)

    assert (found.holds, found.heads, found.mask.masked) == (False, (), ())
    assert found.score == pytest.approx(scores[()][0])
    assert (found.bound, found.proven_optimal) == ((0, True) if search == "astar" else (8, False))
    assert "no set of heads was found" in found.summary()
