"""One folder of results under several threads, processes and faults; how often a result is computed is counted here.

Full and read-only disks are small ones of the tests' own (tmpfs) where the user may mount them.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pytest_bertology import BertologyWarning, ResultStore
from pytest_bertology.engine.progress import reporting_to

KEYS = [f"{number:02x}" * 32 for number in range(8)]


class Slow:
    """A computation that takes a moment, and notes in a file that it ran."""

    def __init__(self, log: Path, value: float = 1.0, seconds: float = 0.05) -> None:
        self.log, self.value, self.seconds = log, value, seconds

    def __call__(self) -> dict[str, np.ndarray]:
        with self.log.open("a") as file:
            file.write(f"{self.value}\n")
        time.sleep(self.seconds)
        return {"scores": np.full(3, self.value)}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def at_once(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


# -- threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_threads_compute_a_result_once(tmp_path, kept):
    store = ResultStore(tmp_path / "store" if kept else None)
    found: list[float] = []

    def ask(value: float) -> None:
        found.append(float(store.get(KEYS[0], Slow(tmp_path / "log", value))["scores"][0]))

    at_once(*(lambda value=value: ask(value) for value in range(6)))

    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert len(set(found)) == 1
    assert (store.computed, store.reused) == (1, 5)


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_results_made_of_other_results_wait_for_nobody_who_waits_for_them(tmp_path, kept):
    store = ResultStore(tmp_path / "store" if kept else None)
    slow = Slow(tmp_path / "log")

    def whole(*parts: str) -> dict[str, np.ndarray]:
        return {"scores": sum(store.get(part, slow)["scores"] for part in parts)}

    at_once(
        lambda: store.get(KEYS[0], lambda: whole(KEYS[2], KEYS[3])),
        lambda: store.get(KEYS[1], lambda: whole(KEYS[3], KEYS[2], KEYS[0])),
        lambda: store.get(KEYS[2], slow),
    )

    assert store.get(KEYS[1], slow)["scores"].tolist() == [4.0] * 3
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_computation_that_fails_lets_the_next_one_try(tmp_path):
    store, log = ResultStore(tmp_path / "store"), tmp_path / "log"
    failed: list[str] = []

    def fail() -> dict[str, np.ndarray]:
        time.sleep(0.2)
        raise ZeroDivisionError

    def ask_and_fail() -> None:
        try:
            store.get(KEYS[0], fail)
        except ZeroDivisionError:
            failed.append("as expected")

    at_once(ask_and_fail, ask_and_fail, lambda: (time.sleep(0.1), store.get(KEYS[0], Slow(log))))

    assert failed
    assert log.read_text() == "1.0\n"
    assert files(tmp_path / "store") == [f"{KEYS[0]}.npz"]


# -- processes ---------------------------------------------------------------------------------------------------

_OTHER = """
import sys, time
from pathlib import Path
from pytest_bertology import ResultStore
from tests.engine.test_store_shared import KEYS, Slow
folder, log = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
store = ResultStore(folder)
for key in KEYS[:7]:
    store.get(key, Slow(log, 2.0))
