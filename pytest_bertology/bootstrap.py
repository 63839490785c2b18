"""Bounds on any drop by a paired bootstrap over examples, and what keeps it honest where examples are few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from pytest_bertology.significance import resample_counts
from pytest_bertology.statistics import Array, Bound, DropTest, MeanDrop, StrictestDrop

_ROWS = 2**22
"""Numbers of a block of the jackknife: all of them would be n times n."""
_BEYOND = 20
"""Resamples that lie beyond a bound, at least: fewer do not show where it is."""


@dataclass(frozen=True, eq=False)
class ResampledDrop:
    """A drop, and what it is on resamples of the examples: BCa bounds (Efron 1987)."""

    drawn: Array
    """(resamples,) ascending."""
    bias: float = 0.0
    """z0: the normal quantile of the share of resamples below the drop itself."""
    acceleration: float = 0.0
    """a: how the standard error changes with the drop."""
    method: str = "paired bootstrap (percentile)"

    def upper(self, confidence: float) -> float:
        """See `DropTest`."""
        return float(np.quantile(self.drawn, self._share(float(special.ndtri(confidence)))))

    def lower(self, confidence: float) -> float:
        """See `DropTest`."""
        return float(np.quantile(self.drawn, self._share(-float(special.ndtri(confidence)))))

    def p_value(self, margin: float, confidence: float) -> float:
        """See `DropTest`: 1 minus the confidence whose bound is `margin`; never below 1 / (resamples + 1)."""
        moved = float(special.ndtri(self._below(margin))) - self.bias
        stretch = 1.0 + self.acceleration * moved
        if np.isinf(moved) or stretch <= 0.0:
            p = 1.0 if moved < 0.0 else 0.0
        else:
            p = float(special.ndtr(self.bias - moved / stretch))
        return max(p, 1.0 / (len(self.drawn) + 1))

    def _share(self, z: float) -> float:
        """Up to which share of the resamples the bound goes whose normal quantile is `z`."""
        shifted = self.bias + z
        stretch = 1.0 - self.acceleration * shifted
        if stretch <= 0.0:
            return 1.0 if shifted > 0.0 else 0.0
        return float(special.ndtr(self.bias + shifted / stretch))

    def _below(self, margin: float) -> float:
        """The greatest share whose quantile is at most `margin`, interpolated as quantiles are."""
        count = int(np.searchsorted(self.drawn, margin, side="right"))
        if count in (0, len(self.drawn)):
            return float(count > 0)
        low, high = self.drawn[count - 1], self.drawn[count]
        return float((count - 1 + (margin - low) / (high - low)) / (len(self.drawn) - 1))


def bootstrap_upper_bound(
    drops: Callable[[Array], Array],
    n: int,
    confidence: float,
    *,
    at_least: DropTest | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Bound:
    """Upper bound on any drop of a score of `n` examples.

    `drops` gives (rows,) drops for (rows, n) counts of how often each example is drawn; NaN where there is none, which
    is left out. With few examples a bootstrap is too sure, whatever its kind, so that the bound is at least that of
    Student's t with the jackknife's standard error (Efron and Tibshirani 1993, chapters 11 and 14), and at least that
    of the test `at_least`. Infinite for fewer than two examples. More than `resamples` are drawn where the confidence
    needs them.
    """
    count = max(resamples, int(np.ceil(_BEYOND / (1.0 - confidence) - 1e-9)))
    observed = float(drops(np.ones((1, n)))[0])
    left = _jackknife(drops, n)
    drawn = np.sort(np.concatenate([np.array(drops(counts)) for counts in resample_counts(n, count, seed)]))
    drawn = drawn[np.isfinite(drawn)]
    tests: list[DropTest] = [] if at_least is None else [at_least]
    tests.append(_by_t(observed, left, n))
    if len(left) > 1 and len(drawn) > 1:
        tests.append(_resampled(observed, drawn, left))
    return Bound.of(StrictestDrop(tuple(tests), confidence), confidence)


def jackknifed(drops: Callable[[Array], Array], n: int) -> MeanDrop:
    """The drop, with the jackknife's standard error; `drops` as in `bootstrap_upper_bound`."""
    return _by_t(float(drops(np.ones((1, n)))[0]), _jackknife(drops, n), n)


def _by_t(observed: float, left: Array, n: int) -> MeanDrop:
    name = "Student's t with the jackknife's error"
    if len(left) < 2:
        return MeanDrop(observed, 0.0, 1, name)
    error = float(np.sqrt(np.sum((left - left.mean()) ** 2) * (n - 1) / n))
    return MeanDrop(observed, error, n, name)


def _jackknife(drops: Callable[[Array], Array], n: int) -> Array:
    """The drops without each of the examples; those that there are."""
    if n < 2:
        return np.zeros(0)
    size = max(1, _ROWS // n)
    blocks = []
    for start in range(0, n, size):
        rows = np.arange(start, min(n, start + size))
        counts = np.ones((len(rows), n))
        counts[np.arange(len(rows)), rows] = 0.0
        blocks.append(np.array(drops(counts)))  # a view would keep all the counts
    left: Array = np.concatenate(blocks)
    return left[np.isfinite(left)]


def _resampled(observed: float, drawn: Array, left: Array) -> ResampledDrop:
    share = (np.sum(drawn < observed) + np.sum(drawn <= observed)) / (2.0 * len(drawn))
    away = left.mean() - left
    spread = float(np.sum(away**2))
    if not 0.0 < share < 1.0 or spread <= 0.0 or drawn[0] == drawn[-1]:
        return ResampledDrop(drawn)
    acceleration = float(np.sum(away**3)) / (6.0 * spread**1.5)
    return ResampledDrop(drawn, float(special.ndtri(share)), acceleration, "paired bootstrap (BCa)")
