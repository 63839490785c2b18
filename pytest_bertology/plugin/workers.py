"""pytest-xdist: workers share a store, tests are grouped by model, and a crashed worker loses its test alone."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.files import written_whole
from pytest_bertology.plugin.options import Settings

_FOLDER = "bertology_folder"
"""In `workerinput`: the folder that the workers of this session share."""
_TESTS = "tests.json"
"""The tests that have to do with this plugin: of one that takes its worker down no report says so."""


def is_worker(config: pytest.Config) -> bool:
    """Whether this process only runs tests for another: it writes no reports."""
    return hasattr(config, "workerinput")


def shared_folder(config: pytest.Config) -> Path | None:
    """The folder that the workers of this session share, in a worker on the controller's machine; else None."""
    folder = getattr(config, "workerinput", {}).get(_FOLDER)
    return Path(folder) if folder else None


def store_folder(config: pytest.Config, settings: Settings) -> Path | None:
    """Where results are kept: the option's folder, else one that workers share for the session, else nowhere."""
    named = settings.value("store")
    if named:
        return Path(named)
    shared = shared_folder(config)
    return None if shared is None else shared / "store"


def ungrouped(test: str) -> str:
    """A test's id without the group that xdist writes behind it under --dist=loadgroup."""
    file, separator, name = test.rpartition("::")
    group = name.rfind("@")
    return test if not separator or group <= name.rfind("]") else f"{file}::{name[:group]}"


def enable(config: pytest.Config, settings: Settings, concerns: Callable[[pytest.Item], bool]) -> None:
    """Take part in xdist's sessions; `concerns` says which tests have to do with this plugin."""
    if is_worker(config):
        config.pluginmanager.register(Worker(config, settings, concerns), "bertology-worker")
    elif config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(Controller(), "bertology-controller")


class Controller:
    """Hands workers a folder, and says which tests took their worker down."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker on this machine, when it is started or replaced, which folder is shared."""
        if not node.gateway.spec.popen:
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pytest-bertology-"))
        node.workerinput[_FOLDER] = str(self._folder)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """Note on the report that xdist makes of a crash that the test is one of ours."""
        if crashitem in self._tests():
            report.bertology_verdicts = []
            report.bertology_crashed = f"the worker {report.node.gateway.id} crashed while it ran"

    def _tests(self) -> list[str]:
        try:
            found = json.loads((self._folder / _TESTS).read_text(encoding="utf-8")) if self._folder else []
        except (OSError, ValueError):
            return []
        return list(found)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Remove the folder; workers have ended."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class Worker:
    """Groups tests by model, and notes which of them have to do with this plugin."""

    def __init__(self, config: pytest.Config, settings: Settings, concerns: Callable[[pytest.Item], bool]) -> None:
        self._folder = shared_folder(config)
        self._default = str((settings.value("model") or [""])[0])
        self._workers = int(config.workerinput.get("workercount", 1))  # type: ignore[attr-defined]
        self._concerns = concerns

    # Plain, and registered after xdist's own plugin: it runs after those of conftests that group tests themselves, and
    # before xdist reads the marks.
    @pytest.hookimpl
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Under --dist=loadgroup, where tests have several models, give those of a model to as few workers as can be.

        Tests that are marked already stay as they are. Otherwise nothing is moved: pytest puts tests with the same
        parameter next to each other, and a worker keeps the models it has loaded.
        """
        if not config.getoption("loadgroup", False):
            return
        by_model: dict[Any, list[pytest.Item]] = {}
        for item in items:
            model = self._model(item)
            if model is not None and item.get_closest_marker("xdist_group") is None:
                by_model.setdefault(model, []).append(item)
        if len(by_model) < 2:
            return
        parts = max(1, self._workers // len(by_model))
        for number, (model, tests) in enumerate(by_model.items(), 1):
            size = -(-len(tests) // parts)
            for start in range(0, len(tests), size):
                part = f".{start // size + 1}" if size < len(tests) else ""
                name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(model[0]).name) or 'model'}-{number}{part}"
                for item in tests[start : start + size]:
                    item.add_marker(pytest.mark.xdist_group(name))

    def _model(self, item: pytest.Item) -> tuple[str, Any] | None:
        """Which model the test's `bertology_model` is, and how it is loaded; None for a test without."""
        if "bertology_model" not in getattr(item, "fixturenames", ()):
            return None
        asked = getattr(getattr(item, "callspec", None), "params", {}).get("bertology_model")
        return getattr(asked, "source", None) or self._default, getattr(asked, "options", ())

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Leave the ids of the tests of ours where the controller finds them; all workers collect the same."""
        if self._folder is None:
            return
        file = self._folder / _TESTS
        tests = [item.nodeid for item in session.items if self._concerns(item)]
        if not tests or file.exists():
            return
        try:
            with written_whole(file) as temporary:
                temporary.write_text(json.dumps(tests), encoding="utf-8")
        except OSError:  # then a crash is xdist's alone to report
            return
