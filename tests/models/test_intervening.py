"""Changes of attention while a context lasts.

Oracle: `changed_eagerly`, each text by itself through an attention function written there, weights changed row by row.
"""

from __future__ import annotations

import copy
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    SegformerConfig,
    SegformerForImageClassification,
)
from transformers.modeling_utils import AttentionInterface

from pytest_bertology import Batching, HeadMask, ResultStore, evaluate, head_importance, load_model, using_store
from pytest_bertology.engine.attending import attend
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.errors import (
    AttentionNotChanged,
    CannotChangeAttention,
    CannotDropLayers,
    CannotMeasure,
    CannotPrune,
    CannotSave,
    CopiedUnderMask,
    InvalidArgument,
    NoHeadSelected,
    UnknownHead,
    UnknownLayer,
)
from pytest_bertology.measures.sweeping import evaluate_masks
from tests.changed_eagerly import changeable, logits_by_hand, on, top
from tests.families import family, redraw, task_for, tokenizer, under_test

TASK = task_for("sequence-classification", 9)
SIDES = [("bert", "right"), ("gpt2", "right"), ("gpt2", "left"), ("llama", "right"), ("llama", "left")]
SIDES += [("bloom", "right"), ("bart", "right")]
MODELS = {name: changeable(name) for name in ("bert", "gpt2", "llama", "bloom", "bart")}
CLOSE = {"bloom": 1e-5}


def even(ids):
    """A pattern of the test's own: to tokens at even places, for those with odd ids."""
    n = len(ids)
    return np.array([[ids[i] % 2 == 1 and j % 2 == 0 for j in range(n)] for i in range(n)], dtype=bool)


PATTERNS = {
    "matching_token": lambda ids, i, j: ids[i] == ids[j],
    "previous": lambda ids, i, j: j == i - 1,
    "next": lambda ids, i, j: j == i + 1,
    "self": lambda ids, i, j: j == i,
    "first": lambda ids, i, j: j == 0,
    -3: lambda ids, i, j: j == i - 3,
    even: lambda ids, i, j: ids[i] % 2 == 1 and j % 2 == 0,
}


def rows_of(model, task=TASK):
    return [example.ids for example in encode(model, task).examples]


def head_of(model, layer=0, head=1):
    stack = model.sites[0].stack
    return (layer, head, stack) if stack else (layer, head)


def assert_same(name, found, expected):
    assert np.abs(found - expected).max() <= CLOSE.get(name, 1e-10)


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("tokens", [1, 80])
def test_top_k_attention_is_that_of_one_text_at_a_time(monkeypatch, name, side, tokens):
    model = MODELS[name]
    every = {tuple(x for x in head if x is not None): top(2) for head in model.heads}
    expected = logits_by_hand(monkeypatch, model, rows_of(model), every)
    plain = evaluate(model, TASK).logits

    with model.with_top_k_attention(2):
        found = evaluate(model, TASK, batching=Batching(tokens=tokens, padding_side=side)).logits

    assert_same(name, found, expected)
    assert np.abs(found - plain).max() > 1e-3


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_pattern_is_that_of_one_text_at_a_time(monkeypatch, name, side, pattern):
    model = MODELS[name]
    heads = [head_of(model), head_of(model, 1, 3)]
    expected = logits_by_hand(monkeypatch, model, rows_of(model), dict.fromkeys(heads, on(PATTERNS[pattern])))

    ahead = pattern == "next" and name in ("gpt2", "llama", "bloom")
    with (
        pytest.raises(AttentionNotChanged, match="the model never looks ahead") if ahead else nullcontext(),
        model.with_attention_pattern(heads, pattern),
    ):
        found = evaluate(model, TASK, batching=Batching(tokens=80, padding_side=side)).logits

    assert_same(name, found, expected)


def test_a_model_without_changes_is_what_the_oracle_gives_without_edits(monkeypatch):
    for name, model in MODELS.items():
        expected = logits_by_hand(monkeypatch, model, rows_of(model), {})

        assert_same(name, evaluate(model, TASK).logits, expected)


