"""What a search may not look at: against tasks whose examples are told apart by their texts."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_bertology import ResultStore, Task, evaluate, find_prunable_heads, using_store
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.measures.sweeping import evaluate_masks
from pytest_bertology.search import judging
from pytest_bertology.search.held_out import parts
from tests.tiny import tiny_model, tiny_task


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


@contextmanager
def quietly():
    """Where it does not matter whether the floor holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the floor is missed")
        yield


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    groups=st.lists(st.integers(1, 3), min_size=6, max_size=12),
    fraction=st.floats(0.5, 0.8),
    seed=st.integers(0, 5),
)
def test_a_split_leaves_each_example_on_one_side_and_equal_texts_together(groups, fraction, seed):
    texts = [f"text {number}" for number, size in enumerate(groups) for _ in range(size)]
    task = Task("texts", "language-modelling", tuple(texts), None)
    wanted = int(fraction * len(texts) + 0.5)

    ((searched, held),) = parts([task], fraction, seed)

    assert sorted([*searched.texts, *held.texts]) == sorted(texts)
    assert not set(searched.texts) & set(held.texts)
    assert wanted - 2 <= len(held) <= wanted
    assert [list(part.texts) for part in (searched, held)] == [
        [text for text in texts if text in part.texts] for part in (searched, held)
    ]
    assert parts([task], fraction, seed)[0][1].digest == held.digest


def test_the_search_does_not_look_at_what_is_held_out(model, task, monkeypatch):
    seen = set()

    def watched(model, task, masks, **options):
        seen.update(task.texts)
        return evaluate_masks(model, task, masks, **options)

    monkeypatch.setattr(judging, "evaluate_masks", watched)
    ((searched, held),) = parts([task], 0.25, 0)

    found = find_prunable_heads(model, task, floor=0.6, held_out=0.25)

    assert seen == set(searched.texts)
    assert found.score == evaluate(model, searched, found.mask).score
    assert found.held_out_score == evaluate(model, held, found.mask).score
    assert found.held_out_baseline == evaluate(model, held).score
    assert (found.tasks[0].examples, found.tasks[0].held_out_examples) == (18, 6)


def test_another_seed_holds_out_other_examples(task):
    held = [{*parts([task], 0.25, seed)[0][1].texts} for seed in range(3)]

    assert len(set(map(frozenset, held))) > 1


def test_a_floor_that_is_missed_on_held_out_data_is_told(model, task):
    other = tiny_task(20, model, seed=8)

    with pytest.warns(BertologyWarning, match=r"the floor is missed on held-out data .*required 0\.8200"):
        found = find_prunable_heads(model, task, floor=0.82, search="astar", held_out=other)

    assert found.holds
    assert found.held_out_holds is False
    assert found.held_out_score == evaluate(model, other, found.mask).score < 0.82
    assert "floor missed" in repr(found)
    assert "MISSED" in found.summary()


def test_a_floor_that_holds_there_is_told_without_a_warning(model, task):
    other = tiny_task(20, model, seed=8)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_prunable_heads(model, task, floor=0.5, held_out=other)

    assert found.held_out_holds is True
    assert found.held_out_score == evaluate(model, other, found.mask).score >= 0.5
    assert "floor missed" not in repr(found)


def test_without_held_out_data_the_result_says_so(model, task):
    found = find_prunable_heads(model, task, floor=0.6)

    assert (found.held_out_score, found.held_out_holds, found.held_out_baseline) == (None, None, None)
    assert "not judged on held-out data" in repr(found)
    assert "not judged on held-out data" in found.summary()


def test_a_relative_floor_is_of_the_held_out_baseline_there(model, task):
    other = tiny_task(20, seed=8)
    baseline = evaluate(model, other).score

    with quietly():
        found = find_prunable_heads(model, task, floor=0.5, relative=True, held_out=other)

    assert found.tasks[0].floor == 0.5
    assert found.tasks[0].held_out_floor == pytest.approx(0.5 * baseline)


def test_held_out_data_is_judged_by_the_tasks_metric(model, task):
    other = tiny_task(20, model, seed=8)

    with quietly():
        found = find_prunable_heads(model, task.with_metric("f1"), floor=0.6, held_out=other)

    assert found.held_out_score == evaluate(model, other.with_metric("f1"), found.mask).score


def test_several_tasks_have_held_out_data_each(model, task):
    other = tiny_task(30, seed=5)
    held = {task: tiny_task(20, model, seed=8), other: tiny_task(20, seed=9)}

    with quietly():
        found = find_prunable_heads(model, {task: 0.6, other: 0.4}, held_out=held)
        split = find_prunable_heads(model, {task: 0.6, other: 0.4}, held_out=0.5)

    expected = [evaluate(model, part, found.mask).score for part in held.values()]
    assert [one.held_out_score for one in found.tasks] == expected
    assert [one.held_out_examples for one in split.tasks] == [12, 15]


def test_data_that_is_searched_is_not_held_out(model, task):
    with pytest.raises(InvalidArgument, match="it has all of them"):
        find_prunable_heads(model, task, floor=0.6, held_out=task)
    with pytest.raises(InvalidArgument, match="it has all of them"):
        find_prunable_heads(model, task, floor=0.6, held_out=task.subset([5, 3, 1, 0, 2]))


def test_data_that_is_searched_in_part_is_warned_of(model, task):
    other = tiny_task(20, model, seed=8)
    mixed = Task("mixed", task.kind, (*other.texts, *task.texts[:3]), (*other.labels, *task.labels[:3]))

    with pytest.warns(BertologyWarning, match="3 of 23 held-out examples of mixed are searched on, too"):
        find_prunable_heads(model, task, floor=0.5, held_out=mixed)


@pytest.mark.parametrize("held_out", [0.0, 1.0, 1.5, -0.1, 0.001, True, "dev.tsv", 1])
def test_what_is_no_held_out_data_is_refused(model, task, held_out):
    with pytest.raises(InvalidArgument, match="held_out"):
        find_prunable_heads(model, task, floor=0.6, held_out=held_out)


def test_a_fraction_beyond_1_is_told_from_one_that_leaves_nothing(model, task):
    with pytest.raises(InvalidArgument, match=r"held_out=1\.5 .* a fraction between 0 and 1, or a task"):
        find_prunable_heads(model, task, floor=0.6, held_out=1.5)
    with pytest.raises(InvalidArgument, match="a fraction of 24 examples that leaves some on each side"):
        find_prunable_heads(model, task, floor=0.6, held_out=0.001)


def test_the_parts_of_a_split_have_names_of_their_own(task):
    pairs = [parts([task], 0.5, seed)[0] for seed in (0, 1)]

    assert len({part.name for pair in pairs for part in pair}) == 4


def test_held_out_data_must_be_of_the_same_tasks(model, task):
    other = tiny_task(20, model, seed=8)
    regression = Task("numbers", "regression", other.texts, tuple(float(x) for x in range(20)))

    with pytest.raises(InvalidArgument, match="a held-out task for each task searched"):
        find_prunable_heads(model, {task: 0.6}, held_out={other: other})
    with pytest.raises(InvalidArgument, match="of the kind sequence-classification"):
        find_prunable_heads(model, task, floor=0.6, held_out=regression)
    with pytest.raises(InvalidArgument, match="a mapping of each task"):
        find_prunable_heads(model, {task: 0.6, other: 0.6}, held_out=tiny_task(20, seed=9))
