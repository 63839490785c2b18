"""Masks act on the live model exactly, in whatever way it is run, and are gone afterwards.

Oracle: a deep copy whose projection columns of the masked heads are zero (`families.zeroed`).
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pytest_bertology import HeadMap, HeadMask, load_model, load_task
from pytest_bertology.errors import (
    InvalidGate,
    MaskNotApplied,
    MaskOfAnotherModel,
    MaskOfAnotherThread,
    NotAHead,
    UnknownHead,
)
from tests.families import EVERY, FAMILIES, HEADS, LAYERS, few, padded_batch, projections, real, under_test, zeroed

ALL = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
SOME = [(0, 1), (1, 0), (1, 3)]
shared = cache(under_test)
"""A model for tests that only mask it."""


@pytest.mark.parametrize(("name", "kind"), EVERY)
@few
@given(heads=st.sets(st.sampled_from(ALL)))
def test_any_masked_heads_are_as_zeroed_columns(name, kind, heads):
    model = shared(name, kind)
    batch = padded_batch(model.model)

    with torch.no_grad(), model.masked(heads):
        masked = model.model(**batch).logits

    with torch.no_grad():
        zero = zeroed(model, heads)(**batch).logits
    assert torch.allclose(real(masked, batch), real(zero, batch), atol=1e-5, rtol=0)


@pytest.mark.assets
@pytest.mark.parametrize("checkpoint", ["minilm-sst2", "stories260K-hf"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_any_masked_heads_of_a_real_model_are_as_zeroed_columns(assets, checkpoint, share):
    model = load_model(assets / "checkpoints" / checkpoint, device="cpu")
    task = load_task(assets / "data" / "sst2" / "dev.tsv")
    heads = random.Random(share).sample(list(model.heads), round(share * len(model.heads)))
    rows = [model.tokenizer(text)["input_ids"] for text in task.texts[:16]]
    longest = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
    }

    with model.masked(heads):
        masked = _logits(model, batch)

    with torch.no_grad():
        zero = zeroed(model, heads)(**batch).logits
    assert torch.allclose(real(masked, batch), real(zero, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_each_single_head_moves_the_output(name, kind):
    model = shared(name, kind)
    batch = padded_batch(model.model)
    plain = _logits(model, batch)

    for head in model.heads:
        with model.masked([head]):
            masked = _logits(model, batch)

        assert float((real(masked, batch) - real(plain, batch)).abs().max()) > 1e-4


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_open_gates_are_the_plain_model_bit_for_bit(name, kind):
    model = shared(name, kind)
    batch = padded_batch(model.model)
    plain = _logits(model, batch)

    with model.gated([torch.ones(HEADS), torch.ones(3, HEADS)]):
        gated = _logits(model, batch)
    with model.masked(HeadMask.keep_all(model.heads)):
        masked = _logits(model, batch)

    assert torch.equal(gated, plain)
    assert torch.equal(masked, plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_nested_masks_mask_what_either_masks(name):
    model = shared(name)
    batch = padded_batch(model.model)

    with model.masked([(0, 1)]), model.masked([(0, 1), (1, 2)]), model.masked([]):
        nested = _logits(model, batch)
        in_force = model.mask_in_force()

    assert torch.allclose(nested, _plain(zeroed(model, [(0, 1), (1, 2)]), batch), atol=1e-5)
    assert in_force == HeadMask.without(model.heads, [(0, 1), (1, 2)])


def test_nested_fractions_multiply():
    model = shared("bert")
    half = HeadMask(model.heads, (0.5,) * len(model.heads))
    batch = padded_batch(model.model)
    twin = zeroed(model, [])
    with torch.no_grad():
        for projection in projections(twin):
            projection.weight *= 0.25

    with model.masked(half), model.masked(half):
        nested = _logits(model, batch)

    assert torch.allclose(nested, _plain(twin, batch), atol=1e-5)


def test_exactly_forgets_the_masks_outside_for_its_own_length():
    model = shared("bert")
    batch = padded_batch(model.model)

    with model.masked([(0, 1)]):
        with model.exactly(HeadMask.without(model.heads, [(1, 2)])):
            inside = _logits(model, batch)
        with model.exactly(None):
            open_ = _logits(model, batch)
        outside = _logits(model, batch)

    assert torch.allclose(inside, _plain(zeroed(model, [(1, 2)]), batch), atol=1e-5)
    assert torch.equal(open_, _logits(model, batch))
    assert torch.allclose(outside, _plain(zeroed(model, [(0, 1)]), batch), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plain_model_is_back_after_the_mask(name):
    model = shared(name)
    batch = padded_batch(model.model)
    plain, weights = _logits(model, batch), model.weights_digest()

    with model.masked(SOME):
        _logits(model, batch)

    assert torch.equal(_logits(model, batch), plain)
    assert model.weights_digest() == weights
    assert not any(module._forward_pre_hooks for module in model.model.modules())


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_plain_model_is_back_after_a_body_that_raises(error):
    model = shared("gpt2")
    batch = padded_batch(model.model)
    plain = _logits(model, batch)

    with pytest.raises(error), model.masked([(0, 0)]), model.masked(SOME):
        raise error

    assert torch.equal(_logits(model, batch), plain)
    assert model.mask_in_force() == HeadMask.keep_all(model.heads)
    assert not any(module._forward_pre_hooks for module in model.model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad, nullcontext])
@pytest.mark.parametrize("name", FAMILIES)
def test_masks_act_in_every_autograd_mode(name, mode):
    model = shared(name)
    batch = padded_batch(model.model)

    with mode(), model.masked(SOME):
        inside = model.model(**batch).logits
    with model.masked(SOME), mode():
        outside = model.model(**batch).logits

    expected = _plain(zeroed(model, SOME), batch)
    assert torch.allclose(inside, expected, atol=1e-5)
    assert torch.allclose(outside, expected, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_flow_through_a_mask_as_through_zeroed_columns(name):
    model = under_test(name)
    batch, twin = padded_batch(model.model), zeroed(model, SOME)

    with model.masked(SOME):
        model.model(**batch).logits.square().sum().backward()
    twin(**batch).logits.square().sum().backward()

    ours, theirs = (m.get_input_embeddings().weight.grad for m in (model.model, twin))
    assert float(theirs.abs().max()) > 1e-3
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_one_mask_serves_inference_mode_and_then_autograd():
    model = under_test("bert")
    batch, twin = padded_batch(model.model), zeroed(model, SOME)

    with model.masked(SOME):
        with torch.inference_mode():
            model.model(**batch)
        model.model(**batch).logits.sum().backward()
    twin(**batch).logits.sum().backward()

    ours, theirs = (m.get_input_embeddings().weight.grad for m in (model.model, twin))
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_masks_act_in_train_mode_under_the_same_dropout(name):
    model = under_test(name)
    batch, twin = padded_batch(model.model), zeroed(model, SOME).train()
    model.model.train()

    torch.manual_seed(3)
    with torch.no_grad(), model.masked(SOME):
        masked = model.model(**batch).logits
    torch.manual_seed(3)
    with torch.no_grad():
        zero = twin(**batch).logits

    assert torch.allclose(masked, zero, atol=1e-5)
    assert all(module.training for module in model.model.modules())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_is_masked_at_every_step(name):
    model = shared(name, "causal-lm")
    prompt = {key: value[:1] for key, value in padded_batch(model.model).items()}
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}

    with model.masked(SOME):
        masked = model.model.generate(**prompt, **options)

    assert torch.equal(masked, zeroed(model, SOME).generate(**prompt, **options))
    assert not torch.equal(masked, model.model.generate(**prompt, **options))


def test_the_base_model_called_by_itself_is_masked():
    model = shared("bert")
    batch = padded_batch(model.model)

    with torch.no_grad(), model.masked(SOME):
        masked = model.model.bert(**batch).last_hidden_state

    with torch.no_grad():
        zero = zeroed(model, SOME).bert(**batch).last_hidden_state
    assert torch.allclose(real(masked, batch), real(zero, batch), atol=1e-5)


def test_two_threads_mask_one_model_at_once():
    model = shared("bert")
    batch = padded_batch(model.model)
    masks = [[(0, 1)], [(1, 2), (0, 0)], []]
    expected = [_plain(zeroed(model, heads), batch) for heads in masks]
    barrier = threading.Barrier(len(masks))

    def run(heads):
        with torch.no_grad(), model.masked(heads):
            barrier.wait(20)
            logits = [model.model(**batch).logits for _ in range(10)]
            barrier.wait(20)
        return logits

    with ThreadPoolExecutor(len(masks)) as pool:
        found = list(pool.map(run, masks))

    for runs, wanted in zip(found, expected, strict=True):
        assert all(torch.allclose(logits, wanted, atol=1e-5) for logits in runs)
    assert torch.equal(_logits(model, batch), expected[2])


def test_a_thread_that_says_no_mask_is_told_that_another_masks():
    model = shared("bert")
    batch = padded_batch(model.model)
    plain = _logits(model, batch)

    with ThreadPoolExecutor(1) as pool, model.masked(SOME):
        with pytest.raises(MaskOfAnotherThread, match="BertForSequenceClassification"):
            pool.submit(_logits, model, batch).result()
        without = pool.submit(_with_no_mask, model, batch).result()

    assert torch.equal(without, plain)


def _with_no_mask(model, batch):
    with model.masked([]):
        return _logits(model, batch)


def test_heads_and_masks_say_the_same():
    model = shared("llama")
    batch = padded_batch(model.model)
    ways = [SOME, [list(head) for head in SOME], iter(SOME), set(SOME), HeadMask.without(model.heads, SOME)]

    found = []
    for way in ways:
        with model.masked(way):
            found.append(_logits(model, batch))

    assert torch.allclose(found[0], _plain(zeroed(model, SOME), batch), atol=1e-5)
    assert all(torch.equal(logits, found[0]) for logits in found)


def test_a_mask_of_another_model_is_refused():
    with pytest.raises(MaskOfAnotherModel), shared("bert").masked(HeadMask.keep_all(HeadMap([12, 12]))):
        pass


@pytest.mark.parametrize("head", [(LAYERS, 0), (0, HEADS), (-1, 0)])
def test_an_unknown_head_is_refused(head):
    with pytest.raises(UnknownHead, match="2 layers of 4 heads"), shared("bert").masked([head]):
        pass


def test_a_single_head_without_its_list_is_refused():
    with pytest.raises(NotAHead), shared("bert").masked((0, 1)):
        pass


@pytest.mark.parametrize(
    "gates", [[torch.ones(HEADS)], [torch.ones(HEADS), torch.ones(HEADS + 1)], [None, torch.tensor(1.0)]]
)
def test_gates_of_another_shape_are_refused(gates):
    with pytest.raises(InvalidGate), shared("bert").gated(gates):
        pass


def test_gates_for_another_number_of_examples_are_refused():
    model = shared("bert")

    with pytest.raises(InvalidGate, match="gates for 2 examples"), model.gated([torch.ones(2, HEADS), None]):
        _logits(model, padded_batch(model.model, (5, 4, 3)))


@pytest.mark.parametrize("name", FAMILIES)
def test_examples_can_have_gates_of_their_own(name):
    model = shared(name)
    batch = padded_batch(model.model)
    gates = [torch.ones(3, HEADS) for _ in range(LAYERS)]
    gates[0][1, 3] = gates[1][2, 0] = 0.0

    with model.gated(gates):
        logits = _logits(model, batch)

    expected = [_plain(zeroed(model, heads), batch)[row] for row, heads in enumerate([[], [(0, 3)], [(1, 0)]])]
    assert torch.allclose(logits, torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@few
@given(gate=st.floats(0, 1))
def test_fractions_scale_linearly_at_the_projection(name, gate):
    model = shared(name)
    mask = HeadMask(model.heads, tuple(gate if head == (0, 2) else 1.0 for head in model.heads))

    closed, scaled, open_ = (_projected(model, m) for m in (HeadMask.without(model.heads, [(0, 2)]), mask, None))

    assert torch.allclose(scaled, closed + gate * (open_ - closed), atol=1e-5)
    assert float((open_ - closed).abs().max()) > 1e-2


def _projected(model, mask):
    """What the first layer's projection returns."""
    seen = []
    handle = projections(model.model)[0].register_forward_hook(lambda module, args, result: seen.append(result))
    try:
        with model.exactly(mask):
            _logits(model, padded_batch(model.model))
    finally:
        handle.remove()
    return seen[0]


