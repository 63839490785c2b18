"""Standard errors of importance against the spread of importance over examples, each example's worked out by itself."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_bertology import HeadMap, HeadScores, head_importance, load_task
from pytest_bertology.errors import InvalidScores
from tests.tiny import tiny_model, tiny_task


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def alone(model, task, i, j, method):
    """Of example i: twice it and j, less it and j (a task must have both labels, which no single example has)."""
    return 3 * importance(model, task, [i, i, j], method) - 2 * importance(model, task, [i, j], method)


def importance(model, task, positions, method):
    return head_importance(model, task.subset(positions), method).values


@pytest.mark.filterwarnings("ignore:integrated gradients of")  # how exact the integral is, is not asked here
@pytest.mark.parametrize("method", ["gradient", "gradient_per_token", "taylor", "ablation", "integrated_gradients"])
def test_the_standard_error_is_the_spread_over_examples_by_the_root_of_their_number(model, method):
    task = tiny_task(6)

    scores = head_importance(model, task, method)

    each = np.array([alone(model, task, i, (i + 1) % 6, method) for i in range(6)])
    np.testing.assert_allclose(scores.values, each.mean(axis=0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scores.standard_errors, each.std(axis=0, ddof=1) / np.sqrt(6), rtol=1e-3, atol=1e-6)


def test_a_method_that_is_not_a_mean_over_examples_has_no_standard_errors(model):
    assert head_importance(model, tiny_task(6), "confidence").standard_errors is None


def test_normalised_scores_keep_their_errors_in_the_same_units():
    scores = HeadScores([3.0, 4.0, 1.0, 0.0], HeadMap([2, 2]), "m", standard_errors=[0.5, 1.0, 0.25, 0.0])

    found = scores.normalized(per_layer=True, min_max=False)

    np.testing.assert_allclose(found.standard_errors, [0.1, 0.2, 0.25, 0.0])
    np.testing.assert_allclose(found.normalized(per_layer=False).standard_errors, [0.1, 0.2, 0.25, 0.0])


@pytest.mark.parametrize("errors", [[0.1], [0.1, -0.1], [0.1, float("nan")]])
def test_standard_errors_that_are_none_are_refused(errors):
    with pytest.raises(InvalidScores):
        HeadScores([1.0, 2.0], HeadMap([2]), "m", standard_errors=errors)


def test_scores_of_one_example_have_no_standard_error():
    found = head_importance(tiny_model("masked-lm"), load_task({"text": ["the film was good"]}))

    assert found.standard_errors is None
