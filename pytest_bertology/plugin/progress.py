"""Progress of long evaluations on the terminal that pytest writes to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

_DELAY = 3.0
"""Seconds before anything is shown: what is over soon needs no bar."""
_EVERY = 0.5
"""Seconds between two updates."""


def terminal_progress(config: pytest.Config) -> Callable[[str, int], Any]:
    """A progress reporter for this session; silent on a pipe, in a worker and under -q."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not terminal.isatty or hasattr(config, "workerinput") or config.getoption("verbose") < 0:
        return lambda title, total: nullcontext(lambda done: None)
    capture = config.pluginmanager.get_plugin("capturemanager")

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
