"""The fixture `bertology_baseline`: what a test measured, compared with what is kept beside the test.

A test's process compares, and notes what is to be written on the test's report; `baselines_kept` writes it when the
session ends.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bertology.plugin.baselines_kept import FOLDER, Kept
from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.parametrization import own_name
from pytest_bertology.plugin.session import session_key

if TYPE_CHECKING:
    from pytest_bertology.baselines.comparison import Comparison, Limits
    from pytest_bertology.baselines.files import Entry
    from pytest_bertology.models import ModelUnderTest

CHECK = "bertology_baseline.check"
_SHOWN_WARNINGS = 6
_LEVEL = 0.05


@dataclass
class Noted:
    """What one test asked for, and what is to be written once it has passed."""

    file: Path
    test: str
    """Its name within the file: `Class::test[parameters]`."""
    asked: dict[str, str] = field(default_factory=dict)
    """Entries it asked for, and the digest of what it gave."""
    writes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries to write."""
    how: dict[str, str] = field(default_factory=dict)
    """Of those, whether they are "new", "changed" or written since "all" are."""
    better: list[str] = field(default_factory=list)
    """Entries that the candidate is surely better than."""
    warned: bool = False

    def ask(self, key: str, digest: str) -> None:
        """Note that an entry is asked for; one name in a test stands for one value. Raises InvalidArgument."""
        if self.asked.setdefault(key, digest) != digest:
            from pytest_bertology.errors import InvalidArgument

            expected = 'another, such as check(..., name="…"): this test has checked another value under that name'
            raise InvalidArgument("name", key.rpartition("/")[2], expected)

    def plain(self, root: Path) -> dict[str, Any]:
        """As a report carries it."""
        return {
            "file": str(self.file),
            "shown": _shown(self.file, root),
            "test": self.test,
            "asked": sorted(self.asked),
            "writes": self.writes,
            "how": self.how,
            "better": self.better,
        }


def enable(config: pytest.Config, settings: Settings) -> None:
    """Compare with baselines in this session; raise pytest.UsageError for options that do not go together."""
    _check(settings)
    kept = Kept(config, settings)
    config.pluginmanager.register(kept, "bertology-baselines-kept")
    config.stash[_key] = running = Running(config, settings)
    config.pluginmanager.register(running, "bertology-baselines")


def _check(settings: Settings) -> None:
    update, reference = settings["update"], settings["reference"]
    if update.value != "none" and reference.value:
        raise pytest.UsageError(
            f"{update.source}: {update.value!r} is not valid with {reference.source}: models are compared with each "
            "other then, and no baseline is written; expected none"
        )
    models = settings["model"]
    if update.value != "none" and len(models.value) > 1:
        raise pytest.UsageError(
            f"{update.source}: baselines are written of one model; found {len(models.value)} (from {models.source}). "
            "Give the approved model alone; any number can be compared with what is written."
        )
    removes = settings["remove_unused"]
    if removes.value and update.value not in ("changed", "all"):
        raise pytest.UsageError(
            f"{removes.source} needs --bertology-update=changed or all; found {update.value!r} (from {update.source})"
        )
    ci = os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")
    if ci and update.value != "none" and not settings.value("update_in_ci"):
        raise pytest.UsageError(
            f"{update.source}: {update.value!r} would write baselines, and this is CI (the variable CI is "
            f"{os.environ['CI']!r}); expected none. Update where somebody looks at the difference, or add "
            "--bertology-update-in-ci."
        )


class Running:
    """The baselines of the test under way."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.update: str = settings.value("update")
        self.reference: str | None = settings.value("reference")
        self.noted: Noted | None = None
        self._item: pytest.Item | None = None
        self._entries: dict[Path, dict[str, Entry]] = {}
        self._collected: list[tuple[Path, str, bool]] = []
        self._comparisons: int | None = None

    @pytest.hookimpl
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which tests there are: how many comparisons a run makes decides how sure each must be."""
        self._collected = [(*place_of(item), _uses(item)) for item in session.items]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Know the running test: the fixture has session scope, and property tests run it many times."""
        self._item, self.noted = item, Noted(*place_of(item))
        try:
            return (yield)
        finally:
            self._item = self.noted = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Give what was noted to the last report of the test, in workers too."""
        report = yield
        noted = self.noted
        if call.when == "teardown" and noted is not None:
            if noted.asked or noted.file.exists():
                report.bertology_baselines = noted.plain(self.config.rootpath)
            self.noted = Noted(noted.file, noted.test)  # where it is run again
        return report

    @property
    def item(self) -> pytest.Item:
        """The running test."""
        if self._item is None:
            from pytest_bertology.errors import NothingToJudge

            raise NothingToJudge("no test runs, so that no baseline is known", "Call bertology_baseline.check in one.")
        return self._item

    def entries(self, file: Path) -> dict[str, Entry]:
        """The entries of a file, read once."""
        if file not in self._entries:
            from pytest_bertology.baselines.files import read_baselines

            self._entries[file] = read_baselines(file)
        return self._entries[file]

    def level(self) -> float:
        """The chance of a false alarm that each comparison of the run may take."""
        if self._comparisons is None:
            self._comparisons = max(1, self._count())
        try:
            from pytest_bertology.plugin.multiplicity import level
        except ImportError:
            return _LEVEL / (self._comparisons if self.settings.value("correction") == "holm" else 1)
        return float(level(self.config, self._comparisons))

    def _count(self) -> int:
        """Entries that are kept for the tests of this run; against a reference, one at least for each that compares."""
        files = {file for file, _, _ in self._collected}
        kept = {file: Counter(key.rpartition("/")[0] for key in self._readable(file)) for file in files}
        # A test that runs with several models compares each of them.
        least = 1 if self.reference else 0
        return sum(max(kept[file][test], least * uses) for file, test, uses in self._collected)

    def _readable(self, file: Path) -> Mapping[str, Any]:
        from pytest_bertology.errors import InvalidBaselines

        try:
            return self.entries(file)
        except InvalidBaselines:
            return {}  # its own tests say so


