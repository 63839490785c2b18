"""Confidence bounds for paired results: how large may a drop be, given that the same examples were judged twice?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Array = npt.NDArray[Any]

_RESAMPLED = 2**20
"""Positions drawn at a time: the jackknife alone would hold n times n of them."""


@dataclass(frozen=True)
class Bound:
    """A one-sided upper confidence bound on a drop."""

    upper: float
    """The true drop is smaller than this, with probability `confidence` over samples of examples."""
    confidence: float
    method: str
    """The name of the procedure."""


def tango_upper_bound(worse: float, better: float, n: float, confidence: float) -> Bound:
    """Upper bound on the drop of a proportion between two paired judgements, by Tango's score interval.

    Of `n` examples `worse` became wrong and `better` became right. The score test of H0: drop = Δ is inverted
    (Tango 1998, Statistics in Medicine 17, eqs. 5-8); unlike a bootstrap it stays honest when few examples, or none,
    changed: the bound is then about z²/(n + z²), never 0. Numbers that are not whole are effective ones, of examples
    that are not independent.
    """
    z = float(stats.norm.ppf(confidence))

    def excess(delta: float) -> float:
        return _tango_score(worse, better, n, delta) + z

    low, high = min(max((worse - better) / n, -1.0 + 1e-12), 1.0 - 1e-9), 1.0 - 1e-12
    if excess(high) > 0.0:
        upper = 1.0
    elif excess(low) <= 0.0:  # at even odds the bound is the observed drop
        upper = low
    else:
        upper = float(optimize.brentq(excess, low, high, xtol=1e-10))
    return Bound(upper, confidence, "Tango's score interval")


def _tango_score(worse: float, better: float, n: float, delta: float) -> float:
    """Tango's statistic for H0: drop = delta; standard normal under H0."""
    a = 2.0 * n
    b = -worse - better + (2.0 * n - worse + better) * delta
    c = -better * delta * (1.0 - delta)
    better_rate = (np.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * better_rate + delta * (1.0 - delta))
    difference = worse - better - n * delta
    if variance <= 0.0:
        return 0.0 if difference == 0.0 else float(np.copysign(np.inf, difference))
    return float(difference / np.sqrt(variance))


def mean_upper_bound(differences: Array, confidence: float) -> Bound:
    """Upper bound on the mean of paired differences, by Student's t."""
    n = len(differences)
    if n < 2:
        return Bound(float("inf"), confidence, "Student's t")
    error = float(np.std(differences, ddof=1)) / np.sqrt(n)
    return Bound(float(np.mean(differences) + stats.t.ppf(confidence, n - 1) * error), confidence, "Student's t")


def bootstrap_upper_bound(
    drop: Callable[[Array], float], n: int, confidence: float, *, resamples: int = 2000, seed: int = 0
) -> Bound:
    """Upper bound on any drop, by a paired bootstrap over examples (BCa: Efron 1987).

    `drop` gives the drop on the examples at some positions, repeated as they are repeated there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of degenerate resamples; they are answered below
        result = stats.bootstrap(
            (np.arange(n),),
            lambda positions: drop(np.asarray(positions, dtype=np.int64)),
            vectorized=False,
            n_resamples=resamples,
            batch=max(1, _RESAMPLED // n),
            confidence_level=confidence,
            alternative="less",
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    upper = float(result.confidence_interval.high)
    if np.isfinite(upper):
        return Bound(upper, confidence, "paired bootstrap (BCa)")
    drawn = result.bootstrap_distribution
    return Bound(float(np.nanquantile(drawn, confidence)), confidence, "paired bootstrap (percentile)")


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
