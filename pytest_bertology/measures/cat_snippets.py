"""Snippets of code for the CAT-score: which of their tokens take part, and which sub-tokens a model reads them as."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.texts import Texts
from pytest_bertology.errors import InvalidArgument, MalformedData, NothingToJudge
from pytest_bertology.measures.cat_formula import near_pairs
from pytest_bertology.tasks.code import SyntaxTree, check_code_language, syntax_tree

FREQUENT = 8
"""How many token types take part (Chen et al. 2022, section 4.1)."""


@dataclass(frozen=True, eq=False)
class Parsed:
    """Snippets that could be read."""

    texts: tuple[str, ...]
    trees: tuple[SyntaxTree, ...]
    positions: tuple[int, ...]
    """Where they stand among the snippets given."""
    unreadable: tuple[int, ...]
    """Those that could not be."""
    repeats: Mapping[int, int]
    """Snippets that are the same as an earlier one, which is named; they are not among the texts."""
    given: int
    """How many there are of all kinds."""

    def counts(self) -> dict[str, int]:
        """How many tokens of each type they have, the most frequent first; equals in the order of their names."""
        found = Counter(leaf.type for tree in self.trees for leaf in tree.leaves)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, eq=False)
class Aligned:
    """One snippet's tokens that take part, n of them."""

    count: int
    unseen: int
    """Tokens of the snippet, of any type, of which the model reads nothing, or not all."""
    _rows: tuple[int, ...]
    _columns: tuple[int, ...]
    _near: Any
    """Bits of (n, n), eight a byte: snippets are many."""

    @property
    def near(self) -> Any:
        """(n, n) which pairs are near in the tree."""
        return np.unpackbits(self._near, count=self.count**2).reshape(self.count, self.count).astype(bool)

    def means(self, tokens: int) -> Tensor:
        """(n, sub-tokens) that takes means over each token's sub-tokens."""
        found = torch.zeros(self.count, tokens, dtype=torch.float64)
        found[list(self._rows), list(self._columns)] = 1.0
        return found / found.sum(dim=1, keepdim=True)


def parse(snippets: Any, language: str, errors: str) -> Parsed:
    """The snippets' trees, of equal ones once. Raises as `cat_score` says."""
    check_code_language(language)
    if errors not in ("raise", "skip"):
        raise InvalidArgument("errors", errors, "'raise' or 'skip'")
    if isinstance(snippets, str | bytes | Mapping) or not isinstance(snippets, Iterable):
        found = f"a {type(snippets).__name__}" if isinstance(snippets, Mapping) else snippets
        raise InvalidArgument("snippets", found, "a list of pieces of code, such as ['def f(x): return x']")
    given = tuple(snippets)
    if not given:
        raise NothingToJudge("no snippets were given", "Give one piece of code or more.")
    trees: list[SyntaxTree] = []
    positions: list[int] = []
    first: dict[str, int] = {}
    with tracked(f"{len(given)} snippets of {language}, syntax trees", len(given)) as show:
        for position, text in enumerate(given):
            if not isinstance(text, str):
                raise InvalidArgument(f"snippets[{position}]", text, "code, as a string")
            if first.setdefault(text, position) < position:
                continue
            try:
                trees.append(syntax_tree(text, language, name=f"snippets[{position}]"))
                positions.append(position)
            except MalformedData:
                if errors == "raise":
                    raise
            show(position + 1)
    if not trees:
        raise MalformedData("snippets", f"none of {len(given)} can be read as {language}")
    read = set(positions)
    unreadable = tuple(position for position, text in enumerate(given) if first[text] not in read)
    repeats = {position: first[text] for position, text in enumerate(given) if first[text] < position}
    texts = tuple(given[position] for position in positions)
    return Parsed(texts, tuple(trees), tuple(positions), unreadable, repeats, len(given))


def chosen_types(token_types: Any, counts: Mapping[str, int]) -> tuple[str, ...]:
    """The token types that take part: the most frequent ones, or those named."""
    if token_types is None:
        return tuple(counts)[:FREQUENT]
    named = (token_types,) if isinstance(token_types, str) else tuple(token_types)
    unknown = [name for name in named if name not in counts]
    if unknown or not named:
        found = ", ".join(map(repr, counts))
        raise InvalidArgument("token_types", token_types, f"types of tokens in the snippets: {found}")
    return tuple(dict.fromkeys(named))


def align(parsed: Parsed, texts: Texts, types: Sequence[str], quantile: float) -> list[Aligned]:
    """What takes part of each snippet, by the characters that the tokenizer says its tokens stand for."""
    found = []
    cut = set(texts.encoded.truncated)
    assert texts.offsets is not None
    with tracked(f"{texts.name}, distances in syntax trees", len(parsed.trees)) as show:
        for index, tree in enumerate(parsed.trees):
            found.append(_aligned(tree, texts.offsets[index], index in cut, types, quantile))
            show(index + 1)
    return found


def _aligned(
    tree: SyntaxTree, offsets: Sequence[tuple[int, int]], cut: bool, types: Sequence[str], quantile: float
) -> Aligned:
    pieces = _pieces(tree, offsets)
    read = [(start, end) for start, end in offsets if end > start]
    first, last = min((start for start, _ in read), default=0), max((end for _, end in read), default=0)
    seen = [
        bool(pieces[index]) and not (cut and (leaf.start < first or leaf.end > last))
        for index, leaf in enumerate(tree.leaves)
    ]
    part = [index for index, leaf in enumerate(tree.leaves) if seen[index] and leaf.type in types]
    near = near_pairs(tree.distances(part), quantile)
    rows = tuple(row for row, index in enumerate(part) for _ in pieces[index])
    columns = tuple(column for index in part for column in pieces[index])
    return Aligned(len(part), seen.count(False), rows, columns, np.packbits(near))


def _pieces(tree: SyntaxTree, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each leaf the sub-tokens that share a character with it; one may share with several leaves."""
    ends = [leaf.end for leaf in tree.leaves]
    found: list[list[int]] = [[] for _ in ends]
    for token, (start, end) in enumerate(offsets):
        index = bisect_right(ends, start)
        while index < len(ends) and tree.leaves[index].start < end:
            found[index].append(token)
            index += 1
    return found
