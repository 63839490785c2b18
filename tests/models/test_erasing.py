"""Erased states against projections computed in NumPy from the plain model's own hidden states, and forward by hand."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
import transformers

from pytest_bertology import ResultStore, evaluate, load_model, using_store
from pytest_bertology.errors import (
    CannotErase,
    CannotPrune,
    CannotSave,
    CopiedUnderMask,
    ErasedByAnotherThread,
    ErasureNotApplied,
    InvalidArgument,
    UnknownLayer,
)
from pytest_bertology.models.projection import Projection
from pytest_bertology.models.state_places import places
from tests.families import padded_batch, redraw, task_for, tokenizer, under_test
from tests.hooked import hooked
from tests.models.test_layers_dropped import bart, bert, gemma, gpt2, llama, t5

pytestmark = hooked

MODELS = {
    "bert": (bert, None),
    "gpt2": (gpt2, None),
    "llama": (llama, None),
    "gemma": (gemma, None),
    "t5 encoder": (t5, None),
    "t5 decoder": (t5, "decoder"),
    "bart encoder": (bart, "encoder"),
    "bart decoder": (bart, "decoder"),
}


def projection(width, layer, rank=2, seed=0, stack=None):
    """An oblique one: P · P = P, and P is not its own transpose."""
    draw = np.random.default_rng([seed, layer])
    left, right = draw.standard_normal((2, width, rank))
    return Projection(layer, draw.standard_normal(width), left @ np.linalg.inv(right.T @ left), right, stack)


def run(model, stack=None):
    """The hidden states on the model's sample, and its output."""
    with torch.no_grad():
        result = model.model(**model.sample(), output_hidden_states=True)
    if "encoder_hidden_states" in result:
        return result[f"{stack or 'encoder'}_hidden_states"], result.logits
    return result.hidden_states, result.logits


def width_of(model):
    return model.model.get_input_embeddings().weight.shape[1]


@pytest.mark.parametrize("case", MODELS)
def test_the_states_that_the_model_shows_are_the_projected_ones_of_every_layer(case):
    build, stack = MODELS[case]
    model = load_model(build())
    plain, output = run(model, stack)

    for layer in range(len(plain)):
        own = projection(width_of(model), layer, stack=stack)
        with model.erasing(own):
            states, changed = run(model, stack)

        x = plain[layer].double().numpy()
        expected = x - (x - own.mean) @ own.to_numpy().T
        np.testing.assert_allclose(states[layer].double().numpy(), expected, atol=2e-5 * np.abs(expected).max())
        for below in range(layer):
            assert torch.equal(states[below], plain[below])
        for above in range(layer + 1, len(plain)):
            assert not torch.allclose(states[above], plain[above], atol=1e-3)
        assert not torch.allclose(changed, output, atol=1e-3)

    again, same = run(model, stack)
    assert torch.equal(same, output)
    assert all(torch.equal(one, other) for one, other in zip(again, plain, strict=True))
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_what_is_above_reads_what_is_left():
    model = load_model(bert())
    own = projection(width_of(model), 2)
    ids = torch.tensor([[7, 9, 11, 13, 8]])
    with torch.no_grad():
        plain = model.model(input_ids=ids, output_hidden_states=True).hidden_states
        left = torch.from_numpy(own(plain[2].numpy())).float()
        by_hand = model.model.bert.encoder.layer[2](left)

        with model.erasing(own):
            states = model.model(input_ids=ids, output_hidden_states=True).hidden_states

    by_hand = by_hand[0] if isinstance(by_hand, tuple) else by_hand
    torch.testing.assert_close(states[3], by_hand, rtol=1e-4, atol=1e-4)


def test_several_layers_and_nested_contexts_add_up():
    model = load_model(gpt2())
    width = width_of(model)
    low, high, again = projection(width, 1), projection(width, 3), projection(width, 1, seed=5)

    with model.erasing(low, high):
        together, output = run(model)
    with model.erasing(low), model.erasing(high):
        nested, same = run(model)
    with model.erasing(low), model.erasing(again):
        twice, _ = run(model)
        assert model.erased() == ("2 directions of layer 1", "2 directions of layer 1")

    assert torch.equal(output, same)
    for states in (together, nested):
        np.testing.assert_allclose((states[1].double().numpy() - low.mean) @ low.right, 0.0, atol=1e-4)
        np.testing.assert_allclose((states[3].double().numpy() - high.mean) @ high.right, 0.0, atol=1e-4)
    plain, _ = run(model)
    expected = again(low(plain[1].double().numpy()))
    np.testing.assert_allclose(twice[1].double().numpy(), expected, atol=1e-4)


def test_real_tokens_do_not_depend_on_padding():
    model = under_test("bert")
    own = projection(width_of(model), 1)
    batch = padded_batch(model.model, lengths=(7, 4))

    with model.erasing(own), torch.no_grad():
        padded = model.model(**batch).logits[1]
        alone = model.model(**{name: value[1:, :4] for name, value in batch.items()}).logits[0]

    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