def test_a_bypassed_projection_is_an_error():
    model = under_test("bert")
    output = model.model.bert.encoder.layer[1].attention.output
    output.forward = lambda contexts, states: output.LayerNorm(contexts + states)

    with pytest.raises(MaskNotApplied, match=r"layer\.1\.attention\.output\.dense"), model.masked([(1, 0)]):
        _logits(model, padded_batch(model.model))


def test_a_projection_that_was_replaced_is_an_error():
    model = under_test("bert")
    model.model.bert.encoder.layer[0].attention.output.dense = nn.Linear(24, 24)

    with pytest.raises(MaskNotApplied), model.masked([(0, 0)]):
        _logits(model, padded_batch(model.model))


def test_a_bypassed_projection_without_masked_heads_is_no_error():
    model = under_test("bert")
    output = model.model.bert.encoder.layer[1].attention.output
    output.forward = lambda contexts, states: output.LayerNorm(contexts + states)
    batch = padded_batch(model.model)
    plain = _logits(model, batch)

    with model.masked([(0, 0)]):
        masked = _logits(model, batch)

    assert not torch.allclose(masked, plain, atol=1e-3)


def test_the_error_of_the_body_is_not_hidden_by_a_mask_that_did_not_act():
    model = under_test("bert")
    output = model.model.bert.encoder.layer[1].attention.output
    output.forward = lambda contexts, states: contexts

    def body():
        with model.masked([(1, 0)]):
            _logits(model, padded_batch(model.model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()


def test_a_mask_under_which_nothing_runs_is_no_error():
    model = shared("bert")

    with model.masked(SOME) as masked:
        pass

    assert masked is model


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_keeps_the_gates(name, reentrant):
    model = _without_dropout(name)
    batch, twin = padded_batch(model.model), zeroed(model, SOME).train()
    model.model.train()
    _checkpointing(model.model, reentrant)

    with model.masked(SOME):
        model.model(**batch).logits.square().sum().backward()
    twin(**batch).logits.square().sum().backward()

    ours, theirs = (m.get_input_embeddings().weight.grad for m in (model.model, twin))
    assert float(theirs.abs().max()) > 1e-3
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_gates_survive_gradient_checkpointing(name):
    model = _without_dropout(name)
    plain = _gate_gradients(model)
    _checkpointing(model.model)

    checkpointed = _gate_gradients(model)

    assert float(plain.abs().max()) > 1e-3
    assert torch.allclose(checkpointed, plain, atol=1e-5, rtol=1e-4)


def _checkpointing(model, reentrant=False):
    # Renamed in transformers 5.22, where the old name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def _gate_gradients(model):
    gates = [torch.ones(3, HEADS, requires_grad=True) for _ in range(LAYERS)]
    model.model.train()
    with model.gated(gates):
        loss = model.model(**padded_batch(model.model)).logits.square().sum()
        return torch.stack(torch.autograd.grad(loss, gates))


def _without_dropout(name):
    rates = {
        "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "distilbert": ("dropout", "attention_dropout", "seq_classif_dropout"),
        "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        "llama": (),
    }
    return under_test(name, **dict.fromkeys(rates[name], 0.0))


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_masks_act_on_cuda_forward_and_backward(name):
    model = _without_dropout(name)
    model.model.cuda()
    batch = {key: value.cuda() for key, value in padded_batch(model.model).items()}
    twin = zeroed(model, SOME).train()
    model.model.train()
    _checkpointing(model.model)

    with model.masked(SOME):
        masked = model.model(**batch).logits
        masked.square().sum().backward()
    zero = twin(**batch).logits
    zero.square().sum().backward()

    assert torch.allclose(masked, zero, atol=1e-4)
    ours, theirs = (m.get_input_embeddings().weight.grad for m in (model.model, twin))
    assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)


def _logits(model, batch):
    with torch.no_grad():
        return model.model(**batch).logits


def _plain(model, batch):
    with torch.no_grad():
        return model(**batch).logits
