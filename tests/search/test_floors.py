"""Floors that no search could keep, or miss; and models that miss theirs before a head is masked."""

from __future__ import annotations

import pytest

from pytest_bertology import (
    ResultStore,
    Task,
    assert_prunable,
    evaluate,
    find_prunable_heads,
    using_store,
)
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.search import finding
from pytest_bertology.search.plans import floors_of
from tests.tiny import tiny_model, tiny_task


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def other():
    """Labels that the model knows nothing of."""
    return tiny_task(30, seed=5)


@pytest.mark.parametrize(
    ("metric", "floor", "expected"),
    [
        ("accuracy", 95, r"at most 1: no accuracy is greater and nothing could keep it; did you mean 0\.95\?"),
        ("f1_macro", 1.01, "at most 1: no f1_macro"),
        ("matthews", 60, r"did you mean 0\.6\?"),
        ("accuracy", 0, "more than 0: no accuracy is less and nothing could fail"),
        ("f1", -0.1, "more than 0: no f1 is less and nothing could fail"),
        ("matthews", -1.0, "more than -1: no matthews is less"),
        ("loss", 0.0, "more than 0, the greatest loss allowed: none is less"),
    ],
)
def test_floors_that_nothing_keeps_or_misses_are_refused_before_anything_is_run(
    model, other, metric, floor, expected, monkeypatch
):
    monkeypatch.setattr(finding, "evaluate_exactly", lambda *_: pytest.fail("it ran"))
    task = other.with_metric(metric)

    with pytest.raises(InvalidArgument, match=expected):
        find_prunable_heads(model, task, floor=floor, search="threshold")
    with pytest.raises(InvalidArgument, match=expected):
        assert_prunable(model, {task: floor}, 0.5)


def test_a_perplexity_is_at_least_1_and_a_correlation_at_most(model):
    texts = ("a b", "b c")
    language, numbers = Task("texts", "language-modelling", texts, None), Task("n", "regression", texts, (0.5, 1.0))

    with pytest.raises(InvalidArgument, match="at least 1, the greatest perplexity allowed"):
        floors_of(model, language, 0.9, False)
    with pytest.raises(InvalidArgument, match="no spearman is greater"):
        floors_of(model, numbers.with_metric("spearman"), 1.1, False)


def test_floors_at_the_ends_of_the_range_and_of_metrics_of_ones_own_are_taken(model, other):
    def points(labels, predictions):
        return 100.0 * (labels == predictions).mean()

    language = Task("texts", "language-modelling", ("a b",), None)

    for task, floor in (
        (other, 1.0),
        (other.with_metric("matthews"), 0.0),
        (other.with_metric(points), 95.0),
        (other.with_metric("loss"), 2.5),
        (language, 1.0),
    ):
        assert floors_of(model, task, floor, False) == {task: floor}
    assert floors_of(model, language, 0.9, True) == {language: 0.9}


def test_a_model_that_misses_the_floor_as_trained_is_told_before_the_search(model, other):
    score = evaluate(model, other).score

    with pytest.warns(BertologyWarning) as heard:
        found = find_prunable_heads(model, other, floor=0.99, search="threshold")

    (warning,) = heard
    assert str(warning.message).startswith(f"the model as trained has accuracy {score:.4f}, below the floor 0.99")
    assert warning.filename == __file__
    assert f"as trained {score:.4f}: below the floor already" in found.summary()
    assert f"as trained {score:.4f}: below the floor already" in repr(found)


def test_of_a_loss_above_the_floor_is_told(model, other):
    with pytest.warns(BertologyWarning, match=r"the model as trained has loss .*, above the floor 0\.01"):
        found = find_prunable_heads(model, other.with_metric("loss"), floor=0.01, search="threshold")

    assert "above the floor already" in found.summary()


def test_a_model_at_its_floor_misses_nothing(model, other):
    found = find_prunable_heads(model, other, floor=evaluate(model, other).score, search="threshold")

    assert "already" not in found.summary() + repr(found)
