"""Figures of what tests compute, such as importance and curves; one file each, written when its test ends."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bertology.errors import MissingExtra
from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.workers import ungrouped

if TYPE_CHECKING:
    from pytest_bertology.engine.announcing import Announcement

_MOST = 12
"""Figures of one test: a property test computes hundreds of results, and its last are those of the failing example."""
_LONGEST = 120


def enable(config: pytest.Config, settings: Settings) -> None:
    """Where a folder is given, write figures to it; raise pytest.UsageError where they cannot be drawn."""
    setting = settings["figures"]
    if not setting.value:
        return
    if find_spec("matplotlib") is None:
        raise pytest.UsageError(str(MissingExtra(setting.source, "matplotlib", "figures")))
    folder = config.invocation_params.dir / Path(setting.value).expanduser()
    config.pluginmanager.register(Figures(folder), "bertology-figures")


class Figures:
    """Hears results announced while a test is set up, called and torn down; then draws them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._heard: dict[tuple[Any, ...], Announcement] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        """Listen during a test."""
        from pytest_bertology.engine.announcing import listening

        self._heard.clear()
        with listening(self._hear):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Draw what a test computed once it is torn down; the report says which files, in workers too."""
        report = yield
        if call.when == "teardown" and self._heard:
            report.bertology_figures = self._write(ungrouped(item.nodeid))
            self._heard.clear()
        return report

    def _hear(self, found: Announcement) -> None:
        value = found.value
        content = value.table() if hasattr(value, "table") else (value.method, value.values.tobytes())
        key = (found.kind, found.model, found.task, found.state, content)
        self._heard.pop(key, None)
        self._heard[key] = found
        while len(self._heard) > _MOST:
            del self._heard[next(iter(self._heard))]

    def _write(self, test: str) -> dict[str, list[str]]:
        """The files written, and what is wrong with the others."""
        from pytest_bertology.report.saving import save_figure

        written: list[str] = []
        problems: list[str] = []
        numbers: dict[str, int] = {}
        for found in self._heard.values():
            numbers[found.kind] = number = numbers.get(found.kind, 0) + 1
            path = self.folder / file_name(test, found.kind, number)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_figure(found.value, path, title=_title(found))
            except Exception as error:  # noqa: BLE001 - a figure that cannot be drawn must not end the session
                problems.append(f"the figure {path} could not be written: {error}")
            else:
                written.append(str(path))
        return {"written": written, "problems": problems}


def file_name(test: str, kind: str, number: int) -> str:
    """A file's name from the test's id, what it shows, and which of several it is."""
    file, _, rest = test.partition("::")
    folders, _, _ = file.rpartition("/")
    names, bracket, parameters = rest.partition("[")
    whole = f"{file.replace('/', '.')}-{names.replace('::', '-')}{bracket}{parameters}"
    name = re.sub(r"[^\w.\[\]=+-]+", "-", whole)[:_LONGEST]
    if name != whole or "." in folders:  # other ids may come to the same name
        name += f"-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    return f"{name}.{kind}{f'-{number}' if number > 1 else ''}.png"


def _title(found: Announcement) -> str:
    value = found.value
    names = {
        "all-but-one": "layers reduced to one head",
        "amnesic": "what it costs to erase a property",
        "attention": "what heads attend to",
        "code_length": "code lengths by layer",
        "compression_path": "probes along a path of compression",
        "constant-curve": "heads with constant attention",
        "curve": "pruning curve",
        "edge_probe": "edge probes by layer",
        "probe": "probes by layer",
        "relations": "relations that heads track",
    }
    what = names.get(found.kind, found.kind)
    if found.kind == "importance":
        what = f"{value.method} importance"
    elif found.kind == "ablation":
        what = f"{value.ablation} ablation of single heads"
    of = f"{found.model} on {found.task or getattr(value, 'task', None) or getattr(value, 'data', 'texts')}"
    return "\n".join([what, of, *([found.state] if found.state else [])])
