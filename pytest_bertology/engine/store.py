"""A result store: the same weights, data and mask are run once per session and, with a folder, once across sessions."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from typing import Any, TypeAlias
from weakref import WeakValueDictionary
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
import transformers

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import Encoded
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.progress import waiting
from pytest_bertology.errors import StoreWarning
from pytest_bertology.files import locked, ready, written_whole
from pytest_bertology.heads import HeadMask
from pytest_bertology.models import ModelUnderTest

_SCHEMA = "pytest-bertology results 2"

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What can be stored: named arrays of numbers."""


class ResultStore:
    """Results in memory, the least recently used forgotten beyond `memory` bytes; with a folder, on disk as well.

    Several processes may share the folder: an entry is computed by one, and the others wait for it or take it; it is
    written whole, under a temporary name, and renamed. Each carries a SHA-256 of its key and content: a damaged one, or
    one that belongs elsewhere, is computed again and replaced. Where the folder cannot be written (a full disk, a
    read-only one), results are held in memory alone, and a warning is given, once.
    """

    def __init__(self, folder: Path | None = None, memory: int = 256 * 2**20) -> None:
        self.folder = folder
        self.computed = 0
        """How many results had to be computed."""
        self.reused = 0
        """How many were found."""
        self._memory = memory
        self._held: OrderedDict[str, Arrays] = OrderedDict()
        self._lock = Lock()
        self._under_way: WeakValueDictionary[str, Any] = WeakValueDictionary()
        """A lock for each key that a thread is about, of a store without a folder."""
        self._warned: set[str] = set()
        self._swept: set[Path] = set()
        """Folders that were looked through for what killed processes left."""

    def get(self, key: str, compute: Callable[[], Arrays], title: str = "a result") -> Arrays:
        """The results stored under `key`, else those that `compute` gives, which are then stored.

        While another thread or process computes them, they are waited for; `title` says what, to who watches.
        """
        found = self.find(key)
        if found is None:
            with self._alone(key, title):
                found = self.find(key)  # another may have been first
                if found is None:
                    found = compute()
                    self.computed += 1
                    self._hold(key, found)
                    self._write(key, found)
        return found

    def find(self, key: str) -> Arrays | None:
        """The results stored under `key`, else None."""
        with self._lock:
            found = self._held.get(key)
        if found is None:
            found = self._read(key)
        if found is not None:
            self.reused += 1
            self._hold(key, found)
        return found

    @contextmanager
    def _alone(self, key: str, title: str) -> Iterator[None]:
        """Let one at a time work on this key. No deadlock: what a result is made from is never made from the result."""
        path = self._path(key)
        if path is not None:
            with locked(path, partial(waiting, title)):
                yield
            return
        with self._lock:
            lock = self._under_way.setdefault(key, RLock())
        with lock:
            yield

    def _hold(self, key: str, results: Arrays) -> None:
        for array in results.values():
            array.setflags(write=False)  # all who ask share it
        with self._lock:
            self._held[key] = results
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(map(_size, self._held.values())) > self._memory:
                self._held.popitem(last=False)

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / key[:2] / f"{key}.npz"

    def _read(self, key: str) -> Arrays | None:
        path = self._path(key)
        if path is None:
            return None
        content = b""
        try:
            content = path.read_bytes()
            if _seal(key, content[32:]) != content[:32]:
                raise ValueError("its checksum does not fit")
            with np.load(io.BytesIO(content[32:]), allow_pickle=False) as arrays:
                return dict(arrays)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            self._warn("damaged", f"the stored result {path} is damaged ({error}); computing it again, and any others")
            with suppress(OSError):  # another process may have replaced it meanwhile
                if path.read_bytes() == content:
                    path.unlink()
            return None

    def _write(self, key: str, results: Arrays) -> None:
        path = self._path(key)
        if path is None:
            return
        if any(array.dtype.hasobject for array in results.values()):
            raise TypeError(f"only arrays of numbers can be stored, not {sorted(results)} with objects among them")
        buffer = io.BytesIO()
        np.savez(buffer, **results)  # type: ignore[arg-type]
        content = buffer.getvalue()
        try:
            ready(path.parent, self._swept)
            with written_whole(path) as temporary:
                temporary.write_bytes(_seal(key, content) + content)
        except OSError as error:
            where = f"{path.parent} ({error})"
            self._warn("unwritten", f"a result could not be stored in {where}; it is held in memory, as are any others")

    def _warn(self, kind: str, text: str) -> None:
        """Warn once: what is wrong with a folder is wrong with each of its thousand entries."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, StoreWarning, stacklevel=4)


def _seal(key: str, content: bytes) -> bytes:
    """32 bytes that fit this content under this key alone."""
    return hashlib.sha256(key.encode() + b"\n" + content).digest()


def result_key(what: str, model: ModelUnderTest, encoded: Encoded, mask: HeadMask | None, batching: Batching) -> str:
    """SHA-256 of all that a result depends on: what it is, weights, configuration, data, gates, batching, versions."""
    gates = None if mask is None or not mask.touched else mask.gates
    parts = (
        _SCHEMA,
        what,
        torch.__version__,
        transformers.__version__,
        model.digest(),
        encoded.digest,
        repr(gates),
        repr(batching),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _size(results: Arrays) -> int:
    return sum(int(array.nbytes) for array in results.values())


_current = ResultStore()


def current_store() -> ResultStore:
    """The store that measures use."""
    return _current


@contextmanager
def using_store(store: ResultStore) -> Iterator[ResultStore]:
    """Make measures use this store for the length of the context."""
    global _current
    before, _current = _current, store
    try:
        yield store
    finally:
        _current = before


def computed_once(
    what: str, inputs: tuple[ModelUnderTest, Encoded, HeadMask | None, Batching], compute: Callable[[], Arrays]
) -> Arrays:
    """The current store's answer; computed anew where hooks of others on the model may change what it gives."""
    model = inputs[0]
    fitting = partial(within_memory, what.partition(",")[0], model, compute)
    if model.altered():
        return fitting()
    with model.frozen():
        key = result_key(what, *inputs)
    return current_store().get(key, fitting, f"{what.partition(',')[0]} of {model.name}")


def stored(what: str, inputs: tuple[ModelUnderTest, Encoded, HeadMask | None, Batching]) -> Arrays | None:
    """What `computed_once` would find without computing anything; None where it would have to."""
    model = inputs[0]
    if model.altered():
        return None
    with model.frozen():
        key = result_key(what, *inputs)
    return current_store().find(key)
