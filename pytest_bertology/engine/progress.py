"""Progress of long work, shown by whoever can show it: a bar on a terminal, or what a plugin sets up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Show = Callable[[int], None]
"""Called with the number of examples done."""
Reporter = Callable[[str, int], Any]
"""Called with a title and a total; returns a context manager that gives a Show."""


@contextmanager
def _bar(title: str, total: int) -> Iterator[Show]:
    from tqdm import tqdm

    done = 0
    # disable=None: silent where stderr is not a terminal; delay: silent for what is over soon.
    with tqdm(total=total, desc=title, unit="ex", disable=None, delay=3.0, leave=False) as bar:

        def show(count: int) -> None:
            nonlocal done
            bar.update(count - done)
            done = count

        yield show


_reporter: Reporter = _bar


def tracked(title: str, total: int) -> Any:
    """A context manager that gives a function to call with the count done so far."""
    return _reporter(title, total)


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Show progress by this reporter for the length of the context."""
    global _reporter
    before, _reporter = _reporter, reporter
    try:
        yield
    finally:
        _reporter = before