@pytest.mark.parametrize("name", ["bert", "bloom", "bart"])
def test_changes_of_several_heads_hold_together(monkeypatch, name):
    model = MODELS[name]
    one, other = head_of(model), head_of(model, 0, 2)
    edits = {one: on(PATTERNS["first"]), other: on(PATTERNS["self"])}
    expected = logits_by_hand(monkeypatch, model, rows_of(model), edits)

    with model.with_attention_pattern(one, "first"), model.with_attention_pattern(other, "self"):
        found = evaluate(model, TASK).logits
    with model.with_attention_pattern(other, "self"), model.with_attention_pattern(one, "first"):
        again = evaluate(model, TASK).logits

    assert_same(name, found, expected)
    assert_same(name, again, expected)


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_a_later_change_of_a_head_acts_on_what_the_earlier_left(monkeypatch, name):
    model = MODELS[name]

    def both(weights, ids):
        return top(1)(on(even_place)(weights, ids), ids)

    def even_place(ids, i, j):
        return j % 2 == 0

    every = {tuple(head): top(1) for head in [(0, 0), (0, 2), (0, 3)]} | {(0, 1): both}
    expected = logits_by_hand(monkeypatch, model, rows_of(model), every)

    def pattern(ids):
        return np.tile(np.arange(len(ids)) % 2 == 0, (len(ids), 1))

    with model.with_attention_pattern((0, 1), pattern), model.with_top_k_attention(1, layers=[0]):
        found = evaluate(model, TASK).logits

    assert_same(name, found, expected)


@pytest.mark.parametrize("name", ["bert", "bloom"])
def test_masks_act_beside_changes(monkeypatch, name):
    model = MODELS[name]
    edits = {(0, 1): on(PATTERNS["first"]), (0, 2): lambda weights, ids: 0.0 * weights}
    expected = logits_by_hand(monkeypatch, model, rows_of(model), edits)

    with model.with_attention_pattern((0, 1), "first"):
        found = evaluate(model, TASK, [(0, 2)]).logits
    with model.masked([(0, 2)]), model.with_attention_pattern((0, 1), "first"):
        again = evaluate(model, TASK).logits

    assert_same(name, found, expected)
    assert_same(name, again, expected)


def test_results_inside_are_never_those_outside_whichever_comes_first(monkeypatch):
    expected = logits_by_hand(monkeypatch, MODELS["bert"], rows_of(MODELS["bert"]), {(1, 0): on(PATTERNS["first"])})
    for inside_first in (False, True):
        model = MODELS["bert"]
        with using_store(ResultStore()) as store:
            plain = None if inside_first else evaluate(model, TASK).logits
            with model.with_attention_pattern((1, 0), "first"):
                inside = evaluate(model, TASK).logits
            computed = store.computed
            after = evaluate(model, TASK).logits

            assert np.abs(inside - expected).max() < 1e-10
            assert np.abs(inside - after).max() > 1e-4
            assert plain is None or np.array_equal(plain, after)
            assert store.computed == computed + inside_first


@pytest.mark.parametrize("name", ["bert", "llama", "bloom"])
def test_sweeps_under_a_change_are_single_evaluations_under_it(name):
    model = MODELS[name]
    masks = [HeadMask.without(model.heads, [head]) for head in model.heads]
    evaluate_masks(model, TASK, masks)  # short cuts are found out, outside

    with model.with_top_k_attention(2):
        swept = evaluate_masks(model, TASK, masks)
        single = [evaluate(model, TASK, mask) for mask in masks]

    for found, wanted in zip(swept.variants, single, strict=True):
        assert np.abs(found.logits - wanted.logits).max() < 1e-5


def test_derivatives_under_a_change_are_differences_under_it():
    model = MODELS["bert"]
    labels = evaluate(model, TASK).labels
    head_importance(model, TASK)  # short cuts are found out, outside
    with model.with_top_k_attention(2):
        found = head_importance(model, TASK).to_numpy()
        differences = np.zeros_like(found)
        for layer, head in ((each.layer, each.head) for each in model.heads):
            losses = []
            for step in (1e-5, -1e-5):
                gates = [torch.ones(4, dtype=torch.float64) for _ in model.sites]
                gates[layer][head] += step
                with model.gated(gates):
                    losses.append(losses_of(model, labels))
            differences[layer, head] = np.abs((losses[0] - losses[1]) / 2e-5).mean()

    assert np.allclose(found, differences, rtol=1e-5)


