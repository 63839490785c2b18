"""Bounds against published values, a score test inverted by numerical optimisation, exact enumeration, and scipy."""

from __future__ import annotations

import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from pytest_bertology.bootstrap import ResampledDrop, bootstrap_upper_bound
from pytest_bertology.statistics import MeanDrop, StrictestDrop, mean_upper_bound, tango_upper_bound

properties = settings(deadline=None, database=None, max_examples=60)


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, int, int]:
    """How many of n examples became wrong, and right."""
    n = draw(st.integers(1, 400))
    worse = draw(st.integers(0, n))
    return worse, draw(st.integers(0, n - worse)), n


def score(worse: int, better: int, n: int, drop: float) -> float:
    """The score statistic of H0: the drop is `drop`, the likelihood maximised under H0 by a numerical optimiser."""

    def against(p_better: float) -> float:
        cells = [(worse, p_better + drop), (better, p_better), (n - worse - better, 1 - 2 * p_better - drop)]
        return -sum(count * math.log(p) for count, p in cells if count)

    low, high = max(0.0, -drop), (1 - drop) / 2
    found = optimize.minimize_scalar(against, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    variance = n * (2 * found.x + drop - drop**2)
    return float((worse - better - n * drop) / math.sqrt(variance))


# -- Tango's score interval --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "lower", "upper", "digits"),
    [
        # Cavo et al. 2012, as Fagerland, Lydersen and Laake (2017, chapter 8) work it out: -0.1240 to -0.0054.
        ((59, 6, 16, 80), -0.1240, -0.0054, 4),
        # Bentur et al. 2009, Fagerland, Lydersen and Laake (2014): -0.517 to -0.026.
        ((1, 1, 7, 12), -0.517, -0.026, 3),
    ],
)
def test_tangos_bounds_are_the_published_ones(table, lower, upper, digits):
    _, first_only, second_only, _ = table
    n = sum(table)

    # A two-sided 95 % interval is two one-sided bounds of 97.5 %; the lower one is that of the reversed difference.
    above = tango_upper_bound(first_only, second_only, n, 0.975).upper
    below = -tango_upper_bound(second_only, first_only, n, 0.975).upper

    assert round(below, digits) == lower
    assert round(above, digits) == upper


@pytest.mark.parametrize(
    ("worse", "better", "n"),
    [(3, 1, 50), (0, 4, 50), (5, 0, 50), (12, 30, 100), (40, 20, 160), (1, 1, 1000), (9, 0, 10)],
)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_tangos_bound_is_where_the_score_test_stops_rejecting(worse, better, n, confidence):
    bound = tango_upper_bound(worse, better, n, confidence)

    z = stats.norm.ppf(confidence)
    assert score(worse, better, n, bound.upper) == pytest.approx(-z, abs=1e-4)
    assert score(worse, better, n, bound.upper + 1e-3) < -z
    assert score(worse, better, n, bound.upper - 1e-3) > -z
    assert (bound.confidence, bound.method) == (confidence, "Tango's score interval")


