"""The drop of a proportion between two paired judgements: Tango's score test, and exact bounds ordered by it.

Of n examples `worse` become wrong and `better` become right; the rest does not change. The counts are trinomial, with
the drop Δ = P(worse) − P(better) and the nuisance parameter q = P(better).

Tango's score interval (1998) is asymptotic: with few examples a one-sided bound of 95 % holds in 90 to 95 % of samples.
The bounds here are exact. All outcomes are ordered by Tango's bound, and the upper bound after an outcome x is the
greatest drop under which outcomes up to x have more than a chance of 1 − confidence, whatever q is (Buehler 1957; for
paired proportions: Lloyd and Moldovan 2007, Statistics in Medicine 26, 3369-3384). That is valid for any order, and one
thing about Tango's is changed: it puts some outcomes in which an example became wrong, such as 1 worse and 9 better,
before that in which nothing changed, whose bound they raise in steps from 3/n to 3.6/n. Here an outcome without a worse
example comes as early as it must for the bound, where nothing changed, to be 1 − (1 − confidence)^(1/n). As the set of
outcomes up to x does not depend on the drop, the chance falls as the drop grows: there is one bound, and the p-value of
H0: drop >= Δ, the greatest chance under Δ, is at most 1 − confidence just where the bound is at most Δ.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Array = npt.NDArray[Any]

EXACT_UP_TO = 5_000
"""Examples. With more, Tango's bound fails in under 5.2 % of samples where it may in 5 %, and exact ones are slow."""
_TIE = 1e-9
"""Bounds that differ by less differ by rounding only."""
_APART = 5e-8
"""More than places are found to within."""
_GRID, _ROUNDS, _FINER = 48, 3, 9
"""Values of q that are tried, and how the search is narrowed around the best."""
_FINE = 400
"""Values of q on a grid that is not narrowed."""
_TAIL, _AT_LEAST = 7.0, 12
"""Numbers of improved examples that count: so many standard deviations around their mean, and so many at least."""


def tango_bound(worse: float, better: float, n: float, confidence: float) -> float:
    """Tango's upper bound on the drop (Statistics in Medicine 17, eqs. 5-8): where the score test stops rejecting."""
    z = float(special.ndtri(confidence))

    def excess(delta: float) -> float:
        return float(tango_score(worse, better, n, delta)) + z

    low, high = min(max((worse - better) / n, -1.0 + 1e-12), 1.0 - 1e-9), 1.0 - 1e-12
    if excess(high) > 0.0:
        return 1.0
    if excess(low) <= 0.0:  # at even odds the bound is the observed drop
        return low
    return float(optimize.brentq(excess, low, high, xtol=1e-10))


def tango_score(worse: Any, better: Any, n: float, delta: float) -> Any:
    """Tango's statistic for H0: drop = delta, of numbers or arrays; standard normal under H0."""
    b = -worse - better + (2.0 * n - worse + better) * delta
    c = -better * delta * (1.0 - delta)
    better_rate = (np.sqrt(np.maximum(b * b - 8.0 * n * c, 0.0)) - b) / (4.0 * n)
    variance = n * (2.0 * better_rate + delta * (1.0 - delta))
    difference = worse - better - n * delta
    with np.errstate(divide="ignore", invalid="ignore"):
        certain = np.where(difference == 0.0, 0.0, np.copysign(np.inf, difference))
        return np.where(variance <= 0.0, certain, difference / np.sqrt(variance))


@lru_cache(maxsize=512)
def exact_bound(worse: int, better: int, n: int, confidence: float) -> float:
    """The exact upper bound on the drop."""
    return bound_of(region(n, _place(worse, better, n, confidence), confidence), n, confidence)


@lru_cache(maxsize=512)
def exact_p_value(worse: int, better: int, n: int, margin: float, confidence: float) -> float:
    """The exact p-value of H0: drop >= margin, by the order that the bound of this confidence goes by."""
    if not -1.0 < margin < 1.0:
        return 1.0 if margin <= -1.0 or worse == n else 0.0
    return greatest_share(region(n, _place(worse, better, n, confidence), confidence), n, margin)


def region(n: int, limit: float, confidence: float, most: int | None = None) -> Array:
    """(n + 1,) for each number of improved examples, with how many worse ones at most it comes up to `limit`.

    −1 where not even without any. Numbers of improved examples above `most` are left out. `limit` is on the scale of
    Tango's bound, which is all that counts for more than EXACT_UP_TO examples.
    """
    outcomes = _tango_region(n, limit, confidence, most)
    if n > EXACT_UP_TO or limit < _place_of_no_loss(n, confidence):
        return outcomes
    return np.maximum(outcomes, 0)


def _place(worse: int, better: int, n: int, confidence: float) -> float:
    """Where an outcome stands in the order, on the scale of Tango's bound."""
    bound = tango_bound(worse, better, n, confidence)
    return bound if worse else min(bound, _place_of_no_loss(n, confidence))


