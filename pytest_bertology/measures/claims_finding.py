"""What was found of a claim: the judged numbers, their intervals, and what follows from them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pytest_bertology.engine.batching import Batching
from pytest_bertology.measures.claims_catalogue import Claim
from pytest_bertology.models import ModelUnderTest

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "cannot be decided from this data"

EARLY, MIDDLE, FINAL = "early", "middle", "final"


class Comparison(NamedTuple):
    """Something compared with something else, and the confidence interval of the difference."""

    what: str
    difference: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.what}: {self.difference:+.4f} [{low:+.4f}, {high:+.4f}]"


@dataclass(frozen=True)
class Examined:
    """What is examined, and on which data."""

    claim: Claim
    model: ModelUnderTest
    conllu: Any
    task: Any
    texts: Any
    base: Any
    train: Any
    confidence: float
    seed: int
    batching: Batching | None


@dataclass(frozen=True, eq=False, repr=False)
class ClaimFinding:
    """Whether a claim holds of a model on some data, and by which evidence."""

    claim: Claim
    model: str
    data: str
    """Names."""
    outcome: str
    """"holds", "does not hold" or "cannot be decided from this data"."""
    reason: str
    """Why that is the outcome."""
    value: float
    """The judged number: the difference, cost or share that decides."""
    interval: tuple[float, float]
    """Of `value`; of a share of relations, as it would be if none, and all, of those that cannot be told counted."""
    required: str
    """What `value` must surely be."""
    judged: str
    """What `value` is."""
    examples: int
    """Items, texts or examples judged."""
    confidence: float
    evidence: Any = field(repr=False)
    """What the measure returned: a ProbeReport, PruningCurve, RelationReport, or (texts, layers) changes."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """More of the evidence, to be read."""

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"ClaimFinding({self.claim.name!r} {self.outcome}: {self.value:.4f} [{low:.4f}, {high:.4f}], {self.data})"
        )

    @property
    def holds(self) -> bool:
        """Whether the claim surely holds."""
        return self.outcome == HOLDS

    @property
    def decided(self) -> bool:
        """Whether it surely holds or surely does not."""
        return self.outcome != UNDECIDED

    def table(self) -> str:
        """The claim, what was measured, and what follows: text of some lines."""
        low, high = self.interval
        rows = {
            "model": self.model,
            "data": self.data,
            "outcome": f"{self.outcome}: {self.reason}",
            "judged": f"{self.judged}: {self.value:.4f} [{low:.4f}, {high:.4f}] at {self.confidence:.0%}",
            "required": self.required,
            **self.rows,
            "source": "; ".join(self.claim.sources),
        }
        width = max(map(len, rows)) + 2
        lines = [f"claim: {self.claim.statement}"]
        for name, text in rows.items():
            lines += textwrap.wrap(text, 118, initial_indent=f"  {name:<{width}}", subsequent_indent=" " * (width + 2))
        return "\n".join(lines)


def decide(comparisons: Sequence[Comparison]) -> tuple[str, str, Comparison]:
    """Whether all differences are surely above 0, one is surely below, or neither; why; and the one that decides.

    All must hold for the claim, so that each is tested at the full confidence (intersection-union).
    """
    below = [each for each in comparisons if each.interval[1] < 0.0]
    if below:
        worst = min(below, key=lambda each: each.difference)
        return FAILS, f"surely not above 0: {worst.what}", worst
    unsure = [each for each in comparisons if each.interval[0] <= 0.0]
    if unsure:
        worst = min(unsure, key=lambda each: each.interval[0])
        return UNDECIDED, f"the interval holds 0: {worst.what}. More data may decide", worst
    least = min(comparisons, key=lambda each: each.difference)
    return HOLDS, "all differences are surely above 0", least


def third(layer: int, last: int) -> str:
    """Of layers 1 to `last` those up to a third are early, those above two thirds final; 0, the embeddings, early."""
    return EARLY if 3 * layer <= last else MIDDLE if 3 * layer <= 2 * last else FINAL
