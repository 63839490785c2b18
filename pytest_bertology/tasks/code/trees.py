"""The syntax tree of a snippet of code, and how far apart its tokens are in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

_NAMES = ("name", "constant", "instance_variable", "class_variable", "global_variable")
"""What grammars that do not say identifier call one (PHP, Ruby)."""


class Leaf(NamedTuple):
    """A token of code: a leaf of the tree."""

    type: str
    """"identifier", "number" or "string"; of keywords, operators and punctuation the text; or the grammar's name."""
    text: str
    start: int
    """Its first character in the snippet."""
    end: int
    """The character behind its last."""

    @property
    def identifier(self) -> str | None:
        """Of an identifier what it refers to, so that two uses of one are equal; None for other tokens."""
        if self.type == "identifier" or self.type.endswith("_identifier") or self.type in _NAMES:
            return f"{self.type} {unicodedata.normalize('NFKC', self.text)}"
        return None


@dataclass(frozen=True, repr=False)
class SyntaxTree:
    """Inner nodes, of which 0 is the root, and below them the tokens of a snippet, comments left out."""

    kinds: tuple[str, ...]
    """What each inner node is, such as "Call"."""
    parents: tuple[int, ...]
    """The inner node above each inner node; -1 above the root."""
    leaves: tuple[Leaf, ...]
    """In the order of the text."""
    homes: tuple[int, ...]
    """The inner node right above each leaf."""

    def __repr__(self) -> str:
        return f"SyntaxTree({len(self.leaves)} tokens below {len(self.kinds)} nodes)"

    def edges(self) -> Iterator[tuple[int, int]]:
        """The edges of the tree and those that join its leaves; leaf i is node `len(kinds) + i`.

        Each leaf is joined to the one behind it, and each use of an identifier to its next (Chen et al. 2022: U-AST).
        """
        inner = len(self.kinds)
        yield from ((parent, node) for node, parent in enumerate(self.parents) if parent >= 0)
        last: dict[str, int] = {}
        for index, (leaf, home) in enumerate(zip(self.leaves, self.homes, strict=True)):
            yield home, inner + index
            if index:
                yield inner + index - 1, inner + index
            name = leaf.identifier
            if name is not None:
                if last.get(name, index) < index - 1:  # neighbours are joined already
                    yield inner + last[name], inner + index
                last[name] = index

    def distances(self, leaves: Sequence[int] | None = None) -> npt.NDArray[np.int64]:
        """(leaves, leaves) edges on the shortest path between two leaves, of all or of those at some places."""
        inner, size = len(self.kinds), len(self.kinds) + len(self.leaves)
        chosen = range(len(self.leaves)) if leaves is None else leaves
        if not len(chosen):
            return np.zeros((0, 0), dtype=np.int64)
        start, end = np.array(list(self.edges()), dtype=np.int32).T  # scipy 1.15 searches no others
        graph = sparse.csr_array((np.ones(len(start)), (start, end)), shape=(size, size))
        at = np.array(chosen, dtype=np.int32) + np.int32(inner)
        found: npt.NDArray[Any] = csgraph.shortest_path(graph, method="D", directed=False, unweighted=True, indices=at)
        return found[:, at].astype(np.int64)


class Unreadable(Exception):
    """Code that cannot be parsed; its text says where and why."""
