"""Progress of long work, shown by whoever can show it: a bar on a terminal, or what a plugin sets up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Show = Callable[[int], None]
"""Called with the number of examples done."""
Reporter = Callable[[str, int], Any]
"""Called with a title and a total; returns a context manager that gives a Show. With a total of 0 nobody knows how long
it takes: what is shown is called with the seconds that it has taken."""


@contextmanager
def _bar(title: str, total: int) -> Iterator[Show]:
    from tqdm import tqdm

    done = 0
    # disable=None: silent where stderr is not a terminal; delay: silent for what is over soon.
    unit = "ex" if total else "s"
    with tqdm(total=total or None, desc=title, unit=unit, disable=None, delay=3.0, leave=False) as bar:

        def show(count: int) -> None:
            nonlocal done
            bar.update(count - done)
            done = count

        yield show


_reporter: Reporter = _bar


def tracked(title: str, total: int) -> Any:
    """A context manager that gives a function to call with the count done so far."""
    return _reporter(title, total)


def waiting(title: str) -> Any:
    """A context manager that gives a function to call with the seconds waited for another process or thread."""
    return _reporter(f"waiting for another process: {title}", 0)


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Show progress by this reporter for the length of the context."""
    global _reporter
    before, _reporter = _reporter, reporter
    try:
        yield
    finally:
        _reporter = before
