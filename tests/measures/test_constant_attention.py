"""Constant attention, its curve, and the mass of heads on patterns.

Oracle: NumPy on `output_attentions` of eager attention in float64, a text at a time, and `changed_eagerly`.
"""

from __future__ import annotations

import codecs
import copy
import dataclasses

import numpy as np
import pytest
import torch

from pytest_bertology import Batching, Head, HeadMask, evaluate, head_importance, load_model, load_task
from pytest_bertology.engine.attending import attend
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.errors import (
    BertologyWarning,
    CannotChangeAttention,
    InvalidArgument,
    MalformedData,
    MaskOfAnotherModel,
    NothingToJudge,
    TooMuchMemory,
    UndefinedScore,
)
from pytest_bertology.measures.changed_retention import (
    constant_retention,
    least_important_heads,
    pattern_retention,
    top_k_retention,
)
from pytest_bertology.measures.constant_attention import constant_attention, constant_curve
from pytest_bertology.measures.pattern_mass import pattern_mass
from pytest_bertology.models.constants import ConstantAttention
from tests.changed_eagerly import changeable, constant, logits_by_hand, on, top
from tests.families import task_for, texts, under_test
from tests.planted import planted_model, planted_task

TASK = task_for("sequence-classification", 9)
OTHER = texts(12, seed=5, longest=12)
MODELS = {name: changeable(name) for name in ("bert", "gpt2", "llama", "bloom", "bart")}
CAUSAL = {"bert": False, "gpt2": True, "llama": True, "bloom": True}
CLOSE = {"bloom": 1e-5, "llama": 1e-6}  # both compute a softmax in float32
ONE = torch.ones((), dtype=torch.float64)
ALLOWS = {
    "matching_token": lambda ids, i, j: ids[i] == ids[j],
    "previous": lambda ids, i, j: j == i - 1,
    "first": lambda ids, i, j: j == 0,
    "self": lambda ids, i, j: i == j,
    -2: lambda ids, i, j: j == i - 2,
}


def by_eager(model, rows, stack=None):
    """(texts) of (layers, heads, tokens, tokens)."""
    twin = copy.deepcopy(model.model)
    twin.set_attn_implementation("eager")
    name = {None: "attentions", "encoder": "encoder_attentions", "decoder": "decoder_attentions"}
    name["cross"] = "cross_attentions"
    found = []
    for ids in rows:
        inputs = {"input_ids": torch.tensor([list(ids)])}
        if model.model.config.model_type == "gpt2":
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        if stack is not None:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            result = twin(**inputs, output_attentions=True)
        found.append(torch.stack(getattr(result, name[stack]))[:, 0].double().numpy())
    return found


def by_hand(maps):
    """(layers, heads, longest, longest) means over the texts that have both places."""
    longest = max(each.shape[-1] for each in maps)
    total, count = np.zeros((*maps[0].shape[:2], longest, longest)), np.zeros((longest, longest))
    for each in maps:
        n = each.shape[-1]
        total[:, :, :n, :n] += each
        count[:n, :n] += 1
    return total / count, count


@pytest.mark.parametrize(("name", "side"), [*((name, "right") for name in CAUSAL), ("gpt2", "left"), ("llama", "left")])
@pytest.mark.parametrize("tokens", [1, 60])
def test_constants_are_means_over_texts_place_by_place(name, tokens, side):
    model = MODELS[name]
    read = read_texts(model, OTHER)
    expected, count = by_hand(by_eager(model, [read.ids(at) for at in range(len(read))]))

    found = constant_attention(model, OTHER, batching=Batching(tokens=tokens, padding_side=side))

    assert found.longest == expected.shape[-1]
    assert np.array_equal(found.seen, count)
    assert found.texts == len(OTHER)
    for head in model.heads:
        assert np.abs(found.matrix(head) - expected[head.layer, head.head]).max() < CLOSE.get(name, 1e-10)


