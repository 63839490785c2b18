"""Hidden states as they are streamed. Oracle: transformers' `output_hidden_states` of each text alone."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import transformers

from pytest_bertology import Batching, load_model
from pytest_bertology.engine.states import stream_states
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.errors import CannotErase, CannotMeasure, InvalidArgument, NonFinite
from pytest_bertology.models.capturing import HOOKED, behind_all_hooks
from pytest_bertology.models.projection import Projection
from pytest_bertology.models.state import ModelState, only_watches
from tests.families import FAMILIES, redraw, texts, tokenizer, under_test
from tests.hooked import hooked

SEQ2SEQ = {"vocab_size": 64, "d_model": 24, "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
LETTERS = texts(9)


def encoder_decoder(name):
    sizes = {"t5": {"d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4, "tie_word_embeddings": False}}
    ends = {"encoder": 2, "decoder": 3}
    sizes["bart"] = {f"{end}_layers": count for end, count in ends.items()} | {"max_position_embeddings": 40}
    sizes["bart"] |= {f"{end}_{part}": n for end in ends for part, n in (("attention_heads", 4), ("ffn_dim", 32))}
    prefix = {"t5": "T5", "bart": "Bart"}[name]
    config = getattr(transformers, f"{prefix}Config")(**SEQ2SEQ, **sizes[name])
    model = redraw(getattr(transformers, f"{prefix}Model")(config), 0).double().eval()
    return load_model(model, tokenizer=tokenizer())


def collected(model, **options):
    """{layer: {text: states}}"""
    found = {}

    def visit(states):
        for position, each in states.each():
            found.setdefault(states.layer, {})[position] = each.numpy()

    stream_states(model, read_texts(model, LETTERS), visit, what="states", **options)
    return found


def alone(model, text, stack=None):
    known = inspect.signature(model.model.forward).parameters
    inputs = {name: value for name, value in model.tokenizer(text, return_tensors="pt").items() if name in known}
    if stack:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        result = model.model(**inputs, output_hidden_states=True)
    return [layer[0].numpy() for layer in getattr(result, f"{stack}_hidden_states" if stack else "hidden_states")]


def assert_same(found, model, stack=None, limit=1e-9):
    for position, text in enumerate(LETTERS):
        expected = alone(model, text, stack)
        assert sorted(found) == list(range(len(expected)))
        for layer, states in enumerate(expected):
            assert np.allclose(found[layer][position], states, rtol=0, atol=limit)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_states_are_those_of_each_text_alone(name, side):
    model = under_test(name, FAMILIES[name][-1], dtype=torch.float64)

    found = collected(model, batching=Batching(tokens=60, padding_side=side))

    assert_same(found, model)


@pytest.mark.parametrize("stack", [None, "encoder", "decoder"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_of_an_encoder_decoder_either_is_seen(name, stack):
    model = encoder_decoder(name)

    found = collected(model, stack=stack, batching=Batching(tokens=60))

    # In older transformers T5's softmax is in float32, whatever its weights are.
    assert_same(found, model, stack or "encoder", limit=1e-4 if name == "t5" else 1e-9)


def test_only_the_layers_asked_for_are_shown_in_order_batch_by_batch():
    seen = []
    model = under_test("bert")

    stream_states(
        model,
        read_texts(model, LETTERS),
        lambda states: seen.append((states.positions[0], states.layer, states.layers)),
        what="states",
        layers=[2, 0],
        batching=Batching(tokens=60),
    )

    assert [layer for _, layer, _ in seen] == [0, 2] * (len(seen) // 2)
    assert len(seen) > 4
    assert seen[0][0] == seen[1][0] != seen[2][0]
    assert {layers for _, _, layers in seen} == {2}


def test_states_are_those_under_the_masks_in_force():
    model = under_test("bert")
    plain = collected(model)

    with model.masked([(1, 0)]):
        masked = collected(model)

    assert np.allclose(masked[1][0], plain[1][0], atol=1e-5)
    assert not np.allclose(masked[2][0], plain[2][0], atol=1e-3)


def test_states_in_half_precision_are_shown_in_float32():
    found = collected(under_test("bert", dtype=torch.bfloat16))

    assert found[1][0].dtype == np.float32


@pytest.mark.parametrize("layers", [[3], [-1], [], ["1"], "12", 1, [True]])
def test_layers_that_there_are_not(layers):
    with pytest.raises(InvalidArgument, match="layers"):
        collected(under_test("bert"), layers=layers)


@pytest.mark.parametrize("stack", ["decoder", "encoder", "cross"])
def test_stacks_that_there_are_not(stack):
    with pytest.raises(InvalidArgument, match="stack"):
        collected(under_test("bert"), stack=stack)


def test_a_state_that_is_no_number_names_its_text():
    model = under_test("bert")
    ids = [set(model.tokenizer(text).input_ids) for text in LETTERS]
    token = min(ids[4] - set().union(*ids[:4], *ids[5:]))
    with torch.no_grad():
        model.model.bert.embeddings.word_embeddings.weight[token] = float("nan")

    with pytest.raises(NonFinite, match=r"hidden state of layer 0 .* example 4 of 9 texts"):
        collected(model)


def test_a_model_that_shows_no_states(monkeypatch):
    model = under_test("bert")
    whole = model.model.forward

    def forward(input_ids, attention_mask=None, output_hidden_states=None, **kwargs):
        return whole(input_ids, attention_mask, **kwargs)

    monkeypatch.setattr(model.model, "forward", forward)

    with pytest.raises(CannotMeasure, match="asked for its hidden states, it returns none"):
        collected(model)


def test_a_model_that_reads_padding_is_refused_but_where_texts_are_read_alone():
    config = transformers.ConvBertConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        embedding_size=24, max_position_embeddings=40, head_ratio=1, conv_kernel_size=3,
    )  # fmt: skip
    model = load_model(redraw(transformers.ConvBertModel(config), 0).double().eval(), tokenizer=tokenizer())

    with pytest.raises(CannotMeasure, match=r"layer 1 moves with padding; with Batching\(tokens=1\)"):
        collected(model, batching=Batching(tokens=60))
    assert_same(collected(model, batching=Batching(tokens=1)), model)


def test_states_of_fewer_positions_than_tokens():
    config = transformers.FunnelConfig(
        vocab_size=64, d_model=24, n_head=4, d_head=6, d_inner=32, block_sizes=[1, 1], num_decoder_layers=1,
        max_position_embeddings=40, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    plain = redraw(transformers.FunnelForSequenceClassification(config), 0).eval()

    with pytest.raises(CannotMeasure, match=r"layer 2 has states \(.*\) for \(.*\) tokens"):
        collected(load_model(plain, tokenizer=tokenizer()))


@hooked
@pytest.mark.parametrize("again", [False, True])
def test_a_skipped_layer_shows_the_states_that_came_in(again):
    """The hooks by which transformers records states stay on a model from the first recording on."""
    model = under_test("bert")
    read = read_texts(model, LETTERS[:1])
    seen = {}

    def keep(states):
        seen[states.layer] = states.states.clone()

    if again:
        stream_states(model, read, keep, what="states")
    with model.skipping([0]):
        stream_states(model, read, keep, what="states")

    assert torch.equal(seen[1], seen[0])
    assert not torch.equal(seen[2], seen[1])


def zeroed(module, args, result):
    return result * 0.0 if isinstance(result, torch.Tensor) else (result[0] * 0.0, *result[1:])


def layers_of(model):
    body = model.model.base_model
    return body.encoder.layer if hasattr(body, "encoder") else body.h if hasattr(body, "h") else body.layers


def given_to(model, layer):
    """What a layer is given, text by text."""
    found = []
    handle = layers_of(model)[layer].register_forward_pre_hook(
        lambda module, args, kwargs: found.append((args[0] if args else kwargs["hidden_states"]).clone()),
        with_kwargs=True,
    )
    for text in LETTERS:
        inputs = model.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            model.model(**{name: inputs[name] for name in ("input_ids", "attention_mask")})
    handle.remove()
    return [each[0].numpy() for each in found]


def watching(model):
    """transformers' own hooks on a model."""
    return sum(only_watches(hook) for part in model.model.modules() for hook in part._forward_hooks.values())