class BaselineCheck:
    """Compares values with what is kept of them: the fixture `bertology_baseline`."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def __repr__(self) -> str:
        return f"bertology_baseline(update={self._running.update})"

    def check(
        self,
        value: Any,
        name: str | None = None,
        *,
        tolerance: float | None = None,
        relative: bool = False,
        confidence: float = 0.95,
        max_changed: float | None = None,
        min_correlation: float | None = None,
        min_overlap: float | None = None,
        top: int | None = None,
        higher_is_better: bool | None = None,
    ) -> Comparison:
        """Compare a value with its baseline, the entry `name` of this test; return the comparison.

        `value` is what a measure gave (`evaluate`, `head_importance`, `attention_statistics`, `ablate_heads`, `probe`,
        `edge_probe`, `pruning_curve`, `head_relations`, …), a number or a dict of numbers (with a `tolerance`), or a
        function of a model that gives one of these. `name` is by default the kind of value; a test that checks several
        of a kind must name them.

        Without limits a comparison fails where chance cannot explain the difference: outcomes by a one-sided paired
        test (exact McNemar for accuracy), head scores by rank correlation, the overlap of the `top` heads and heads
        that lost their importance, each against the baseline's own noise; other reports figure by figure. `tolerance`
        makes it a non-inferiority test for outcomes (the upper `confidence` bound on the drop is within it; `relative`
        takes it as a share) and the most that other figures may move. `max_changed` is the greatest share of
        predictions that may differ, `min_correlation` and `min_overlap` replace the limits on head scores.

        Raises CheckFailed, or Inconclusive where too few examples are the reason; InvalidArgument for values that
        cannot be kept, limits that judge nothing of them, and two values under one name; InvalidBaselines for a damaged
        file. A missing baseline fails, and is written with `--bertology-update=new`.
        """
        __tracebackhide__ = True
        from pytest_bertology.baselines.comparison import Limits

        limits = Limits(
            tolerance=tolerance,
            relative=relative,
            confidence=confidence,
            max_changed=max_changed,
            min_correlation=min_correlation,
            min_overlap=min_overlap,
            top=top,
            higher_is_better=higher_is_better,
            level=self._running.level(),
        )
        return self._compared(value, name, limits)

    def _compared(self, value: Any, name: str | None, limits: Limits) -> Comparison:
        __tracebackhide__ = True
        from pytest_bertology.plugin.baselines_known import judged_once

        running = self._running

        def judge() -> Comparison:
            __tracebackhide__ = True
            from pytest_bertology.plugin.baseline_check import Checked

            checked = Checked.of(running, value, name)
            checked.refuse_below_noise(limits)
            return checked.against_reference(limits) if running.reference else checked.against_kept(limits)

        if running.update != "none" or running.reference:
            return judge()
        return judged_once(running, value, name, limits, judge)


def place_of(item: pytest.Item) -> tuple[Path, str]:
    """The file of a test's baselines, and the test's name within it.

    Neither a group of xdist's nor a model is part of the name: all models are compared with the same entry.
    """
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    path = item.path
    return path.parent / FOLDER / f"{path.stem}.json", "::".join([*classes, own_name(item)])


def model_of(running: Running) -> ModelUnderTest | None:
    """The model of the running test, where it has one."""
    found = getattr(running.item, "funcargs", {}).get("bertology_model")
    return found if found is not None else running.config.stash[session_key].given


def warn_once(noted: Noted, differs: Mapping[str, str]) -> None:
    """Say, once per test, what is not as it was when the baseline was written."""
    if not differs or noted.warned:
        return
    noted.warned = True
    from pytest_bertology.errors import BertologyWarning

    said = "; ".join(f"{name}: {change}" for name, change in list(differs.items())[:_SHOWN_WARNINGS])
    warnings.warn(f"the baseline was written elsewhere: {said}", BertologyWarning, stacklevel=4)


def _uses(item: pytest.Item) -> bool:
    return "bertology_baseline" in getattr(item, "fixturenames", ())


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if root in file.parents else str(file)


_key = pytest.StashKey[Running]()


@pytest.fixture(scope="session")
def bertology_baseline(request: pytest.FixtureRequest) -> BaselineCheck:
    """Compares what a test measured with what is kept beside it: ``bertology_baseline.check(value, name=...)``.

    ``value`` is what a measure gave, such as ``evaluate(...)``, ``head_importance(...)`` or
    ``attention_statistics(...)``, a number, a dict of numbers, or a function of a model. Baselines are in
    ``bertology_baselines/<module>.json`` beside the test module; ``--bertology-update=new`` writes those that are
    missing, ``changed`` and ``all`` replace others, and without it nothing is written. Scores are compared by a paired
    test, rankings by rank correlation and top heads, never digit by digit. With ``--bertology-reference MODEL`` the
    same measure of that model takes the place of the baseline.
    """
    return BaselineCheck(request.config.stash[_key])


@pytest.fixture(scope="session")
def bertology_reference(request: pytest.FixtureRequest) -> ModelUnderTest:
    """The model of ``--bertology-reference``, loaded as ``bertology_model`` is; skips where none is named."""
    return reference_of(request.config, request.config.stash[_key])


def reference_of(config: pytest.Config, running: Running) -> ModelUnderTest:
    """The reference model; skips the test where there is none."""
    if not running.reference:
        pytest.skip("no model to compare with: give --bertology-reference (a folder or a hub name)")
    return config.stash[session_key].model(running.reference)