def test_encoder_decoder_models_have_constants_of_all_their_attention():
    model = MODELS["bart"]
    read = read_texts(model, OTHER)
    rows = [read.ids(at) for at in range(len(read))]

    found = constant_attention(model, OTHER)

    for stack in ("encoder", "decoder", "cross"):
        expected, _ = by_hand(by_eager(model, rows, stack))
        for head in (each for each in model.heads if each.stack == stack):
            assert np.abs(found.matrix(head) - expected[head.layer, head.head]).max() < 1e-10


@pytest.mark.parametrize(("name", "side"), [*((name, "right") for name in CAUSAL), ("gpt2", "left"), ("llama", "left")])
def test_heads_run_with_constants_as_one_text_at_a_time_by_hand(monkeypatch, name, side):
    model = MODELS[name]
    rows = [example.ids for example in encode(model, TASK).examples]
    constants = constant_attention(model, [*OTHER, *TASK.texts])
    heads = [(0, 1), (0, 3), (1, 2)]
    edits = {head: constant(constants.matrix(head), causal=CAUSAL[name]) for head in heads}
    expected = logits_by_hand(monkeypatch, model, rows, edits)

    with model.with_constant_attention(constants, heads):
        found = evaluate(model, TASK, batching=Batching(tokens=80, padding_side=side)).logits

    assert np.abs(found - expected).max() < CLOSE.get(name, 1e-10)
    assert np.abs(found - evaluate(model, TASK).logits).max() > 1e-3


def test_an_encoder_decoder_model_runs_with_constants(monkeypatch):
    model = MODELS["bart"]
    rows = [example.ids for example in encode(model, TASK).examples]
    constants = constant_attention(model, [*OTHER, *TASK.texts])
    edits = {tuple(head): constant(constants.matrix(head), causal=head.stack == "decoder") for head in model.heads}
    expected = logits_by_hand(monkeypatch, model, rows, edits)

    with model.with_constant_attention(constants):
        found = evaluate(model, TASK).logits

    assert np.abs(found - expected).max() < 1e-10


@pytest.mark.parametrize(("name", "side"), [*((name, "right") for name in CAUSAL), ("gpt2", "left"), ("llama", "left")])
def test_all_heads_constant_make_attention_independent_of_the_text(name, side):
    model = MODELS[name]
    constants = constant_attention(model, OTHER)
    same = ["abc d", "xyz w", "mno p", "q"]

    plain, found = shown(model, same, side), {}
    with model.with_constant_attention(constants):
        found = shown(model, same, side)

    for site in range(2):
        assert torch.equal(found[0, site], found[1, site])
        assert torch.equal(found[0, site], found[2, site])
        assert not torch.allclose(plain[0, site], plain[1, site], atol=1e-3)
        for text in range(4):
            assert torch.allclose(found[text, site].double().sum(dim=-1), ONE, atol=1e-6)


def test_constant_rows_are_one_on_tokens_and_zero_on_padding():
    model = MODELS["llama"]
    constants = constant_attention(model, OTHER)
    sums, padding = [], []

    def note(part):
        real = part.real
        sums.append(part.weights.sum(dim=-1)[real[:, None].expand(-1, 4, -1)])
        padding.append(part.weights[~(real[:, None, :, None] & real[:, None, None, :]).expand(-1, 4, -1, -1)])

    for side in ("left", "right"):
        with model.with_constant_attention(constants):
            batching = Batching(tokens=200, padding_side=side)
            attend(model, read_texts(model, OTHER), note, what="it", batching=batching)

    assert torch.allclose(torch.cat(sums), ONE)
    assert torch.cat(padding).numel() > 100
    assert not torch.cat(padding).any()


