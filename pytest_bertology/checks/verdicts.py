"""What a check found: a plain record that a summary or a report can show, and the error of a failed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One check's outcome, made of primitives only."""

    check: str
    """Name of the check function."""
    passed: bool
    observed: float | None
    """The judged number."""
    required: str
    """What it had to be, such as "<= 0.01"."""
    judged: str
    """What the number is, such as "drop in accuracy"."""
    model: str | None = None
    task: str | None = None
    metric: str | None = None
    baseline: float | None = None
    """The score with all heads as trained."""
    score: float | None = None
    """The score under the mask."""
    examples: int | None = None
    heads: tuple[str, ...] = ()
    """The heads concerned."""
    details: dict[str, Any] = field(default_factory=dict)

    def to_jsonable(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return {**asdict(self), "heads": list(self.heads)}


class CheckFailed(AssertionError):
    """A check that did not hold; its message explains the verdict."""

    __module__ = "pytest_bertology"

    def __init__(self, message: str, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(message)


_listeners: list[Callable[[Verdict], None]] = []


@contextmanager
def hearing(listener: Callable[[Verdict], None]) -> Iterator[None]:
    """Pass every verdict given within the context to `listener`."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def give(verdict: Verdict, explain: Callable[[], str]) -> None:
    """Tell the listeners, and raise CheckFailed with the explanation where the check did not hold."""
    __tracebackhide__ = True
    for listener in tuple(_listeners):
        listener(verdict)
    if not verdict.passed:
        raise CheckFailed(explain(), verdict)
