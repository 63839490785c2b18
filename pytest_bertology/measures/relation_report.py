"""What is found of heads and dependency relations: for each relation the head that tracks it best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.words import Words
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.errors.base import some
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.relation_cases import DIRECTIONS, Cases, Dependencies, Mistake, mistakes
from pytest_bertology.measures.relation_intervals import Interval, paired_difference, share_interval
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.significance import adjusted_p_values

Array = npt.NDArray[Any]

ALL = "all"
"""All dependencies together, whatever their relation."""


@dataclass(frozen=True)
class OffsetBaseline:
    """How often the syntactic head stands a fixed number of words after the dependent (before, if negative)."""

    relation: str
    offset: int
    """The best of those tried, on the selecting part."""
    accuracy: float
    """On the reporting part, as all that follows."""
    interval: Interval
    cases: int


@dataclass(frozen=True)
class TrackedRelation:
    """How well one head finds the syntactic head of words with one relation, against the best fixed offset."""

    relation: str
    head: Head
    direction: str
    """"to_head": the dependent attends to its syntactic head; "from_head": it is attended to by it."""
    selection_accuracy: float
    """On the part that chose head, direction and offset: too high, as the best of many."""
    accuracy: float
    """On the reporting part, as all that follows."""
    interval: Interval
    """Of the accuracy; sentences are drawn, not words (`relation_intervals.share_interval`)."""
    cases: int
    sentences: int
    offset: int
    offset_accuracy: float
    difference: float
    """accuracy − offset_accuracy"""
    difference_interval: Interval
    """Paired, on the same cases."""
    p_value: float
    """Two-sided, of no difference; of this relation by itself."""
    confidence: float
    adjusted_p_value: float | None = None
    """Corrected by Holm's method for all relations of the report; None for another head than the chosen, or "all"."""

    @property
    def beats_offset(self) -> bool:
        """Whether the interval of the difference lies above 0; corrected for the number of relations, if chosen.

        A head that the report chose for one of many relations is judged by its corrected p-value.
        """
        if self.adjusted_p_value is not None:
            return self.difference > 0.0 and self.adjusted_p_value <= 1.0 - self.confidence + 1e-12
        return self.difference_interval[0] > 0.0

    def __str__(self) -> str:
        low, high = self.difference_interval
        return (
            f"{self.relation}: {self.head} ({self.direction}) {self.accuracy:.3f} of {self.cases} cases, offset "
            f"{self.offset:+d} {self.offset_accuracy:.3f}, difference {self.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        )


@dataclass(frozen=True, eq=False, repr=False)
class RelationReport:
    """How well each head tracks each relation, and for each relation the head that was chosen on other sentences."""

    model: str
    data: str
    """What is reported on."""
    selection: str
    """What chose heads and offsets."""
    heads: HeadMap
    relations: tuple[str, ...]
    """The relations reported, the most frequent first: those with `min_cases`, or those asked for."""
    rare: Mapping[str, int]
    """Relations left out of a report of all, and their cases: too few to report, or none to choose a head by."""
    offsets: tuple[int, ...]
    min_cases: int
    confidence: float
    sentences: int
    """How many are reported on."""
    selecting: int
    """How many chose."""
    left_out: int
    """Sentences not used to choose, since they are among those reported on."""
    missing: int
    """Words reported on that have no token: cut off, or dropped by the tokenizer."""
    skipped: int
    """Dependencies that are not judged, since one of their words has no token."""
    _reporting: Cases
    _selecting: Cases
    _words: Words

    def __repr__(self) -> str:
        found = f"{len(self.significant())} of {len(self.relations)} relations beat their offset"
        return f"RelationReport({self.model}: {found}; {self.sentences} sentences, {self.heads.describe()})"

    def cases(self, relation: str) -> int:
        """How many dependencies of a relation ("all": of any) are judged; raises InvalidArgument for an unknown one."""
        return len(self._at(relation))

    def best(self, relation: str) -> TrackedRelation:
        """The head and direction most often right about a relation on the selecting part, judged on the reporting part.

        Of equals the first in the model's order, "to_head" before "from_head". `relation` may be "all". Raises
        InvalidArgument for an unknown relation, UndefinedScore for one with too few cases.
        """
        self._check(relation)
        if relation != ALL and relation in self.relations:
            return self.bests[self.relations.index(relation)]
        return self._best(relation)

    @cached_property
    def bests(self) -> tuple[TrackedRelation, ...]:
        """`best` of each of `relations`; their p-values corrected together by Holm's method."""
        found = [self._best(relation) for relation in self.relations]
        adjusted = adjusted_p_values(np.array([each.p_value for each in found]), "holm")
        return tuple(replace(each, adjusted_p_value=float(p)) for each, p in zip(found, adjusted, strict=True))

    def significant(self) -> tuple[str, ...]:
        """The relations whose chosen head beats the best offset, corrected for the number of relations."""
        return tuple(each.relation for each in self.bests if each.beats_offset)

    def tracked(self, relation: str, head: HeadLike, direction: str | None = None) -> TrackedRelation:
        """How well a head of your choice tracks a relation; in the direction better on the selecting part, if None.

        Raises InvalidArgument, UnknownHead, and UndefinedScore for too few cases.
        """
        self._check(relation)
        index = self.heads.index(head)
        if direction is None:
            shares = self._selecting.shares(self._selecting_at(relation))[index]
            return self._tracked(relation, index, int(shares.argmax()))
        return self._tracked(relation, index, _direction(direction))

    def accuracy(self, relation: str, head: HeadLike, direction: str = "to_head") -> float:
        """The share of the relation's cases on which a head is right, on the reporting part."""
        self._check(relation)
        found: float = self._reporting.shares(self._at(relation))[self.heads.index(head), _direction(direction)]
        return float(found)

    def accuracies(self, relation: str, direction: str = "to_head") -> HeadScores:
        """`accuracy` of every head, for rankings and heat maps."""
        self._check(relation)
        values = self._reporting.shares(self._at(relation))[:, _direction(direction)]
        return HeadScores(values, self.heads, f"accuracy on {relation}, {direction}")

    def mistakes(self, model: ModelUnderTest, tracked: TrackedRelation, limit: int = 5) -> list[Mistake]:
        """Words that a head of this report is wrong about, one of a sentence; `model` reads those sentences again."""
        head, direction = self.heads.index(tracked.head), DIRECTIONS.index(tracked.direction)
        return mistakes(model, self._words, self._reporting, self._at(tracked.relation), head, direction, limit)

    def offset_baseline(self, relation: str) -> OffsetBaseline:
        """The fixed offset that is best on the selecting part, judged on the reporting part."""
        self._check(relation)
        at, offset = self._at(relation), self._offset(relation)
        listed = self._reporting.dependencies
        right = listed.at_offset(at, offset)
        interval = share_interval(right, listed.sentences[at], self.confidence)
        return OffsetBaseline(relation, offset, float(right.mean()), interval, len(at))

    def table(self, k: int | None = None) -> str:
        """The `k` most frequent relations (default: all reported) and their best heads, as text of a line each."""
        shown = self.bests if k is None else self.bests[: _at_least_one(k)]
        return "\n".join([*self._preamble(), *_lines([*shown, self._best(ALL)])])

    def _preamble(self) -> list[str]:
        beat, tests = len(self.significant()), len(self.relations)
        left = f" ({self.left_out} left out, as they are reported on)" if self.left_out else ""
        lines = [
            f"best head per relation: {self.model}, {self.heads.describe()}; chosen of {2 * len(self.heads)} heads and "
            f"directions on {self.selecting} sentences of {self.selection}{left}",
            f"reported on {self.sentences} sentences of {self.data}; intervals: {self.confidence:.0%}, sentences drawn",
            f"{beat} of {tests} relations beat the best of the offsets "
            f"{', '.join(f'{offset:+d}' for offset in self.offsets)} (p: Holm's, over {tests})",
        ]
        if self.missing:
            lines.append(f"{self.missing} words have no token: {self.skipped} dependencies are not judged")
        if self.rare:
            rare = ", ".join(f"{name} {count}" for name, count in self.rare.items())
            lines.append(f"too few cases to choose or report (fewer than {self.min_cases}): {rare}")
        return lines

    def _check(self, relation: str) -> None:
        """Raise InvalidArgument for an unknown relation, UndefinedScore for one of too few cases."""
        count = self.cases(relation)
        if count < self.min_cases or not len(self._selecting_at(relation)):
            raise too_few_cases({relation: count}, self.min_cases, self._selecting.dependencies)

    def _best(self, relation: str) -> TrackedRelation:
        shares = self._selecting.shares(self._selecting_at(relation))
        index, direction = np.unravel_index(int(shares.argmax()), shares.shape)
        return self._tracked(relation, int(index), int(direction))

    def _tracked(self, relation: str, index: int, direction: int) -> TrackedRelation:
        at, listed = self._at(relation), self._reporting.dependencies
        offset, clusters = self._offset(relation), listed.sentences[at]
        right, baseline = self._reporting.rightness(at, index, direction), listed.at_offset(at, offset)
        compared = paired_difference(right, baseline, clusters, self.confidence)
        return TrackedRelation(
            relation=relation,
            head=self.heads[index],
            direction=DIRECTIONS[direction],
            selection_accuracy=float(self._selecting.shares(self._selecting_at(relation))[index, direction]),
            accuracy=float(right.mean()),
            interval=share_interval(right, clusters, self.confidence),
            cases=len(at),
            sentences=len(np.unique(clusters)),
            offset=offset,
            offset_accuracy=float(baseline.mean()),
            difference=compared.difference,
            difference_interval=compared.interval,
            p_value=compared.p_value,
            confidence=self.confidence,
        )

    def _offset(self, relation: str) -> int:
        at = self._selecting_at(relation)
        right = [self._selecting.dependencies.at_offset(at, offset).mean() for offset in self.offsets]
        return self.offsets[int(np.argmax(right))]

    def _at(self, relation: str) -> Array:
        """Positions of a relation's cases on the reporting part."""
        listed = self._reporting.dependencies
        if relation != ALL and relation not in listed.names:
            raise unknown_relation(relation, listed.counts)
        return listed.of(None if relation == ALL else relation)

    def _selecting_at(self, relation: str) -> Array:
        return self._selecting.dependencies.of(None if relation == ALL else relation)


def _direction(direction: object) -> int:
    if direction not in DIRECTIONS:
        raise InvalidArgument("direction", direction, " or ".join(map(repr, DIRECTIONS)))
    return DIRECTIONS.index(str(direction))


def _at_least_one(k: Any) -> int:
    if not is_whole(k) or k < 1:
        raise InvalidArgument("k", k, "a whole number from 1, or None")
    return int(k)


def _lines(rows: Sequence[TrackedRelation]) -> list[str]:
    wide = max(8, *(len(each.relation) for each in rows))
    head = max(4, *(len(str(each.head)) for each in rows))
    lines = [
        f"{'relation':<{wide}}  {'cases':>6}  {'head':<{head}}  {'direction':<9}  {'accuracy':>8}  {'interval':<14}  "
        f"{'offset':>6}  {'accuracy':>8}  {'difference':>10}  {'interval':<16}  {'p':>8}  beats"
    ]
    for each in rows:
        p = each.p_value if each.adjusted_p_value is None else each.adjusted_p_value
        within, between = each.interval, each.difference_interval
        lines.append(
            f"{each.relation:<{wide}}  {each.cases:>6}  {each.head!s:<{head}}  {each.direction:<9}  "
            f"{each.accuracy:>8.3f}  [{within[0]:.3f}, {within[1]:.3f}]  {each.offset:>+6d}  "
            f"{each.offset_accuracy:>8.3f}  {each.difference:>+10.3f}  [{between[0]:+.3f}, {between[1]:+.3f}]  "
            f"{f'{p:.2g}' if p > 1e-99 else '<1e-99':>8}  {'yes' if each.beats_offset else 'no'}"
        )
    return lines


def unknown_relation(relation: object, known: Iterable[str]) -> InvalidArgument:
    """The error of a relation that the data does not have."""
    return InvalidArgument("relation", relation, f"one that the sentences reported on have: {', '.join(known)}")


def too_few_cases(counts: Mapping[str, int], min_cases: int, choosing: Dependencies) -> UndefinedScore:
    """The error of relations that cannot be judged."""
    wanted = f"{min_cases} cases are needed to report on (min_cases), and one to choose a head by"
    found = [f"{name} has {count}, and {_choosing(name, choosing)} to choose by" for name, count in counts.items()]
    return UndefinedScore(
        "the accuracy of heads on relations", f"{wanted}; {some(found) or 'no word depends on another'}"
    )


def _choosing(relation: str, listed: Dependencies) -> int:
    return len(listed.of(None if relation == ALL else relation))