@pytest.mark.parametrize("n", [1, 10, 200, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_where_nothing_changed_the_bound_is_not_zero(n, confidence):
    bound = tango_upper_bound(0, 0, n, confidence).upper

    # With no discordant pair the constrained estimate is 0 and n·Δ²/(Δ(1−Δ)) = z² has this one solution.
    z = stats.norm.ppf(confidence)
    assert bound == pytest.approx(z**2 / (n + z**2), rel=1e-6)
    assert bound > 0


@properties
@given(changes(), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_bound_lies_above_the_observed_drop(found, confidence):
    worse, better, n = found

    bound = tango_upper_bound(worse, better, n, confidence).upper

    assert (worse - better) / n < bound <= 1.0 or worse == n
    assert bound > -1.0


@properties
@given(changes())
def test_the_bound_rises_with_every_example_that_became_wrong(found):
    worse, better, n = found
    base = tango_upper_bound(worse, better, n + 1, 0.95).upper

    assert tango_upper_bound(worse + 1, better, n + 1, 0.95).upper > base - 1e-9
    assert tango_upper_bound(worse, better + 1, n + 1, 0.95).upper < base + 1e-9


@properties
@given(changes())
def test_the_bound_rises_with_the_confidence(found):
    bounds = [tango_upper_bound(*found, confidence).upper for confidence in (0.5, 0.8, 0.95, 0.99)]

    assert all(low < high or high == 1.0 for low, high in pairwise(bounds))


def test_more_examples_of_the_same_kind_bring_the_bound_down():
    bounds = [tango_upper_bound(2 * k, k, 100 * k, 0.95).upper for k in (1, 2, 4, 8, 16)]

    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] > 0.01


def test_at_even_odds_the_bound_is_the_observed_drop():
    for worse, better, n in [(7, 3, 100), (0, 3, 47), (2, 2, 31), (0, 0, 9), (0, 5, 5)]:
        assert tango_upper_bound(worse, better, n, 0.5).upper == pytest.approx((worse - better) / n, abs=1e-8)


@pytest.mark.parametrize(("worse", "n"), [(1, 1), (50, 50)])
def test_where_all_became_wrong_the_bound_is_one(worse, n):
    assert tango_upper_bound(worse, 0, n, 0.95).upper == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("n", [200, 800])
@pytest.mark.parametrize(("margin", "better"), [(0.01, 0.02), (0.02, 0.05), (0.05, 0.005)])
def test_a_true_drop_at_the_margin_passes_in_5_percent_of_simulated_runs_at_most(n, margin, better):
    generator = np.random.default_rng(20240917 + n)
    runs = generator.multinomial(n, [better + margin, better, 1 - margin - 2 * better], size=2000)
    distinct, counts = np.unique(runs[:, :2], axis=0, return_counts=True)

    passes = [tango_upper_bound(int(w), int(b), n, 0.95).upper <= margin for w, b in distinct]

    rate = counts[passes].sum() / 2000
    assert 0.01 < rate < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(("margin", "better"), [(0.01, 0.02), (0.02, 0.05), (0.05, 0.005)])
def test_a_true_drop_at_the_margin_passes_in_hardly_more_than_5_percent_of_all_outcomes(margin, better):
    n, p_worse = 200, better + margin
    passing = 0.0
    for worse in range(n + 1):
        among = stats.binom.pmf(worse, n, p_worse)
        rest = stats.binom.pmf(np.arange(n - worse + 1), n - worse, better / (1 - p_worse))
        for fewer, share in enumerate(rest):
            if among * share > 1e-8 and tango_upper_bound(worse, fewer, n, 0.95).upper <= margin:
                passing += among * share

    assert 0.02 < passing < 0.052


# -- Student's t -------------------------------------------------------------------------------------------------


@properties
@given(
    st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=40).filter(
        lambda x: len(set(x)) > 1
    ),
    st.sampled_from([0.5, 0.9, 0.99]),
)
def test_the_bound_on_a_mean_is_scipys_one_sided_interval(values, confidence):
    bound = mean_upper_bound(np.array(values), confidence)

    expected = stats.ttest_1samp(values, 0.0, alternative="less").confidence_interval(confidence).high
    assert bound.upper == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (bound.confidence, bound.method) == (confidence, "Student's t")


@pytest.mark.parametrize("values", [[], [0.1]])
def test_one_difference_bounds_nothing(values):
    assert mean_upper_bound(np.array(values), 0.95).upper == math.inf


# -- the bootstrap -----------------------------------------------------------------------------------------------


def means(values):
    return lambda counts: counts @ values / counts.sum(axis=1)


def parts(bound):
    """The tests that a bound is the strictest of, by name."""
    assert isinstance(bound.test, StrictestDrop)
    return {type(part): part for part in bound.test.tests}


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bootstrap_bound_on_a_mean_is_the_normal_one(confidence):
    values = np.random.default_rng(1).normal(0.03, 0.2, size=400)

    bound = bootstrap_upper_bound(means(values), 400, confidence)

    error = values.std(ddof=1) / math.sqrt(400)
    expected = values.mean() + stats.norm.ppf(confidence) * error
    assert bound.upper == pytest.approx(expected, abs=0.15 * error)
    assert bound.lower == pytest.approx(2 * values.mean() - expected, abs=0.15 * error)


@pytest.mark.parametrize("seed", range(4))
def test_bca_bounds_are_scipys_on_the_same_resamples(seed):
    values = np.random.default_rng(seed).exponential(size=40)
    found = parts(bootstrap_upper_bound(means(values), 40, 0.9))[ResampledDrop]

    def scipys(confidence, alternative):
        known = stats.bootstrap((values,), np.mean, n_resamples=2, method="percentile")
        known.bootstrap_distribution = found.drawn
        interval = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=0,
            bootstrap_result=known,
            confidence_level=confidence,
            alternative=alternative,
            method="BCa",
        ).confidence_interval
        return interval.high if alternative == "less" else interval.low

    for confidence in (0.8, 0.95, 0.99):
        assert found.upper(confidence) == pytest.approx(scipys(confidence, "less"), rel=1e-9)
        assert found.lower(confidence) == pytest.approx(scipys(confidence, "greater"), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_bootstrap_p_value_is_the_confidence_whose_bound_is_the_margin(seed):
    values = np.random.default_rng(seed).exponential(size=40)
    bound = bootstrap_upper_bound(means(values), 40, 0.9)

    for margin in np.linspace(0.5, 1.6, 45):
        p = bound.p_value(float(margin))
        for confidence in (0.6, 0.9, 0.95, 0.99):
            assert (p <= 1 - confidence) == (bound.test.upper(confidence) <= margin)


def test_few_examples_are_judged_by_students_t():
    values = np.array([0.1, 0.3, -0.2, 0.25])

    bound = bootstrap_upper_bound(means(values), 4, 0.95)

    # The jackknife's error of a mean is the usual one.
    assert bound.upper == pytest.approx(mean_upper_bound(values, 0.95).upper)
    assert bound.method == "Student's t with the jackknife's error"


def test_the_jackknifes_error_of_a_ratio_is_that_of_the_linearised_one():
    draw = np.random.default_rng(0)
    items = draw.integers(1, 9, 300)
    wrong = draw.binomial(items, 0.3)

    found = parts(bootstrap_upper_bound(lambda counts: (counts @ wrong) / (counts @ items), 300, 0.95))[MeanDrop]

    ratio = wrong.sum() / items.sum()
    linear = (wrong - ratio * items) / items.mean()
    assert found.mean == pytest.approx(ratio)
    assert found.error == pytest.approx(linear.std(ddof=1) / math.sqrt(300), rel=0.01)


def test_the_bootstrap_draws_the_same_examples_for_the_same_seed():
    values = np.random.default_rng(1).exponential(size=60)

    one, again, other = (
        parts(bootstrap_upper_bound(means(values), 60, 0.95, resamples=300, seed=seed))[ResampledDrop].upper(0.95)
        for seed in (4, 4, 5)
    )

    assert one == again
    assert one != other


@pytest.mark.parametrize(("confidence", "drawn"), [(0.95, 500), (0.99, 2000), (0.999, 20_000)])
def test_a_high_confidence_draws_resamples_enough_to_show_its_bound(confidence, drawn):
    bound = bootstrap_upper_bound(means(np.arange(30.0)), 30, confidence, resamples=500)

    assert len(parts(bound)[ResampledDrop].drawn) == drawn


def test_a_drop_that_never_varies_is_its_own_bound():
    bound = bootstrap_upper_bound(lambda counts: np.full(len(counts), 0.25), 20, 0.95, resamples=50)

    assert (bound.upper, bound.lower) == (0.25, 0.25)


@pytest.mark.parametrize("n", [1, 2])
def test_one_example_bounds_nothing(n):
    bound = bootstrap_upper_bound(lambda counts: counts[:, 0] / counts.sum(axis=1), n, 0.95)

    assert (bound.upper == math.inf) is (n == 1)
    assert (bound.p_value(0.5) == 1.0) is (n == 1)


def test_resamples_without_a_score_are_left_out():
    values = np.random.default_rng(1).normal(0.0, 1.0, size=40)

    def drops(counts: np.ndarray) -> np.ndarray:
        return np.where(counts[:, 0] == 0, math.nan, means(values)(counts))

    bound = bootstrap_upper_bound(drops, 40, 0.95)

    error = values.std(ddof=1) / math.sqrt(40)
    assert bound.upper == pytest.approx(values.mean() + 1.645 * error, abs=0.6 * error)


def test_the_jackknife_of_many_examples_does_not_hold_all_resamples_at_once():
    n = 4000
    tracemalloc.start()

    bootstrap_upper_bound(lambda counts: counts[:, 0], n, 0.95, resamples=400)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < n * n * 8


@pytest.mark.parametrize(("n", "items"), [(4, 6), (10, 6), (40, 12)])
def test_a_bound_on_the_accuracy_of_tokens_holds_though_those_of_one_text_go_together(n, items):
    """Simulated: every token of a text changes with a chance of its own text; the true drop is 0.1."""
    draw = np.random.default_rng(n)
    held = 0
    for worse in [draw.binomial(items, draw.beta(0.5, 4.5, size=n)) for _ in range(200)]:
        share = worse / items
        bound = bootstrap_upper_bound(means(share), n, 0.95, resamples=400)
        floor = tango_upper_bound(float((worse > 0).sum()), 0.0, n, 0.95).upper
        held += max(bound.upper, floor) >= 0.1

    assert held / 200 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 200)
