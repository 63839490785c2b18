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
    """Draw what tests compute, where somebody wants it: as files in a folder, or as pictures of a report.

    Raises pytest.UsageError where files cannot be drawn for want of matplotlib; reports say that figures are missing.
    """
    setting = settings["figures"]
    pictures = bool(settings.value("report_html") or pytest_html_active(config))
    if not setting.value and not pictures:
        return
    if find_spec("matplotlib") is None:
        if setting.value:
            raise pytest.UsageError(str(MissingExtra(setting.source, "matplotlib", "figures")))
        return
    folder = config.invocation_params.dir / Path(setting.value).expanduser() if setting.value else None
    config.pluginmanager.register(Figures(folder, pictures), "bertology-figures")


def pytest_html_active(config: pytest.Config) -> bool:
    """Whether pytest-html is installed and was asked for a report."""
    return bool(config.getoption("htmlpath", None)) and config.pluginmanager.hasplugin("html")


class Figures:
    """Hears results announced while a test is set up, called and torn down; then draws them."""

    def __init__(self, folder: Path | None, pictures: bool) -> None:
        self.folder = folder
        self.pictures = pictures
        self._heard: dict[tuple[Any, ...], Announcement] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        """Listen during a test."""
        from pytest_bertology.engine.announcing import listening

        self._heard.clear()
        with listening(self._hear, wants="pictures" if self.folder is None else "values"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Draw what a test computed once it is torn down; the report says which files, in workers too."""
        report = yield
        if call.when == "teardown" and self._heard:
            drawn: dict[str, list[Any]] = {"written": [], "problems": [], "pictures": [], "notes": []}
            if self.folder is not None:
                self._write(ungrouped(item.nodeid), self.folder, drawn)
            if self.pictures:
                self._draw(drawn)
            report.bertology_figures = drawn
            self._heard.clear()
        return report

    def _hear(self, found: Announcement) -> None:
        key = (found.kind, found.model, found.task, found.state, _content(found))
        self._heard.pop(key, None)
        self._heard[key] = found
        while len(self._heard) > _MOST:
            del self._heard[next(iter(self._heard))]

    def _write(self, test: str, folder: Path, drawn: dict[str, list[Any]]) -> None:
        """Write a file each; note those written, and what is wrong with the others."""
        from pytest_bertology.report.pictures import titled
        from pytest_bertology.report.saving import save_figure

        numbers: dict[str, int] = {}
        for found in self._heard.values():
            numbers[found.kind] = number = numbers.get(found.kind, 0) + 1
            path = folder / file_name(test, found.kind, number)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                save_figure(found.value, path, title=titled(found))
            except Exception as error:  # noqa: BLE001 - a figure that cannot be drawn must not end the session
                drawn["problems"].append(f"the figure {path} could not be written: {error}")
            else:
                drawn["written"].append(str(path))

    def _draw(self, drawn: dict[str, list[Any]]) -> None:
        """Draw a picture each, as text; one that cannot be drawn is noted, and no reason to fail."""
        from pytest_bertology.report.pictures import picture

        for found in self._heard.values():
            try:
                drawn["pictures"].append(picture(found).to_jsonable())
            except Exception as error:  # noqa: BLE001 - as above
                drawn["notes"].append(f"a figure ({found.kind} of {found.model}) could not be drawn: {error}")


def _content(found: Announcement) -> Any:
    """Equal for results that show the same."""
    value = found.value
    if found.picture is not None:
        return found.picture["svg"]
    if hasattr(value, "table"):
        return value.table()
    numbers = next((getattr(value, name) for name in ("values", "weights") if hasattr(value, name)), None)
    return (repr(value), None if numbers is None else numbers.tobytes())


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
