"""Exact bounds against brute force over all outcomes, values by hand, and simulation; power against simulation.

The brute force knows nothing of regions: it lists every outcome, asks Tango's bound of each, and adds up multinomials.
"""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.paired_proportions import EXACT_UP_TO, exact_bound, exact_p_value, tango_bound
from pytest_bertology.power import (
    examples_needed,
    mean_power,
    non_inferiority_power,
    smallest_detectable_drop,
    smallest_mean_tolerance,
    smallest_tolerance,
)
from pytest_bertology.statistics import MeanDrop, ProportionDrop, proportion_upper_bound

properties = settings(deadline=None, database=None, max_examples=40)


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 120))
    worse = draw(st.integers(0, n))
    return worse, draw(st.integers(0, n - worse)), n


def outcomes(n):
    return np.array([(w, b, n - w - b) for w in range(n + 1) for b in range(n - w + 1)])


def chances(n, drop, better):
    """Of every outcome."""
    return stats.multinomial.pmf(outcomes(n), n, [better + drop, better, max(0.0, 1.0 - 2.0 * better - drop)])


def brute_p_value(worse, better, n, margin, confidence):
    """The greatest chance, over 600 nuisance rates, of outcomes that come no later in the order.

    It is that of Tango's bound, but for outcomes without a worse example: they come as early as they must for
    (1 − Δ)ⁿ to decide the bound where nothing changed.
    """
    every = outcomes(n)
    bounds = np.array([tango_bound(w, b, n, confidence) for w, b, _ in every])
    none_worse, level = every[:, 0] == 0, 1.0 - confidence
    rule = 1.0 - level ** (1.0 / n)
    for place in sorted({b for b in bounds if b <= tango_bound(0, 0, n, confidence)}, reverse=True):
        if greatest_chance(n, rule, (bounds <= place + 1e-9) | none_worse) <= level * (1.0 + 1e-9):
            break
    places = np.where(none_worse, np.minimum(bounds, place), bounds)
    own = places[(every[:, 0] == worse) & (every[:, 1] == better)]
    return greatest_chance(n, margin, places <= own + 1e-9)


def greatest_chance(n, drop, among):
    return max(chances(n, drop, q)[among].sum() for q in np.linspace(max(0.0, -drop), (1.0 - drop) / 2.0, 600))


# -- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40, 155, 300, 872, EXACT_UP_TO])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_where_no_example_changed_the_bound_is_the_rule_of_three(n, confidence):
    """(1 − Δ)ⁿ is the chance that none becomes wrong: without steps for more examples."""
    rule = 1.0 - (1.0 - confidence) ** (1.0 / n)

    assert exact_bound(0, 0, n, confidence) == pytest.approx(rule, rel=1e-7)


@pytest.mark.parametrize(
    ("n", "times"), [(40, 1.0001), (40, 1.1), (155, 1.0001), (300, 0.95), (300, 1.0001), (300, 1.1)]
)
def test_around_the_bound_of_no_change_a_drop_passes_in_5_percent_at_most(n, times):
    """Where the order is not Tango's. Every outcome that has a chance, at 300 nuisance rates."""
    margin = times * (1.0 - 0.05 ** (1.0 / n))
    most = [-1]  # for each number of improved examples, how many worse ones pass
    for better in range(n + 1):
        passes = min(most[-1], n - better)  # at least as many as with one improved example less
        while passes < n - better and exact_p_value(passes + 1, better, n, margin, 0.95) <= 0.05:
            passes += 1
        most.append(passes)

    better = np.arange(n + 1)
    shares = []
    for q in np.linspace(0.0, (1.0 - margin) / 2.0, 300):
        among = stats.binom.cdf(most[1:], n - better, (q + margin) / (1.0 - q))
        shares.append(float((stats.binom.pmf(better, n, q) * among).sum()))
    assert max(shares) <= 0.05 + 1e-6


def test_one_of_one_by_hand():
    assert exact_bound(1, 0, 1, 0.95) == pytest.approx(1.0)
    assert exact_bound(0, 1, 1, 0.95) == pytest.approx(0.9)  # P(better) = (1 − Δ) / 2 at most: 0.05
    assert exact_bound(0, 0, 1, 0.95) == pytest.approx(0.95)


