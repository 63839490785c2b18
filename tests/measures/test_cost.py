"""Costs against formulas by hand: parameters, bytes and operations of BERT and GPT-2, and tensors allocated in order.

Per layer, for n tokens in b rows of s, width d and inner width f, a transformer layer takes 8nd² operations for the
four projections, 4bs²d for the two products of attention, and 4ndf for the feed-forward part.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pytest_bertology import cost, load_model
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.cost import _Watch, size
from tests.tiny import HEADS, LABELS, LAYERS, WIDTH, tiny_model

D, F, VOCABULARY, POSITIONS = HEADS * WIDTH, 32, 20, 32


def bert_flops(rows: int, length: int) -> int:
    n = rows * length
    layer = 8 * n * D * D + 4 * rows * length**2 * D + 4 * n * D * F
    return LAYERS * layer + 2 * rows * D * D + 2 * rows * D * len(LABELS)


def bert_parameters() -> int:
    norm = 2 * D
    embeddings = (VOCABULARY + POSITIONS + 2) * D + norm
    layer = 4 * (D * D + D) + norm + (D * F + F) + (F * D + D) + norm
    return embeddings + LAYERS * layer + (D * D + D) + (D * len(LABELS) + len(LABELS))


def gpt2_flops(rows: int, length: int) -> int:
    n = rows * length
    layer = 8 * n * D * D + 4 * rows * length**2 * D + 16 * n * D * D  # its inner width is 4d
    return LAYERS * layer + 2 * n * D * VOCABULARY


def ids(rows: int, length: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(5, 5 + rows * length).reshape(rows, length) % VOCABULARY}


# -- numbers and bytes -------------------------------------------------------------------------------------------


def test_parameters_and_bytes_are_those_of_the_formula():
    found = cost(tiny_model())

    assert found.parameters == bert_parameters()
    assert found.weight_bytes == 4 * bert_parameters()


def test_half_precision_takes_half_the_bytes():
    half = load_model(tiny_model().model.to(torch.bfloat16))

    assert size(half).parameters == bert_parameters()
    assert size(half).weight_bytes == 2 * bert_parameters()


def test_a_tied_weight_counts_once():
    tied = tiny_model("masked-lm")
    untied = copy.deepcopy(tied.model)
    untied.cls.predictions.decoder.weight = nn.Parameter(untied.cls.predictions.decoder.weight.detach().clone())

    assert tied.model.cls.predictions.decoder.weight is tied.model.bert.embeddings.word_embeddings.weight
    assert size(load_model(untied)).parameters - size(tied).parameters == VOCABULARY * D
    assert size(load_model(untied)).weight_bytes - size(tied).weight_bytes == 4 * VOCABULARY * D


def test_two_objects_over_the_same_memory_count_once():
    model = tiny_model("masked-lm")
    expected = size(model)
    words = model.model.bert.embeddings.word_embeddings.weight
    model.model.cls.predictions.decoder.weight = nn.Parameter(words.detach())

    assert model.model.cls.predictions.decoder.weight is not words
    assert size(model) == expected


def test_a_view_of_a_larger_memory_counts_what_it_spans():
    model = tiny_model()
    pooler = model.model.bert.pooler.dense
    pooler.weight = nn.Parameter(torch.randn(100, D)[:D])

    assert size(model).weight_bytes == 4 * bert_parameters()


def test_persistent_buffers_are_bytes_and_no_parameters():
    model = tiny_model()
    model.model.register_buffer("kept", torch.zeros(10, dtype=torch.float64))
    model.model.register_buffer("dropped", torch.zeros(10), persistent=False)

    assert size(model).parameters == bert_parameters()
    assert size(model).weight_bytes == 4 * bert_parameters() + 80


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_packed_weights_are_counted_and_their_kernels_are_said_to_be_unknown():
    model = tiny_model()
    linear = [module for module in model.model.modules() if isinstance(module, nn.Linear)]
    saved = sum(3 * module.weight.numel() for module in linear)
    quantised = torch.ao.quantization.quantize_dynamic(model.model, {nn.Linear}, dtype=torch.qint8)

    found = cost(load_model(quantised))

    assert found.parameters == bert_parameters()
    assert 0 <= found.weight_bytes - (4 * bert_parameters() - saved) <= 16 * len(linear)  # a scale and zero point each
    assert found.flops is None
    assert found.uncounted == ("quantized::linear_dynamic",)


# -- operations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("rows", "length"), [(1, 4), (2, 6), (3, 12)])
def test_operations_are_those_of_the_formula_however_attention_is_computed(attention, rows, length):
    model = tiny_model()
    model.model.set_attn_implementation(attention)

    found = cost(model, ids(rows, length))

    assert found.flops == bert_flops(rows, length)
    assert found.uncounted == ()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_causal_attention_is_counted_in_full(attention):
    model = tiny_model("causal-lm", "gpt2")
    model.model.set_attn_implementation(attention)

    assert cost(model, ids(2, 8)).flops == gpt2_flops(2, 8)


def test_the_sample_is_run_where_no_inputs_are_given():
    model = tiny_model()
    rows, length = model.sample()["input_ids"].shape

    assert cost(model).flops == bert_flops(rows, length)


def test_masked_heads_cost_what_open_ones_do():
    model = tiny_model()
    expected = cost(model)

    with model.masked([(0, 1), (1, 2)]):
        assert cost(model) == expected


# -- memory ------------------------------------------------------------------------------------------------------


def test_the_peak_is_the_most_that_live_tensors_hold_at_once():
    given, watch = torch.zeros(1000), _Watch()

    with torch.no_grad(), watch:
        given.add_(1)  # from outside: not counted
        first = given + 1  # 4,000
        view = first.view(10, 100)  # no memory of its own
        second = first * 2  # 8,000
        del first, view  # 4,000
        third = torch.cat([second, second])  # 12,000
        del second
        fourth = third[:10] + 1  # 8,040
        del third, fourth

    assert watch.peak == 12_000


def test_more_rows_need_more_memory():
    model = tiny_model()

    one, four = (cost(model, ids(rows, 6)).peak_bytes for rows in (1, 4))

    assert one > 4 * 6 * F  # at least the inner states of one layer
    assert one < four <= 4 * one


def test_eager_attention_holds_its_weights_too():
    model = tiny_model()
    rows, length = 2, 24
    fused = cost(model, ids(rows, length)).peak_bytes
    model.model.set_attn_implementation("eager")

    assert cost(model, ids(rows, length)).peak_bytes > fused + 4 * rows * HEADS * length**2


# -- what is left behind, and wrong arguments --------------------------------------------------------------------


def test_measuring_leaves_mode_gradients_and_hooks_as_they_were():
    model = tiny_model()
    model.model.train()
    before = model.weights_digest()

    cost(model)

    assert model.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.model.parameters())
    assert not model.altered()
    assert model.weights_digest() == before


@pytest.mark.parametrize("wrong", ["./folder", None, 3])
def test_what_is_no_loaded_model_is_refused(wrong):
    with pytest.raises(InvalidArgument, match="load_model"):
        cost(wrong)


def test_inputs_are_named():
    with pytest.raises(InvalidArgument, match="the keyword inputs of one pass"):
        cost(tiny_model(), torch.zeros(2, 3))
