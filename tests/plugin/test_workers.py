"""Sessions with workers against the same suite in one process: what they report must be equal, whatever happens.

Workers are real processes, of which each takes seconds to import torch: few sessions, each with several things to see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_bertology.plugin.summary import Gathered
from pytest_bertology.plugin.workers import Worker, ungrouped

pytestmark = pytest.mark.slow

pytest.importorskip("xdist")

RELEASE = """
    import pytest
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from pytest_bertology import ablate_heads, assert_heads_in_top, assert_heads_prunable, evaluate

    LAYER = [(0, 0), (0, 1), (0, 2), (0, 3)]

    def test_prunable(bertology_model, bertology_task):
        assert_heads_prunable(bertology_model, bertology_task, [(0, 1)], tolerance=0.9)

    def test_not_prunable(bertology_model, bertology_task):
        assert_heads_prunable(bertology_model, bertology_task, LAYER, tolerance=0.0)

    def test_evaluated(bertology_model, bertology_task):
        assert evaluate(bertology_model, bertology_task, LAYER).score < 0

    @pytest.mark.xfail
    def test_expected_to_fail(bertology_model, bertology_task):
        assert_heads_prunable(bertology_model, bertology_task, [(1, 0), (1, 1), (1, 2), (1, 3)], tolerance=0.0)

    @pytest.mark.skip(reason="not now")
    def test_skipped(bertology_model):
        pass

    def test_top(head_importance):
        assert_heads_in_top(head_importance, [head_importance.top(1)[0]], k=1)

    @settings(max_examples=4, deadline=None, derandomize=True, database=None)
    @given(head=st.integers(0, 3))
    def test_property(bertology_model, bertology_task, head):
        assert_heads_prunable(bertology_model, bertology_task, [(1, head)], tolerance=0.01)

    @pytest.fixture
    def broken(bertology_model):
        raise ValueError("no such thing")

    def test_not_set_up(broken):
        pass

    def test_ablated(bertology_model, bertology_task):
        ablate_heads(bertology_model, bertology_task)
"""

CONFTEST = """
    import os
    import sys
    from pathlib import Path
    import pytest
    from pytest_bertology.plugin.session import Session

    NOTES = Path(__file__).parent / "notes"
    WORKER = os.environ.get("PYTEST_XDIST_WORKER", "none")

    def note(kind, text):
        NOTES.mkdir(exist_ok=True)
        with (NOTES / f"{kind}-{WORKER}-{os.getpid()}").open("a") as file:
            file.write(f"{text}\\n")

    load = Session._load

    def loading(self, source, options):
        note("loaded", Path(source).name)
        return load(self, source, options)

    @pytest.fixture(scope="session", autouse=True)
    def _noting():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "_load", loading)
            yield
            store = sys.modules.get("pytest_bertology.engine.store")
            note("computed", store.current_store().computed if store else 0)

    def pytest_collection_modifyitems(items):
        if os.environ.get("REVERSED"):
            items.reverse()
"""


def noted(folder: Path, kind: str) -> list[list[str]]:
    """What each process wrote down."""
    return [file.read_text().split() for file in sorted((folder / "notes").glob(f"{kind}-*"))]


def report(file: Path) -> dict[str, Any]:
    """A report without what differs between any two runs: when, for how long, and where it was written."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    content.pop("created", None)
    for name in ("report_json", "figures", "store"):
        content["settings"].pop(name, None)
    for test in content["tests"]:
        test.pop("seconds")
    return content


@pytest.fixture
def models(suite, checkpoint, edited):
    """Options that name two models, and the task."""

    def change(model):
        model.classifier.weight[0, :8] += 0.5

    return [f"--bertology-model={checkpoint}", f"--bertology-model={edited(change)}", suite.given[1]]