def losses_of(model, labels):
    found = []
    for ids, label in zip(rows_of(model), labels, strict=True):
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids])).logits
        found.append(nn.functional.cross_entropy(logits, torch.tensor([int(label)])).item())
    return np.array(found)


def test_heads_that_are_not_changed_stay_bit_for_bit_the_same():
    model = under_test("bert")
    inputs = dict(tokenizer()(["ab c d", "ef"], padding=True, return_tensors="pt"))
    contexts = []
    hook = model.sites[0].projection.register_forward_pre_hook(lambda module, args: contexts.append(args[0]))

    model.model(**inputs)
    with model.with_attention_pattern((0, 1), "first"):
        model.model(**inputs)
    hook.remove()

    plain, changed = contexts
    width = model.sites[0].width
    others = [at for at in range(plain.shape[-1]) if not width <= at < 2 * width]
    real = inputs["attention_mask"].bool()
    assert torch.equal(plain[..., others], changed[..., others])
    assert torch.equal(plain[~real], changed[~real])
    assert not torch.allclose(plain[real][:, width : 2 * width], changed[real][:, width : 2 * width])


@pytest.mark.parametrize("name", list(MODELS))
def test_as_many_keys_as_there_are_change_nothing_bit_for_bit(name):
    model = MODELS[name]
    plain = evaluate(model, TASK).logits

    with model.with_top_k_attention(60):
        assert np.array_equal(evaluate(model, TASK).logits, plain)


def test_of_equal_weights_the_first_are_kept():
    plain = family("bert")
    for layer in plain.bert.encoder.layer:
        layer.attention.self.query.weight.data.zero_()
        layer.attention.self.query.bias.data.zero_()
    model = load_model(plain, tokenizer=tokenizer())
    with model.with_top_k_attention(2):
        weights = seen(model, ["abc d e", "fg"])

    for each in weights.values():
        assert torch.allclose(each[..., :2], torch.tensor(0.5))
        assert not each[..., 2:].any()


@pytest.mark.parametrize(("name", "side"), [(n, s) for n, s in SIDES if n != "bart"])
def test_attention_is_shown_as_it_was_changed(name, side):
    model = MODELS[name]
    plain = seen(model, TASK, side)

    with model.with_attention_pattern((1, 2), "previous"), model.with_top_k_attention(2, layers=[0]):
        found = seen(model, TASK, side)

    for (text, site), weights in found.items():
        n = weights.shape[-1]
        if site == 0:
            assert int((weights > 0).sum(dim=-1).max()) <= 2
            greatest = plain[text, site].topk(min(2, n), dim=-1).values.sum(dim=-1)
            assert torch.allclose((plain[text, site] * (weights > 0)).sum(dim=-1), greatest, atol=1e-9)
        else:
            moved = weights[2, 1:]
            assert torch.allclose(moved.diagonal(), torch.ones(n - 1, dtype=moved.dtype), atol=1e-6)
            assert torch.allclose(weights.sum(dim=-1), torch.ones(1, dtype=moved.dtype), atol=1e-6)


def test_scores_before_the_softmax_are_not_shown_of_changed_attention():
    model = MODELS["bert"]

    with model.with_top_k_attention(2), pytest.raises(CannotMeasure, match="attention is changed"):
        attend(model, read_texts(model, TASK), lambda shown: None, what="it", scores=True)


def test_what_a_pattern_leaves_nothing_is_counted():
    model = MODELS["bert"]
    tokens = sum(map(len, rows_of(model)))

    with model.with_attention_pattern([(0, 1), (1, 1), (1, 2)], "previous") as use:
        evaluate(model, TASK)

    assert (use.rows, use.kept) == (3 * tokens, 3 * len(TASK))
    assert use.share_kept == len(TASK) / tokens


