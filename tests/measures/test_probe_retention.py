"""Probes of masked models: a planted layer whose head is known; scikit-learn on plain states; hand-made paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pytest_bertology import (
    Head,
    HeadMask,
    compression_path,
    evaluate,
    load_task,
    probe,
    probe_retention,
)
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore
from pytest_bertology.measures.compression_path import CompressionPath, PathPoint, without_smallest
from pytest_bertology.measures.probe_retention import ordering_of
from pytest_bertology.measures.sparsity import linear_weights
from pytest_bertology.tasks.metrics import METRICS
from tests.planted import planted_model, planted_task
from tests.planted_layers import LAYERS, planted_layer_model, planted_layer_task
from tests.tiny import tiny_model

WRITER = (1, 0)
"""The head that writes the label into the states of layer 2."""


@pytest.fixture(scope="module")
def model():
    return planted_layer_model(2)


@pytest.fixture(scope="module")
def task():
    return planted_layer_task(60, 0)


@pytest.fixture(scope="module")
def train():
    return planted_layer_task(150, 1)


def masking(model, *heads):
    return HeadMask.without(model.heads, heads)


def test_without_the_head_that_writes_it_the_label_is_gone(model, task, train):
    found = probe_retention(model, task, masking(model, WRITER), train=train)

    assert found.layer >= 2
    assert found.baseline_score == 1.0
    assert found.score < 0.45  # three colours, drawn evenly
    assert found.drop == pytest.approx(1.0 - found.score)
    assert found.difference.interval[0] > 0.5


def test_heads_above_the_layer_cannot_move_it(model, task, train):
    with pytest.raises(NothingToJudge, match="moves no state of layer 2"):
        probe_retention(model, task, masking(model, (2, 0), (3, 1)), layer=2, train=train)


def test_a_mask_in_force_around_the_call_is_no_part_of_the_baseline(model, task, train):
    with model.masked([WRITER]):
        found = probe_retention(model, task, model.mask_in_force(), layer=3, train=train)

    assert found.baseline_score == 1.0
    assert found.score < 0.45


def test_layers_that_there_are_not_are_refused(model, task, train):
    for layer in (LAYERS + 1, -1, "top", True):
        with pytest.raises(InvalidArgument):
            probe_retention(model, task, masking(model, WRITER), layer=layer, train=train)


def test_heads_are_ordered_by_what_the_model_itself_does(task):
    encoder, classifier = planted_layer_model(1), planted_model(Head(1, 2))
    own = planted_task(8)

    by, on, name = ordering_of(encoder, task, None, None)
    assert (by.method, on, name) == ("confidence", task, "confidence on the probing task's texts")
    assert ordering_of(classifier, own, None, None)[:2] == ("gradient", own)
    assert ordering_of(classifier, task, None, own)[:2] == ("gradient", own)


def test_a_language_model_orders_its_heads_by_its_loss_on_the_texts():
    task = load_task({"tokens": [["a", "b"], ["c", "d"]], "labels": [["x", "y"], ["y", "x"]]})

    by, on, _ = ordering_of(tiny_model("causal-lm", "gpt2"), task, None, None)

    assert by == "gradient"
    assert (on.kind, on.texts) == ("language-modelling", ("a b", "c d"))


def test_a_method_that_needs_labels_needs_a_task_of_the_models(model, task):
    with pytest.raises(InvalidArgument, match="model_task="):
        ordering_of(model, task, "gradient", None)


def test_a_path_of_masks_is_what_probe_and_evaluate_give_under_each(train):
    classifier, own = planted_model(Head(1, 2)), planted_task(40)
    task = planted_task(60, 3)

    found = compression_path(
        classifier, task, own, fractions=(0.0, 0.5, 1.0 - 1 / 24), layer=3, train=planted_task(90, 4)
    )

    assert [point.name for point in found.points] == [
        "0% of heads masked",
        "50% of heads masked",
        "96% of heads masked",
    ]
    mask = HeadMask.keep_all(classifier.heads)
    first = probe(classifier, task, [3], train=planted_task(90, 4), control=False, random_model=False)
    assert found.points[0].probe == first.scores[0]
    assert found.points[0].score == evaluate(classifier, own, mask).score == 1.0


@pytest.mark.parametrize(("kind", "family"), [("masked-lm", "bert"), ("causal-lm", "gpt2")])
def test_the_smallest_weights_of_each_matrix_are_zero_in_a_copy_alone(kind, family):
    model = tiny_model(kind, family)
    before = {name: weight.clone() for name, weight in linear_weights(model).items()}

    thinned = linear_weights(without_smallest(model, 0.3))

    for name, weight in before.items():
        sizes = weight.abs().flatten()
        threshold = sizes.kthvalue(int(0.3 * weight.numel() + 0.5)).values
        expected = torch.where(weight.abs() <= threshold, 0.0, weight)
        assert torch.equal(thinned[name], expected)
        assert torch.equal(linear_weights(model)[name], weight)


def a_path(probes, scores, metric="accuracy"):
    points = tuple(PathPoint(str(index), p, (p, p), s) for index, (p, s) in enumerate(zip(probes, scores, strict=True)))
    return CompressionPath("m", points, 2, "pos", METRICS["accuracy"], "lm", METRICS[metric], 0.2, 9, "head pruning")


def test_the_rank_correlation_and_its_p_value_are_scipys():
    draw = np.random.default_rng(0)
    probes, losses = draw.random(6), draw.random(6)
    found = a_path(probes.tolist(), losses.tolist(), "loss")

    def statistic(x):
        return stats.spearmanr(x, -losses).statistic

    exact = stats.permutation_test((probes,), statistic, permutation_type="pairings", alternative="greater")
    assert found.rank_correlation == pytest.approx(stats.spearmanr(probes, -losses).statistic)
    assert found.p_value == pytest.approx(exact.pvalue)


def test_a_loss_that_rises_as_the_probe_falls_is_a_correlation_of_one():
    assert a_path([0.9, 0.8, 0.5], [3.0, 4.0, 9.0], "loss").rank_correlation == pytest.approx(1.0)
    assert a_path([0.9, 0.8, 0.5], [0.9, 0.8, 0.5]).rank_correlation == pytest.approx(1.0)


def test_a_path_on_which_nothing_changes_has_no_correlation():
    with pytest.raises(UndefinedScore, match="at every point"):
        _ = a_path([0.9, 0.9, 0.9], [3.0, 4.0, 9.0], "loss").rank_correlation
    assert "rank correlation: " in a_path([0.9, 0.9, 0.9], [3.0, 4.0, 9.0], "loss").table()


@pytest.mark.parametrize("arguments", [{"fractions": (0.0, 0.5)}, {"fractions": (0.0, 0.5, 1.0)}, {"path": "weights"}])
def test_paths_that_say_nothing_are_refused(arguments):
    classifier, own = planted_model(Head(1, 2)), planted_task(8)
    with pytest.raises(InvalidArgument):
        compression_path(classifier, own, own, **arguments)


def test_tables_name_what_was_done():
    lines = a_path([0.9, 0.8, 0.5], [3.0, 4.0, 9.0], "loss").table().splitlines()

    assert lines[1].split() == ["probe's", "accuracy", "interval", "model's", "loss"]
    assert len({len(line) for line in lines[1:5]}) == 1