def test_two_and_four_workers_on_one_store_report_what_one_process_does_in_any_order(suite, models, monkeypatch):
    """Four workers compute it all between them, in reversed order; two find it."""
    path = suite.path

    def run(name: str, *more: str, apart: bool = True) -> pytest.RunResult:
        given = [*models, "-q", f"--bertology-report-json={path / name}.json", *more]
        return waited_for(suite, *given) if apart else suite.bare("", *given)

    suite.write(RELEASE, CONFTEST)
    store = f"--bertology-store={path / 'store'}"
    run("alone", f"--bertology-figures={path / 'alone'}", apart=False)
    monkeypatch.setenv("REVERSED", "1")
    run("reversed", apart=False)
    for file in (path / "notes").iterdir():
        file.unlink()
    four = run("four", "-n4", store, f"--bertology-figures={path / 'four'}")
    computed, loaded = noted(path, "computed"), noted(path, "loaded")
    monkeypatch.delenv("REVERSED")
    two = run("two", "-n2", "--dist=worksteal", store)

    expected = report(path / "alone.json")
    assert (four.ret, two.ret) == (1, 1)
    outcomes = Counter(test["outcome"] for test in expected["tests"])
    assert outcomes == {"passed": 6, "failed": 6, "xfailed": 2, "skipped": 2, "error": 2}
    for name in ("reversed", "four", "two"):
        found = report(path / f"{name}.json")
        for one, other in zip(expected["tests"], found["tests"], strict=True):
            assert other == one, name
        assert found == expected
    assert names(path / "four") == names(path / "alone") != []
    # Each entry of the store was computed once, by one of the workers; each loaded a model at most once.
    entries = names(path / "store", "*.npz")
    assert sum(int(each[-1]) for each in computed) == len(entries) > 5
    assert len(loaded) > 1
    assert all(len(each) == len(set(each)) for each in loaded)
    assert not names(path / "store", "*.lock") + names(path / "store", ".writing-*")
    assert noted(path, "loaded") == loaded


def waited_for(suite: Any, *arguments: str) -> pytest.RunResult:
    """A session in a process of its own, given the time that several imports of torch take on a busy machine."""
    return suite.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=400)


def names(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.rglob(pattern) if path.is_file())


CRASHING = """
    import os, signal, time
    from pathlib import Path
    import pytest
    from pytest_bertology import assert_heads_prunable

    STARTED = Path(__file__).parent / "started"

    @pytest.mark.parametrize("head", range(3))
    def test_before(bertology_model, bertology_task, head):
        assert_heads_prunable(bertology_model, bertology_task, [(0, head)], tolerance=0.9)

    def test_killed_in_mid_evaluation(bertology_model, bertology_task, monkeypatch):
        def dies(*arguments, **options):
            STARTED.touch()
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGKILL)

        bertology_model.model  # loaded, and seen to work
        monkeypatch.setattr("pytest_bertology.measures.evaluation.run", dies)
        assert_heads_prunable(bertology_model, bertology_task, [(1, 0)], tolerance=0.9, early=False)

    def test_waits_for_the_killed_one(bertology_model, bertology_task):
        bertology_model.model
        for _ in range(600):
            if STARTED.exists():
                break
            time.sleep(0.1)
        assert_heads_prunable(bertology_model, bertology_task, [(1, 0)], tolerance=0.9, early=False)

    def test_after(bertology_model, bertology_task):
        assert_heads_prunable(bertology_model, bertology_task, [(1, 3)], tolerance=0.9)
"""


