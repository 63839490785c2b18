"""Files that are written whole or not at all, and worked on by one process at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from errno import EACCES, EDQUOT, EEXIST, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pytest_bertology.errors.base import StoreWarning

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from filelock import BaseFileLock

_TEMPORARY = ".writing-"
_LOCK = ".lock"
_STALE = 3600.0
"""Seconds after which a temporary file is one of a process that was killed: writing takes a few at most."""
_EVERY = 0.5
"""Seconds between two signs of life while waiting."""
_CANNOT_WRITE = frozenset({EACCES, EDQUOT, EEXIST, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS})
"""Why no lock file can be made where nothing else can be written either, which whoever writes finds out."""

_held = threading.local()
_warned: set[Path] = set()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed at the end, removed where writing fails.

    Raises FileNotFoundError, naming folder and file, where there is no such folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, f"there is no folder {str(path.parent)!r} to write to", str(path))
    temporary = path.with_name(f"{_TEMPORARY}{uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def locked(
    path: Path, waiting: Callable[[], AbstractContextManager[Callable[[int], Any]]] | None = None
) -> Iterator[bool]:
    """Let one at a time, of all processes and threads, work on the file `path`, which need not exist.

    Gives whether that is so: where no lock can be had (a read-only folder, a file system without locks; the latter is
    warned of, once) the context is entered all the same. A thread that has the lock may take it again. The lock is the
    operating system's: it goes with a killed process. Its file, beside `path`, is removed at the end.

    `waiting` makes a context that is entered while another has the lock; what it gives is called with the seconds.
    """
    mine: set[Path] = getattr(_held, "paths", None) or set()
    _held.paths = mine
    if path in mine:
        yield True
        return
    file = path.with_name(path.name + _LOCK)
    lock = _acquired(file, waiting)
    if lock is None:
        yield False
        return
    mine.add(path)
    try:
        yield True
    finally:
        mine.discard(path)
        # While it is still locked: filelock looks, once it has a lock, whether the file is still there.
        with suppress(OSError):
            file.unlink()
        with suppress(OSError):
            lock.release()


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left in a folder: temporary files, and lock files that nobody holds."""
    with suppress(OSError):
        for file in list(folder.iterdir()):
            with suppress(OSError):
                if file.name.startswith(_TEMPORARY) and time() - file.stat().st_mtime > _STALE:
                    file.unlink()
                elif file.name.endswith(_LOCK) and time() - file.stat().st_mtime > _STALE:
                    _remove_unheld(file)


def _remove_unheld(file: Path) -> None:
    from filelock import Timeout

    lock = _file_lock(file)
    with suppress(Timeout):
        lock.acquire(blocking=False)
        file.unlink()
        lock.release()


def _acquired(file: Path, waiting: Callable[[], AbstractContextManager[Callable[[int], Any]]] | None) -> Any:
    """The lock, waited for; None where there can be none."""
    from filelock import Timeout

    try:
        lock = _file_lock(file)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            with nullcontext(_silent) if waiting is None else waiting() as show:
                seconds = 0.0
                while not lock.is_locked:
                    with suppress(Timeout):
                        lock.acquire(timeout=_EVERY, poll_interval=0.05)
                    seconds += _EVERY
                    show(int(seconds))
    except (OSError, NotImplementedError) as error:
        _warn(file.parent, error)
        return None
    return lock


def _file_lock(file: Path) -> BaseFileLock:
    from filelock import FileLock

    # Never a file that is a lock by being there: it would outlive a killed process.
    return FileLock(file, fallback_to_soft=False)


def _silent(seconds: int) -> None:
    """Show nothing."""


def _warn(folder: Path, error: Exception) -> None:
    if folder in _warned or (isinstance(error, OSError) and error.errno in _CANNOT_WRITE):
        return
    _warned.add(folder)
    warnings.warn(
        f"{folder} is on a file system without locks ({error}): processes that share it may compute the same twice",
        StoreWarning,
        stacklevel=3,
    )


def ready(folder: Path, swept: set[Path]) -> None:
    """Make a folder to write to, rid of what killed processes left: once for each, noted in `swept`."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in swept:
        swept.add(folder)
        remove_stale(folder)