@pytest.mark.parametrize(("worse", "better", "n"), [(0, 0, 6), (1, 0, 6), (2, 1, 9), (0, 3, 9), (4, 4, 14), (9, 2, 14)])
@pytest.mark.parametrize("margin", [-0.2, 0.05, 0.3, 0.6])
def test_a_p_value_is_that_of_all_outcomes_added_up(worse, better, n, margin):
    found = exact_p_value(worse, better, n, margin, 0.95)

    brute = brute_p_value(worse, better, n, margin, 0.95)
    assert found == pytest.approx(brute, abs=2e-4)
    assert found >= brute - 1e-6


@pytest.mark.parametrize("n", [3, 5, 8, 15, 25])
@pytest.mark.parametrize("margin", [0.01, 0.05, 0.2])
def test_with_few_examples_a_drop_at_the_margin_passes_in_5_percent_at_most(n, margin):
    """Over all outcomes and nuisance rates; Tango's own bound lets up to 12 % pass."""
    passes = np.array([exact_p_value(int(w), int(b), n, margin, 0.95) <= 0.05 for w, b, _ in outcomes(n)])

    rates = [chances(n, margin, q)[passes].sum() for q in np.linspace(0.0, (1.0 - margin) / 2.0, 200)]

    assert max(rates) <= 0.05 + 1e-4


@properties
@given(changes(), st.sampled_from([0.5, 0.8, 0.95, 0.99]), st.floats(-0.9, 0.9))
def test_the_p_value_is_at_most_the_level_just_where_the_bound_is_within_the_margin(found, confidence, margin):
    bound = proportion_upper_bound(*found, confidence)

    assert (bound.p_value(margin) <= 1.0 - confidence) == (bound.upper <= margin) or abs(bound.upper - margin) < 1e-8
    assert bound.lower <= bound.upper


@properties
@given(changes())
def test_the_bound_rises_with_every_example_that_became_wrong_and_falls_with_every_one_that_became_right(found):
    worse, better, n = found
    bound = exact_bound(worse, better, n + 1, 0.95)

    assert exact_bound(worse + 1, better, n + 1, 0.95) >= bound - 1e-9
    assert exact_bound(worse, better + 1, n + 1, 0.95) <= bound + 1e-9


def test_lower_bounds_are_upper_bounds_of_the_reverse():
    assert ProportionDrop(3, 9, 50).lower(0.95) == -exact_bound(9, 3, 50, 0.95)


@pytest.mark.parametrize(("worse", "better"), [(11, 7), (0, 0), (60, 30)])
def test_of_many_examples_the_exact_bound_is_about_tangos(worse, better):
    exact, tango = (f(worse, better, 2000, 0.95) for f in (exact_bound, tango_bound))

    assert tango - 1e-6 <= exact <= tango + 0.0006


def test_beyond_that_it_is_tangos():
    n = EXACT_UP_TO + 1
    found = ProportionDrop(40, 30, n)

    assert found.upper(0.95) == tango_bound(40, 30, n, 0.95)
    assert found.method == "Tango's score interval"
    for margin in (0.001, 0.004, 0.005, 0.01):
        assert (found.p_value(margin, 0.95) <= 0.05) == (found.upper(0.95) <= margin)


@pytest.mark.parametrize(("n", "margin", "changed"), [(872, 0.01, 0.021), (872, 0.02, 0.05), (200, 0.05, 0.05)])
def test_a_true_drop_at_the_margin_passes_in_5_percent_of_simulated_runs_at_most(n, margin, changed):
    draw = np.random.default_rng(n)
    better = (changed - margin) / 2.0
    runs = draw.multinomial(n, [better + margin, better, 1.0 - changed], size=4000)
    distinct, counts = np.unique(runs[:, :2], axis=0, return_counts=True)

    passes = [exact_p_value(int(w), int(b), n, margin, 0.95) <= 0.05 for w, b in distinct]

    assert 0.01 < counts[passes].sum() / 4000 <= 0.05 + 3.0 * math.sqrt(0.05 * 0.95 / 4000)


