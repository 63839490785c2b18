"""Outcomes beside kept ones: p-values of scipy's binomial and t tests, and counts made by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pytest_bertology import HeadMap, HeadMask, Outcomes, Task
from pytest_bertology.baselines.compare_outcomes import compare_outcomes
from pytest_bertology.baselines.comparison import Limits
from pytest_bertology.baselines.files import as_stored
from pytest_bertology.baselines.records import outcomes_of, record
from pytest_bertology.engine.results import RawResults
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.tasks.metrics import find_metric

LABELS = {0: "negative", 1: "positive"}
N = 400
TRUTH = np.arange(N) % 2


def outcomes(predictions, losses=None, labels=TRUTH, metric="accuracy", kind="sequence-classification", counts=None):
    labels = np.asarray(labels)
    n = len(labels) if counts is None else len(counts)
    counts = np.ones(n, dtype=np.int64) if counts is None else np.asarray(counts)
    losses = np.linspace(0.1, 0.9, n) if losses is None else np.asarray(losses, dtype=np.float64)
    texts = tuple(f"text <{i}>\n" for i in range(n))
    if kind == "token-classification":
        ends = np.cumsum(counts)[:-1]
        own = tuple(tuple(int(x) for x in part) for part in np.split(labels, ends))
        task = Task("data", kind, tuple(tuple("w" for _ in part) for part in own), own)
    else:
        task = Task("data", kind, texts, tuple(x.item() for x in labels))
    predictions = np.asarray(predictions)
    logits = (
        np.stack([predictions != 1, predictions == 1], axis=1) * 2.0 if kind != "regression" else predictions[:, None]
    )
    raw = RawResults(losses, counts, labels, predictions, logits)
    mask = HeadMask.keep_all(HeadMap([2]))
    return Outcomes(task, mask, find_metric(metric, kind), 0 if kind == "regression" else 2, (), raw)


def flipped(wrong_before, wrong_now):
    """Predictions of both sides: wrong at these positions."""
    before, now = TRUTH.copy(), TRUTH.copy()
    before[list(wrong_before)] ^= 1
    now[list(wrong_now)] ^= 1
    return before, now


def compared(before, now, noise=1e-4, **limits):
    kept = json.loads(json.dumps(as_stored({"c": dict(record(before, LABELS).content)})["c"]))
    return compare_outcomes(kept, now, Limits(**limits), LABELS, noise)


def test_the_p_value_is_that_of_the_exact_binomial_test_of_those_that_changed():
    before, now = flipped(range(4), range(2, 14))  # 2 became right, 10 wrong

    found = compared(outcomes(before), outcomes(now))

    assert found.p_value == pytest.approx(stats.binomtest(10, 12, alternative="greater").pvalue)
    assert found.p_value < 0.05
    assert not found.passed
    assert (found.baseline, found.score) == (396 / 400, 388 / 400)
    assert {name: found.evidence["changed"][name] for name in ("lost", "gained")} == {"lost": 10, "gained": 2}


def test_a_drop_that_chance_explains_is_no_failure_and_neither_is_a_stricter_level():
    before, now = flipped(range(4), range(2, 8))

    assert compared(outcomes(before), outcomes(now)).passed
    before, now = flipped((), range(6))
    assert not compared(outcomes(before), outcomes(now)).passed
    assert compared(outcomes(before), outcomes(now), level=0.01).passed


def test_the_same_results_pass_whatever_the_level():
    before, _ = flipped(range(40), ())

    found = compared(outcomes(before), outcomes(before), level=0.99)

    assert found.passed
    assert (found.p_value, found.better) == (1.0, False)


def test_a_better_candidate_passes_and_it_is_said():
    before, now = flipped(range(20), ())

    found = compared(outcomes(before), outcomes(now))

    assert found.passed
    assert found.better


def test_a_tolerance_asks_for_proof_and_few_examples_are_inconclusive():
    before, now = flipped(range(4), range(8))  # a drop of 0.01

    wide, narrow, less = (compared(outcomes(before), outcomes(now), tolerance=t) for t in (0.05, 0.015, 0.005))
    worse = compared(outcomes(before), outcomes(flipped((), range(40))[1]), tolerance=0.02)  # a drop of 0.09

    assert (wide.passed, wide.inconclusive) == (True, False)
    assert (narrow.passed, narrow.inconclusive) == (False, True)
    assert (less.passed, less.inconclusive) == (False, True)  # 8 of 400 against 4 may be chance
    assert (worse.passed, worse.inconclusive) == (False, False)
    assert narrow.observed > 0.015
    assert wide.p_value < 0.05 < narrow.p_value < less.p_value < 0.95 < worse.p_value


def test_predictions_may_change_both_ways_and_still_be_too_many():
    before, now = flipped(range(10), range(10, 20))

    assert compared(outcomes(before), outcomes(now)).passed
    found = compared(outcomes(before), outcomes(now), max_changed=0.04)
    assert (found.passed, found.observed, found.required) == (False, 20 / 400, "<= 0.04")


def test_worst_examples_are_shown_escaped_with_labels_by_name():
    before, now = flipped((), range(10))

    found = compared(outcomes(before), outcomes(now))

    first = found.evidence["changed"]["worst"][0]
    assert first["text"] == repr("text <0>\n")
    assert (first["label"], first["before"], first["after"], first["margin"]) == (
        "negative",
        "negative",
        "positive",
        2.0,
    )
    assert any("negative, now positive (margin 2.00)" in line for line in found.lines)


def test_a_mean_loss_is_judged_by_the_paired_t_test_and_batching_moves_nothing():
    losses = np.linspace(0.1, 0.9, N)
    shifted = losses + 0.01 + np.random.default_rng(0).normal(0.0, 0.02, N)
    before = outcomes(TRUTH, losses, metric="loss")

    worse = compared(before, outcomes(TRUTH, shifted, metric="loss"))
    noise = compared(before, outcomes(TRUTH, losses + 5e-6, metric="loss"))

    kept = np.array([float(f"{loss:.6g}") for loss in losses])
    assert worse.p_value == pytest.approx(
        stats.ttest_1samp(shifted - kept, 0.0, alternative="greater").pvalue, rel=1e-3
    )
    assert not worse.passed
    assert noise.passed
    assert noise.p_value == 1.0


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_other_scores_are_judged_by_a_paired_bootstrap(metric):
    before, now = flipped(range(4), range(2, 30))

    assert not compared(outcomes(before, metric=metric), outcomes(now, metric=metric)).passed
    assert compared(outcomes(now, metric=metric), outcomes(now, metric=metric)).passed


def test_a_bootstrap_can_refuse_however_many_comparisons_there_are():
    """No p-value of 10,000 resamples is below 1 / 10,001."""
    before, now = (outcomes(each, metric="f1") for each in flipped(range(4), range(2, 60)))

    found = compared(before, now, level=1e-6)

    assert found.p_value == pytest.approx(1 / 10_001)
    assert (found.passed, found.required) == (False, "not significant (p > 0.00015)")


def test_regressions_keep_their_predictions():
    truth = np.linspace(0.0, 5.0, 60)
    close = truth + np.random.default_rng(0).normal(0.0, 0.1, 60)
    far = truth + np.random.default_rng(1).normal(0.0, 2.0, 60)
    before, same, worse = (
        outcomes(p, (p - truth) ** 2, truth, "pearson", "regression") for p in (close, close + 1e-6, far)
    )

    assert compared(before, same).passed
    assert not compared(before, worse).passed


def test_tokens_are_judged_by_examples():
    labels = np.tile([0, 1, 1, 0], 50)
    counts = [4] * 50
    now = labels.copy()
    now[:80:4] = 1
    before, after = (outcomes(p, None, labels, kind="token-classification", counts=counts) for p in (labels, now))

    found = compared(before, after)

    assert not found.passed
    assert found.examples == 50
    assert found.evidence["changed"]["lost"] == 20
    assert found.evidence["changed"]["worst"][0]["example"] < 20


def test_many_labels_are_kept_as_numbers():
    labels = np.arange(N) % 50
    before = replace(outcomes(labels, labels=labels), n_labels=50)

    kept = record(before).content

    np.testing.assert_array_equal(outcomes_of(kept, before).raw.predictions, labels)
    assert record(outcomes(TRUTH)).content["predictions"][0] == "01" * 40


def test_limits_that_judge_nothing_of_outcomes_are_refused():
    before, now = flipped((), ())
    for wrong in ({"min_correlation": 0.5}, {"top": 3}, {"higher_is_better": True}, {"relative": True}):
        with pytest.raises(InvalidArgument):
            compared(outcomes(before), outcomes(now), **wrong)
    for wrong in ({"tolerance": -1}, {"max_changed": 1.0}, {"confidence": 0.4}, {"tolerance": float("nan")}):
        with pytest.raises(InvalidArgument):
            Limits(**wrong)


def test_a_share_of_a_baseline_of_nothing_is_undefined():
    wrong = 1 - TRUTH

    with pytest.raises(UndefinedScore):
        compared(outcomes(wrong), outcomes(wrong), tolerance=0.1, relative=True)


def test_false_alarms_are_as_rare_as_the_level_says():
    """Two models equally good, their errors drawn anew: McNemar's test, exact, fails at most at its level."""
    generator = np.random.default_rng(0)
    failed = 0
    for _ in range(100):
        before, now = (np.where(generator.random(N) < 0.1, 1 - TRUTH, TRUTH) for _ in range(2))
        failed += not compared(outcomes(before), outcomes(now)).passed
    assert failed <= stats.binom.ppf(0.999, 100, 0.05)
