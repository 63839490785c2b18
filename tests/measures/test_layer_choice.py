"""Strategies against lists written out by hand; similarities against hidden states that transformers itself returns."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import transformers

from pytest_bertology import Batching, ModelUnderTest, ResultStore, choose_layers, layer_similarity, using_store
from pytest_bertology.errors import InvalidArgument, NonFinite, UnknownLayer
from pytest_bertology.models import load_model
from tests.families import plain_inputs, redraw, task_for, tokenizer, under_test

TWELVE = {
    # (strategy, count): layers from 0; the paper's numbers, from 1, are one more.
    ("top", 1): [11],
    ("top", 4): [8, 9, 10, 11],
    ("top", 11): [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    ("bottom", 1): [0],
    ("bottom", 4): [0, 1, 2, 3],
    ("alternate_odd", 4): [4, 6, 8, 10],
    ("alternate_odd", 6): [0, 2, 4, 6, 8, 10],
    ("alternate_even", 4): [5, 7, 9, 11],
    ("alternate_even", 1): [11],
    ("symmetric", 2): [5, 6],
    ("symmetric", 4): [4, 5, 6, 7],
    ("symmetric", 6): [3, 4, 5, 6, 7, 8],
    ("symmetric", 10): [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    ("symmetric", 1): [6],
    ("symmetric", 5): [4, 5, 6, 7, 8],
}
FIVE = {
    ("symmetric", 1): [2],
    ("symmetric", 2): [2, 3],
    ("alternate_odd", 3): [0, 2, 4],
    ("alternate_even", 2): [1, 3],
}


@pytest.fixture(scope="module")
def twelve() -> ModelUnderTest:
    return under_test("bert", num_hidden_layers=12)


@pytest.fixture(scope="module")
def model() -> ModelUnderTest:
    return under_test("bert", num_hidden_layers=5)


@pytest.fixture(scope="module")
def task():
    return task_for("sequence-classification", 12)


# -- strategies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "count"), TWELVE)
def test_of_twelve_layers_these_are_dropped(twelve, strategy, count):
    assert choose_layers(twelve, strategy, count) == tuple(TWELVE[strategy, count])


@pytest.mark.parametrize(("strategy", "count"), FIVE)
def test_of_five_layers_these_are_dropped(model, strategy, count):
    assert choose_layers(model, strategy, count) == tuple(FIVE[strategy, count])


@pytest.mark.parametrize(("fraction", "layers"), [(0.1, (11,)), (0.25, (9, 10, 11)), (0.4, (7, 8, 9, 10, 11))])
def test_a_fraction_is_rounded_to_whole_layers(twelve, fraction, layers):
    assert choose_layers(twelve, "top", fraction=fraction) == layers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"count": 1, "fraction": 0.5},
        {"count": 0},
        {"count": 12},
        {"count": True},
        {"count": 1.0},
        {"fraction": 0.04},
        {"fraction": 1.0},
        {"fraction": -0.1},
    ],
)
def test_no_layer_and_all_layers_are_refused(twelve, options):
    with pytest.raises(InvalidArgument):
        choose_layers(twelve, "top", **options)


@pytest.mark.parametrize(("strategy", "most"), [("alternate_odd", 3), ("alternate_even", 2)])
def test_only_every_other_layer_can_go_by_turns(model, strategy, most):
    with pytest.raises(InvalidArgument, match=f"at most {most}"):
        choose_layers(model, strategy, most + 1)


def test_a_strategy_that_is_not_known_is_refused(model):
    with pytest.raises(InvalidArgument, match="top, bottom, alternate_even, alternate_odd, symmetric, contribution"):
        choose_layers(model, "middle", 1)


def test_contribution_needs_a_task(model):
    with pytest.raises(InvalidArgument, match="contribution"):
        choose_layers(model, "contribution", 1)


def test_layers_of_a_stack_are_named_with_it():
    config = transformers.T5Config(
        vocab_size=60, d_model=24, d_kv=6, d_ff=32, num_heads=4, num_layers=4, num_decoder_layers=3
    )
    config.decoder_start_token_id = 0
    model = load_model(redraw(transformers.T5ForConditionalGeneration(config), 0).eval())

    assert choose_layers(model, "top", 2, stack="decoder") == ((1, "decoder"), (2, "decoder"))
    with pytest.raises(UnknownLayer, match="name the stack too"):
        choose_layers(model, "top", 2)


# -- similarity -----------------------------------------------------------------------------------------------------


def by_hand(model: ModelUnderTest, task) -> np.ndarray:
    """From the hidden states of each example by itself, without padding, in float64."""
    cosines: list[torch.Tensor] = []
    for inputs in plain_inputs(model.model, task):
        inputs.pop("labels")
        with torch.no_grad():
            states = model.model(**inputs, output_hidden_states=True).hidden_states
        pairs = itertools.pairwise(states)
        cosines.append(torch.stack([torch.cosine_similarity(a[0].double(), b[0].double()) for a, b in pairs]))
    return torch.cat(cosines, dim=1).mean(dim=1).numpy()


def test_similarity_is_the_mean_cosine_of_hidden_states(model, task):
    found = layer_similarity(model, task)

    assert found.shape == (5,)
    assert found.dtype == np.float64
    assert found == pytest.approx(by_hand(model, task), abs=1e-6)
    assert len(set(found.round(4))) == 5


def test_a_decoder_s_similarity_counts_every_real_token(task):
    decoder = under_test("gpt2", "causal-lm", n_layer=3)
    letters = task_for("causal-lm", 8)

    found = layer_similarity(decoder, letters)

    # The last hidden state that GPT-2 returns is behind its last norm.
    assert found[:2] == pytest.approx(by_hand(decoder, letters)[:2], abs=1e-6)


@pytest.mark.parametrize("batching", [Batching(tokens=1), Batching(tokens=40), Batching(tokens=4096)])
def test_similarity_does_not_depend_on_the_batch_size(model, task, batching):
    with using_store(ResultStore()):
        assert layer_similarity(model, task, batching=batching) == pytest.approx(by_hand(model, task), abs=1e-6)


def test_padding_on_the_left_is_excluded_too():
    decoder, letters = under_test("llama", "causal-lm", num_hidden_layers=3), task_for("causal-lm", 8)

    right = layer_similarity(decoder, letters)
    left = layer_similarity(decoder, letters, batching=Batching(padding_side="left"))

    assert left == pytest.approx(right, abs=1e-5)


def test_similarity_is_measured_once_and_leaves_nothing_behind(task):
    model = under_test("bert")

    with using_store(ResultStore()) as store:
        first = layer_similarity(model, task)
        second = layer_similarity(model, task)

    assert (store.computed, store.reused) == (1, 1)
    assert (first == second).all()
    assert not any(module._forward_hooks for module in model.model.modules())


def test_masks_in_force_count(model, task):
    plain = layer_similarity(model, task)

    with model.masked([(1, 0), (1, 1), (1, 2), (1, 3)]):
        masked = layer_similarity(model, task)

    assert masked[0] == plain[0]
    assert abs(masked[1] - plain[1]) > 1e-3


def test_numbers_that_are_not_finite_are_told(task):
    broken = under_test("bert", num_hidden_layers=3)
    with torch.no_grad():
        broken.model.bert.encoder.layer[1].output.dense.bias[0] = float("nan")

    with pytest.raises(NonFinite, match="layer 1"):
        layer_similarity(broken, task)


def planted(at: int) -> ModelUnderTest:
    """A pre-norm decoder in which one layer adds nothing to its input."""
    live = copy.deepcopy(under_test("llama", "sequence-classification", num_hidden_layers=4).model)
    with torch.no_grad():
        live.model.layers[at].self_attn.o_proj.weight[:, 1:] = 0.0
        live.model.layers[at].self_attn.o_proj.weight *= 1e-6
        live.model.layers[at].mlp.down_proj.weight.zero_()
    return load_model(live, tokenizer=tokenizer())


@pytest.mark.parametrize("at", [0, 2, 3])
def test_contribution_drops_the_layer_that_does_nothing_first(at, task):
    model = planted(at)

    assert layer_similarity(model, task)[at] == pytest.approx(1.0, abs=1e-9)
    assert choose_layers(model, "contribution", 1, task=task) == (at,)


def test_contribution_drops_the_most_similar(model, task):
    order = np.argsort(-by_hand(model, task))

    assert choose_layers(model, "contribution", 3, task=task) == tuple(sorted(order[:3].tolist()))
