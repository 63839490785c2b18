"""For each dependency of each sentence: which heads point from the dependent to its syntactic head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.engine.words import Words, attend_words
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import base_relation

Array = npt.NDArray[Any]

TO_HEAD, FROM_HEAD = "to_head", "from_head"
DIRECTIONS = (TO_HEAD, FROM_HEAD)
"""Whether a head attends from a dependent to its syntactic head (A), or from the syntactic head to it (Aᵀ)."""
WHAT = "relations that heads track"


@dataclass(frozen=True, eq=False, repr=False)
class Dependencies:
    """Words and their syntactic heads, sentence by sentence; a number per case in every array."""

    sentences: Array
    """Positions of the sentences."""
    dependents: Array
    governors: Array
    """Positions of the words in their sentences; the governor is the dependent's syntactic head."""
    relations: Array
    """Which of `names`."""
    names: tuple[str, ...]
    skipped: int
    """Dependencies that are no cases, since one of their words has no token."""

    def __len__(self) -> int:
        return len(self.relations)

    def of(self, relation: str | None) -> Array:
        """Positions of the cases of a relation; None: of all."""
        if relation is None:
            return np.arange(len(self))
        if relation not in self.names:
            return np.arange(0)
        return np.flatnonzero(self.relations == self.names.index(relation))

    def at_offset(self, at: Array, offset: int) -> Array:
        """For each of these cases, 1.0 where the word so many places on is the syntactic head."""
        found: Array = (self.governors[at] - self.dependents[at] == offset).astype(np.float64)
        return found

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many cases each relation has, the most frequent first."""
        counts = np.bincount(self.relations, minlength=len(self.names)).tolist()
        return dict(sorted(zip(self.names, counts, strict=True), key=lambda each: (-each[1], each[0])))


@dataclass(frozen=True, eq=False, repr=False)
class Cases:
    """How often each head is right on each dependency."""

    dependencies: Dependencies
    right: Array
    """(cases, heads, directions) in how many runs of its layer a head was right."""
    runs: Array
    """(heads,) how often the layer runs in one pass: 1, but for ALBERT's."""

    def shares(self, at: Array) -> Array:
        """(heads, directions) the share of these cases on which each head is right."""
        total: Array = self.right[at].sum(axis=0, dtype=np.float64)
        shares: Array = total / (len(at) * self.runs[:, None])
        return shares

    def rightness(self, at: Array, head: int, direction: int) -> Array:
        """For each of these cases, the share of runs in which a head is right: 0 or 1."""
        found: Array = self.right[at, head, direction] / float(self.runs[head])
        return found


@dataclass(frozen=True)
class Mistake:
    """A dependency about which a head is wrong."""

    text: str
    dependent: str
    found: str | None
    """The word that the head points to; None where to none."""
    governor: str
    """The word that it should have pointed to."""


def dependencies(words: Words, subtypes: bool) -> Dependencies:
    """All words that have a syntactic head, if both have tokens; roots have none."""
    rows: list[tuple[int, int, int]] = []
    relations: list[str] = []
    skipped = 0
    for position, (sentence, present) in enumerate(zip(words.sentences, words.present, strict=True)):
        for word, (head, relation) in enumerate(zip(sentence.heads, sentence.relations, strict=True)):
            if head < 0:
                continue
            if not (present[word] and present[head]):
                skipped += 1
                continue
            rows.append((position, word, head))
            relations.append(relation if subtypes else base_relation(relation))
    sentences, dependents, governors = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    names = tuple(sorted(set(relations)))
    codes = {name: code for code, name in enumerate(names)}
    at = np.array([codes[relation] for relation in relations], dtype=np.int64)
    return Dependencies(sentences, dependents, governors, at, names, skipped)


def relation_cases(model: ModelUnderTest, words: Words, found: Dependencies, batching: Batching | None = None) -> Cases:
    """Run the model over sentences and count, dependency by dependency, which heads are right.

    A head is right where, of the other words of the sentence, it attends most from the dependent to its syntactic head
    (or, in the other direction, to the dependent from its syntactic head); of words that get as much, the first counts.
    Where no other word gets anything it is wrong.
    """
    batching = batching or Batching()
    arrays = computed_once(
        f"relations of words {words.digest}",
        (model, words.texts.encoded, model.mask_in_force(), batching),
        lambda: _count(model, words, found, batching),
    )
    return Cases(found, arrays["right"], arrays["runs"])


def mistakes(
    model: ModelUnderTest, words: Words, cases: Cases, at: Array, head: int, direction: int, limit: int = 5
) -> list[Mistake]:
    """The first of these cases about which a head is wrong, one of a sentence; the model is run on those again."""
    listed = cases.dependencies
    wrong = at[cases.rightness(at, head, direction) < 0.5]
    _, first = np.unique(listed.sentences[wrong], return_index=True)
    chosen = wrong[first][:limit]
    some = words.subset(listed.sentences[chosen].tolist())
    found: dict[int, Mistake] = {}

    def see(position: int, heads: slice, run: int, maps: Tensor) -> None:
        if not heads.start <= head < heads.stop:
            return
        case, sentence = int(chosen[position]), some.sentences[position]
        dependent, governor = int(listed.dependents[case]), int(listed.governors[case])
        to = int(pointed_at(maps, [dependent])[direction][head - heads.start, 0])
        pointed = None if to < 0 else sentence.words[to]
        if to != governor:
            found[case] = Mistake(sentence.text, sentence.words[dependent], pointed, sentence.words[governor])

    starts = np.cumsum([0, *(site.heads for site in model.sites)])
    site = int(np.searchsorted(starts, head, side="right")) - 1
    if len(chosen):
        attend_words(model, some, see, what=WHAT, sites=[site])
    return [found[case] for case in map(int, chosen) if case in found]


def pointed_at(maps: Tensor, dependents: Sequence[int] | Array) -> tuple[Array, Array]:
    """Where each head points from some words, in both directions, each (heads, dependents); -1 where nowhere.

    `maps` are (heads, words, words) attention between words; their diagonals are set to 0.
    """
    maps.diagonal(dim1=-2, dim2=-1).zero_()
    found = []
    for turned in (maps, maps.transpose(-1, -2)):
        most, at = turned[:, list(dependents)].max(dim=-1)  # of equals the first
        found.append(at.masked_fill(most <= 0.0, -1).cpu().numpy())
    return found[0], found[1]


def _count(model: ModelUnderTest, words: Words, listed: Dependencies, batching: Batching) -> Arrays:
    starts = np.searchsorted(listed.sentences, np.arange(len(words) + 1))
    right = np.zeros((len(listed), len(model.heads), len(DIRECTIONS)), dtype=np.uint8)
    runs = np.ones(len(model.heads), dtype=np.int64)

    def see(position: int, heads: slice, run: int, maps: Tensor) -> None:
        runs[heads] = np.maximum(runs[heads], run + 1)
        cases = slice(int(starts[position]), int(starts[position + 1]))
        for direction, pointed in enumerate(pointed_at(maps, listed.dependents[cases])):
            right[cases, heads, direction] += (pointed == listed.governors[cases]).T

    attend_words(model, words, see, what=WHAT, batching=batching)
    return {"right": right, "runs": runs}