def test_a_crashed_worker_loses_nothing_but_its_test(suite, monkeypatch, tmp_path):
    """What the others say is compared with a session in one process."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))

    suite.write(CRASHING)
    result = waited_for(suite, *suite.given, "-n2", "--maxschedchunk=1", "--bertology-report-json=report.json")

    (suite.path / "started").touch()
    suite.run("", "--bertology-report-json=alone.json", "--deselect=test_release.py::test_killed_in_mid_evaluation")
    tests = report(suite.path / "report.json")["tests"]
    killed = next(test for test in tests if "killed_in" in test["test"])
    assert [test for test in tests if test is not killed] == report(suite.path / "alone.json")["tests"]
    assert [test["outcome"] for test in tests if test is not killed] == ["passed"] * 5
    assert (killed["outcome"], killed["verdicts"]) == ("error", [])
    assert killed["crashed"].startswith("the worker gw")
    result.stdout.fnmatch_lines(["*FAILED * test_release.py::test_killed_in_mid_evaluation: crashed: the worker gw*"])
    result.assert_outcomes(passed=5, failed=1)
    assert list(scratch.glob("pytest-bertology-*")) == []


@pytest.mark.parametrize("again", [False, True], ids=["once", "run again"])
def test_the_verdicts_of_a_test_whose_worker_crashed_afterwards_are_kept(again):
    """After its call, in a teardown; xdist runs such tests again under --dist=loadscope."""
    gathered = Gathered()
    verdict = {"check": "assert_metric_retained", "passed": True}

    def told(when: str, outcome: str, **more: Any) -> None:
        report = pytest.TestReport("test_x.py::test_a", ("test_x.py", 1, "test_a"), {}, outcome, None, when)
        vars(report).update(more)
        gathered.pytest_runtest_logreport(report)

    told("call", "passed", bertology_verdicts=[verdict])
    told("???", "failed", bertology_verdicts=[], bertology_crashed="the worker gw0 crashed while it ran")
    if again:
        told("setup", "passed", bertology_verdicts=[])
        told("call", "passed", bertology_verdicts=[verdict])

    (test,) = gathered.tests.values()
    assert (test["outcome"], test["verdicts"]) == ("error", [verdict])
    assert test["crashed"] == "the worker gw0 crashed while it ran"


def test_a_damaged_store_and_a_full_disk_change_no_verdict(suite, tmp_path):
    """In one process: what a disk does is no business of workers."""
    suite.run(RELEASE, "--bertology-report-json=alone.json")
    expected = verdicts(suite.path / "alone.json")
    store = tmp_path / "store"
    suite.run("", f"--bertology-store={store}", "--bertology-report-json=first.json")
    files = [path for path in store.rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[:-5])

    damaged = suite.run("", "-Walways", f"--bertology-store={store}", "--bertology-report-json=damaged.json")
    repaired = suite.run("", "-Walways", f"--bertology-store={store}", "--bertology-report-json=repaired.json")

    for name in ("first", "damaged", "repaired"):
        assert verdicts(suite.path / f"{name}.json") == expected, name
    assert "is damaged" in damaged.stdout.str()
    assert "is damaged" not in repaired.stdout.str()
    if sys.platform == "linux" and os.getuid() == 0:
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", disk], check=False).returncode == 0:
            try:
                (disk / "full").write_bytes(b"." * 4096)
                full = suite.run("", "-Walways", f"--bertology-store={disk}", "--bertology-report-json=full.json")
                assert names(disk) == ["full"]
            finally:
                subprocess.run(["umount", "-l", disk], check=True)
            assert verdicts(suite.path / "full.json") == expected
            assert "No space left on device" in full.stdout.str()


def verdicts(file: Path) -> list[tuple[str, str, list[dict[str, Any]]]]:
    return [(test["test"], test["outcome"], test["verdicts"]) for test in report(file)["tests"]]


GROUPED = """
    import pytest

    @pytest.mark.skip
    def test_one(bertology_model): pass

    @pytest.mark.skip
    @pytest.mark.xdist_group("mine")
    def test_grouped_by_the_user(bertology_model): pass

    @pytest.mark.skip
    def test_grouped_by_a_conftest(bertology_model): pass

    @pytest.mark.skip
    def test_two(bertology_model): pass

    @pytest.mark.skip
    def test_without(): pass