def test_a_sentence_ends_with_full_stops_and_separators():
    from pytest_bertology.models.patterns import within_sentence

    class Words:
        all_special_ids = (0, 9)
        sep_token_id = 9
        eos_token_id = None

        def decode(self, ids):
            return ["[CLS]", "good", ".", "?!", "so", "e.g.", "…", "。", " . "][ids[0]]

    ids = [0, 1, 2, 9, 1, 5, 4, 3, 6, 1, 8, 7, 9, 4]
    sentences = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3]

    found = within_sentence(Words()).allowed(ids)

    assert found.tolist() == [[a == b for b in sentences] for a in sentences]


def test_a_change_is_gone_when_its_context_is_left():
    model = MODELS["bert"]
    look_up, hooks = AttentionInterface.get_interface, hooks_of(model)

    def inside():
        found.extend([AttentionInterface.get_interface is look_up, model.altered(), model.masks_open()])
        evaluate(model, TASK, [(9, 9)])

    found = []
    with model.with_top_k_attention(1), pytest.raises(UnknownHead):
        inside()

    assert found == [False, True, 1]
    assert AttentionInterface.get_interface is look_up
    assert hooks_of(model) == hooks
    assert not model.altered()
    assert model.masks_open() == 0


@pytest.mark.parametrize("name", ["bert", "bloom"])
def test_a_context_that_was_never_left_can_be_closed(name):
    model = MODELS[name]
    plain, look_up = evaluate(model, TASK).logits, AttentionInterface.get_interface
    with model.masked([(0, 0)]):
        before = model.contexts_open()
        one, other = model.with_top_k_attention(1), model.with_attention_pattern((0, 1), "first")
        one.__enter__()
        other.__enter__()

        model.close_contexts(before)

        assert model.contexts_open() == before
        model.with_top_k_attention(1).__enter__()
        model.skipping([1]).__enter__()
        model.close_contexts()
        assert model.contexts_open() == (0, 0, 0, 0, 0)
    assert AttentionInterface.get_interface is look_up
    assert np.array_equal(evaluate(model, TASK).logits, plain)
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)


def test_a_change_that_the_model_ran_past_is_told():
    model = under_test("bert")
    encoder = model.model.bert.encoder

    def shorter():
        encoder.layer = nn.ModuleList([encoder.layer[0]])
        model.model(input_ids=torch.tensor([[2, 5, 3]]))

    with pytest.raises(
        AttentionNotChanged, match=r"ran 1 times and bert.encoder.layer.1.attention.self was not called"
    ):
        with model.with_attention_pattern((1, 0), "first"):
            shorter()


def test_a_change_holds_in_its_own_thread_alone():
    model = MODELS["bert"]
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7, 3]])}
    plain, found = model.model(**inputs).logits, {}

    def elsewhere():
        found["altered"] = model.altered()
        found["logits"] = model.model(**inputs).logits
        found["loaded"] = load_model(family("gpt2"), tokenizer=tokenizer())  # patches attention itself

    with model.with_top_k_attention(1):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)
        changed = model.model(**inputs).logits

    assert torch.equal(found["logits"], plain)
    assert found["altered"] is False
    assert "loaded" in found
    assert not torch.allclose(changed, plain)


@pytest.mark.parametrize("name", ["bert", "bloom"])
def test_other_models_are_left_alone(name):
    model, other = MODELS[name], changeable(name)
    plain = evaluate(other, TASK).logits

    with model.with_top_k_attention(1):
        inside = evaluate(model, TASK).logits
        assert np.array_equal(evaluate(other, TASK).logits, plain)
        with other.with_top_k_attention(60):
            assert np.array_equal(evaluate(other, TASK).logits, plain)
            assert np.array_equal(evaluate(model, TASK).logits, inside)