def test_results_are_never_taken_for_those_of_the_plain_model():
    model, task = under_test("bert"), task_for("sequence-classification")
    with using_store(ResultStore()) as store:
        plain = evaluate(model, task)
        with model.erasing(projection(width_of(model), 2)):
            changed = evaluate(model, task)
            assert model.in_force() is None
            assert model.altered()
        again = evaluate(model, task)

    assert (store.computed, store.reused) == (1, 1)
    assert np.array_equal(plain.raw.logits, again.raw.logits)
    assert not np.allclose(plain.raw.logits, changed.raw.logits)


def test_generation_with_a_cache_is_that_without():
    model = load_model(llama())
    ids = torch.tensor([[7, 9, 11, 13]])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    with model.erasing(projection(width_of(model), 2)):
        cached = model.model.generate(ids, **options)
        uncached = model.model.generate(ids, use_cache=False, **options)

    assert cached.tolist() == uncached.tolist()


def test_erased_models_are_not_saved_copied_or_cut(tmp_path):
    model = under_test("bert")

    with model.erasing(projection(width_of(model), 1)):
        with pytest.raises(CannotSave, match="states erased"):
            model.save(tmp_path / "saved")
        with pytest.raises(CopiedUnderMask):
            copy.deepcopy(model)
        with pytest.raises((CopiedUnderMask, CannotPrune)):
            model.pruned([(0, 0)])
        with pytest.raises(CopiedUnderMask):
            model.without_layers([0])


def test_contexts_that_were_never_left_are_closed():
    model = under_test("bert")
    own = projection(width_of(model), 1)
    plain = run(model)[1]
    with model.erasing(own):
        before = model.contexts_open()
        entered = model.erasing(own)
        entered.__enter__()

        model.close_contexts(before)

        assert model.contexts_open() == before == (0, 0, 0, 0, 1)
    model.erasing(own).__enter__()
    model.close_contexts()
    assert model.contexts_open() == (0, 0, 0, 0, 0)
    assert torch.equal(run(model)[1], plain)


def test_another_thread_does_not_run_the_model_unawares():
    model, found = under_test("bert"), []

    def other():
        try:
            run(model)
        except ErasedByAnotherThread as error:
            found.append(error)

    with model.erasing(projection(width_of(model), 1)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    assert "BertForSequenceClassification" in str(found[0])


def test_what_a_skipped_layer_hands_on_is_erased_or_refused():
    model = under_test("bert", num_hidden_layers=3)
    erased = projection(width_of(model), 1)

    with model.erasing(erased), model.skipping([0]):
        states, _ = run(model)
    np.testing.assert_allclose(states[1].numpy(), erased(states[0].numpy()), atol=1e-4)
    with model.skipping([0]), pytest.raises(CannotErase), model.erasing(erased):
        run(model)


def test_a_replaced_layer_that_nothing_is_erased_from_is_told():
    model = load_model(bert())
    layers = model.model.bert.encoder.layer
    another = copy.deepcopy(layers[3])
    entered = model.erasing(projection(width_of(model), 4))
    entered.__enter__()
    layers[3] = another
    run(model)

    with pytest.raises(ErasureNotApplied, match="replaced"):
        entered.__exit__(None, None, None)


def test_gradients_pass_through_what_is_left():
    model = under_test("bert")
    own = projection(width_of(model), 1)
    held = []
    hook = model.model.bert.encoder.layer[0].register_forward_pre_hook(lambda _, args: held.append(args[0]))
    with model.erasing(own):
        held.clear()
        model.model(**model.sample()).logits.sum().backward()
    hook.remove()

    gradient = model.model.bert.encoder.layer[0].output.dense.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0.0
    model.model.zero_grad()


def test_checkpointed_layers_are_refused():
    model = under_test("bert")
    model.model.train()
    model.model.bert.encoder.layer[0].gradient_checkpointing = True

    with model.erasing(projection(width_of(model), 1)), pytest.raises(CannotErase, match="checkpointing"):
        model.model(**model.sample())

    model.model.bert.encoder.layer[0].gradient_checkpointing = False


def test_models_whose_states_are_not_found_are_refused():
    albert = transformers.AlbertConfig(
        vocab_size=60,
        hidden_size=24,
        embedding_size=8,
        num_attention_heads=4,
        num_hidden_layers=3,
        intermediate_size=32,
    )
    model = load_model(redraw(transformers.AlbertForSequenceClassification(albert), 0).eval(), tokenizer=tokenizer())

    with pytest.raises(CannotErase, match="4 hidden states of the 1 blocks"):
        model.erasing(projection(24, 1)).__enter__()


def test_the_last_norm_is_where_the_last_states_are():
    for build, path in ((gpt2, "transformer.ln_f"), (llama, "model.norm"), (t5, "encoder.final_layer_norm")):
        assert places(load_model(build()))[-1].path == path


def test_wrong_arguments_are_told():
    model = under_test("bert")
    width = width_of(model)

    with pytest.raises(InvalidArgument, match="what erase"):
        model.erasing("pos").__enter__()
    with pytest.raises(InvalidArgument, match="what erase"):
        model.erasing().__enter__()
    with pytest.raises(UnknownLayer, match="hidden states of layers 0"):
        model.erasing(projection(width, 9)).__enter__()
    with pytest.raises(CannotErase, match=f"not {width + 2} numbers each"):
        model.erasing(projection(width + 2, 1)).__enter__()
    assert model.contexts_open() == (0, 0, 0, 0, 0)
