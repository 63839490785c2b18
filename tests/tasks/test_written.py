"""Texts and the characters that are judged, against Python's own slices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology.errors import MalformedData
from pytest_bertology.tasks import Task
from pytest_bertology.tasks.written import Written, check_written, in_a_row


@given(st.lists(st.text(min_size=1), min_size=1))
def test_words_in_a_row_are_where_they_are_said_to_be(words):
    text, spans = in_a_row(words)

    assert text == " ".join(words)
    assert [text[a:b] for ((a, b),) in spans] == words


@pytest.mark.parametrize(("written", "labels", "problem"), [
    ([Written("ab", (((0, 1),),))], [("x", "y")], "1 items to judge and 2 labels"),
    ([Written("ab", (((0, 1),),))], ["x"], "1 items to judge and 1 labels"),
    ([Written("ab", (((0, 3),),))], [("x",)], "characters 0 to 3 are none of its 2"),
    ([Written("ab", (((1, 1),),))], [("x",)], "or no span"),
    ([Written("ab", (((-1, 1),),))], [("x",)], "characters -1 to 1"),
    ([Written("ab", ())], [()], "no example has anything to judge"),
    ([Written("ab", (((0, 1),), ((0, 1), (1, 2))))], [("x", "y")], r"items have \[1, 2\] spans"),
    ([Written("ab", (((0, 1), (0, 1), (1, 2)),))], [("x",)], r"items have \[3\] spans"),
])  # fmt: skip
def test_what_does_not_fit_is_said(written, labels, problem):
    with pytest.raises(MalformedData, match=problem):
        check_written("the task", written, labels, (1, 2))


def test_tasks_check_what_is_written():
    spans = (Written("a b", (((0, 1),), ((2, 3),))),)

    task = Task("spans", "span-labelling", ("a b",), (("x", "y"),), written=spans)
    assert task.flat_labels == ("x", "y")

    with pytest.raises(MalformedData, match="no texts with spans"):
        Task("spans", "span-labelling", ("a b",), (("x", "y"),))
    with pytest.raises(MalformedData, match="1 texts and 2 written"):
        Task("spans", "span-labelling", ("a b",), (("x", "y"),), written=spans * 2)
    with pytest.raises(MalformedData, match="no task of words or spans"):
        Task("texts", "sequence-classification", ("a b", "c"), ("x", "y"), written=spans * 2)


def test_a_subset_keeps_what_is_written():
    written = tuple(in_a_row(words) for words in (["a", "b"], ["c"], ["d", "e"]))
    labels = (("x", "y"), ("x",), ("y", "x"))
    task = Task("words", "token-classification", (("a", "b"), ("c",), ("d", "e")), labels, written=written)

    assert task.subset([2, 0]).written == (written[2], written[0])
    assert task.subset([2, 0]).digest != task.digest
