"""Paired-bootstrap p-values against plain loops, exact binomial tests and simulation; corrections against scipy."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_bertology import significance
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.significance import adjusted_p_values, bootstrap_p_values, drop_p_values, mcnemar, resample_counts

properties = settings(deadline=None, database=None, max_examples=60)
p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30).map(np.array)


def means(differences):
    """The change in a mean on resamples, for (examples, tests) differences."""
    return lambda counts: counts @ differences / len(differences)


def p_of(differences, resamples=2000, seed=0):
    differences = np.asarray(differences, dtype=float)
    return bootstrap_p_values(
        means(differences), differences.mean(axis=0), len(differences), resamples=resamples, seed=seed
    )


def changed(worse, better, n):
    return np.array([[-1.0] * worse + [1.0] * better + [0.0] * (n - worse - better)]).T


# -- resamples ---------------------------------------------------------------------------------------------------


def test_each_resample_draws_as_many_examples_as_there_are():
    counts = np.concatenate(list(resample_counts(30, 500, seed=1)))

    assert counts.shape == (500, 30)
    assert (counts.sum(axis=1) == 30).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(30), abs=0.25)
    assert counts.var() == pytest.approx(1 - 1 / 30, abs=0.05)
    assert len(np.unique(counts, axis=0)) == 500


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    whole = np.concatenate(list(resample_counts(30, 100, seed=1)))
    monkeypatch.setattr(significance, "_COUNTS_AT_A_TIME", 7 * 30)
    blocks = list(resample_counts(30, 100, seed=1))

    assert [len(block) for block in blocks] == [7] * 14 + [2]
    assert np.array_equal(np.concatenate(blocks), whole)


def test_seeds_differ():
    one, other = (np.concatenate(list(resample_counts(30, 10, seed=seed))) for seed in (1, 2))

    assert not np.array_equal(one, other)


# -- p-values ----------------------------------------------------------------------------------------------------


def test_a_p_value_is_that_of_a_plain_loop():
    values = np.random.default_rng(3).normal(0.1, 0.6, size=(40, 3))
    observed = values.mean(axis=0)
    counts = np.concatenate(list(resample_counts(40, 300, 5)))

    found = p_of(values, resamples=300, seed=5)

    for test in range(3):
        drawn = [np.repeat(values[:, test], row.astype(int)).mean() for row in counts]
        extreme = sum(abs(one - observed[test]) >= abs(observed[test]) for one in drawn)
        assert found[test] == (1 + extreme) / 301


def test_no_change_in_any_example_is_p_of_one():
    assert p_of(np.zeros((50, 2))).tolist() == [1.0, 1.0]


def test_changes_that_cancel_are_p_of_one():
    assert p_of(changed(5, 5, 50)) == [1.0]


def test_a_change_in_every_example_is_the_smallest_p_and_never_zero():
    assert p_of(-np.ones((20, 1)), resamples=99) == [0.01]


def test_the_sign_of_the_change_does_not_matter():
    values = np.random.default_rng(0).normal(0.2, 1, size=(60, 1))

    assert np.array_equal(p_of(values), p_of(-values))


@pytest.mark.parametrize(("n", "mean"), [(200, 0.1), (400, 0.1), (400, 0.15)])
def test_a_p_value_of_a_mean_is_that_of_the_normal_approximation(n, mean):
    values = np.random.default_rng(1).normal(mean, 1.0, size=(n, 1))

    z = abs(values.mean()) / (values.std() / np.sqrt(n))
    expected = 2 * stats.norm.sf(z)
    assert p_of(values, resamples=20_000)[0] == pytest.approx(expected, rel=0.15, abs=0.003)


@pytest.mark.parametrize(("worse", "better"), [(10, 10), (15, 5), (25, 10), (40, 20), (30, 12)])
def test_a_p_value_of_accuracy_is_near_the_exact_test_of_discordant_pairs(worse, better):
    exact = stats.binomtest(worse, worse + better).pvalue

    found = p_of(changed(worse, better, 400), resamples=20_000)[0]

    assert found == pytest.approx(exact, rel=0.5, abs=0.01)


def test_a_p_value_is_scipys_interval_turned_around():
    values = np.random.default_rng(7).normal(0.12, 1.0, size=300)

    p = p_of(values[:, None], resamples=20_000)[0]
    interval = stats.bootstrap(
        (values,), np.mean, confidence_level=1 - p, method="basic", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval

    assert min(abs(interval.low), abs(interval.high)) < 0.01


def test_resamples_without_a_score_speak_against_a_change():
    def sometimes(counts):
        drawn = counts @ -np.ones((20, 1)) / 20
        drawn[counts[:, 0] == 0] = np.nan
        return drawn

    found = bootstrap_p_values(sometimes, np.array([-1.0]), 20, resamples=2000, seed=0)

    assert found[0] == pytest.approx((1 - 1 / 20) ** 20, abs=0.04)


def test_where_nothing_changed_truly_p_is_about_uniform():
    generator = np.random.default_rng(11)
    values = generator.normal(0.0, 1.0, size=(150, 600))

    found = p_of(values, resamples=999)

    for level in (0.01, 0.05, 0.1, 0.5):
        error = 3 * np.sqrt(level * (1 - level) / 600)
        assert abs(np.mean(found <= level) - level) < error + 0.01
    assert stats.kstest(found, "uniform").pvalue > 0.001


def test_where_accuracy_did_not_change_truly_few_are_called_significant():
    generator = np.random.default_rng(12)
    flips = generator.random((300, 600)) < 0.08
    values = np.where(flips, np.where(generator.random((300, 600)) < 0.5, -1.0, 1.0), 0.0)

    found = p_of(values, resamples=999)

    assert np.mean(found <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600) + 0.01


def test_a_hundred_heads_on_a_development_set_take_seconds():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], p=[0.05, 0.92, 0.03], size=(872, 144))
    start = time.perf_counter()

    p_of(values, resamples=14_400)

    assert time.perf_counter() - start < 20  # 1.3 s on one slow core


# -- corrections -------------------------------------------------------------------------------------------------


def test_corrections_of_a_worked_example():
    found = np.array([0.01, 0.04, 0.03, 0.005])

    assert adjusted_p_values(found, "bonferroni") == pytest.approx([0.04, 0.16, 0.12, 0.02])
    assert adjusted_p_values(found, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted_p_values(found, "fdr") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjusted_p_values(found, None) == pytest.approx(found)


@properties
@given(p_values)
def test_the_false_discovery_rate_is_scipys(found):
    assert adjusted_p_values(found, "fdr") == pytest.approx(stats.false_discovery_control(found, method="bh"))


@properties
@given(p_values, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_its_steps_reject(found, alpha):
    rejected = set()
    for step, index in enumerate(np.argsort(found, kind="stable")):
        if found[index] * (len(found) - step) > alpha:
            break
        rejected.add(int(index))

    assert {int(i) for i in np.flatnonzero(adjusted_p_values(found, "holm") <= alpha)} == rejected


@properties
@given(p_values)
def test_corrections_keep_the_order_and_never_lower_a_p_value(found):
    order = np.argsort(found, kind="stable")
    for correction in ("holm", "bonferroni", "fdr"):
        adjusted = adjusted_p_values(found, correction)
        assert (adjusted >= found - 1e-15).all()
        assert (adjusted <= 1.0).all()
        assert (np.diff(adjusted[order]) >= -1e-15).all()
    assert (adjusted_p_values(found, "holm") <= adjusted_p_values(found, "bonferroni") + 1e-15).all()


def test_no_tests_are_not_corrected():
    for correction in ("holm", "bonferroni", "fdr", None):
        assert adjusted_p_values(np.array([]), correction).tolist() == []


# -- McNemar -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
@properties
def test_mcnemars_p_value_is_that_of_scipys_binomial_test(worse, better):
    if worse + better:
        both = stats.binomtest(worse, worse + better).pvalue
        more = stats.binomtest(worse, worse + better, alternative="greater").pvalue
        assert mcnemar(worse, better) == pytest.approx(min(1.0, both))
        assert mcnemar(worse, better, alternative="worse") == pytest.approx(more)
    assert mcnemar(worse, better) == mcnemar(better, worse)


def test_mcnemars_p_values_by_hand():
    assert mcnemar(0, 0) == mcnemar(0, 0, alternative="worse") == mcnemar(0, 3, alternative="worse") == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(9, 1, alternative="worse") == pytest.approx(11 / 1024)


@pytest.mark.parametrize(
    ("worse", "better", "how"), [(-1, 2, "two-sided"), (1.5, 2, "worse"), (True, 2, "worse"), (1, 2, "better")]
)
def test_mcnemars_test_takes_counts(worse, better, how):
    with pytest.raises(InvalidArgument):
        mcnemar(worse, better, alternative=how)


def test_p_values_of_a_drop_are_those_of_a_plain_loop():
    values = np.random.default_rng(3).normal(0.1, 0.6, size=40)
    drop = float(values.mean())
    counts = np.concatenate(list(resample_counts(40, 300, 5)))
    drawn = np.array([np.repeat(values, row.astype(int)).mean() for row in counts]) - drop

    found = drop_p_values(lambda rows: rows @ values / 40, drop, 40, resamples=300, seed=5)

    assert found.tolist() == [(1 + (abs(drawn) >= abs(drop)).sum()) / 301, (1 + (drawn >= drop).sum()) / 301]
