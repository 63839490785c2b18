"""Metrics against scikit-learn, scipy and direct formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from pytest_bertology.errors import UndefinedScore, UnknownMetric
from pytest_bertology.tasks.metrics import METRICS, Metric, Results, find_metric

CLASSES = "sequence-classification"
KINDS = (CLASSES, "regression", "token-classification", "language-modelling")
properties = settings(deadline=None, database=None, max_examples=40)


def results(labels: object, predictions: object, losses: object = (1.0,), counts: object = (1,), n: int = 3) -> Results:
    return Results(np.asarray(labels), np.asarray(predictions), np.asarray(losses), np.asarray(counts), n)


def pairs(n_labels: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    label = st.integers(0, n_labels - 1)
    return st.lists(st.tuples(label, label), min_size=2, max_size=30)


@properties
@given(pairs(3))
def test_scores_of_three_classes_are_scikit_learns(judged):
    labels, predictions = map(list, zip(*judged, strict=True))
    assume(len({*labels, *predictions}) > 1)  # scikit-learn warns of a single label
    found = results(labels, predictions)

    assert METRICS["accuracy"](found) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert METRICS["matthews"](found) == pytest.approx(sk.matthews_corrcoef(labels, predictions))
    for average in ("macro", "micro"):
        expected = sk.f1_score(labels, predictions, average=average, zero_division=0)
        assert METRICS[f"f1_{average}"](found) == pytest.approx(expected)
    assert METRICS["f1"](found) == METRICS["f1_macro"](found)


@properties
@given(pairs(2))
def test_f1_of_two_classes_is_that_of_label_1(judged):
    both = sum(a == b == 1 for a, b in judged)
    either = sum((a == 1) + (b == 1) for a, b in judged)
    labels, predictions = zip(*judged, strict=True)

    f1 = METRICS["f1"](results(labels, predictions, n=2))

    assert f1 == pytest.approx(2 * both / either if either else 0.0)


@properties
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=20))
def test_correlations_are_scipys(judged):
    labels, predictions = (np.array(side, dtype=float) for side in zip(*judged, strict=True))
    assume(np.ptp(labels) > 0)
    assume(np.ptp(predictions) > 0)
    found = results(labels, predictions)

    assert METRICS["pearson"](found) == pytest.approx(stats.pearsonr(labels, predictions).statistic)
    assert METRICS["spearman"](found) == pytest.approx(stats.spearmanr(labels, predictions).statistic)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("labels", "predictions", "reason"),
    [
        ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], "all predictions are equal"),
        ([2.0, 2.0, 2.0], [0.1, 0.2, 0.3], "all labels are equal"),
        ([2.0], [0.1], "all labels are equal"),
    ],
)
def test_a_correlation_with_what_does_not_vary_has_no_value(name, labels, predictions, reason):
    with pytest.raises(UndefinedScore, match=f"{name} has no value here: {reason}"):
        METRICS[name](results(labels, predictions))


def test_the_loss_is_the_mean_over_items_and_not_over_examples():
    found = results([0] * 4, [0] * 4, losses=[1.0, 4.0], counts=[3, 1])

    assert METRICS["loss"](found) == pytest.approx((3 * 1.0 + 1 * 4.0) / 4)


def test_perplexity_is_the_exponential_of_the_loss_per_token():
    found = results([0] * 4, [0] * 4, losses=[1.0, 4.0], counts=[3, 1])

    assert METRICS["perplexity"](found) == pytest.approx(math.exp(7 / 4))


def test_a_uniform_guess_has_the_perplexity_of_the_vocabulary():
    assert METRICS["perplexity"](results([0], [0], losses=[math.log(50)])) == pytest.approx(50)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(UndefinedScore, match="perplexity has no value here: it comes out as inf on 1 examples"):
        METRICS["perplexity"](results([0], [0], losses=[1e4]))

    broken = find_metric(lambda labels, predictions: math.nan, CLASSES)
    with pytest.raises(UndefinedScore, match="it comes out as nan"):
        broken(results([0], [0]))


@pytest.mark.parametrize(
    ("name", "baseline", "observed", "drop"),
    [
        ("accuracy", 0.9, 0.7, 0.2),
        ("accuracy", 0.7, 0.9, -0.2),
        ("perplexity", 20.0, 25.0, 5.0),
        ("loss", 0.5, 0.4, -0.1),
    ],
)
def test_a_drop_is_how_much_worse_it_got(name, baseline, observed, drop):
    assert METRICS[name].drop(baseline, observed) == pytest.approx(drop)


@pytest.mark.parametrize(
    ("kind", "default"),
    list(zip(KINDS, ["accuracy", "pearson", "accuracy", "perplexity"], strict=True)),
)
def test_each_kind_has_a_default_metric(kind, default):
    assert find_metric(None, kind) is METRICS[default]
    assert kind in METRICS[default].kinds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_given_for_its_kinds_alone(name, kind):
    if kind in METRICS[name].kinds:
        assert find_metric(name, kind) is find_metric(METRICS[name], kind) is METRICS[name]
    else:
        for asked in (name, METRICS[name]):
            with pytest.raises(UnknownMetric, match=f"'{name}' is not one for {kind}"):
                find_metric(asked, kind)


def test_an_unknown_metric_is_refused_with_those_there_are():
    with pytest.raises(UnknownMetric, match="'bleu' is not one for regression: choose from pearson, spearman, loss"):
        find_metric("bleu", "regression")


def test_a_function_of_labels_and_predictions_is_a_metric():
    def off_by_one(labels, predictions):
        return np.mean(abs(labels - predictions) <= 1)

    metric = find_metric(off_by_one, CLASSES)

    assert metric.name == "off_by_one"
    assert metric(results([0, 0, 0, 2], [0, 1, 2, 2])) == 0.75
    assert metric.drop(0.9, 0.8) == pytest.approx(0.1)


def test_a_metric_of_ones_own_can_be_one_where_less_is_better():
    errors = Metric("errors", (CLASSES,), lambda found: float((found.labels != found.predictions).sum()), False)

    assert find_metric(errors, CLASSES) is errors
    assert errors(results([0, 1, 1], [1, 0, 1])) == 2.0
    assert errors.drop(2.0, 5.0) == 3.0