print("done", flush=True)
sys.stdin.readline()
store.get(KEYS[7], lambda: print("computing", flush=True) or time.sleep(60))
"""


def test_two_sessions_compute_each_result_once_and_one_that_is_killed_loses_only_what_it_was_at(tmp_path):
    folder, log = tmp_path / "store", tmp_path / "log"
    shown: list[str] = []
    command = [sys.executable, "-W", "error", "-c", _OTHER, str(folder), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}

    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("\n")
        store = ResultStore(folder)
        found = [float(store.get(key, Slow(log, 1.0))["scores"][0]) for key in reversed(KEYS[:7])]
        assert other.stdout.readline() == "done\n"
        other.stdin.write("\n")
        assert other.stdout.readline() == "computing\n"
        threading.Timer(1.5, other.kill).start()
        with reporting_to(reporter(shown)):
            last = store.get(KEYS[7], Slow(log, 3.0), "evaluation of tiny")

    computed = log.read_text().splitlines()
    assert other.returncode == -signal.SIGKILL
    assert len(computed) == 8
    assert {"1.0", "2.0"} <= set(computed[:7])  # both had a share
    assert sorted(found) == sorted(float(value) for value in computed[:7])
    assert last["scores"][0] == 3.0
    assert shown == ["waiting for another process: evaluation of tiny", "1 of 0"]
    assert files(folder) == sorted(f"{key}.npz" for key in KEYS)
    again = ResultStore(folder)
    assert [float(again.get(key, Slow(log, 9.0))["scores"][0]) for key in reversed(KEYS[:7])] == found


def reporter(shown: list[str]) -> Callable[[str, int], object]:
    @contextmanager
    def report(title: str, total: int) -> Iterator[Callable[[int], None]]:
        shown.append(title)
        yield lambda done: shown.append(f"{done} of {total}") if done and len(shown) < 2 else None

    return report


def test_what_killed_processes_left_half_written_goes_with_the_next_entry(tmp_path):
    folder = tmp_path / KEYS[0][:2]
    folder.mkdir()
    for name in (".writing-abc", f"{KEYS[0]}.npz.lock"):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - 7200,) * 2)

    ResultStore(tmp_path).get(KEYS[0], Slow(tmp_path / "log"))

    assert files(folder) == [f"{KEYS[0]}.npz"]


# -- disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.getuid() != 0 or _mounted("-t", "tmpfs", "-o", "size=64k", "none", folder) != 0:
        pytest.skip("mounting a small disk takes root on Linux")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _mounted(*arguments: object) -> int:
    return subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True).returncode


def large(value: float = 1.0) -> dict[str, np.ndarray]:
    return {"scores": np.full(20_000, value)}


def test_a_full_disk_warns_once_and_the_results_stand(disk):
    store = ResultStore(disk)

    with pytest.warns(BertologyWarning, match="No space left on device.*held in memory, as are any others") as warned:
        found = [store.get(key, lambda: large(7.0)) for key in KEYS[:3]]

    small = store.get(KEYS[3], lambda: {"scores": np.full(3, 7.0)})
    assert len(warned) == 1
    assert all((each["scores"] == 7.0).all() for each in found)
    assert store.get(KEYS[0], large) is found[0]
    assert files(disk) == [f"{KEYS[3]}.npz"]  # and no half ones
    assert (ResultStore(disk).get(KEYS[3], large)["scores"] == small["scores"]).all()


def test_a_disk_that_is_full_to_the_last_inode_warns_once(disk):
    subprocess.run(["mount", "-o", "remount,size=64k,nr_inodes=2", disk], check=True)
    store = ResultStore(disk)

    with pytest.warns(BertologyWarning) as warned:
        assert [store.get(key, large)["scores"][0] for key in KEYS[:3]] == [1.0] * 3

    assert len(warned) == 1
    assert "No space left on device" in str(warned[0].message)
    assert files(disk) == []


def test_a_read_only_disk_is_read_and_warned_of_once(disk):
    ResultStore(disk).get(KEYS[0], lambda: {"scores": np.full(3, 7.0)})
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    store = ResultStore(disk)

    assert store.get(KEYS[0], large)["scores"].tolist() == [7.0] * 3
    with pytest.warns(BertologyWarning, match="Read-only file system") as warned:
        assert [store.get(key, large)["scores"][0] for key in KEYS[1:4]] == [1.0] * 3

    assert len(warned) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_stops_half_way_leaves_no_half_entry(tmp_path, monkeypatch, code):
    class Filling(io.FileIO):
        def write(self, content) -> int:
            if self.tell():
                raise OSError(code, os.strerror(code))
            return super().write(content[:100])  # a short write, as of a disk that fills up

    whole = Path.open

    def opened(self: Path, mode: str = "r", *arguments: object, **options: object):
        return io.BufferedWriter(Filling(self, "w")) if mode == "wb" else whole(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    store = ResultStore(tmp_path)

    with pytest.warns(BertologyWarning, match=os.strerror(code)):
        assert store.get(KEYS[0], large)["scores"].shape == (20_000,)

    assert files(tmp_path) == []
    monkeypatch.undo()
    assert ResultStore(tmp_path).get(KEYS[0], lambda: large(2.0))["scores"][0] == 2.0


def test_a_folder_that_is_removed_in_mid_session_is_made_again(tmp_path):
    folder = tmp_path / "store"
    store = ResultStore(folder)
    first = store.get(KEYS[0], large)

    shutil.rmtree(folder)

    assert store.get(KEYS[0], large) is first
    store.get(KEYS[1], lambda: (shutil.rmtree(folder), large(2.0))[1])
    assert files(folder) == [f"{KEYS[1]}.npz"]


def test_a_file_where_the_folder_should_be_warns_once(tmp_path):
    (tmp_path / "store").write_text("in the way")
    store = ResultStore(tmp_path / "store")

    with pytest.warns(BertologyWarning, match="could not be stored") as warned:
        assert [store.get(key, large)["scores"][0] for key in KEYS[:3]] == [1.0] * 3

    assert len(warned) == 1


def test_of_many_damaged_entries_one_is_told_and_all_are_replaced(tmp_path):
    for key in KEYS[:4]:
        ResultStore(tmp_path).get(key, large)
    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-10])

    store = ResultStore(tmp_path)
    with pytest.warns(BertologyWarning, match="is damaged .*; computing it again, and any others") as warned:
        assert [store.get(key, lambda: large(2.0))["scores"][0] for key in KEYS[:4]] == [2.0] * 4

    assert len(warned) == 1
    assert store.computed == 4
    again = ResultStore(tmp_path)
    assert [again.get(key, large)["scores"][0] for key in KEYS[:4]] == [2.0] * 4
