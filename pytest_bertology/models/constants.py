"""Constant attention: for each head one matrix, whatever the text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import MalformedData
from pytest_bertology.files import written_whole
from pytest_bertology.heads import HeadLike, HeadMap
from pytest_bertology.heads.maps import as_head

Array = npt.NDArray[Any]
_SCHEMA = "pytest-bertology constant attention 1"


@dataclass(frozen=True, eq=False, repr=False)
class ConstantAttention:
    """The mean attention of each head over texts, place by place: what `constant_attention` estimates."""

    heads: HeadMap
    tables: tuple[Array, ...] = field(repr=False)
    """Per layer of `heads`, (heads, longest, longest) in float64: from the token at a place of a text to that at
    another, both counted from 0 within the text."""
    seen: Array = field(repr=False)
    """(longest, longest) how many texts have tokens at both places."""
    source: str
    """The texts, for messages."""
    left_out: int = 0
    """How many texts were too long to be taken."""
    marks: Array = field(default_factory=lambda: np.zeros(0, np.uint64), repr=False)
    """Hashes of the texts (`marks_of`), ascending, by which judged texts are known among them; empty: not known."""

    def __post_init__(self) -> None:
        for table in (*self.tables, self.seen, self.marks):
            table.setflags(write=False)

    def __repr__(self) -> str:
        return f"ConstantAttention({self.heads.describe()}, up to {self.longest} tokens, of {self.source})"

    @property
    def longest(self) -> int:
        """Tokens of the longest text: no longer text can be run with these constants."""
        return len(self.seen)

    @property
    def texts(self) -> int:
        """How many texts they were estimated on."""
        return int(self.seen[0, 0])

    def matrix(self, head: HeadLike) -> Array:
        """(longest, longest) mean attention of a head; its rows add up to one over the texts' own lengths only."""
        found = self.heads[self.heads.index(as_head(head))]
        for layer, table in zip(self.heads.layers, self.tables, strict=True):
            if (layer.stack, layer.layer) == (found.stack, found.layer):
                return np.asarray(table[found.head])
        raise AssertionError(found)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it to a file in NumPy's npz format, whole or not at all; return the path."""
        path = Path(path)
        kept = None if self.heads.kept is None else [list(head) for head in self.heads.kept]
        about = {"schema": _SCHEMA, "heads": self.heads.to_jsonable(), "kept": kept, "source": self.source}
        arrays: dict[str, Any] = {f"layer_{at}": table for at, table in enumerate(self.tables)}
        arrays |= {
            "about": np.array(json.dumps({**about, "left_out": self.left_out})),
            "seen": self.seen,
            "marks": self.marks,
        }
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConstantAttention:
        """Read what `save` wrote; raises MalformedData for anything else, OSError for a file that cannot be read."""
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return _checked(dict(arrays))
        except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            problem = f"it holds no constant attention ({type(error).__name__}: {error})"
            raise MalformedData(str(path), problem) from error


def marks_of(texts: Iterable[str | Sequence[str]]) -> Array:
    """A hash of each text, uint64: strings, or the two sides or the words of one."""
    whole = (text if isinstance(text, str) else "\0".join(text) for text in texts)
    hashed = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in whole)
    return np.frombuffer(b"".join(hashed), dtype="<u8").astype(np.uint64)


def _checked(arrays: Mapping[str, Array]) -> ConstantAttention:
    """Raises ValueError, KeyError or TypeError where the arrays do not fit together."""
    about = json.loads(str(arrays["about"]))
    if about["schema"] != _SCHEMA:
        raise ValueError(f"its schema is {about['schema']!r}")
    kept = None if about["kept"] is None else [as_head(tuple(head)) for head in about["kept"]]
    heads, seen = HeadMap(about["heads"], kept), arrays["seen"]
    tables = tuple(arrays[f"layer_{at}"] for at in range(len(heads.layers)))
    shapes = [(count, len(seen), len(seen)) for count in heads.per_layer]
    if [table.shape for table in tables] != shapes or seen.shape != (len(seen), len(seen)) or not len(seen):
        raise ValueError("its arrays are not of the shapes that its heads have")
    if not all(np.isfinite(table).all() and (table >= 0.0).all() for table in tables):
        raise ValueError("it holds numbers that are no attention weights")
    marks = arrays["marks"]
    if marks.dtype != np.uint64 or marks.ndim != 1:
        raise ValueError("its hashes of texts are none")
    return ConstantAttention(heads, tables, seen, str(about["source"]), int(about["left_out"]), marks)
