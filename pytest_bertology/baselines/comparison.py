"""What a comparison with a baseline found, and the limits that it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_bertology.errors import InvalidArgument

LEVEL = 0.05
"""The chance of a false alarm that a comparison without a limit of its own takes, unless told otherwise."""


@dataclass(frozen=True)
class Limits:
    """How far a value may be from its baseline; None for what chance alone may do."""

    tolerance: float | None = None
    """How much worse a score, or how far off a figure, may be."""
    relative: bool = False
    """Whether the tolerance is a share of the baseline."""
    confidence: float = 0.95
    """That a drop is within the tolerance."""
    max_changed: float | None = None
    """The greatest share of predictions that may differ."""
    min_correlation: float | None = None
    """The least rank correlation across heads."""
    min_overlap: float | None = None
    """The least share of the `top` heads that must stay among them."""
    top: int | None = None
    """How many heads count as the most important; a quarter of them by default."""
    higher_is_better: bool | None = None
    """Of numbers: which way is no fault; None where either is."""
    level: float = LEVEL
    """The chance of a false alarm."""

    def __post_init__(self) -> None:
        _within("tolerance", self.tolerance, 0.0, float("inf"), "a number from 0")
        _within("confidence", self.confidence, 0.5, 1.0 - 1e-12, "a number from 0.5 to below 1, such as 0.95")
        _within("max_changed", self.max_changed, 0.0, 1.0 - 1e-12, "a share of the predictions, from 0 to below 1")
        _within("min_correlation", self.min_correlation, -1.0 + 1e-12, 1.0, "a correlation from above -1 to 1")
        _within("min_overlap", self.min_overlap, 1e-12, 1.0, "a share of the top heads, from above 0 to 1")
        if self.top is not None and (isinstance(self.top, bool) or not isinstance(self.top, int) or self.top < 1):
            raise InvalidArgument("top", self.top, "a number of heads from 1")

    def only(self, what: str, *allowed: str) -> None:
        """Raise InvalidArgument where another limit than these is set: it would never be looked at."""
        for each in fields(self):
            given = getattr(self, each.name)
            if each.name not in (*allowed, "level") and given != each.default:
                raise InvalidArgument(each.name, given, f"one of {', '.join(allowed)}: those judge {what}")
        if self.relative and self.tolerance is None:
            raise InvalidArgument("relative", True, "a tolerance with it")


def _within(name: str, value: Any, low: float, high: float, expected: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value != value:
        raise InvalidArgument(name, value, expected)


@dataclass(frozen=True, repr=False)
class Comparison:
    """A value beside its baseline."""

    name: str = ""
    """Of the baseline."""
    passed: bool = True
    inconclusive: bool = False
    observed: float | None = None
    required: str = ""
    judged: str = ""
    p_value: float | None = None
    """Of no change for the worse, where a test decides."""
    tests: str = ""
    """ "change" where that test decides: it is one of the run's family, which is corrected for its size."""
    title: str = ""
    """What is wrong, in a line."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """What was found, by name."""
    lines: tuple[str, ...] = ()
    """Below the rows: examples, heads, figures."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    baseline: float | None = None
    score: float | None = None
    examples: int | None = None
    heads: tuple[str, ...] = ()
    better: bool = False
    """Whether the candidate is surely better: the baseline should be updated."""
    power: tuple[str, ...] = ()
    """What the comparison could have seen."""
    new: bool = False
    """Whether there was no baseline, and this value becomes it."""
    replaced: bool = False
    """Whether this value replaces the baseline."""
    confidence: float | None = None
    """Of a bound on a drop, where that is what is judged."""
    needed: int | None = None
    """Of an inconclusive one: about how many examples it takes, where that is known."""
    told: str = ""
    """What is said of it in a line, where that is no number beside its limit."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """Provenance that differs: what is warned of."""

    def __repr__(self) -> str:
        if self.new or self.replaced:
            return f"Comparison({self.name}: {'new' if self.new else 'replaced'})"
        outcome = "passed" if self.passed else "inconclusive" if self.inconclusive else "failed"
        return f"Comparison({self.name}: {outcome}, {self.judged} {self.observed}, required {self.required})"
