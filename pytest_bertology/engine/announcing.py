"""Who wants to know of results worth a look: measures announce them, a plugin or a notebook listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

from pytest_bertology.errors import InvalidGate

P = ParamSpec("P")
R = TypeVar("R")

_NAMED = 4
"""Masked heads that are named, of more the first."""


@dataclass(frozen=True)
class Announcement:
    """A result, what kind it is, and what it is of."""

    kind: str
    """Such as "importance"."""
    value: Any
    model: str
    task: str
    state: str = ""
    """What was changed of the model: heads masked, layers skipped, states erased, attention changed."""
    picture: dict[str, str] | None = None
    """Of a result that is known from an earlier run, and not there itself: how it was drawn."""


_Listener: TypeAlias = Callable[[Announcement], None]
_listeners: list[tuple[_Listener, str]] = []
_within: ContextVar[bool] = ContextVar("within an announced measure", default=False)


@contextmanager
def listening(listener: _Listener, *, wants: Literal["values", "pictures", "nothing"] = "values") -> Iterator[None]:
    """Pass every result announced within the context to `listener`.

    One that wants "pictures" is content with how a result of an earlier run was drawn; one that wants "nothing" is not
    told of such results.
    """
    _listeners.append((listener, wants))
    try:
        yield
    finally:
        _listeners.remove((listener, wants))


def heard(wants: str) -> bool:
    """Whether there are listeners of this kind."""
    return any(each == wants for _, each in _listeners)


def pictured(announcement: Announcement) -> None:
    """Tell those who want pictures of a result that is known from an earlier run."""
    for listener, wants in tuple(_listeners):
        if wants == "pictures":
            listener(announcement)


@contextmanager
def unannounced() -> Iterator[None]:
    """Announce nothing of what is computed within the context."""
    token = _within.set(True)
    try:
        yield
    finally:
        _within.reset(token)


def announced(kind: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Announce what the function returns for a model and a task (or what it reads), its first two arguments.

    What it computes on its way by other announced functions is not announced: a search ranks heads many times.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            __tracebackhide__ = True
            outermost, token = not _within.get(), _within.set(True)
            try:
                value = function(*args, **kwargs)
            finally:
                _within.reset(token)
            if outermost and _listeners:
                model = args[0] if args else kwargs.get("model")
                task = args[1] if len(args) > 1 else kwargs.get("task")
                names = getattr(model, "name", ""), getattr(task, "name", "")
                _tell(Announcement(kind, value, *names, state_of(model)))
            return value

        return call

    return decorate


def announce(kind: str, value: Any, model: Any, task: str) -> None:
    """Announce a result of something else than a function of a model and a task, unless within an announced one."""
    if _listeners and not _within.get():
        _tell(Announcement(kind, value, getattr(model, "name", ""), task, state_of(model)))


def state_of(model: Any) -> str:
    """What is masked, skipped and changed in this thread, in a few words; "" for the model as it is."""
    from pytest_bertology.models import ModelUnderTest  # a plugin that only listens loads no model's code
    from pytest_bertology.models.skipping import skipped

    if not isinstance(model, ModelUnderTest):
        return ""
    found = []
    try:
        mask = model.mask_in_force()
    except InvalidGate:
        found.append("gates of each example")
    else:
        masked, damped = mask.masked, len(mask.touched) - len(mask.masked)
        if masked:
            named = ", ".join(map(str, masked[:_NAMED])) + (", …" if len(masked) > _NAMED else "")
            found.append(f"{len(masked)} head{'s' * (len(masked) > 1)} masked: {named}")
        if damped:
            found.append(f"{damped} head{'s' * (damped > 1)} damped")
    layers = len(skipped(model))
    if layers:
        found.append(f"{layers} layer{'s' * (layers > 1)} skipped")
    found += [f"{each} erased" for each in model.erased()[:_NAMED]]
    if model.attention_changed():
        found.append("attention changed")
    return "; ".join(found)


def _tell(announcement: Announcement) -> None:
    for listener, _ in tuple(_listeners):
        listener(announcement)
