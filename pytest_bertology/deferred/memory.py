"""Answers in a folder: a JSON file each, under a hash of what was asked, with a checksum of what it says."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_bertology.answering import answering
from pytest_bertology.deferred.environment import environment
from pytest_bertology.errors import StoreWarning
from pytest_bertology.files import ready, written_whole

_SCHEMA = "pytest-bertology answers 3"


class Memory:
    """What was answered before, in `folder`; several processes may share it.

    `context` is what all answers depend on beside their arguments, such as options of a session; `before` is called
    once, before anything is computed.
    """

    def __init__(self, folder: Path, context: str = "", before: Callable[[], None] = lambda: None) -> None:
        self.folder = folder / "answers"
        self.answered = 0
        """How many calls were answered without computing anything."""
        self.computed = 0
        """How many had to be computed."""
        self._context = context
        self._before: Callable[[], None] | None = before
        self._warned: set[str] = set()
        self._swept: set[Path] = set()

    def key(self, *parts: Any) -> str:
        """A hash of `parts`, plain values, and of everything else that decides an answer."""
        asked = json.dumps([_SCHEMA, environment(), self._context, parts], ensure_ascii=True)
        return hashlib.sha256(asked.encode()).hexdigest()

    def find(self, key: str) -> dict[str, Any] | None:
        """What is kept under `key`; a damaged answer is none."""
        path = self._path(key)
        try:
            checksum, content = path.read_bytes().split(b"\n", 1)
            if _seal(key, content) != checksum:
                raise ValueError("its checksum does not fit")
            found: dict[str, Any] = json.loads(content)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self._warn("damaged", f"the stored answer {path} is damaged ({error}); computing it again, and any others")
            return None
        return found

    def keep(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer; where that is not possible it is computed again another time, with one warning."""
        path = self._path(key)
        content = json.dumps(answer, ensure_ascii=True).encode()
        try:
            ready(path.parent, self._swept)
            with written_whole(path) as temporary:
                temporary.write_bytes(_seal(key, content) + b"\n" + content)
        except OSError as error:
            self._warn("unwritten", f"answers cannot be stored in {self.folder} ({error})")

    def _warn(self, kind: str, text: str) -> None:
        """Warn once: what is wrong with a folder is wrong with each of its thousand answers."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, StoreWarning, stacklevel=3)

    def compute(self) -> None:
        """Something is about to be computed."""
        if self._before is not None:
            before, self._before = self._before, None
            before()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _seal(key: str, content: bytes) -> bytes:
    """A checksum of an answer and of what was asked: one that stands in another's place is none."""
    return hashlib.sha256(key.encode() + b"\n" + content).hexdigest().encode()


_current: list[Memory] = []


def current_memory() -> Memory | None:
    """The memory in use, or None."""
    return _current[-1] if _current else None


@contextmanager
def remembering(memory: Memory) -> Iterator[Memory]:
    """For the length of the context, answer calls of public functions from `memory`, and keep new answers in it."""
    from pytest_bertology.deferred.calls import answer

    _current.append(memory)
    answering.append(answer)
    try:
        yield memory
    finally:
        _current.pop()
        answering.pop()
