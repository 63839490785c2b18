"""Checks on probes of masked models: a planted layer whose head is known, and paths made by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pytest_bertology import (
    CheckFailed,
    Head,
    HeadMask,
    assert_probe_retained,
    assert_probe_tracks_loss,
    load_model,
    load_task,
    probe_retention,
)
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument, NoHeadSelected, NothingToJudge
from tests.planted import planted_model, planted_task
from tests.planted_layers import WIDTH, planted_layer_model, planted_layer_task

WRITER = (1, 0)


def with_noise(model):
    """The same model, its other heads writing a little noise."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.model.encoder.layer:
            columns = layer.attention.output.dense.weight[:, WIDTH:]
            columns += 0.02 * torch.randn(columns.shape, generator=draw)
    return load_model(model.model, tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def model():
    return with_noise(planted_layer_model(2))


@pytest.fixture(scope="module")
def task():
    return planted_layer_task(60, 0)


@pytest.fixture(scope="module")
def train():
    return planted_layer_task(150, 1)


def test_a_page_says_what_was_known_and_what_is_left(model, task, train):
    with pytest.raises(CheckFailed) as failure:
        assert_probe_retained(model, task, heads=[WRITER], tolerance=0.1, train=train)

    page = str(failure.value)
    assert page.startswith("the probe of layer 2 is not retained with 1 of 8 heads masked")
    assert "as trained  1.0000" in page
    assert "; required: at most 0.1" in page
    assert "L1H0" in page


def test_the_verdict_names_layer_heads_and_scores(model, task, train):
    heard = []
    with hearing(heard.append), pytest.raises(CheckFailed):
        assert_probe_retained(model, task, heads=[WRITER], layer=3, tolerance=0.1, train=train)

    (verdict,) = heard
    assert (verdict.check, verdict.heads, verdict.baseline) == ("assert_probe_retained", ("L1H0",), 1.0)
    assert verdict.details["layer"] == 3
    assert verdict.observed == pytest.approx(1.0 - verdict.score)


def test_heads_of_which_the_label_needs_none_may_go(model, task, train):
    found = assert_probe_retained(model, task, heads=[(0, 1), (1, 1)], layer=2, tolerance=0.0, train=train)

    assert found.drop == 0.0


def test_where_nothing_was_known_there_is_nothing_to_retain(task, train):
    late = with_noise(planted_layer_model(3))
    with pytest.raises(CheckFailed, match="there is nothing to retain: the probe of layer 2 does not beat"):
        assert_probe_retained(late, task, heads=[(1, 1)], layer=2, tolerance=0.5, train=train)


def test_a_bound_needs_more_than_the_drop(model, task, train):
    few = task.subset(range(4))
    assert_probe_retained(model, few, heads=[(0, 1)], layer=2, tolerance=0.05, train=train)
    with pytest.raises(CheckFailed, match="may not be retained") as failure:
        assert_probe_retained(model, few, heads=[(0, 1)], layer=2, tolerance=0.05, confidence=0.95, train=train)
    assert "with 95% confidence; required: at most 0.05" in str(failure.value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"heads": [WRITER], "tolerance": 1.0}, InvalidArgument),
        ({"heads": [WRITER], "tolerance": -0.1}, InvalidArgument),
        ({"heads": [WRITER], "prune": 0.5, "tolerance": 0.1}, InvalidArgument),
        ({"heads": [WRITER], "tolerance": 0.1, "confidence": 0.4}, InvalidArgument),
        ({"heads": [], "tolerance": 0.1}, NoHeadSelected),
        ({"prune": 0.01, "tolerance": 0.1}, NoHeadSelected),
        ({"tolerance": 0.1}, NothingToJudge),
        ({"heads": [(3, 1)], "layer": 3, "tolerance": 0.1}, NothingToJudge),
    ],
)
def test_arguments_on_which_it_could_not_fail_are_refused(model, task, train, arguments, error):
    with pytest.raises(error):
        assert_probe_retained(model, task, train=train, **arguments)