# -- power -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "changed", "tolerance", "drop"), [(872, 0.05, 0.02, 0.0), (300, 0.1, 0.04, 0.01)])
def test_power_is_how_often_simulated_checks_pass(n, changed, tolerance, drop):
    draw = np.random.default_rng(7)
    runs = draw.multinomial(n, [(changed + drop) / 2, (changed - drop) / 2, 1 - changed], size=4000)
    distinct, counts = np.unique(runs[:, :2], axis=0, return_counts=True)

    passes = [exact_p_value(int(w), int(b), n, tolerance, 0.95) <= 0.05 for w, b in distinct]

    power = non_inferiority_power(n, changed, tolerance, drop=drop)
    assert counts[passes].sum() / 4000 == pytest.approx(power, abs=3 * math.sqrt(power * (1 - power) / 4000))


@pytest.mark.parametrize("n", [7, 12])
def test_power_is_that_of_all_outcomes_added_up(n):
    passes = np.array([exact_bound(int(w), int(b), n, 0.9) <= 0.4 for w, b, _ in outcomes(n)])

    assert non_inferiority_power(n, 0.3, 0.4, 0.9) == pytest.approx(chances(n, 0.0, 0.15)[passes].sum(), abs=1e-9)


@pytest.mark.parametrize(("n", "changed"), [(50, 0.1), (872, 0.0), (872, 0.021), (5000, 0.02), (20_000, 0.05)])
def test_the_smallest_tolerance_has_the_power_and_a_smaller_one_has_not(n, changed):
    found = smallest_tolerance(n, changed)

    assert non_inferiority_power(n, changed, found) >= 0.8
    assert non_inferiority_power(n, changed, found * 0.97) < 0.8


def test_872_examples_of_which_two_percent_change_establish_about_one_point_three():
    assert 0.0125 < smallest_tolerance(872, 0.021) < 0.0135
    assert smallest_tolerance(872, 0.0) == pytest.approx(exact_bound(0, 0, 872, 0.95), abs=1e-6)


@pytest.mark.parametrize(("n", "changed"), [(60, 0.3), (872, 0.05)])
def test_the_smallest_drop_that_mcnemars_test_detects_is_found_in_80_percent_of_simulated_runs(n, changed):
    drop = smallest_detectable_drop(n, changed)
    share = max(changed, drop)
    runs = np.random.default_rng(3).multinomial(n, [(share + drop) / 2, (share - drop) / 2, 1 - share], size=4000)

    found = [w > b and stats.binomtest(int(w), int(w + b)).pvalue <= 0.05 for w, b, _ in runs if w + b]

    assert np.sum(found) / 4000 == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 4000))


def test_where_no_test_can_find_a_drop_it_is_one():
    assert smallest_detectable_drop(5, 0.5) == 1.0  # 2⁻⁵ · 2 is more than 0.05
    assert smallest_detectable_drop(6, 0.5) < 1.0


@pytest.mark.parametrize("n", [5, 60])
def test_the_power_of_a_mean_is_how_often_simulated_checks_pass(n):
    draw = np.random.default_rng(0)
    tolerance = smallest_mean_tolerance(n, 1.0 / math.sqrt(n))

    passed = [MeanDrop.of(row).upper(0.95) <= tolerance for row in draw.normal(size=(4000, n))]

    assert mean_power(n, 1.0 / math.sqrt(n), tolerance) == pytest.approx(0.8, abs=1e-6)
    assert np.mean(passed) == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 4000))


def test_as_many_examples_as_are_said_to_be_needed_have_about_the_power():
    needed = examples_needed(0.02, 0.01)

    assert non_inferiority_power(needed, 0.02, 0.01) == pytest.approx(0.8, abs=0.05)
    assert non_inferiority_power(examples_needed(0.0, 0.01), 0.0, 0.013) == 1.0


def test_power_comes_at_once():
    start = time.perf_counter()

    non_inferiority_power(5000, 0.0317, 0.0123)
    smallest_tolerance(872, 0.0317)

    assert time.perf_counter() - start < 2.0  # half a second on an idle machine


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (smallest_tolerance, (0, 0.1)),
        (smallest_tolerance, (10, 1.1)),
        (smallest_tolerance, (10, 0.1, 1.0)),
        (smallest_tolerance, (10, 0.1, 0.9, 0.0)),
        (smallest_detectable_drop, (2.5, 0.1)),
        (non_inferiority_power, (10, 0.1, 0.05, 0.95, 0.2)),
        (examples_needed, (0.1, 0.0)),
    ],
)
def test_what_cannot_be_is_refused(function, arguments):
    with pytest.raises(InvalidArgument):
        function(*arguments)
