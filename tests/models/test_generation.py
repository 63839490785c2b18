"""Generation under a mask: the gates act in every decoding step, whatever the cache.

Oracle: the same generation by a deep copy in which the columns that read the masked heads are zero, token by token.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

from pytest_bertology import load_model

SIZE, HEADS, STEPS = 6, 4, 12
CONFIGS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=60, n_embd=24, n_layer=2, n_head=HEADS, n_positions=40)),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=60,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            intermediate_size=32,
        ),
    ),
    "t5": (
        T5ForConditionalGeneration,
        T5Config(vocab_size=60, d_model=24, d_kv=SIZE, d_ff=32, num_layers=2, num_heads=HEADS),
    ),
    "bart": (
        BartForConditionalGeneration,
        BartConfig(
            vocab_size=60,
            d_model=24,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=40,
        ),
    ),
}
MASKS = {
    "gpt2": [[(0, 1), (1, 3)], [(1, 0)]],
    "llama": [[(0, 1), (1, 3)], [(1, 0)]],
    "t5": [[(0, 1, "decoder"), (1, 2, "cross")], [(0, 0, "encoder"), (1, 3, "encoder")]],
    "bart": [[(0, 1, "decoder"), (1, 2, "cross")], [(0, 0, "encoder"), (1, 3, "encoder")]],
}
CASES = [(name, heads) for name, masks in MASKS.items() for heads in masks]
IDS = [f"{name}-{index}" for name, masks in MASKS.items() for index in range(len(masks))]


def _model(name):
    architecture, config = CONFIGS[name]
    config = copy.deepcopy(config)
    for token, value in {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}.items():
        setattr(config, token, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architecture(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.4)
    return model


def _prompt(padding_side=None):
    ids = torch.tensor([[11, 23, 35, 47, 9], [31, 17, 52, 8, 26]])
    attention = torch.ones_like(ids)
    if padding_side == "left":
        ids[1, :2], attention[1, :2] = 0, 0
    if padding_side == "right":
        ids[1, 3:], attention[1, 3:] = 0, 0
    return {"input_ids": ids, "attention_mask": attention}


def _twin(model, heads):
    """A deep copy in which the projections' columns that read these heads are zero."""
    twin = copy.deepcopy(model.model)
    sites = {(site.layer, site.stack): site.name for site in model.sites}
    with torch.no_grad():
        for layer, head, *stack in heads:
            projection = twin.get_submodule(sites[layer, stack[0] if stack else None])
            read = slice(head * SIZE, (head + 1) * SIZE)
            (projection.weight if isinstance(projection, Conv1D) else projection.weight.T)[read] = 0.0
    return twin


def _generate(model, prompt, **options):
    fixed = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "num_beams": 1}
    return model.generate(**prompt, **fixed, output_logits=True, return_dict_in_generate=True, **options)


@pytest.mark.parametrize(("name", "heads"), CASES, ids=IDS)
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_greedy_generation_is_token_by_token_that_of_zeroed_columns(name, heads, cache):
    model = load_model(_model(name))
    options = {"use_cache": False} if cache == "none" else {"cache_implementation": cache}
    options |= {"disable_compile": True} if cache == "static" else {}

    with model.masked(heads):
        masked = _generate(model.model, _prompt(), **options)
    expected = _generate(_twin(model, heads), _prompt(), **options)

    assert torch.equal(masked.sequences, expected.sequences)
    for ours, theirs in zip(masked.logits, expected.logits, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    plain = _generate(model.model, _prompt(), **options)
    assert not torch.allclose(plain.logits[0], masked.logits[0], atol=1e-2)


PADDED = [(name, heads, "left") for name, heads in CASES] + [
    (*case, "right") for case in CASES if case[0] in ("t5", "bart")
]


@pytest.mark.parametrize(("name", "heads", "side"), PADDED, ids=lambda value: value if isinstance(value, str) else "")
def test_padded_prompts_generate_as_with_zeroed_columns(name, heads, side):
    """Decoders continue the last position, so that their prompts are padded on the left only."""
    model = load_model(_model(name))

    with model.masked(heads):
        masked = _generate(model.model, _prompt(side))

    assert torch.equal(masked.sequences, _generate(_twin(model, heads), _prompt(side)).sequences)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gates_act_once_in_every_decoding_step(name):
    model = load_model(_model(name))
    gates = [torch.ones(HEADS) for _ in model.sites]

    with model.gated(gates):
        _generate(model.model, _prompt())
        assert model._gating.applied() == (STEPS, STEPS)


def test_a_decoders_gates_act_in_every_step_and_the_encoders_once():
    model = load_model(_model("bart"))

    with model.gated([torch.ones(HEADS) for _ in model.sites]):
        _generate(model.model, _prompt())
        applied = dict(zip([(site.stack, site.layer) for site in model.sites], model._gating.applied(), strict=True))

    assert {applied["encoder", layer] for layer in (0, 1)} == {1}
    assert {applied[stack, layer] for stack in ("decoder", "cross") for layer in (0, 1)} == {STEPS}
