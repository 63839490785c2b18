"""Progress of long evaluations on the terminal that pytest writes to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

_DELAY = 3.0
"""Seconds before anything is shown: what is over soon needs no bar."""
_EVERY = 0.5
"""Seconds between two updates."""
_PATIENCE = 10
"""Seconds that a worker waits for another before it says so."""


def terminal_progress(config: pytest.Config) -> Callable[[str, int], Any]:
    """A progress reporter for this session; silent on a pipe and under -q. A worker says only whom it waits for."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if hasattr(config, "workerinput") and config.getoption("verbose") >= 0:
        return _of_worker(config.workerinput.get("workerid", "worker"), capture)
    if terminal is None or not terminal.isatty or hasattr(config, "workerinput") or config.getoption("verbose") < 0:
        return lambda title, total: nullcontext(lambda done: None)

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            terminal.rewrite(text, erase=True)
            terminal.flush()

    @contextmanager
    def report(title: str, total: int) -> Iterator[Callable[[int], None]]:
        began = last = time.monotonic()
        shown = False

        def show(done: int) -> None:
            nonlocal last, shown
            now = time.monotonic()
            if now - began < _DELAY or now - last < _EVERY:
                return
            if not shown:
                with capture.global_and_fixture_disabled() if capture else nullcontext():
                    terminal.ensure_newline()
            last, shown = now, True
            remaining = (now - began) / max(done, 1) * (total - done)
            much = f"{done} of {total} examples, {remaining:.0f} s left" if total else f"{now - began:.0f} s"
            write(f"bertology: {title}: {much}")

        yield show
        if shown:
            write("")

    return report


def _of_worker(name: str, capture: Any) -> Callable[[str, int], Any]:
    """A line on the terminal that a worker inherits, once per wait: several workers write to it, and the controller."""

    @contextmanager
    def report(title: str, total: int) -> Iterator[Callable[[int], None]]:
        told = total > 0

        def show(seconds: int) -> None:
            nonlocal told
            if told or seconds < _PATIENCE:
                return
            told = True
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                stream = sys.__stderr__
                if stream is not None and stream.isatty():
                    stream.write(f"\n[{name}] bertology: {title}\n")
                    stream.flush()

        yield show

    return report
