"""What a check found: a plain record that a summary or a report can show, and the error of a failed one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pytest_bertology.errors import BertologyWarning


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
    inconclusive: bool = False
    """Not passed, though nothing was refuted either: the data cannot tell."""
    p_value: float | None = None
    """Of the hypothesis that the check tests, where it is a statistical test."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """What a report shows beside the number, such as the predictions that changed."""
    message: str = ""
    """Of a check that did not hold: the page that explains it."""

    @property
    def outcome(self) -> str:
        """ "passed", "failed" or "inconclusive"."""
        return "passed" if self.passed else "inconclusive" if self.inconclusive else "failed"

    def to_jsonable(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return {**asdict(self), "heads": list(self.heads), "outcome": self.outcome}


class CheckFailed(AssertionError):
    """A check that did not hold; its message explains the verdict."""

    __module__ = "pytest_bertology"

    def __init__(self, message: str, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(message)


class Inconclusive(CheckFailed):
    """A check that the data can neither confirm nor refute: it takes more examples, or a wider tolerance."""

    __module__ = "pytest_bertology"


_listeners: list[Callable[[Verdict], None]] = []
_accepted: list[None] = []
"""One for each `accepting_inconclusive` in force."""


@contextmanager
def hearing(listener: Callable[[Verdict], None]) -> Iterator[None]:
    """Pass every verdict given within the context to `listener`."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def accepting_inconclusive() -> Iterator[None]:
    """Warn, and do not raise, where a check within the context is inconclusive."""
    _accepted.append(None)
    try:
        yield
    finally:
        _accepted.pop()


def tell(verdict: Verdict) -> None:
    """Tell the listeners."""
    for listener in tuple(_listeners):
        listener(verdict)


@contextmanager
def unheard() -> Iterator[None]:
    """Tell nobody of the verdicts within the context."""
    before = _listeners[:]
    _listeners.clear()
    try:
        yield
    finally:
        _listeners[:] = before


def give(verdict: Verdict, explain: Callable[[], str]) -> None:
    """Tell the listeners; raise CheckFailed, or Inconclusive, with the explanation where the check did not hold."""
    __tracebackhide__ = True
    told = verdict if verdict.passed else replace(verdict, message=explain())
    tell(told)
    if told.passed:
        return
    if told.inconclusive and _accepted:
        title = told.message.partition("\n")[0]  # the whole page is in the reports
        warnings.warn(f"inconclusive: {title}", BertologyWarning, stacklevel=3)
        return
    raise (Inconclusive if told.inconclusive else CheckFailed)(told.message, told)
