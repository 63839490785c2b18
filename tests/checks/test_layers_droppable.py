"""The check on dropped layers, against copies of which plain transformers runs fewer layers."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from pytest_bertology import CheckFailed, LayerRetention, assert_layers_droppable, load_model
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import BertologyWarning, InvalidArgument, UnknownLayer
from pytest_bertology.models.skipping import skipping
from tests.families import family, plain_inputs, task_for, tokenizer

LAYERS = 4


@pytest.fixture(scope="module")
def model():
    return load_model(family("bert", num_hidden_layers=LAYERS), tokenizer=tokenizer(), kind="sequence-classification")


@pytest.fixture(scope="module")
def task(model):
    """The model is right on all of it."""
    drawn = task_for("sequence-classification", 24)
    said = [int(logits.argmax()) for logits in predictions(model, drawn, [])]
    return type(drawn)("letters", drawn.kind, drawn.texts, tuple(said))


def predictions(model, task, dropped) -> list[torch.Tensor]:
    """Each text by itself, through a copy from whose list of layers these were taken."""
    twin = copy.deepcopy(model.model)
    layers = twin.bert.encoder.layer
    twin.bert.encoder.layer = torch.nn.ModuleList([x for i, x in enumerate(layers) if i not in dropped])
    with torch.no_grad():
        return [twin(**inputs).logits[0] for inputs in plain_inputs(twin, task)]


def accuracy(model, task, dropped) -> float:
    said = [int(logits.argmax()) for logits in predictions(model, task, dropped)]
    return sum(one == label for one, label in zip(said, task.labels, strict=True)) / len(said)


@pytest.mark.parametrize(("strategy", "dropped"), [("top", [2, 3]), ("bottom", [0, 1]), ("symmetric", [1, 2])])
def test_the_drop_is_that_of_the_model_without_the_layers(model, task, strategy, dropped):
    found = assert_layers_droppable(model, task, strategy, 2, 0.99)

    assert isinstance(found, LayerRetention)
    assert found.layers == tuple(dropped)
    assert found.baseline.score == 1.0
    assert found.masked.score == accuracy(model, task, dropped) < 1.0
    assert found.drop == pytest.approx(1.0 - found.masked.score)


def test_the_check_fails_just_below_the_drop_and_passes_at_it(model, task):
    drop = 1.0 - accuracy(model, task, [1])

    assert assert_layers_droppable(model, task, [1], tolerance=drop).drop == pytest.approx(drop)
    with pytest.raises(CheckFailed):
        assert_layers_droppable(model, task, [1], tolerance=drop - 1e-6)


def test_the_message_says_what_was_dropped_and_how(model, task):
    score = accuracy(model, task, [2, 3])

    with pytest.raises(CheckFailed) as caught:
        assert_layers_droppable(model, task, "top", 2, 0.01)

    message = str(caught.value)
    assert "accuracy is not retained without 2 layers by 'top'" in message
    assert f"skipped   {score:.4f}" in message
    assert f"{1 - score:.4f}; required: at most 0.01" in message
    assert "2, 3 (from 0 at the bottom)" in message
    assert "became wrong" in message


def test_the_verdict_is_told_and_made_of_primitives(model, task):
    heard: list[Verdict] = []

    with hearing(heard.append):
        assert_layers_droppable(model, task, "top", 1, 100.0, metric="loss", relative=True)

    (verdict,) = heard
    assert verdict.check == "assert_layers_droppable"
    assert verdict.passed
    assert verdict.judged == "relative drop"
    assert json.loads(json.dumps(verdict.to_jsonable()))["details"]["layers"] == [3]


def test_with_confidence_the_bound_is_judged(model, task):
    found = assert_layers_droppable(model, task, [1], tolerance=0.99, confidence=0.95)

    assert found.bound is not None
    assert found.bound.upper > found.drop
    with pytest.raises(CheckFailed, match="true drop"):
        assert_layers_droppable(model, task, [1], tolerance=found.drop, confidence=0.95)


def test_the_baseline_is_the_model_as_trained_whatever_is_in_force(model, task):
    with skipping(model, [0]), model.masked([(3, 0)]):
        found = assert_layers_droppable(model, task, [1], tolerance=0.99)

    assert found.baseline.score == 1.0
    assert found.heads == ((3, 0),)
    expected = load_model(family("bert", num_hidden_layers=LAYERS), kind="sequence-classification")
    with torch.no_grad():
        expected.model.bert.encoder.layer[3].attention.output.dense.weight[:, :6] = 0.0
    assert found.masked.score == accuracy(expected, task, [0, 1])


def test_other_metrics_and_a_fraction(model, task):
    found = assert_layers_droppable(model, task, "bottom", tolerance=100.0, fraction=0.5, metric="loss")

    assert found.layers == (0, 1)
    assert found.drop == pytest.approx(found.masked.score - found.baseline.score)


def test_a_layer_that_does_nothing_is_warned_of(task):
    live = family("llama", num_hidden_layers=3)
    with torch.no_grad():
        live.model.layers[1].self_attn.o_proj.weight.zero_()
        live.model.layers[1].mlp.down_proj.weight.zero_()
    idle = load_model(live, tokenizer=tokenizer(), kind="sequence-classification")

    with pytest.warns(BertologyWarning, match="changes no result"):
        found = assert_layers_droppable(idle, task, "contribution", 1, 0.0)

    assert found.layers == (1,)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("top", 2), {}),
        (("top", 2, -0.1), {}),
        (("top", 0, 0.1), {}),
        (("top", LAYERS, 0.1), {}),
        (("nonsense", 1, 0.1), {}),
        (([], None, 0.1), {}),
        (([1], 1, 0.1), {}),
        (([1], None, 0.1), {"stack": "encoder"}),
        (([1], None, 0.1), {"confidence": 0.2}),
    ],
)
def test_arguments_on_which_it_could_not_fail_are_refused(model, task, arguments, options):
    with pytest.raises(InvalidArgument):
        assert_layers_droppable(model, task, *arguments, **options)


def test_a_layer_that_there_is_not_is_named(model, task):
    with pytest.raises(UnknownLayer):
        assert_layers_droppable(model, task, [LAYERS], tolerance=0.1)