@lru_cache(maxsize=512)
def _place_of_no_loss(n: int, confidence: float) -> float:
    """The last place at which outcomes without a worse example do not raise the bound above that of (1 − Δ)ⁿ."""
    level = 1.0 - confidence
    rule = -float(np.expm1(np.log(level) / n))

    def too_late(limit: float) -> bool:
        rates = (1.0 - rule) / 2.0 * np.sin(np.linspace(0.0, np.pi / 2.0, _FINE)) ** 2
        shares = share(np.maximum(_tango_region(n, limit, confidence), 0), n, rule, rates)
        # At rate 0 the chance is just the level, and falls from there; where it rises again, stay clearly below.
        rising = np.flatnonzero(np.diff(shares) > 0.0)
        return len(rising) > 0 and float(shares[rising[0] :].max()) > 0.999 * level

    last, step = tango_bound(0, 0, n, confidence), 0.01 / n
    if not too_late(last):
        return last - _APART
    early = last
    while early > -1.0 and too_late(early):
        last, early, step = early, max(-1.0, early - step), 2.0 * step
    while last - early > _APART / 5.0:
        middle = (early + last) / 2.0
        early, last = (early, middle) if too_late(middle) else (middle, last)
    return early - _APART


def _tango_region(n: int, limit: float, confidence: float, most: int | None = None) -> Array:
    """A `region` by Tango's bound alone."""
    better = np.arange(n + 1 if most is None else min(n, most) + 1)
    if limit >= 1.0:
        return n - better
    z, delta = float(special.ndtri(confidence)), limit + _TIE
    holds, fails = np.full(len(better), -1), n - better + 1
    while (fails - holds > 1).any():
        middle = (holds + fails) // 2
        held = tango_score(middle, better, n, delta) <= -z
        held = np.where(middle < 0, True, held)
        holds, fails = np.where(held, middle, holds), np.where(held, fails, middle)
    return holds


def bound_of(outcomes: Array, n: int, confidence: float) -> float:
    """The greatest drop under which `outcomes` (a `region`) have more than a chance of 1 − confidence."""
    level = 1.0 - confidence

    def excess(drop: float) -> float:
        return greatest_share(outcomes, n, drop) - level

    low, high = -1.0 + 1e-9, 1.0 - 1e-9
    if excess(high) > 0.0:
        return 1.0
    if excess(low) <= 0.0:
        return low
    return float(optimize.brentq(excess, low, high, xtol=1e-11))


def greatest_share(outcomes: Array, n: int, drop: float) -> float:
    """How often `outcomes` (a `region`) come about at most, whatever share of the examples improves."""
    low, high = max(0.0, -drop), (1.0 - drop) / 2.0
    # Even steps of the angle are even steps of a share's standard deviation; the end q = low is among them.
    angles = np.linspace(0.0, np.pi / 2.0, _GRID)
    best = 0.0
    for _ in range(_ROUNDS):
        shares = share(outcomes, n, drop, low + (high - low) * np.sin(angles) ** 2)
        at = int(np.argmax(shares))
        best = max(best, float(shares[at]))
        angles = np.linspace(angles[max(0, at - 1)], angles[min(len(angles) - 1, at + 1)], _FINER)
    return best


def share(outcomes: Array, n: int, drop: float, better_rates: Array) -> Array:
    """(rates,) how often `outcomes` (a `region`) come about, where that share of the examples improves."""
    better_rates = np.clip(better_rates, 0.0, 1.0)
    first = most_likely(n, better_rates, -1.0)
    last = np.minimum(len(outcomes) - 1, most_likely(n, better_rates, 1.0))
    sizes = last - first + 1
    starts = np.cumsum(sizes) - sizes
    better = np.arange(sizes.sum()) - np.repeat(starts - first, sizes)
    rates = np.repeat(better_rates, sizes)
    chance = np.exp(_choices(n)[better] + special.xlogy(better, rates) + special.xlog1py(n - better, -rates))
    most = outcomes[better]
    among = np.clip((rates + drop) / np.maximum(1.0 - rates, 1e-300), 0.0, 1.0)
    held = np.where(most >= 0, special.bdtr(np.maximum(most, 0), n - better, among), 0.0)
    return np.add.reduceat(chance * held, starts)


def most_likely(n: int, rates: Array, side: float) -> Array:
    """The fewest (side −1) and most (1) of `n` examples that come about at these rates, but for a negligible rest."""
    spread = _TAIL * np.sqrt(n * rates * (1.0 - rates)) + _AT_LEAST
    return np.clip(n * rates + side * spread, 0, n).astype(np.int64)


@lru_cache(maxsize=64)
def _choices(n: int) -> Array:
    """(n + 1,) logarithms of the binomial coefficients."""
    k = np.arange(n + 1)
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))
