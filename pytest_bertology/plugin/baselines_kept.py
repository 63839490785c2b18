"""Baselines at the end of a session: what passed tests noted is written, what no test asked for is listed.

Reports of all workers arrive in the controller; it alone writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.workers import ungrouped

FOLDER = "bertology_baselines"
_LISTED = 10


@dataclass
class _Test:
    """What is known of a test that ran."""

    outcomes: list[str] = field(default_factory=list)
    told: dict[str, Any] | None = None
    """What its last report carried."""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end and nothing failed."""
        return self.told is not None and bool(self.outcomes) and all(outcome == "passed" for outcome in self.outcomes)


class Kept:
    """Gathers from reports what tests noted; writes and lists when the session ends."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._update: str = settings.value("update")
        self._remove: bool = settings.value("remove_unused")
        self._reference = settings.value("reference")
        self._tests: dict[str, _Test] = {}
        self._deselected = 0
        self._workers_lost = 0
        self.lines: list[str] = []
        self.problems: list[str] = []

    @pytest.hookimpl
    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Not all tests run."""
        self._deselected += len(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """What workers left out, and whether they lived."""
        output = getattr(node, "workeroutput", None)
        if error or output is None:
            self._workers_lost += 1
        else:
            self._deselected += output.get("bertology_deselected", 0)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note each phase of a test; run again, only its last run counts."""
        if report.when == "setup":
            self._tests[report.nodeid] = _Test()
        test = self._tests.setdefault(report.nodeid, _Test())
        test.outcomes.append("xfailed" if hasattr(report, "wasxfail") else report.outcome)
        told = getattr(report, "bertology_baselines", None)
        if told is not None:
            test.told = told

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write and remove, in the controller only; in a worker say what was left out."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["bertology_deselected"] = self._deselected
            return
        if self._reference or self._config.getoption("collectonly", False):
            return
        gathered: Any = self._config.pluginmanager.get_plugin("bertology-gathered")
        written = False
        try:
            self._write()
            written = True
            self._unused(int(exitstatus))
        except Exception as error:  # noqa: BLE001 - a session must end, and say so
            self.problems.append(f"baselines could not be written: {error}")
        if self.problems:
            session.exitstatus = exitstatus or pytest.ExitCode.INTERNAL_ERROR
        self._say_what_was_written(gathered.tests, written)
        gathered.notes += self.lines  # before reports are written, which is the last that is done
        gathered.problems += self.problems

    def _write(self) -> None:
        """What passed tests noted, file by file; a test that failed, or was not torn down, writes nothing."""
        writes: dict[Path, dict[str, Any]] = {}
        counts: dict[str, int] = {}
        shown: dict[Path, str] = {}
        better: list[str] = []
        for test in self._tests.values():
            told = test.told
            if told is None or not test.passed:
                continue
            better += [f"{told['shown']}: {name}" for name in told["better"]]
            for how in told["how"].values():
                counts[how] = counts.get(how, 0) + 1
            if told["writes"]:
                file = Path(told["file"])
                shown[file] = told["shown"]
                writes.setdefault(file, {}).update(told["writes"])
        for file in sorted(writes):
            self._merge(file, writes[file], ())
        same = counts.pop("same", 0)
        if counts:
            said = {"new": "new", "changed": "replaced", "all": "written anew"}
            each = ", ".join(f"{counts[how]} {word}" for how, word in said.items() if how in counts)
            total = sum(counts.values())
            files = ", ".join(shown[file] for file in sorted(shown))
            beside = f"; {same} unchanged" if same else ""
            self.lines.append(f"{total} baseline{_s(total)} written ({each}) to {files}{beside}")
        elif same:
            self.lines.append(f"{same} baseline{_s(same)} unchanged")
        if better:
            self.lines.append(
                f"{len(better)} significantly better than the baseline; --bertology-update=all would keep that:"
            )
            self.lines += _list(better)

    def _say_what_was_written(self, tests: dict[str, Any], written: bool) -> None:
        """A value notes that it is to be written before it is known whether its test passes."""
        passed = {ungrouped(name): test.passed for name, test in self._tests.items()}
        for name, test in tests.items():
            for verdict in test["verdicts"]:
                about = verdict["details"].get("baseline")
                if not isinstance(about, dict) or about.get("written") in (None, "same"):
                    continue
                if written and passed.get(name, False):
                    about["told"] = about["told"].replace(": new baseline", ": new baseline written", 1)
                    continue
                short = about["name"].rpartition("/")[2]
                about["told"] = f"{short}: not written: {'the test failed' if written else 'the file could not be'}"

    def _merge(self, file: Path, entries: dict[str, Any], without: Any) -> None:
        """Add to a file and take away, as it is now: other processes may have written to it."""
        from pytest_bertology.baselines.files import read_baselines, write_baselines
        from pytest_bertology.files import locked

        if entries:
            file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file):
            kept = {**read_baselines(file), **entries}
            write_baselines(file, {name: entry for name, entry in kept.items() if name not in without})

    def _unused(self, exitstatus: int) -> None:
        """List entries that no test asked for; remove them on request where all tests ran and passed."""
        unused = self._find_unused()
        total = sum(map(len, unused.values()))
        if not total:
            return
        why = self._why_not_removed(exitstatus)
        if self._remove and not why:
            for file, names in unused.items():
                self._merge(file, {}, frozenset(names))
            self.lines.append(f"{total} unused baseline{_s(total)} removed:")
        else:
            asked = f"not removed: {why}" if self._remove else "--bertology-update=changed --bertology-remove-unused"
            self.lines.append(f"{total} baseline{_s(total)} that no test asked for ({asked}):")
        self.lines += _list([f"{self._shown(file)}: {name}" for file, names in unused.items() for name in names])

    def _find_unused(self) -> dict[Path, list[str]]:
        """By file. A test that did not run, or not to its end, may yet ask for its entries."""
        from pytest_bertology.baselines.files import read_baselines
        from pytest_bertology.errors import InvalidBaselines

        told = [test for test in self._tests.values() if test.told is not None]
        asked: dict[Path, set[str]] = {}
        seen: dict[Path, dict[str, bool]] = {}
        for test in told:
            assert test.told is not None
            file = Path(test.told["file"])
            asked.setdefault(file, set()).update(test.told["asked"])
            of_file = seen.setdefault(file, {})  # tests of several models share their entries
            of_file[test.told["test"]] = of_file.get(test.told["test"], True) and test.passed
        found: dict[Path, list[str]] = {}
        for file in sorted(seen):
            try:
                entries = read_baselines(file)
            except InvalidBaselines:
                continue
            names = [
                name
                for name in sorted(entries)
                if name not in asked[file] and seen[file].get(name.rpartition("/")[0], not self._partial())
            ]
            if names:
                found[file] = names
        if not self._partial():
            found |= self._orphans({file.parent for file in seen})
        return found

    def _orphans(self, folders: set[Path]) -> dict[Path, list[str]]:
        """Files of test modules that are no longer there, with all their entries."""
        from pytest_bertology.baselines.files import read_baselines
        from pytest_bertology.errors import InvalidBaselines

        found: dict[Path, list[str]] = {}
        for folder in sorted(folders):
            for file in sorted(folder.glob("*.json")):
                if any(folder.parent.glob(f"{file.stem}.*")):
                    continue
                try:
                    found[file] = sorted(read_baselines(file))
                except InvalidBaselines:
                    continue
        return found

    def _partial(self) -> bool:
        """Whether somebody chose among the tests."""
        option = self._config.getoption
        chosen = (option(name, None) for name in ("keyword", "markexpr", "lf", "deselect", "stepwise"))
        return bool(self._deselected) or any(chosen) or any("::" in str(argument) for argument in self._config.args)

    def _why_not_removed(self, exitstatus: int) -> str:
        if self._partial():
            return "only some of the tests were chosen to run"
        if self._workers_lost:
            return "a worker was lost"
        if exitstatus != 0 or any(outcome != "passed" for test in self._tests.values() for outcome in test.outcomes):
            return "not all tests ran and passed"
        return ""

    def _shown(self, file: Path) -> str:
        root = self._config.rootpath
        return str(file.relative_to(root)) if root in file.parents else str(file)


def _list(names: list[str]) -> list[str]:
    more = [f"  and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return [f"  {name}" for name in names[:_LISTED]] + more


def _s(count: int) -> str:
    return "" if count == 1 else "s"
