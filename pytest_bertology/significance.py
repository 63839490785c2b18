"""Is a change more than chance? Paired bootstrap p-values, and their correction for many tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_bertology.errors import InvalidArgument

Array = npt.NDArray[Any]

_COUNTS_AT_A_TIME = 2**22
"""Numbers of a block of resamples: all of them at once would take a gigabyte."""
_TIE = 1e-12
"""Changes that differ by less differ by rounding only."""


def mcnemar(worse: int, better: int, *, alternative: str = "two-sided") -> float:
    """The exact p-value of McNemar's test: of no change, when `worse` examples became wrong and `better` right.

    Without a change each of the examples that changed is as likely to have changed either way, so that of m of them a
    number distributed as Binomial(m, 1/2) became wrong (McNemar 1947; Fagerland, Lydersen and Laake 2013, eq. 2).
    "two-sided" is twice the smaller tail, 1 at most; "worse" the chance of as many wrong ones or more. 1 where nothing
    changed. Raises InvalidArgument for what are no counts.
    """
    for name, count in (("worse", worse), ("better", better)):
        if isinstance(count, bool) or int(count) != count or count < 0:
            raise InvalidArgument(name, count, "how many examples, a whole number from 0")
    changed = worse + better
    if alternative == "worse":
        return float(special.bdtrc(worse - 1, changed, 0.5)) if worse else 1.0
    if alternative != "two-sided":
        raise InvalidArgument("alternative", alternative, "'two-sided' or 'worse'")
    fewer = min(worse, better)
    return min(1.0, 2.0 * float(special.bdtr(fewer, changed, 0.5))) if changed else 1.0


def resample_counts(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """Blocks (rows, n) of how often each of `n` examples is drawn in each resample; the blocks' size does not matter.

    Every row is a draw of n examples with replacement, so that it sums to n.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _COUNTS_AT_A_TIME // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def bootstrap_p_values(
    changes: Callable[[Array], Array], observed: Array, n: int, *, resamples: int, seed: int
) -> Array:
    """Two-sided paired-bootstrap p-values, one per test, of no change between judgements of the same `n` examples.

    p = (1 + #{|δ* − δ| ≥ |δ|}) / (1 + resamples): how often resampling examples moves the change δ by as much as δ
    itself (Koehn 2004; the recentring is that of Berg-Kirkpatrick, Burkett and Klein 2012, section 3, two-sided).
    Never 0: no number of resamples shows that. Exactly 1 where δ is 0.

    `changes` gives (rows, tests) changes for (rows, n) counts of how often each example is drawn; where a resample has
    no score it gives NaN, which speaks against a change. All tests see the same resamples.
    """
    extreme = np.zeros(len(observed), dtype=np.int64)
    for counts in resample_counts(n, resamples, seed):
        moved = np.abs(changes(counts) - observed)
        extreme += (~(moved < np.abs(observed) - _TIE)).sum(axis=0)
    p_values: Array = (1 + extreme) / (1 + resamples)
    return p_values


def drop_p_values(drops: Callable[[Array], Array], drop: float, n: int, *, resamples: int, seed: int) -> Array:
    """(2,) of one drop: the two-sided p-value of `bootstrap_p_values`, and the one-sided one, of no drop.

    That is (1 + #{δ* − δ ≥ δ}) / (1 + resamples). `drops` gives (rows,) drops for (rows, n) counts.
    """
    moved = np.concatenate([drops(counts) for counts in resample_counts(n, resamples, seed)]) - drop
    either, upwards = np.sum(~(np.abs(moved) < abs(drop) - _TIE)), np.sum(~(moved < drop - _TIE))
    return np.asarray((1 + np.array([either, upwards])) / (1 + resamples))


def adjusted_p_values(p_values: Array, correction: str | None) -> Array:
    """The p-values corrected for their number; rejecting those up to α keeps the rate of false alarms at α.

    "holm" (Holm 1979) and "bonferroni" bound the chance of any false alarm, under any dependence of the tests; "fdr"
    (Benjamini and Hochberg 1995) the expected share of them among the alarms; None leaves the p-values as they are.
    """
    p: Array = np.asarray(p_values, dtype=np.float64)
    m = len(p)
    if correction is None or m == 0:
        return np.array(p)
    if correction == "bonferroni":
        return np.asarray(np.minimum(1.0, m * p))
    order = np.argsort(p, kind="stable")
    ranks = np.arange(1, m + 1)
    if correction == "holm":
        climbing = np.maximum.accumulate((m - ranks + 1) * p[order])
    else:
        climbing = np.minimum.accumulate((p[order] * m / ranks)[::-1])[::-1]
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(1.0, climbing)
    return adjusted