def test_a_row_with_nothing_left_is_even_over_what_it_may_see():
    model = MODELS["gpt2"]
    found = constant_attention(model, OTHER)
    tables = [table.copy() for table in found.tables]
    tables[0][1, 2, :] = 0.0
    constants = ConstantAttention(found.heads, tuple(tables), found.seen.copy(), found.source)

    with model.with_constant_attention(constants, (0, 1)):
        weights = shown(model, ["abcd e"])[0, 0][1]

    assert torch.allclose(weights[2, :3], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert not weights[2, 3:].any()


def test_a_text_longer_than_all_that_were_seen_is_refused():
    model = MODELS["bert"]
    constants = constant_attention(model, ["ab", "abc"])

    with (
        model.with_constant_attention(constants, (0, 0)),
        pytest.raises(CannotChangeAttention, match=r"6 tokens.* 5; estimate them by"),
    ):
        shown(model, ["abcd"])


def test_constants_of_other_heads_are_refused():
    constants = constant_attention(MODELS["bart"], OTHER)

    with pytest.raises(
        MaskOfAnotherModel, match=r"^the constant attention is for another model: it was .* Make it again for"
    ):
        MODELS["bert"].with_constant_attention(constants).__enter__()


def test_too_much_memory_is_told_before_it_is_taken():
    with pytest.raises(TooMuchMemory, match=r"8 heads on texts of up to \d+ tokens would take .* max_tokens"):
        constant_attention(MODELS["bert"], OTHER, memory=8 * 8 * 20)


def test_longer_texts_can_be_left_out():
    model = MODELS["bert"]
    short = [text for text in OTHER if len(text.replace(" ", "")) <= 10]

    found = constant_attention(model, OTHER, max_tokens=12)

    expected = constant_attention(model, short)
    assert 0 < found.left_out == len(OTHER) - len(short)
    assert found.texts == len(short)
    assert all(np.allclose(a, b, atol=1e-12) for a, b in zip(found.tables, expected.tables, strict=True))
    with pytest.raises(InvalidArgument, match=r"max_tokens=2 is not valid: expected at least \d+, the tokens of the"):
        constant_attention(model, OTHER, max_tokens=2)
    with pytest.raises(InvalidArgument, match="max_tokens"):
        constant_attention(model, OTHER, max_tokens=0)


def test_constants_are_written_and_read_whole_or_not_at_all(tmp_path, monkeypatch):
    found = constant_attention(MODELS["bart"], OTHER)
    path = found.save(tmp_path / "constants.npz")

    read = ConstantAttention.load(path)

    assert read.heads == found.heads
    assert (read.source, read.longest, read.left_out) == (found.source, found.longest, 0)
    assert all(np.array_equal(a, b) for a, b in zip(read.tables, found.tables, strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["constants.npz"]
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", lambda file, **arrays: file.write(b"x") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["constants.npz"]


def test_constants_of_a_cut_model_keep_their_heads_names(tmp_path):
    cut = under_test("bert").pruned([(0, 1)])
    found = constant_attention(cut, OTHER)

    assert ConstantAttention.load(found.save(tmp_path / "cut.npz")).heads == cut.heads


def test_a_file_of_something_else_is_refused(tmp_path):
    good = constant_attention(MODELS["bert"], OTHER).save(tmp_path / "good.npz")
    arrays = dict(np.load(good))
    wrong = {
        "nothing": b"no archive",
        "cut": good.read_bytes()[:200],
        "other": {"x": np.ones(3)},
        "shape": {**arrays, "layer_1": arrays["layer_1"][:3]},
        "marks": {**arrays, "marks": np.ones(3)},
        "nan": {**arrays, "layer_0": np.full_like(arrays["layer_0"], np.nan)},
    }
    for name, content in wrong.items():
        path = tmp_path / f"{name}.npz"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)
        with pytest.raises(MalformedData, match="no constant attention"):
            ConstantAttention.load(path)


def test_the_curve_is_single_evaluations_with_nested_heads():
    model = MODELS["bert"]
    constants = unknown(constant_attention(model, [*OTHER, *TASK.texts]))
    scores = head_importance(model, TASK)

    found = constant_curve(model, TASK, constants, scores, [0.0, 0.25, 0.5, 1.0])

    order = scores.bottom(8)
    for point, count in zip(found.points, (0, 2, 4, 8), strict=True):
        assert set(point.heads) == set(order[:count])
        if count:
            with model.with_constant_attention(constants, order[:count]):
                assert point.score == evaluate(model, TASK).score
        assert point.drop == found.baseline - point.score
    assert found.at(0.0).score == found.baseline == evaluate(model, TASK).score
    assert found.at(1.0).heads == tuple(model.heads)
    assert found.table().splitlines()[0].split() == ["fraction", "constant", "accuracy", "drop"]
    assert len(found.table().splitlines()) == 5
    with pytest.raises(InvalidArgument, match="a measured one"):
        found.at(0.3)


def test_the_curve_takes_texts_and_counts_masks_beside():
    model, long = MODELS["bert"], [codecs.encode(text, "rot13") for text in TASK.texts]
    with model.masked([(0, 0)]):
        found = constant_curve(model, TASK, long, "random", [0.0, 1.0])
        with model.with_constant_attention(constant_attention(model, long)):
            expected = evaluate(model, TASK).score
        masked = evaluate(model, TASK).score

    assert found.baseline == evaluate(model, TASK).score
    assert found.scores == (masked, expected)
    assert found.by == "random"


def test_a_planted_head_is_missed_where_it_no_longer_sees_what_it_looks_for():
    model, task = planted_model(head := Head(1, 2)), planted_task()
    constants = unknown(constant_attention(model, task))
    assert evaluate(model, task).score == 1.0
    others = [each for each in model.heads if each != head]

    with pytest.warns(BertologyWarning, match="changes no result"):
        assert constant_retention(model, task, constants, others).drop == 0.0
    assert pattern_retention(model, task, head, "first").drop == 0.5  # [CLS] no longer sees a word
    assert constant_retention(model, task, constants, head).drop == 0.0  # it sees all of them, and one is marked


def test_drops_are_those_of_single_evaluations(monkeypatch):
    model = MODELS["bert"]
    rows = [example.ids for example in encode(model, TASK).examples]
    every = {tuple(head)[:2]: top(1) for head in model.heads if head.layer == 1}
    expected = logits_by_hand(monkeypatch, model, rows, every)

    found = top_k_retention(model, TASK, 1, [1], confidence=0.95)

    assert np.abs(found.masked.logits - expected).max() < 1e-10
    assert found.baseline.score == evaluate(model, TASK).score
    assert found.changed == tuple(head for head in model.heads if head.layer == 1)
    assert found.bound.upper >= found.drop
    one = pattern_retention(model, TASK, (0, 1), "previous")
    by_eye = logits_by_hand(monkeypatch, model, rows, {(0, 1): on(lambda ids, i, j: j == i - 1)})
    assert np.abs(one.masked.logits - by_eye).max() < 1e-10
    assert one.kept == len(rows) / sum(map(len, rows))


def test_the_baseline_is_the_model_as_trained_whatever_is_in_force():
    model = MODELS["bert"]
    plain = evaluate(model, TASK).logits

    with model.masked([(0, 0)]), model.with_attention_pattern((1, 1), "first"):
        found = top_k_retention(model, TASK, 2)
        with model.with_top_k_attention(2):
            inside = evaluate(model, TASK).logits

    assert np.array_equal(found.baseline.logits, plain)
    assert np.array_equal(found.masked.logits, inside)
    assert found.heads == model.heads.select([(0, 0)])


def test_what_could_change_nothing_is_refused_or_told():
    model = MODELS["bert"]
    with pytest.raises(NothingToJudge, match="keeps all keys"):
        top_k_retention(model, TASK, 400)
    with pytest.raises(NothingToJudge, match=r"all tokens kept what they had; .* there is nothing"):
        pattern_retention(model, TASK, (0, 1), 39)


@pytest.mark.parametrize("name", ["bert", "llama", "bloom"])
@pytest.mark.parametrize("pattern", ALLOWS, ids=str)
def test_mass_on_a_pattern_is_summed_by_hand(name, pattern):
    model = MODELS[name]
    read = read_texts(model, OTHER)
    rows = [read.ids(at) for at in range(len(read))]
    allows = ALLOWS[pattern]
    total, count = np.zeros((2, 4)), 0
    for ids, maps in zip(rows, by_eager(model, rows), strict=True):
        for i in range(len(ids)):
            on_it = [j for j in range(len(ids)) if allows(ids, i, j)]
            count += bool(on_it)
            total += maps[:, :, i, on_it].sum(axis=-1)

    found = pattern_mass(model, OTHER, pattern, batching=Batching(tokens=60))

    assert np.allclose(found.to_numpy(), total / count, atol=CLOSE.get(name, 1e-10))
    assert found.details["counted"] == count / sum(map(len, rows))


def test_an_injected_pattern_has_all_the_mass():
    model = MODELS["llama"]

    with model.with_attention_pattern((1, 2), "previous"):
        found = pattern_mass(model, OTHER, "previous")

    assert found[(1, 2)] == pytest.approx(1.0, abs=1e-12)
    assert found[(1, 1)] < 0.9


def test_a_pattern_of_nothing_has_no_mass():
    with pytest.raises(UndefinedScore, match="no token"):
        pattern_mass(MODELS["bert"], ["ab"], 30)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom"])
def test_a_causal_model_is_not_asked_what_it_sees_ahead(name):
    model = MODELS[name]
    with pytest.raises(UndefinedScore, match="the model never looks ahead"):
        pattern_mass(model, OTHER, "next")
    with pytest.raises(NothingToJudge, match="the model never looks ahead"):
        pattern_retention(model, TASK, (0, 1), 1)
    assert pattern_mass(MODELS["bert"], OTHER, "next").values.min() > 0.0


@pytest.mark.parametrize("model", [MODELS["bert"], MODELS["bart"]], ids=["bert", "bart"])
def test_constants_of_the_judged_texts_are_refused_and_of_some_of_them_told(model, tmp_path):
    head, both = next(iter(model.heads)), constant_attention(model, [*OTHER, *TASK.texts])
    some = constant_attention(model, [*OTHER, *TASK.texts[:4], "a" * 38])
    for constants in (both, ConstantAttention.load(both.save(tmp_path / "both.npz"))):
        with pytest.raises(InvalidArgument, match="such as the train split"):
            constant_retention(model, TASK, constants, head)
    with pytest.raises(InvalidArgument, match="such as the train split"):
        constant_curve(model, TASK, TASK, "random", [1.0])
    with pytest.warns(BertologyWarning, match=rf"4 of {len(TASK)} examples of .* judged too low"):
        constant_retention(model, TASK, some, head)


def test_masked_heads_are_not_taken_for_constant_ones():
    model = MODELS["bert"]
    with model.masked([(0, 0), (0, 1), (0, 2)]):
        heads, _ = least_important_heads(model, TASK, 0.5, "gradient", 0)
        assert len(heads) == 4
        assert not {(0, 0), (0, 1), (0, 2)} & {(head.layer, head.head) for head in heads}
        assert len(least_important_heads(model, TASK, 1.0, "gradient", 0)[0]) == 5
        with pytest.raises(InvalidArgument, match="at most the 5 of 8 heads"):
            least_important_heads(model, TASK, 0.75, "gradient", 0)
    with model.masked(model.heads), pytest.raises(NothingToJudge, match="all heads are masked"):
        least_important_heads(model, TASK, 0.5, "random", 0)


@pytest.mark.slow
@pytest.mark.assets
def test_constant_heads_of_a_real_model_cost_little_and_all_of_them_much(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    dev = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(0, 872, 12))
    train = load_task(assets / "data" / "sst2" / "train.tsv").texts[:4000]
    constants = constant_attention(model, sorted(train, key=len)[-120:])

    found = constant_curve(model, dev, constants, "gradient", [0.5, 1.0])

    masked = evaluate(model, dev, HeadMask.without(model.heads, found.at(1.0).heads)).score
    assert found.at(0.5).drop <= 0.05
    assert masked < found.at(1.0).score < found.baseline


def unknown(constants):
    """The same constants, of texts that nobody knows: what they cost is then judged on any."""
    return dataclasses.replace(constants, marks=np.zeros(0, dtype=np.uint64))


def shown(model, texts, side="right"):
    """(heads, tokens, tokens) by text and site."""
    found = {}

    def note(part):
        for text, weights in part.each():
            found[text, part.site] = weights.clone()

    attend(model, read_texts(model, texts), note, what="it", batching=Batching(tokens=60, padding_side=side))
    return found
