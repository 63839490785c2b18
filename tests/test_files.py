"""Files written whole and locked files, seen by processes that read, write and die beside each other."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_bertology.errors import BertologyWarning
from pytest_bertology.files import locked, remove_stale, written_whole


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs this code, with `locked` and `Path` at hand; it ends by itself within a minute."""
    source = f"import sys, time\nfrom pathlib import Path\nfrom pytest_bertology.files import locked\n{code}"
    command = [sys.executable, "-W", "error", "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


HOLDS = """
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""
COUNTS = """
counter = Path(sys.argv[1])
for _ in range(25):
    with locked(counter):
        number = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(number + 1))
"""


def count(counter: Path) -> None:
    for _ in range(25):
        with locked(counter):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


def test_processes_and_threads_take_turns(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    threads = [threading.Thread(target=count, args=(counter,)) for _ in range(2)]

    with started(COUNTS, counter) as one, started(COUNTS, counter) as other:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert (one.returncode, other.returncode) == (0, 0)
    assert counter.read_text() == "100"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_the_lock_of_a_killed_process_is_free_and_leaves_no_file_once_taken(tmp_path):
    with started(HOLDS, tmp_path / "entry", 60) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        threading.Timer(0.3, holder.kill).start()
        began = time.monotonic()

        with locked(tmp_path / "entry") as alone:
            waited = time.monotonic() - began

    assert alone
    assert 0.2 < waited < 20
    assert holder.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_is_told_for_how_long(tmp_path):
    seen: list[str] = []

    @contextmanager
    def waiting():
        seen.append("began")
        yield lambda seconds: seen.append(f"{seconds} s")
        seen.append("ended")

    with started(HOLDS, tmp_path / "entry", 1.2) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with locked(tmp_path / "entry", waiting):
            seen.append("locked")
        with locked(tmp_path / "entry", waiting):
            pass

    assert seen[0] == "began"
    assert "1 s" in seen
    assert seen[-2:] == ["ended", "locked"]


def test_a_thread_may_lock_again_what_it_has_locked(tmp_path):
    with locked(tmp_path / "entry") as outer, locked(tmp_path / "entry") as inner:
        assert outer
        assert inner
        with locked(tmp_path / "another"):
            assert {path.name for path in tmp_path.iterdir()} == {"entry.lock", "another.lock"}

    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_let_go_where_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "entry"):
        raise ZeroDivisionError

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of_once_and_worked_on_all_the_same(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.warns(BertologyWarning, match="without locks .*: processes that share it may compute the same twice"):
        with locked(tmp_path / "entry") as alone:
            assert not alone
    with locked(tmp_path / "another") as alone:  # a second warning would be an error here
        assert not alone


def test_where_nothing_can_be_written_nothing_is_said_of_locks(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")

    with locked(tmp_path / "file" / "entry") as alone:
        assert not alone
    with locked(tmp_path / "file" / "folder" / "entry") as alone:
        assert not alone


def test_a_folder_that_is_removed_meanwhile_is_no_error(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()

    with locked(folder / "entry"):
        (folder / "entry.lock").unlink()
        folder.rmdir()

    assert not folder.exists()


def test_what_killed_processes_left_is_removed_once_it_is_old(tmp_path):
    names = ("kept.npz", ".writing-old", ".writing-new", "old.npz.lock", "new.npz.lock", "held.npz.lock")
    for name in names:
        (tmp_path / name).touch()
    with locked(tmp_path / "held.npz"):
        for name in ("kept.npz", ".writing-old", "old.npz.lock", "held.npz.lock"):
            os.utime(tmp_path / name, (time.time() - 7200,) * 2)

        remove_stale(tmp_path)

        left = {path.name for path in tmp_path.iterdir()}
    assert left == {"kept.npz", ".writing-new", "new.npz.lock", "held.npz.lock"}
    remove_stale(tmp_path / "nowhere")


def test_a_file_is_replaced_whole_or_stays_as_it_is(tmp_path):
    file = tmp_path / "report"
    file.write_text("before")

    with pytest.raises(ZeroDivisionError), written_whole(file) as temporary:
        temporary.write_text("half") / 0
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert file.read_text() == "before"

    with written_whole(file) as temporary:
        temporary.write_text("after")
    assert file.read_text() == "after"
