"""--bertology-noise-floor: checks refuse tolerances below the noise of this machine, and reports say what that is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.summary import Gathered, plain

if TYPE_CHECKING:
    from pytest_bertology.measures.noise_floor import NoiseFloors
    from pytest_bertology.measures.noise_report import NoiseFloor


def enable(
    config: pytest.Config, settings: Settings, gathered: Gathered, concerns: Callable[[pytest.Item], bool]
) -> None:
    """Measure noise floors where that is asked for."""
    if settings.value("noise_floor"):
        config.pluginmanager.register(Noise(gathered, concerns), "bertology-noise")


class Noise:
    """Keeps the floors of a session; what is measured in a test travels on the test's report, from workers too."""

    def __init__(self, gathered: Gathered, concerns: Callable[[pytest.Item], bool]) -> None:
        self._gathered, self._concerns = gathered, concerns
        self._floors: NoiseFloors | None = None
        self._new: list[dict[str, Any]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Checks in a test and its fixtures refuse tolerances that are below the floor."""
        if not self._concerns(item):
            return (yield)
        from pytest_bertology.measures.noise_floor import NoiseFloors, refusing_below_noise

        if self._floors is None:
            self._floors = NoiseFloors(heard=self._hear)
        with refusing_below_noise(self._floors):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Floors measured since the last report go with this one."""
        report = yield
        if self._new:
            report.bertology_noise_floor = self._new
            self._new = []
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what was measured; of several workers that measured the same, the highest floor."""
        for found in getattr(report, "bertology_noise_floor", ()):
            floors = self._gathered.noise_floor
            same = next((each for each in floors if _key(each) == _key(found)), None)
            if same is not None:
                if same["least_tolerance"] >= found["least_tolerance"]:
                    continue
                floors.remove(same)
                self._gathered.notes.remove(line(same))
            floors.append(found)
            floors.sort(key=_key)
            self._gathered.notes.append(line(found))

    def _hear(self, found: NoiseFloor) -> None:
        self._new.append(plain(found.to_jsonable()))


def line(floor: dict[str, Any]) -> str:
    """A floor in the terminal summary: what makes it, and what a less precise dtype would do."""
    where = f"noise floor of {floor['model']} on {floor['task']} ({floor['dtype']}, {floor['device']})"
    settings = floor["settings"]
    same = [each for each in settings if each["factor"] != "dtype"]
    worst = max(same, key=lambda each: (each["floor"], each["logits"]), default=None)
    parts = [f"{where}: {floor['floor']:.3g} {floor['metric']}"]
    if worst is not None:
        parts.append(f"{worst['factor']} moves logits by up to {worst['logits']:.1e}")
    for each in settings:
        if each["factor"] == "dtype":
            what = "rounding, seen beside" if each["finer"] else "not counted:"
            parts.append(f"{what} {each['setting']} {each['floor']:.3g}")
    return "; ".join(parts)


def _key(floor: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(floor[name]) for name in ("model", "task", "metric", "dtype", "device"))
