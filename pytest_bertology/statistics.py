"""Confidence bounds for paired results: how large may a drop be, given that the same examples were judged twice?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from pytest_bertology.paired_proportions import (
    EXACT_UP_TO,
    exact_bound,
    exact_p_value,
    tango_bound,
    tango_score,
)

Array = npt.NDArray[Any]


class DropTest(Protocol):
    """What paired results say about the true drop: one-sided bounds, and p-values that agree with them."""

    @property
    def method(self) -> str:
        """The name of the procedure."""

    def upper(self, confidence: float) -> float:
        """The true drop is smaller, with this probability over samples of examples."""

    def lower(self, confidence: float) -> float:
        """The true drop is greater, with this probability."""

    def p_value(self, margin: float, confidence: float) -> float:
        """Of H0: the drop is `margin` or more; at most 1 − confidence just where the upper bound is at most margin."""


@dataclass(frozen=True)
class Bound:
    """A one-sided upper confidence bound on a drop, and the test that it is of."""

    upper: float
    """The true drop is smaller than this, with probability `confidence` over samples of examples."""
    confidence: float
    method: str
    """The name of the procedure."""
    test: DropTest | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, test: DropTest, confidence: float) -> Bound:
        """The bound that a test gives."""
        return cls(test.upper(confidence), confidence, test.method, test)

    @property
    def lower(self) -> float:
        """The true drop is greater than this, with the same probability; the two together with less."""
        return float("-inf") if self.test is None else self.test.lower(self.confidence)

    def p_value(self, margin: float) -> float:
        """Of H0: the true drop is `margin` or more, against a smaller one; <= 1 − confidence iff upper <= margin."""
        return 1.0 if self.test is None else self.test.p_value(margin, self.confidence)


@dataclass(frozen=True)
class ProportionDrop:
    """Of `n` examples `worse` became wrong and `better` right: exact bounds ordered by Tango's (`paired_proportions`).

    Tango's own, which is asymptotic, for more than `EXACT_UP_TO` examples.
    """

    worse: int
    better: int
    n: int

    @property
    def exact(self) -> bool:
        """Whether bounds are exact."""
        return self.n <= EXACT_UP_TO

    @property
    def method(self) -> str:
        """The name of the procedure."""
        return "Tango's score interval" + (", exact" if self.exact else "")

    def upper(self, confidence: float) -> float:
        """See `DropTest`."""
        bound = exact_bound if self.exact else tango_bound
        return bound(self.worse, self.better, self.n, confidence)

    def lower(self, confidence: float) -> float:
        """See `DropTest`: the upper bound with the two judgements exchanged."""
        return -ProportionDrop(self.better, self.worse, self.n).upper(confidence)

    def p_value(self, margin: float, confidence: float) -> float:
        """See `DropTest`."""
        if self.exact:
            return exact_p_value(self.worse, self.better, self.n, margin, confidence)
        return float(special.ndtr(tango_score(self.worse, self.better, self.n, margin)))


@dataclass(frozen=True)
class MeanDrop:
    """A mean of `n` differences and its standard error, by Student's t."""

    mean: float
    error: float
    n: int
    method: str = "Student's t"

    @classmethod
    def of(cls, differences: Array) -> MeanDrop:
        """The mean of these."""
        n = len(differences)
        error = float(np.std(differences, ddof=1)) / np.sqrt(n) if n > 1 else 0.0
        return cls(float(np.mean(differences)) if n else 0.0, float(error), n)

    def upper(self, confidence: float) -> float:
        """See `DropTest`; infinite for fewer than two differences."""
        if self.n < 2:
            return float("inf")
        return self.mean + float(special.stdtrit(self.n - 1, confidence)) * self.error

    def lower(self, confidence: float) -> float:
        """See `DropTest`."""
        return 2.0 * self.mean - self.upper(confidence)

    def p_value(self, margin: float, confidence: float) -> float:
        """See `DropTest`; the same at every confidence."""
        if self.n < 2:
            return 1.0
        if self.error == 0.0:
            return 0.0 if self.mean <= margin else 1.0
        return float(special.stdtr(self.n - 1, (self.mean - margin) / self.error))


@dataclass(frozen=True)
class StrictestDrop:
    """Several tests of one drop, of which the most cautious counts: it is valid where any of them is."""

    tests: Sequence[DropTest]
    confidence: float
    """Decides which one gives its name."""

    @property
    def method(self) -> str:
        """The name of the procedure whose upper bound is the greatest."""
        return max(self.tests, key=lambda test: test.upper(self.confidence)).method

    def upper(self, confidence: float) -> float:
        """See `DropTest`."""
        return max(test.upper(confidence) for test in self.tests)

    def lower(self, confidence: float) -> float:
        """See `DropTest`."""
        return min(test.lower(confidence) for test in self.tests)

    def p_value(self, margin: float, confidence: float) -> float:
        """See `DropTest`."""
        return max(test.p_value(margin, confidence) for test in self.tests)


def proportion_upper_bound(worse: int, better: int, n: int, confidence: float) -> Bound:
    """Upper bound on the drop of a proportion between two paired judgements of `n` examples (`ProportionDrop`).

    Honest when few examples, or none, changed: the bound is then about 3/n, never 0.
    """
    return Bound.of(ProportionDrop(worse, better, n), confidence)


def tango_upper_bound(worse: float, better: float, n: float, confidence: float) -> Bound:
    """Upper bound on the drop of a proportion between two paired judgements, by Tango's score interval.

    Of `n` examples `worse` became wrong and `better` became right. The score test of H0: drop = Δ is inverted
    (Tango 1998, Statistics in Medicine 17, eqs. 5-8); unlike a bootstrap it stays honest when few examples, or none,
    changed: the bound is then about z²/(n + z²), never 0. Numbers that are not whole are effective ones, of examples
    that are not independent.
    """
    return Bound(tango_bound(worse, better, n, confidence), confidence, "Tango's score interval")


def mean_upper_bound(differences: Array, confidence: float) -> Bound:
    """Upper bound on the mean of paired differences, by Student's t."""
    return Bound.of(MeanDrop.of(differences), confidence)


def median_bounds(values: Array, confidence: float) -> tuple[float, float]:
    """A lower and an upper bound on the median of what `values` are drawn from, each alone with `confidence`.

    Order statistics: of n values the k-th smallest is below the median with probability P(Binomial(n, 1/2) >= k),
    whatever they are distributed like (Conover, Practical Nonparametric Statistics, 3.2). -inf and inf where they are
    fewer than `pairs_needed`.
    """
    ordered, n = np.sort(values), len(values)
    if n < pairs_needed(confidence):
        return float("-inf"), float("inf")
    ranks = np.arange(1, n + 1)
    k = int(ranks[stats.binom.sf(ranks - 1, n, 0.5) >= confidence - 1e-12][-1])
    return float(ordered[k - 1]), float(ordered[n - k])


def pairs_needed(confidence: float) -> int:
    """How many values it takes for their smallest to be below the median with `confidence`: 1 − 2⁻ⁿ reaches it."""
    return int(np.ceil(-np.log2(1.0 - confidence) - 1e-9))
