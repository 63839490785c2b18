"""Items of tasks: their characters against Python's slices, their order against one that is shuffled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import load_task
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.tasks import Task
from pytest_bertology.tasks.items import items_of
from pytest_bertology.tasks.written import Written

WORDS = {"tokens": [["a", "b"], ["c", "a"], ["d"], ["a", "b"]], "tags": [["X", "Y"], ["Z", "X"], ["Y"], ["X", "X"]]}


def told(items):
    """What is judged, as plain values, text by text."""
    return [
        (items.texts[text], tuple(items.texts[text][a:b] for a, b in spans), label)
        for text, spans, label in zip(items.text_of, items.spans, items.labels, strict=True)
    ]


def test_words_that_are_known_by_themselves_stand_in_a_row():
    items = items_of(load_task(WORDS))

    assert (items.level, len(items), items.texts[:2]) == ("word", 7, ("a b", "c a"))
    assert told(items)[:4] == [
        ("a b", ("a",), "X"), ("a b", ("b",), "Y"), ("c a", ("c",), "Z"), ("c a", ("a",), "X"),
    ]  # fmt: skip
    assert items.types == ("a", "b", "c", "a", "d", "a", "b")
    assert items.starts.tolist() == [0, 2, 4, 5, 7]


def test_words_are_judged_where_they_were_written():
    written = (Written("don't go", (((0, 2),), ((2, 5),), ((6, 8),))),)
    task = Task("words", "token-classification", (("do", "n't", "go"),), (("A", "P", "V"),), written=written)

    assert [own for _, own, _ in told(items_of(task))] == [("do",), ("n't",), ("go",)]


def test_pairs_have_two_spans_and_their_types_are_both():
    written = (Written("a b c", (((0, 1), (4, 5)), ((0, 3), (4, 5)))),)
    items = items_of(Task("pairs", "span-labelling", ("a b c",), (("x", "y"),), written=written))

    assert (items.level, items.types) == ("pair", ("a\x00c", "a b\x00c"))


def test_whole_texts_are_items_and_pairs_of_them_too():
    items = items_of(load_task({"sentence": ["good", "bad"], "label": ["+", "-"]}))
    pairs = items_of(load_task({"premise": ["p", "q"], "hypothesis": ["r", "s"], "label": [0, 1]}))

    assert (items.level, items.types, items.spans) == ("text", ("good", "bad"), ((), ()))
    assert pairs.types == ("p\x00r", "q\x00s")


def test_tasks_without_classes_have_no_items():
    with pytest.raises(InvalidArgument, match="probes classify"):
        items_of(load_task({"sentence": ["good", "bad"], "label": [0.5, 1.5]}))
    with pytest.raises(InvalidArgument, match="probes classify"):
        items_of(load_task({"text": ["good", "bad"]}))


@given(st.permutations(range(4)), st.integers(0, 5))
def test_order_and_split_depend_on_seed_and_contents_alone(order, seed):
    task = load_task(WORDS)
    items, shuffled = items_of(task), items_of(task.subset(order))

    assert told(items.in_order(seed)) == told(shuffled.in_order(seed))
    for one, other in zip(items.split(0.5, seed), shuffled.split(0.5, seed), strict=True):
        assert told(one) == told(other)


def test_seeds_give_other_orders():
    words = [[f"w{number}"] for number in range(30)]
    items = items_of(load_task({"tokens": words, "tags": [["XY"[n % 2]] for n in range(30)]}))

    assert items.in_order(0).texts != items.in_order(1).texts
    assert sorted(items.in_order(0).texts) == sorted(items.texts)


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=20), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_a_split_shares_no_text_and_loses_none(letters, share):
    items = items_of(
        load_task({"tokens": [[x] for x in letters], "tags": [["XY"[n % 2]] for n in range(len(letters))]})
    )
    if len(set(letters)) < 2:
        with pytest.raises(InvalidArgument, match="two different texts"):
            items.split(share, 0)
        return

    first, second = items.split(share, 0)

    assert not set(first.texts) & set(second.texts)
    assert first.texts
    assert second.texts
    assert sorted(told(first) + told(second)) == sorted(told(items))


def test_texts_of_others_are_left_out():
    items = items_of(load_task(WORDS))

    left = items.without_texts_of(items.of_texts([0]))

    assert left.texts == ("c a", "d")
    assert left.labels == ("Z", "X", "Y")


def test_choosing_texts_keeps_items_with_them():
    items = items_of(load_task(WORDS))
    order = [3, 1]

    chosen = items.of_texts(order)

    assert [text for text, _, _ in told(chosen)] == [items.texts[index] for index in order for _ in range(2)]
    assert items.with_labels(range(7)).labels == tuple(range(7))
    assert len(items.of_texts([])) == 0
