"""What the attention probe found: how many syntactic heads, against a single head, a fixed offset, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads import Head, HeadScores
from pytest_bertology.measures.relation_cases import Dependencies
from pytest_bertology.measures.relation_intervals import Interval, PairedDifference, paired_difference, share_interval

Array = npt.NDArray[Any]

PROBE, HEAD, OFFSET, RANDOM = "probe", "head", "offset", "random"
_NAMES = {PROBE: "probe", HEAD: "best head", OFFSET: "best offset", RANDOM: "random weights"}


@dataclass(frozen=True, eq=False, repr=False)
class AttentionProbe:
    """Unlabelled attachment scores: the share of words whose syntactic head is found, on sentences not trained on.

    Roots have no head and are not asked for; nor are words cut off, or whose heads are. Punctuation counts.
    """

    model: str
    data: str
    training: str
    """Names of the sentences reported on and trained on."""
    sentences: int
    trained_on: int
    """How many sentences there are of each."""
    to_head: HeadScores
    """The weight of each head's A: of the attention from a word to its candidate head."""
    from_head: HeadScores
    """The weight of each head's Aᵀ: of the attention from the candidate head to the word."""
    loss: float
    """Mean cross entropy on the training sentences, in nats, and the penalty."""
    best_head: Head
    direction: str
    """The single head that does best on the training sentences: "to_head" or "from_head"."""
    offset: int
    """The fixed offset that does best on the training sentences."""
    penalty: float
    seed: int
    confidence: float
    """Of the intervals."""
    skipped: int
    """Words not asked for since they, or their heads, have no token."""
    _cases: Dependencies = field(repr=False)
    _right: Mapping[str, Array] = field(repr=False)
    """For each way, and each word asked for, 1.0 where it is right."""

    def __repr__(self) -> str:
        others = ", ".join(f"{_NAMES[way]} {self._uas(way):.3f}" for way in self.ways if way != PROBE)
        return f"AttentionProbe({self.model} on {self.data}: UAS {self.uas:.3f}; {others})"

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def ways(self) -> tuple[str, ...]:
        """The probe and what it is compared with: "probe", "head", "offset" and, if asked for, "random"."""
        return tuple(self._right)

    @property
    def uas(self) -> float:
        """Of the probe."""
        return self._uas(PROBE)

    @property
    def head_uas(self) -> float:
        """Of `best_head` alone, by its greatest weight."""
        return self._uas(HEAD)

    @property
    def offset_uas(self) -> float:
        """Of the word `offset` places on."""
        return self._uas(OFFSET)

    @property
    def random_uas(self) -> float:
        """Of the same probe, trained on the same architecture with random weights; UndefinedScore if not asked for."""
        return self._uas(RANDOM)

    @cached_property
    def interval(self) -> Interval:
        """Of `uas`, at `confidence`; sentences are drawn, not words."""
        return self.interval_of(PROBE)

    def interval_of(self, way: str) -> Interval:
        """Of one of `ways`."""
        return share_interval(self._of(way), self._cases.sentences, self.confidence)

    def lead(self, over: str) -> PairedDifference:
        """How much better the probe is than one of the other `ways` on the same words, with interval and p-value."""
        return paired_difference(self._right[PROBE], self._of(over), self._cases.sentences, self.confidence)

    @cached_property
    def relations(self) -> dict[str, float]:
        """UAS by relation without subtypes, the most frequent first."""
        return {name: self.relation(name) for name in self._cases.counts}

    def relation(self, name: str, way: str = PROBE) -> float:
        """UAS on words of one relation; raises InvalidArgument for one that is not there."""
        if name not in self._cases.counts:
            raise InvalidArgument("relation", name, f"one of {', '.join(self._cases.counts)}")
        return float(self._of(way)[self._cases.of(name)].mean())

    def table(self, min_cases: int = 20) -> str:
        """All ways with their intervals, and all relations of as many cases, as text."""
        said = {HEAD: f" {self.best_head} {self.direction}", OFFSET: f" {self.offset:+d}"}
        names = {way: _NAMES[way] + said.get(way, "") for way in self.ways}
        width = max(map(len, names.values()))
        lines = [
            f"attention probe of {self.model}: UAS on {len(self)} words of {self.sentences} sentences of {self.data}; "
            f"trained on {self.trained_on} of {self.training}",
            f"{'':<{width}}  {'UAS':>6}  {f'{self.confidence:.0%} interval':>16}  {'lead of the probe':>26}",
        ]
        for way, name in names.items():
            low, high = self.interval_of(way)
            line = f"{name:<{width}}  {self._uas(way):>6.3f}  {f'{low:.3f} to {high:.3f}':>16}"
            if way != PROBE:
                lead = self.lead(way)
                line += f"  {f'{lead.difference:+.3f} ({lead.interval[0]:+.3f} to {lead.interval[1]:+.3f})':>26}"
            lines.append(line)
        if self.skipped:
            lines.append(f"{self.skipped} words are not judged: they, or their heads, have no token")
        width = max([8, *map(len, self._cases.counts)])
        lines += ["", "  ".join([f"{'relation':<{width}}", f"{'cases':>6}", *(f"{way:>6}" for way in self.ways)])]
        for name, count in self._cases.counts.items():
            if count >= min_cases:
                shares = (f"{self.relation(name, way):>6.3f}" for way in self.ways)
                lines.append("  ".join([f"{name:<{width}}", f"{count:>6}", *shares]))
        return "\n".join(lines)

    def _uas(self, way: str) -> float:
        return float(self._of(way).mean())

    def _of(self, way: str) -> Array:
        if way == RANDOM and way not in self._right:
            raise UndefinedScore("the UAS of random weights", "it was not measured: random_model was False")
        if way not in self._right:
            raise InvalidArgument("way", way, f"one of {', '.join(map(repr, self.ways))}")
        return self._right[way]