"""
GROUPING = """
    import pytest
    from pathlib import Path

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(items):
        for item in items:
            if "conftest" in item.name:
                item.add_marker(pytest.mark.xdist_group("theirs"))

    def pytest_collection_finish(session):
        with (Path(__file__).parent / "collected").open("w") as file:
            for item in session.items:
                groups = [mark.args[0] for mark in item.iter_markers("xdist_group")]
                print(item.name, ",".join(groups), item.nodeid.rpartition("::")[2], sep="|", file=file)
"""


def test_under_loadgroup_tests_are_grouped_by_model_and_what_users_grouped_stays(suite, tmp_path):
    """One worker does, as there are no more models than it takes."""
    sources = [tmp_path / "first model", tmp_path / "second"]
    for source in sources:
        source.mkdir()
    several = [f"--bertology-model={source}" for source in sources]
    options = ("-n1", "--dist=loadgroup", "--bertology-report-json=report.json")

    suite.apart(GROUPED, *several, *options, conftest=GROUPING)
    told = [test["test"] for test in report(suite.path / "report.json")["tests"]]
    two, seen = grouped(suite.path)
    suite.apart("", several[0], *options)
    one, _ = grouped(suite.path)

    assert two == {
        "test_one[first model]": "first-model-1",
        "test_two[first model]": "first-model-1",
        "test_one[second]": "second-2",
        "test_two[second]": "second-2",
        "test_grouped_by_the_user[first model]": "mine",
        "test_grouped_by_the_user[second]": "mine",
        "test_grouped_by_a_conftest[first model]": "theirs",
        "test_grouped_by_a_conftest[second]": "theirs",
        "test_without": "",
    }
    assert sorted(name.partition("::")[2] for name in told) == sorted(set(two) - {"test_without"})
    assert set(one.values()) == {"", "mine", "theirs"}
    if any(seen.values()):  # xdist 3.8 writes no groups under pytest 9.2
        assert seen == two


def grouped(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The groups that tests are marked with, and those that xdist read: it writes them behind their ids."""
    rows = [line.split("|") for line in (folder / "collected").read_text().splitlines()]
    return {name: group for name, group, _ in rows}, {
        name: seen.removeprefix(name).removeprefix("@") for name, _, seen in rows
    }


def test_with_more_workers_than_models_a_models_tests_are_split_evenly(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(5))
        def test_some(bertology_model, number): pass
    """)
    folders = [pytester.mkdir(name) for name in ("one", "two")]
    items, _ = pytester.inline_genitems(*(f"--bertology-model={folder}" for folder in folders))
    config = SimpleNamespace(workerinput={"workercount": 5}, getoption=lambda name, default: name == "loadgroup")

    Worker(config, SimpleNamespace(value=lambda name: []), lambda item: True).pytest_collection_modifyitems(
        config, items
    )

    groups = [(mark.args[0], item.name) for item in items for mark in item.iter_markers("xdist_group")]
    assert Counter(group for group, _ in groups) == {"one-1.1": 3, "one-1.2": 2, "two-2.1": 3, "two-2.2": 2}
    assert all(name.startswith(f"test_some[{group[:3]}-") for group, name in groups)


@pytest.mark.parametrize(
    ("test", "plain"),
    [
        ("a/test_x.py::test_a", "a/test_x.py::test_a"),
        ("a/test_x.py::test_a@group", "a/test_x.py::test_a"),
        ("a/test_x.py::TestA::test_a[x@y]@group", "a/test_x.py::TestA::test_a[x@y]"),
        ("a/test_x.py::test_a[x@y]", "a/test_x.py::test_a[x@y]"),
        ("a@b/test_x.py", "a@b/test_x.py"),
        ("a@b/test_x.py::test_a", "a@b/test_x.py::test_a"),
    ],
)
def test_the_group_is_no_part_of_a_tests_name(test, plain):
    assert ungrouped(test) == plain


def test_a_session_without_workers_makes_no_folder(suite, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    suite.bare("def test_nothing(): pass", "-n0")

    assert list(tmp_path.glob("pytest-bertology-*")) == []
