"""Importance methods that users bring along, by name; light: names are checked before torch loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.names import IMPORTANCE_METHODS

if TYPE_CHECKING:
    from pytest_bertology.models import ModelUnderTest
    from pytest_bertology.tasks import Task

Method: TypeAlias = "Callable[[ModelUnderTest, Task], Any]"
"""Returns HeadScores, or an array with one finite number per head: (heads,) or (layers, heads)."""
Source: TypeAlias = "Callable[[str], Mapping[str, Method]]"
"""Asked for a name, gives the methods that it knows: that one at least, if it has it."""

_sources: list[Source] = []


@contextmanager
def using_importance_method(name: str, method: Method) -> Iterator[None]:
    """For the length of the context, let `name` stand for an importance method wherever one is named.

    `method(model, task)` returns HeadScores, or an array with one finite number per head, the greatest for the most
    important. Raises InvalidArgument for a name that the package has a method of, or for what cannot be called.
    """
    if not isinstance(name, str) or not name or name in IMPORTANCE_METHODS:
        raise InvalidArgument("name", name, f"a name other than {', '.join(IMPORTANCE_METHODS)}")
    if not callable(method):
        raise InvalidArgument("method", method, "a function of a model and a task")
    with methods_from(lambda _: {name: method}):
        yield


@contextmanager
def methods_from(source: Source) -> Iterator[None]:
    """For the length of the context, ask this source for methods too, before those of contexts around it."""
    _sources.append(source)
    try:
        yield
    finally:
        _sources.remove(source)


def find_method(name: str) -> tuple[Method | None, tuple[str, ...]]:
    """The user's own method of this name, or None; and the names of all that are known."""
    known: dict[str, Method] = {}
    for source in reversed(_sources):
        for found, method in source(name).items():
            known.setdefault(found, method)
    return known.get(name), tuple(known)
