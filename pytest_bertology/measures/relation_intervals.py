"""Intervals for shares of words, of which those of one sentence are not independent of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from pytest_bertology.statistics import tango_upper_bound

Array = npt.NDArray[Any]
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """How much more often one is right than another on the same cases."""

    difference: float
    interval: Interval
    p_value: float
    """Two-sided, of no difference; below 1 − confidence exactly where the interval leaves 0 out."""


def share_interval(right: Array, clusters: Array, confidence: float) -> Interval:
    """Wilson's interval for the share of cases that are right, where cases of one cluster may be alike.

    `right` are numbers from 0 to 1, one per case, and `clusters` say which cases belong together. The number of cases
    is replaced by the effective one (see `effective`), as recommended for cluster samples by Dean and Pagano (2015,
    J. Survey Statistics and Methodology 3): unlike a bootstrap it stays honest where all, or none, are right.
    (0, 1) for cases of one cluster, which say nothing of others.
    """
    share, z = float(right.mean()), _z(confidence)
    n = effective(right - share, clusters, share * (1.0 - share), confidence)
    if n <= 0.0:
        return 0.0, 1.0
    middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z * np.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n)) / (1.0 + z * z / n)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def paired_difference(ours: Array, theirs: Array, clusters: Array, confidence: float) -> PairedDifference:
    """Tango's interval for the difference of two shares on the same cases, with the effective number of cases.

    The interval is that of `statistics.tango_upper_bound`, both sides; the p-value is of the same statistic at no
    difference (McNemar's). (-1, 1) and 1 for cases of one cluster.
    """
    n, moved = len(ours), ours - theirs
    difference = float(moved.mean())
    # Cases of which one is right and the other not; of layers that run several times, in how many of the runs.
    won, lost = float(np.maximum(moved, 0.0).sum()), float(np.maximum(-moved, 0.0).sum())
    scale = effective(moved - difference, clusters, (won + lost) / n - difference**2, confidence) / n
    if scale <= 0.0:
        return PairedDifference(difference, (-1.0, 1.0), 1.0)
    n_effective, won, lost = scale * n, scale * won, scale * lost
    one_sided = 0.5 + confidence / 2.0
    upper = tango_upper_bound(won, lost, n_effective, one_sided).upper
    lower = -tango_upper_bound(lost, won, n_effective, one_sided).upper
    statistic = abs(won - lost) / np.sqrt(won + lost) if won + lost > 0.0 else 0.0
    return PairedDifference(difference, (lower, upper), float(2.0 * stats.norm.sf(statistic)))


def effective(residuals: Array, clusters: Array, variance: float, confidence: float) -> float:
    """How many independent cases tell as much as these; 0 for cases of one cluster.

    Their number divided by the design effect: the variance of the mean over clusters drawn at random (linearised;
    clusters differ in size) over that of as many independent cases, each of `variance`; at least 1, so that cases never
    count for more than they are. And, as the variance is itself estimated from k clusters, times (z / t)² with
    Student's t of k − 1 degrees of freedom (Korn and Graubard 1998, Survey Methodology 24).
    """
    n = len(residuals)
    _, member = np.unique(clusters, return_inverse=True)
    sums = np.bincount(member, weights=residuals)
    k = len(sums)
    if k < 2:
        return 0.0
    clustered = k / (k - 1) * float((sums**2).sum()) / n**2
    design = max(1.0, clustered / (variance / n)) if variance > 1e-12 else 1.0
    t = float(stats.t.ppf(0.5 + confidence / 2.0, k - 1))
    return n / design * (_z(confidence) / t) ** 2


def _z(confidence: float) -> float:
    return float(stats.norm.ppf(0.5 + confidence / 2.0))
