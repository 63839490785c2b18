"""Progress on the terminal; the oracle is a terminal that writes down what it is told."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from pytest_bertology.plugin import progress


class Terminal:
    """As much of pytest's terminal reporter as progress needs."""

    def __init__(self, isatty: bool) -> None:
        self.isatty = isatty
        self.lines: list[str] = []

    def ensure_newline(self) -> None:
        self.lines.append("\n")

    def rewrite(self, text: str, erase: bool) -> None:
        self.lines.append(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def reporter(terminal, *, verbose=0, **attributes):
    plugins = {"terminalreporter": terminal}
    config = SimpleNamespace(
        pluginmanager=SimpleNamespace(get_plugin=plugins.get), getoption=lambda name: verbose, **attributes
    )
    return progress.terminal_progress(config)


def test_long_work_shows_how_far_it_is_and_how_long_it_takes(clock):
    terminal = Terminal(isatty=True)

    with reporter(terminal)("dev.tsv", 100) as show:
        clock.seconds = 5.0
        show(25)

    assert terminal.lines == ["\n", "bertology: dev.tsv: 25 of 100 examples, 15 s left", ""]


def test_short_work_shows_nothing(clock):
    terminal = Terminal(isatty=True)

    with reporter(terminal)("dev.tsv", 100) as show:
        clock.seconds = 2.0
        show(50)

    assert terminal.lines == []


def test_updates_come_no_faster_than_eyes_read(clock):
    terminal = Terminal(isatty=True)

    with reporter(terminal)("dev.tsv", 100) as show:
        for hundredth in range(500, 600):
            clock.seconds = hundredth / 100
            show(hundredth - 499)

    assert len([line for line in terminal.lines if line.startswith("bertology")]) == 2


@pytest.mark.parametrize(
    ("isatty", "options"), [(False, {}), (True, {"verbose": -1}), (True, {"workerinput": {}})], ids=str
)
def test_a_pipe_a_quiet_session_and_a_worker_see_nothing(clock, isatty, options):
    terminal = Terminal(isatty)

    with reporter(terminal, **options)("dev.tsv", 100) as show:
        clock.seconds = 60.0
        show(50)

    assert terminal.lines == []


@pytest.mark.parametrize(("isatty", "told"), [(True, "\n[gw1] bertology: waiting for another\n"), (False, "")])
def test_a_worker_says_once_that_it_waits_for_another(monkeypatch, isatty, told):
    stream = io.StringIO()
    stream.isatty = lambda: isatty
    monkeypatch.setattr(progress.sys, "__stderr__", stream)

    with reporter(None, workerinput={"workerid": "gw1"})("waiting for another", 0) as show:
        for seconds in range(30):
            show(seconds)

    assert stream.getvalue() == told


def test_waiting_shows_the_seconds(clock):
    terminal = Terminal(isatty=True)

    with reporter(terminal)("waiting for another process", 0) as show:
        clock.seconds = 5.0
        show(5)

    assert terminal.lines == ["\n", "bertology: waiting for another process: 5 s", ""]
