"""Scores of heads beside kept ones: scipy's Spearman, sets written out, and noise drawn from a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pytest_bertology import HeadMap, HeadScores
from pytest_bertology.baselines.compare_scores import compare_scores
from pytest_bertology.baselines.comparison import Limits
from pytest_bertology.baselines.files import as_stored
from pytest_bertology.baselines.records import flat, record
from pytest_bertology.errors import InvalidArgument

HEADS = HeadMap([12] * 6)
TRUTH = np.geomspace(1.0, 0.01, 72)[np.random.default_rng(5).permutation(72)]


def scores(values, errors=None):
    return HeadScores(values, HEADS, "gradient", standard_errors=errors)


def compared(before, now, **limits):
    kept, found = (as_stored({"c": dict(record(each).content)})["c"] for each in (before, now))
    return compare_scores(kept, found, HEADS, "gradient", Limits(**limits))


def test_scores_are_kept_by_layer_and_read_in_the_order_of_the_map():
    kept = record(scores(TRUTH, TRUTH / 10)).content

    assert kept["scores"]["L2"] == TRUTH[24:36].tolist()
    np.testing.assert_array_equal(flat(kept["standard_errors"], HEADS), TRUTH / 10)


@pytest.mark.parametrize("errors", [None, TRUTH / 10])
def test_scores_that_differ_by_rounding_pass_whatever_the_level(errors):
    nearly = TRUTH * (1.0 + 1e-7 * np.random.default_rng(0).normal(size=72))

    found = compared(scores(TRUTH, errors), scores(nearly, errors), level=0.9)

    assert found.passed
    assert found.observed == 1.0


def test_equal_scores_of_heads_that_nothing_tells_apart_pass():
    for values in (np.zeros(72), np.ones(72)):
        assert compared(scores(values, np.zeros(72)), scores(values, np.zeros(72))).passed


def test_the_correlation_is_scipys_and_the_overlap_that_of_the_sets():
    now = TRUTH * np.random.default_rng(0).lognormal(0.0, 1.0, 72)

    low = compared(scores(TRUTH), scores(now), min_correlation=1.0)
    few = compared(scores(TRUTH), scores(now), min_overlap=1.0, top=20)

    assert low.observed == pytest.approx(stats.spearmanr(TRUTH, now)[0], abs=1e-6)
    tops = [set(np.argsort(-values)[:20]) for values in (TRUTH, now)]
    assert few.observed == len(tops[0] & tops[1]) / 20
    assert not low.passed
    assert not few.passed


def test_a_limit_that_is_given_is_what_is_judged():
    now = TRUTH * np.random.default_rng(0).lognormal(0.0, 1.0, 72)

    assert not compared(scores(TRUTH, TRUTH / 50), scores(now, now / 50)).passed
    assert compared(scores(TRUTH, TRUTH / 50), scores(now, now / 50), min_correlation=0.3).passed


def test_noise_of_the_same_truth_fails_no_more_often_than_the_level_says():
    """Baseline and candidate measured on examples of their own, each with its standard errors."""
    errors, level = 0.1 * TRUTH, 0.2
    generator = np.random.default_rng(1)
    failed = 0
    for _ in range(40):
        before, now = (scores(TRUTH + errors * generator.normal(size=72), errors) for _ in range(2))
        failed += not compared(before, now, level=level).passed
    assert failed <= stats.binom.ppf(0.999, 40, level)


def test_another_ranking_is_refused_by_the_noise_of_the_baseline():
    now = TRUTH[::-1].copy()

    found = compared(scores(TRUTH, 0.1 * TRUTH), scores(now, 0.1 * now))

    assert not found.passed
    assert found.p_value < 0.01
    assert "the baseline's own noise" in found.rows["correlation"]


@pytest.mark.parametrize("known", [True, False])
def test_a_top_head_that_does_nothing_any_more_is_named(known):
    now = TRUTH.copy()
    head = int(np.argsort(-TRUTH)[3])
    now[head] = 0.0

    found = compared(*(scores(values, 0.1 * values if known else None) for values in (TRUTH, now)))

    assert not found.passed
    assert found.heads == (str(HEADS[head]),)
    assert found.rows["lost"] == f"{HEADS[head]} was rank 3, is rank 71 (idle: masking it moves nothing)"
    assert found.evidence["heads"]["candidate"][head] == 0.0


def test_a_head_of_little_importance_may_lose_most_of_it_but_not_move_nothing_at_all():
    now = TRUTH.copy()
    least = int(np.argmin(TRUTH))
    now[least] /= 10.0
    idle = np.where(now == now[least], 0.0, now)

    assert compared(*(scores(values, 0.1 * values) for values in (TRUTH, now))).passed
    found = compared(*(scores(values, 0.1 * values) for values in (TRUTH, idle)))
    assert (found.passed, found.heads) == (False, (str(HEADS[least]),))


def test_scores_that_are_all_noise_are_inconclusive_unless_they_are_the_same():
    now = TRUTH[::-1].copy()
    noise = np.full(72, 5.0)

    found = compared(scores(TRUTH, noise), scores(now, noise))

    assert (found.passed, found.inconclusive) == (False, True)
    assert compared(scores(TRUTH, noise), scores(TRUTH, noise)).passed


def test_what_is_not_known_to_be_noise_is_judged_by_fixed_limits():
    now = TRUTH * np.random.default_rng(3).lognormal(0.0, 0.2, 72)

    found = compared(scores(TRUTH), scores(now))

    assert found.passed
    assert found.p_value is None
    assert "at least 0.9000 (noise is not known)" in found.rows["correlation"]


def test_limits_that_judge_nothing_of_scores_are_refused():
    for wrong in ({"tolerance": 0.1}, {"max_changed": 0.1}, {"top": 73}):
        with pytest.raises(InvalidArgument):
            compared(scores(TRUTH), scores(TRUTH), **wrong)
    for wrong in ({"top": 0}, {"min_correlation": 1.5}, {"min_overlap": 0.0}):
        with pytest.raises(InvalidArgument):
            Limits(**wrong)
