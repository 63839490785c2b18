"""Checks on the ranking of heads."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pytest_bertology.checks import explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument, NoHeadSelected
from pytest_bertology.heads import HeadLike, HeadScores
from pytest_bertology.heads.scores import refuse_equal


def assert_heads_in_top(scores: HeadScores, heads: Iterable[HeadLike], k: int) -> HeadScores:
    """Assert that each of `heads` ranks among the `k` most important; return `scores`.

    Raises CheckFailed (an AssertionError) naming the heads that do not, UnknownHead for a head the model does not
    have, InvalidArgument where `k` is so large that the check could not fail, UndefinedScore where all scores are
    equal.
    """
    __tracebackhide__ = True
    named = scores.heads.select(heads)
    if not named:
        raise NoHeadSelected("heads=[] names no head", "Name the heads that must rank high.")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k < len(scores.heads):
        raise InvalidArgument("k", k, f"a whole number from 1 to {len(scores.heads) - 1}: of {len(scores.heads)} heads")
    refuse_equal(scores)
    missed = {head: scores.rank(head) for head in named if scores.rank(head) >= k}
    verdict = Verdict(
        check="assert_heads_in_top",
        passed=not missed,
        observed=float(max(scores.rank(head) for head in named)),
        required=f"< {k}",
        judged="lowest rank",
        heads=tuple(map(str, named)),
        details={"method": scores.method, "ranks": {str(head): scores.rank(head) for head in named}},
    )
    give(verdict, lambda: explain.heads_out_of_top(scores, missed, k))
    return scores


def assert_ranking_agrees(scores: HeadScores, other: HeadScores, min_correlation: float) -> float:
    """Assert that two rankings of the same heads correlate by at least `min_correlation`; return the correlation.

    Spearman's rank correlation. Raises CheckFailed (an AssertionError), MaskOfAnotherModel where the heads differ,
    UndefinedScore where all scores of one side are equal.
    """
    __tracebackhide__ = True
    if isinstance(min_correlation, bool) or not -1.0 < min_correlation <= 1.0:
        raise InvalidArgument("min_correlation", min_correlation, "a correlation above -1 and up to 1")
    correlation = scores.rank_correlation(other)
    verdict = Verdict(
        check="assert_ranking_agrees",
        passed=correlation >= min_correlation - 1e-12,
        observed=correlation,
        required=f">= {min_correlation:g}",
        judged="rank correlation",
        details={"methods": [scores.method, other.method]},
    )
    give(verdict, lambda: explain.rankings_disagree(scores, other, correlation, min_correlation))
    return correlation