@pytest.mark.parametrize(("tolerance", "relative"), [(0.7, False), (0.99, True)])
def test_a_tolerance_on_which_nothing_need_be_known_is_refused(model, task, train, tolerance, relative):
    counts = Counter(task.flat_labels)
    said = Counter(train.flat_labels).most_common(1)[0][0]
    majority = counts[said] / sum(counts.values())

    with pytest.raises(InvalidArgument, match="a model that knows nothing would pass") as caught:
        assert_probe_retained(
            model,
            task,
            heads=[WRITER],
            layer=3,
            tolerance=tolerance,
            relative=relative,
            train=train,
            held_out=planted_layer_task(30, 2),
        )

    assert f"less than {1.0 - majority:.4f}" in str(caught.value)
    assert f"(1.0000) over the most frequent class ({majority:.4f})" in str(caught.value)


def test_options_that_there_are_not_are_named_with_those_that_there_are(model, task, train):
    said = r"^poolng='mean' is not valid: expected options of probe, which are kind, train, held_out, "
    with pytest.raises(InvalidArgument, match=said):
        assert_probe_retained(model, task, heads=[WRITER], tolerance=0.1, train=train, poolng="mean")
    with pytest.raises(InvalidArgument, match=said):
        assert_probe_tracks_loss(model, task, task, 0.5, poolng="mean")
    with pytest.raises(InvalidArgument, match=r"^layers="):
        probe_retention(model, task, HeadMask.without(model.heads, [WRITER]), layers=[1])


def test_texts_without_labels_are_no_probing_task(model):
    with pytest.raises(InvalidArgument, match="it has texts and no labels"):
        assert_probe_retained(model, load_task({"text": ["red1", "blue1"]}), heads=[WRITER], tolerance=0.1)


def test_a_fraction_is_pruned_by_confidence_where_the_model_does_nothing(model, task, train):
    found = assert_probe_retained(model, task, prune=0.5, layer=4, tolerance=0.6, train=train)

    assert found.by == ", the least important by confidence on the probing task's texts"
    assert len(found.heads) == 4


def test_a_probe_that_rises_while_the_model_falls_does_not_track_it():
    classifier, own = planted_model(Head(1, 2)), planted_task(40)
    path = [planted_model(Head(layer, 2)) for layer in (0, 1, 2)]
    task, train = planted_task(60, 3), planted_task(90, 4)

    with pytest.raises(Exception, match="at every point of the path"):
        assert_probe_tracks_loss(classifier, task, own, 0.5, path=path, layer=3, train=train)


def test_a_path_below_the_correlation_asked_for_shows_its_table():
    classifier, silent, gone = (planted_model(Head(1, 2)) for _ in range(3))
    with torch.no_grad():
        silent.model.classifier.weight.zero_()  # it knows, and says nothing
        gone.model.bert.encoder.layer[1].attention.output.dense.weight.zero_()  # it does not know
    own, task, train = planted_task(40), planted_task(60, 3), planted_task(90, 4)
    arguments = {"path": [classifier, silent, gone], "layer": 3, "pooling": "first", "train": train}

    found = assert_probe_tracks_loss(classifier, task, own, 0.4, **arguments)

    assert [point.score for point in found.points] == [1.0, 0.5, 0.5]
    assert found.rank_correlation == pytest.approx(0.5)
    with pytest.raises(CheckFailed) as failure:
        assert_probe_tracks_loss(classifier, task, own, 0.6, **arguments)
    title = "probing scores do not go with the model's accuracy: rank correlation +0.500; required: at least 0.6"
    assert str(failure.value).startswith(title)
    assert "rank correlation +0.500 (p 0.667, one-sided)" in str(failure.value)


@pytest.mark.parametrize("correlation", [-1.0, 1.1, True, "0.5"])
def test_a_correlation_that_could_not_fail_is_refused(model, task, correlation):
    with pytest.raises(InvalidArgument, match="min_correlation"):
        assert_probe_tracks_loss(model, task, task, correlation)