@hooked
@pytest.mark.parametrize("before", ["nothing", "recording", "run of their own"])
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_a_hook_on_a_layer_has_acted_on_what_is_recorded_whenever_it_came(name, before):
    model = under_test(name, dtype=torch.float64)
    if before == "recording":
        collected(model)
    elif before == "run of their own":
        alone(model, LETTERS[0])
    handle = layers_of(model)[0].register_forward_hook(zeroed)

    found = collected(model)

    expected = given_to(model, 1)
    for position in range(len(LETTERS)):
        assert not found[1][position].any()
        assert np.array_equal(found[1][position], expected[position])
    handle.remove()
    assert_same(collected(model), model)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_no_hook_stays_on_the_model_and_transformers_still_shows_states(name):
    model = under_test(name)
    alone(model, LETTERS[0])
    later = ModelState.capture(model.model)

    collected(model, batching=Batching(tokens=60, padding_side="left"))

    assert watching(model) == 0
    later.restore()
    assert watching(model) == 0
    assert len(alone(model, LETTERS[0])) == 3


@hooked
def test_a_recording_of_another_thread_goes_on_when_one_ends():
    """What another thread does is done here while its recording is open."""
    model = under_test("bert")

    with behind_all_hooks(model.model):
        expected = alone(model, LETTERS[0])
        with behind_all_hooks(model.model):
            pass
        assert watching(model) > 0
        assert all(np.array_equal(a, b) for a, b in zip(alone(model, LETTERS[0]), expected, strict=True))
    assert watching(model) == 0


@pytest.mark.skipif(HOOKED, reason="this transformers notes states by hooks")
def test_where_hooks_are_not_seen_a_hook_on_a_layer_is_refused():
    model = under_test("bert")
    layers_of(model)[0].register_forward_hook(zeroed)

    with pytest.raises(CannotMeasure, match=r"before the hook on bert\.encoder\.layer\.0 acts"):
        collected(model)


@pytest.mark.skipif(HOOKED, reason="this transformers notes states by hooks")
def test_where_hooks_are_not_seen_nothing_can_be_erased():
    model = under_test("bert")
    first = np.eye(model.model.config.hidden_size)[:, :1]
    erased = model.erasing(Projection(1, np.zeros(len(first)), first, first))

    with pytest.raises(CannotErase, match="a newer one is needed"), erased:
        pass
