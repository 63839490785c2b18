"""Who hears of which results."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest

from pytest_bertology.engine.announcing import Announcement, announced, listening, unannounced

MODEL, TASK = SimpleNamespace(name="bert"), SimpleNamespace(name="reviews")


@announced("inner")
def inner(model, task, value):
    """Return a value."""
    return value


@announced("outer")
def outer(model, task):
    inner(model, task, 1)
    return inner(model, task, 2)


@announced("failing")
def failing(model, task):
    raise ValueError("no")


@pytest.fixture
def heard():
    found: list[Announcement] = []
    with listening(found.append):
        yield found


def test_a_result_is_announced_with_what_it_is_of(heard):
    assert inner(MODEL, TASK, 5) == 5

    assert heard == [Announcement("inner", 5, "bert", "reviews")]


def test_arguments_may_be_named(heard):
    inner(MODEL, value=1, task=TASK)
    inner(value=2, task=TASK, model=MODEL)

    assert [(found.model, found.task, found.value) for found in heard] == [
        ("bert", "reviews", 1),
        ("bert", "reviews", 2),
    ]


def test_only_the_outermost_result_is_announced(heard):
    outer(MODEL, TASK)
    inner(MODEL, TASK, 3)

    assert [(found.kind, found.value) for found in heard] == [("outer", 2), ("inner", 3)]


def test_steps_on_the_way_are_not_announced(heard):
    with unannounced():
        inner(MODEL, TASK, 1)
    inner(MODEL, TASK, 2)

    assert [found.value for found in heard] == [2]


def test_an_error_announces_nothing_and_hushes_nothing(heard):
    with pytest.raises(ValueError, match="no"):
        failing(MODEL, TASK)
    inner(MODEL, TASK, 1)

    assert [found.kind for found in heard] == ["inner"]


def test_all_listeners_hear_and_none_after_it_left(heard):
    others: list[Announcement] = []

    with listening(others.append):
        inner(MODEL, TASK, 1)
    inner(MODEL, TASK, 2)

    assert [found.value for found in others] == [1]
    assert [found.value for found in heard] == [1, 2]


def test_functions_keep_their_name_documentation_and_signature():
    assert inner.__name__ == "inner"
    assert inner.__doc__ == "Return a value."
    assert list(inspect.signature(inner).parameters) == ["model", "task", "value"]
