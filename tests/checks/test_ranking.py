"""Ranking checks against ranks counted by brute force and scipy's Spearman correlation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_bertology import (
    CheckFailed,
    HeadMap,
    HeadScores,
    assert_heads_in_top,
    assert_ranking_agrees,
    head_importance,
)
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import (
    InvalidArgument,
    MaskOfAnotherModel,
    NoHeadSelected,
    NotAHead,
    UndefinedScore,
    UnknownHead,
)
from tests.tiny import tiny_model, tiny_task

HEADS = HeadMap([4, 4])
PAIRS = [(layer, head) for layer in range(2) for head in range(4)]
GIVEN = HeadScores(np.array([0.5, 8, 1, 3, 2, 7, 4, 6]), HEADS, "given")
properties = settings(deadline=None, database=None, max_examples=60)


def scores_of(values: list[float], method: str = "given") -> HeadScores:
    return HeadScores(np.array(values, dtype=float), HEADS, method)


@properties
@given(st.permutations(range(8)), st.sets(st.sampled_from(PAIRS), min_size=1), st.integers(1, 7))
def test_the_check_passes_where_fewer_than_k_heads_are_better_than_each(values, heads, k):
    scores = scores_of(list(values))
    ranks = [sum(other > values[PAIRS.index(pair)] for other in values) for pair in heads]

    if max(ranks) < k:
        assert assert_heads_in_top(scores, heads, k) is scores
    else:
        with pytest.raises(CheckFailed):
            assert_heads_in_top(scores, heads, k)


def test_the_check_holds_for_the_gradient_importance_of_a_real_model():
    model = tiny_model()
    importance = head_importance(model, tiny_task(8))
    best, *_, worst = importance.ranking

    assert assert_heads_in_top(importance, [best], 1) is importance
    with pytest.raises(CheckFailed, match=rf"{worst} +rank 7 \(from 0\)"):
        assert_heads_in_top(importance, [best, worst], 7)


def test_k_may_be_numpys_integer():
    assert assert_heads_in_top(GIVEN, [(0, 1)], np.int64(1)) is GIVEN


def test_a_failure_names_the_heads_their_ranks_and_what_was_required():
    with pytest.raises(CheckFailed) as caught:
        assert_heads_in_top(GIVEN, [(0, 1), (0, 0), (1, 0)], 3)

    lines = [" ".join(line.split()) for line in str(caught.value).splitlines()]
    assert lines == [
        "2 of the heads are not among the 3 most important of 8 (given)",
        "",
        "L0H0 rank 7 (from 0), score 0.5",
        "L1H0 rank 5 (from 0), score 2",
        "required rank below 3: a score of L1H3's 6 or more",
        "top 3 L0H1 8, L1H1 7, L1H3 6",
    ]


def test_the_verdict_of_a_ranking_check_is_heard():
    heard: list[Verdict] = []

    with hearing(heard.append):
        assert_heads_in_top(GIVEN, [(0, 1)], 3)
        with pytest.raises(CheckFailed):
            assert_heads_in_top(GIVEN, [(0, 1), (0, 0)], 3)

    passed, failed = heard
    assert (passed.passed, passed.observed, passed.heads) == (True, 0.0, ("L0H1",))
    assert (failed.passed, failed.observed, failed.required) == (False, 7.0, "< 3")
    assert failed.details == {"method": "given", "ranks": {"L0H0": 7, "L0H1": 0}}


def test_scores_that_are_all_equal_rank_nothing():
    with pytest.raises(UndefinedScore, match=r"the ranking .*all constant scores are equal"):
        assert_heads_in_top(scores_of([0.5] * 8, "constant"), [(0, 0)], 1)
    assert_heads_in_top(scores_of([0.0] * 7 + [1.0]), [(1, 3)], 1)


@pytest.mark.parametrize("k", [0, -1, 8, 9, 1.0, True, "3", None])
def test_a_k_on_which_the_check_could_not_pass_or_not_fail_is_refused(k):
    with pytest.raises(InvalidArgument, match="a whole number from 1 to 7: of 8 heads"):
        assert_heads_in_top(GIVEN, [(0, 1)], k)


def test_no_heads_are_refused():
    with pytest.raises(NoHeadSelected, match=r"heads=\[\] names no head"):
        assert_heads_in_top(GIVEN, [], 3)


@pytest.mark.parametrize(("heads", "error"), [([(2, 0)], UnknownHead), ((0, 1), NotAHead), (["L0H1"], NotAHead)])
def test_heads_that_are_none_are_refused(heads, error):
    with pytest.raises(error):
        assert_heads_in_top(GIVEN, heads, 3)


# -- agreement of rankings ---------------------------------------------------------------------------------------

VALUES = st.lists(st.integers(0, 4), min_size=8, max_size=8)


@properties
@given(VALUES, VALUES, st.floats(-0.99, 1.0))
def test_rankings_agree_where_spearmans_correlation_reaches_the_minimum(one, other, minimum):
    assume(len(set(one)) > 1)
    assume(len(set(other)) > 1)
    expected = float(stats.spearmanr(one, other).statistic)
    assume(abs(expected - minimum) > 1e-9)

    if expected > minimum:
        assert assert_ranking_agrees(scores_of(one), scores_of(other), minimum) == pytest.approx(expected)
    else:
        with pytest.raises(CheckFailed):
            assert_ranking_agrees(scores_of(one), scores_of(other), minimum)


def test_equal_rankings_agree_to_the_full():
    squares = HeadScores(GIVEN.values**2, HEADS, "squares")

    assert assert_ranking_agrees(GIVEN, squares, 1.0) == pytest.approx(1.0)


def test_a_disagreement_names_both_methods_the_correlation_and_what_moved_most():
    values = list(range(8))
    swapped = [7, 1, 2, 3, 4, 5, 6, 0]
    rho = stats.spearmanr(values, swapped).statistic
    heard: list[Verdict] = []

    with hearing(heard.append), pytest.raises(CheckFailed) as caught:
        assert_ranking_agrees(scores_of(values, "gradient"), scores_of(swapped, "random (seed 0)"), 0.5)

    message = " ".join(str(caught.value).split())
    assert message.startswith("the two rankings of heads do not agree")
    assert f"correlation {rho:.4f} (Spearman, 8 heads); required: at least 0.5" in message
    assert "rankings gradient and random (seed 0)" in message
    assert "most moved L0H0 7 → 0, L1H3 0 → 7," in message
    assert heard == [caught.value.verdict]
    assert heard[0].observed == pytest.approx(rho)


@pytest.mark.parametrize("minimum", [-1.0, 1.01, math.nan, True])
def test_a_minimum_that_cannot_fail_or_cannot_be_reached_is_refused(minimum):
    with pytest.raises(InvalidArgument, match=r"min_correlation=.* expected a correlation above -1 and up to 1"):
        assert_ranking_agrees(GIVEN, GIVEN, minimum)


def test_equal_scores_rank_nothing():
    with pytest.raises(UndefinedScore, match="all flat scores are equal"):
        assert_ranking_agrees(GIVEN, scores_of([1] * 8, "flat"), 0.0)


def test_rankings_of_different_heads_are_not_compared():
    other = HeadScores(np.arange(6.0), HeadMap([3, 3]), "other")

    with pytest.raises(MaskOfAnotherModel):
        assert_ranking_agrees(GIVEN, other, 0.0)