def test_a_changed_model_is_not_saved_cut_or_copied(tmp_path):
    model = under_test("bert")
    with model.with_top_k_attention(1):
        with pytest.raises(CannotSave, match="attention is changed"):
            model.save(tmp_path / "saved")
        with pytest.raises(CannotPrune, match=r"attention is changed .* leave the context first\. Masks act beside it"):
            model.pruned([(0, 1)])
        with pytest.raises(CannotDropLayers, match="attention is changed"):
            model.without_layers([0])
        neuron = model.units().neurons[0] if hasattr(model.units(), "neurons") else next(iter(model.units()))
        with pytest.raises(CannotPrune, match="attention is changed"):
            model.without_units([neuron])
        with pytest.raises(CopiedUnderMask):
            copy.deepcopy(model)
        inside = model.digest()

    assert model.digest() != inside
    assert len(model.pruned([(0, 1)]).heads) == 7


def test_heads_of_a_cut_model_are_changed_by_their_places_in_it(monkeypatch):
    whole = under_test("bert", dtype=torch.float64)
    cut = whole.pruned([(0, 0), (0, 2), (1, 1)])
    edits = {head: (lambda weights, ids: 0.0 * weights) for head in [(0, 0), (0, 2), (1, 1)]}
    edits |= {(0, 3): on(PATTERNS["first"]), (1, 0): on(PATTERNS["first"])}
    expected = logits_by_hand(monkeypatch, whole, rows_of(whole), edits)

    with cut.with_attention_pattern([(0, 1), (1, 0)], "first"):
        found = evaluate(cut, TASK).logits

    assert np.abs(found - expected).max() < 1e-10


def test_dropout_and_checkpointing_are_refused():
    model = under_test("bert", attention_probs_dropout_prob=0.5)
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7, 3]])}

    with model.with_top_k_attention(1):
        model.model.train()
        with pytest.raises(CannotChangeAttention, match="something else than its weights times its values"):
            model.model(**inputs)
        model.model.eval()
        model.model(**inputs)
        enable = getattr(model.model, "activation_checkpointing_enable", None)
        (enable or model.model.gradient_checkpointing_enable)()
        model.model.train()
        with pytest.raises(CannotChangeAttention, match="checkpointing"):
            model.model(**inputs)


def test_a_part_of_the_model_run_by_itself_is_refused():
    model = MODELS["bert"]

    with model.with_top_k_attention(1), pytest.raises(CannotChangeAttention, match="ran by itself"):
        model.model.bert(input_ids=torch.tensor([[2, 5, 6, 7, 3]]))


def test_what_a_pattern_cannot_be_of_is_refused():
    model = MODELS["bart"]
    ids = torch.tensor([[2, 5, 6, 7, 3]])

    with pytest.raises(CannotChangeAttention, match="encoder_attn is of something else"):
        model.with_attention_pattern((0, 0, "cross"), "first").__enter__()
    with model.with_attention_pattern((0, 0, "decoder"), "matching_token"):
        with pytest.raises(CannotChangeAttention, match="not given the token ids"):
            model.model(input_ids=ids)
        model.model(input_ids=ids, decoder_input_ids=ids)
    with model.with_attention_pattern((0, 0, "encoder"), "matching_token"):
        model.model(input_ids=ids)
    other = MODELS["bert"]
    with other.with_attention_pattern((0, 0), "matching_token"):
        with pytest.raises(CannotChangeAttention, match="not given the token ids"):
            other.model(inputs_embeds=other.model.get_input_embeddings()(ids))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_text_is_written_with_top_k_attention_as_without_a_cache(name):
    model = under_test(name, "causal-lm", dtype=torch.float64)
    inputs = dict(tokenizer()(["abc d", "ef gh i"], padding=True, padding_side="left", return_tensors="pt"))
    inputs.pop("token_type_ids")
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True}

    with model.with_top_k_attention(2):
        cached = model.model.generate(**inputs, use_cache=True, **options)
        whole = model.model.generate(**inputs, use_cache=False, **options)
    plain = model.model.generate(**inputs, **options)

    assert torch.equal(cached.sequences, whole.sequences)
    assert torch.allclose(torch.stack(cached.logits), torch.stack(whole.logits), atol=1e-10)
    assert not torch.allclose(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-3)
    with model.with_attention_pattern((0, 0), "previous"), pytest.raises(CannotChangeAttention, match="cache"):
        model.model.generate(**inputs, use_cache=True, **options)


