"""What a number of examples can show: the power of non-inferiority checks and of tests of no change.

Of proportions everything is exact: the outcomes on which a check passes are enumerated (`paired_proportions`), and
their chance is summed. Of means it is that of Student's t, by its noncentral distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.paired_proportions import EXACT_UP_TO, Array, bound_of, greatest_share, most_likely, region, share

_CLOSE = 1e-8
"""Tango's bounds are found to within this."""


@lru_cache(maxsize=256)
def non_inferiority_power(
    n: int, changed: float, tolerance: float, confidence: float = 0.95, drop: float = 0.0
) -> float:
    """How often the check on a proportion passes: the upper bound on the drop is at most `tolerance`.

    `n` examples, of which a share `changed` changes, and the true drop is `drop`: a share (changed + drop) / 2 becomes
    wrong and (changed − drop) / 2 right. Raises InvalidArgument for shares that cannot be.
    """
    _check(n, changed, confidence)
    if abs(drop) > changed:
        raise InvalidArgument("drop", drop, f"at most the share of examples that changes, {changed:g}")
    most = None if n <= EXACT_UP_TO else int(most_likely(n, np.array((changed - drop) / 2.0), 1.0))
    return _chance(_passing(n, tolerance, confidence, most), n, changed, drop)


@lru_cache(maxsize=256)
def smallest_tolerance(n: int, changed: float, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest tolerance that `n` examples establish with this power, where the true drop is 0.

    `changed` is the share of the examples that changes, half of it each way. Where none does it is about 3/n at a
    confidence of 95 %. Raises InvalidArgument.
    """
    _check(n, changed, confidence)
    _check_share("power", power)

    most = int(most_likely(n, np.array(changed / 2.0), 1.0))

    def enough(limit: float) -> bool:
        return _chance(region(n, limit, confidence, most), n, changed, 0.0) >= power

    limit = _least(enough)
    return limit if n > EXACT_UP_TO else bound_of(region(n, limit, confidence), n, confidence) + _CLOSE


@lru_cache(maxsize=256)
def smallest_detectable_drop(n: int, changed: float, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest drop that McNemar's exact two-sided test at `level` finds in `n` examples with this power.

    `changed` is the share of the examples that changes; for a drop that is greater, all that change become wrong.
    1 where no drop is found so often. Raises InvalidArgument.
    """
    _check(n, changed, 1.0 - level)
    _check_share("power", power)
    m = np.arange(n + 1)
    # The fewest worse ones of m at which twice the upper tail is at most the level; one above m where none is.
    fewest = special.bdtrik(1.0 - level / 2.0, m, 0.5)
    fewest = np.where(m > 0, np.maximum(np.nan_to_num(np.floor(fewest)) - 2.0, 0.0), 1.0)
    for _ in range(4):
        rejected = 2.0 * special.bdtrc(fewest - 1.0, m, 0.5) <= level
        fewest = np.where(rejected & (fewest > 0), fewest, fewest + 1.0)

    def found(drop: float) -> float:
        share_changed = max(changed, drop)
        worse = 0.5 * (1.0 + drop / share_changed) if share_changed else 0.5
        chance = stats.binom.pmf(m, n, min(1.0, share_changed))
        rejects = np.where(fewest <= m, special.bdtrc(np.minimum(fewest, m) - 1.0, m, worse), 0.0)
        return float(np.sum(chance * rejects)) - power

    if found(1.0) < 0.0:
        return 1.0
    return 0.0 if found(0.0) >= 0.0 else float(optimize.brentq(found, 0.0, 1.0, xtol=1e-8))


def mean_power(n: int, error: float, tolerance: float, confidence: float = 0.95, drop: float = 0.0) -> float:
    """How often the check on a mean passes whose standard error over `n` examples is `error`."""
    _check(n, 0.0, confidence)
    if n < 2:
        return 0.0
    if error <= 0.0:
        return float(drop <= tolerance)
    return float(stats.nct.sf(special.stdtrit(n - 1, confidence), n - 1, (tolerance - drop) / error))


def smallest_mean_tolerance(n: int, error: float, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest tolerance on a mean that is established with this power, where the true drop is 0."""
    _check(n, 0.0, confidence)
    _check_share("power", power)
    if n < 2:
        return float("inf")
    if error <= 0.0:
        return 0.0
    most = 1.0
    while mean_power(n, 1.0, most, confidence) < power:
        most *= 2.0
    found = optimize.brentq(lambda tolerance: mean_power(n, 1.0, tolerance, confidence) - power, 0.0, most)
    return float(found) * error


def examples_needed(changed: float, tolerance: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """About how many examples establish this tolerance with this power; by the normal distribution.

    And at least as many as do where no example changes. `changed` is the variance of a difference per example: of a
    proportion the share that changes.
    """
    if tolerance <= 0.0:
        raise InvalidArgument("tolerance", tolerance, "a number above 0: no number of examples establishes 0")
    z = float(special.ndtri(confidence) + special.ndtri(power))
    unchanged = np.log(1.0 - confidence) / np.log1p(-min(tolerance, 0.5))
    return int(np.ceil(max(changed * z**2 / tolerance**2, unchanged)))


@lru_cache(maxsize=64)
def _passing(n: int, tolerance: float, confidence: float, most: int | None) -> Array:
    """The outcomes on which the check passes, as a `region`."""
    if n > EXACT_UP_TO:
        return region(n, tolerance, confidence, most)
    level = 1.0 - confidence

    def too_much(limit: float) -> bool:
        return greatest_share(region(n, limit, confidence), n, tolerance) > level

    limit = _least(too_much, around=tolerance)
    return region(n, limit - 2.0 * _CLOSE, confidence)


def _least(holds: Callable[[float], bool], around: float | None = None) -> float:
    """The least number from −1 to 1 for which `holds`, which stays true from there on; 1 where it never does."""
    low, high = -1.0, 1.0
    step = 1e-3
    while around is not None and step < 1.0:  # most are close by
        if not holds(max(low, around - step)):
            low = max(low, around - step)
            break
        high, step = min(high, around - step), 4.0 * step
    step = 1e-3
    while around is not None and high == 1.0 and step < 1.0:
        if around + step >= 1.0 or holds(around + step):
            high = min(1.0, around + step)
            break
        low, step = around + step, 4.0 * step
    while high - low > _CLOSE:
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _chance(outcomes: Array, n: int, changed: float, drop: float) -> float:
    return float(share(outcomes, n, drop, np.array([(changed - drop) / 2.0]))[0])


def _check(n: int, changed: float, confidence: float) -> None:
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise InvalidArgument("n", n, "how many examples, a whole number from 1")
    if not 0.0 <= changed <= 1.0:
        raise InvalidArgument("changed", changed, "the share of examples that changes, from 0 to 1")
    _check_share("confidence", confidence)


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise InvalidArgument(name, value, "a number between 0 and 1, such as 0.8")
