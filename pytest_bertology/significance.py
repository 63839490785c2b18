"""Is a change more than chance? Paired bootstrap p-values, and their correction for many tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_COUNTS_AT_A_TIME = 2**22
"""Numbers of a block of resamples: all of them at once would take a gigabyte."""
_TIE = 1e-12
"""Changes that differ by less differ by rounding only."""


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