@pytest.mark.parametrize(
    ("enter", "error", "match"),
    [
        (lambda model: model.with_top_k_attention(0), InvalidArgument, "k=0"),
        (lambda model: model.with_top_k_attention(True), InvalidArgument, "k=True"),
        (lambda model: model.with_top_k_attention(2, layers=[]), InvalidArgument, "layers"),
        (lambda model: model.with_top_k_attention(2, layers=3), InvalidArgument, "layers"),
        (lambda model: model.with_top_k_attention(2, layers=[2]), UnknownLayer, "2 layers of 4 heads"),
        (lambda model: model.with_top_k_attention(2, layers=["x"]), InvalidArgument, "layers"),
        (lambda model: model.with_attention_pattern([], "first"), NoHeadSelected, "names no head"),
        (lambda model: model.with_attention_pattern((2, 0), "first"), UnknownHead, "L2H0"),
        (lambda model: model.with_attention_pattern((0, 0), "last"), InvalidArgument, "'within_sentence'"),
        (lambda model: model.with_attention_pattern((0, 0), 1.5), InvalidArgument, "number of places, such as -1"),
        (lambda model: model.with_attention_pattern((0, 0), True), InvalidArgument, "number of places, such as -1"),
        (lambda model: model.with_constant_attention("mean"), InvalidArgument, "constant_attention"),
    ],
)
def test_arguments_that_say_nothing_are_refused(enter, error, match):
    with pytest.raises(error, match=match):
        enter(MODELS["bert"]).__enter__()

    assert MODELS["bert"].masks_open() == 0


def test_a_pattern_that_gives_no_bools_for_each_pair_is_refused():
    model = MODELS["bert"]

    for wrong in (lambda ids: np.ones((2, 2), dtype=bool), lambda ids: np.ones((len(ids), len(ids)))):
        with model.with_attention_pattern((0, 0), wrong), pytest.raises(InvalidArgument, match="gives bools"):
            evaluate(model, TASK)


def test_attention_to_fewer_places_than_attend_is_refused():
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=8,
        image_size=32,
    )
    model = load_model(SegformerForImageClassification(config).eval())

    with model.with_top_k_attention(1), pytest.raises(CannotChangeAttention, match=r"from \d+ places to no more than"):
        model.model(**model.sample())


def test_layers_that_share_weights_are_changed_each_time_they_run():
    config = AlbertConfig(
        vocab_size=64, hidden_size=24, embedding_size=8, num_attention_heads=4, num_hidden_layers=3,
        intermediate_size=32, max_position_embeddings=40, num_labels=3,
    )  # fmt: skip
    model = load_model(redraw(AlbertForSequenceClassification(config), 0).double().eval(), tokenizer=tokenizer())
    runs = []

    def note(shown):
        for _, weights in shown.each():
            runs.append((shown.run, weights))

    with model.with_attention_pattern((0, 1), "self"):
        attend(model, read_texts(model, ["abc d e"]), note, what="it")

    assert [run for run, _ in runs] == [0, 1, 2]
    for _, weights in runs:
        assert torch.allclose(weights[1], torch.eye(weights.shape[-1], dtype=torch.float64))
        assert not torch.allclose(weights[0], torch.eye(weights.shape[-1], dtype=torch.float64), atol=0.1)


def test_a_stack_must_be_named_where_there_are_several():
    with pytest.raises(UnknownLayer, match=r'name the stack too, for example \(0, "cross"\)'):
        MODELS["bart"].with_top_k_attention(2, layers=[0]).__enter__()


def hooks_of(model):
    modules = list(model.model.modules())
    return [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in modules]


def seen(model, texts, side="right"):
    """(heads, tokens, tokens) by text and site."""
    found = {}

    def note(shown):
        for text, weights in shown.each():
            found[text, shown.site] = weights.clone()

    attend(model, read_texts(model, texts), note, what="it", batching=Batching(tokens=60, padding_side=side))
    return found
