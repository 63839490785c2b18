"""The CAT-score: attention along the syntax tree of code.

Oracle: values worked out by hand from weights given by hand; and the paper's formula written here with NumPy, token by
token, on the weights of eager attention in float64.
"""

from __future__ import annotations

import copy
import inspect
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AlbertConfig, AlbertForSequenceClassification, BartConfig, BartForSequenceClassification

from pytest_bertology import Batching, Head, HeadMask, cat_score, load_embedded_model, load_model
from pytest_bertology.engine.attending import Attended
from pytest_bertology.errors import (
    BertologyWarning,
    CannotMeasure,
    InvalidArgument,
    MalformedData,
    NothingToJudge,
    UndefinedScore,
    UnknownHead,
)
from pytest_bertology.measures import cat
from pytest_bertology.measures.cat_formula import cat_scores, near_pairs
from pytest_bertology.measures.cat_snippets import _pieces as pieces_of
from pytest_bertology.tasks.code import syntax_tree
from tests.families import FAMILIES, few, redraw, tokenizer, under_test
from tests.snippets import functions

CODE = ["abc = de + abc", "f(a, bc)", "if x: y = f(ab)", "for a in bcd:\n    a = (a, b)", "x = y", "def f(x): return x"]
TYPES = ["identifier", "(", ")", "=", ":", ",", "+", "def", "for", "if", "in", "return"]
WHOLE = {"token_types": TYPES, "distance_quantile": 0.4}
"""All tokens, and distances of which some others than a token's to itself are near."""
SIZES = {
    "vocab_size": 64, "num_attention_heads": 4, "max_position_embeddings": 40, "num_labels": 3, "hidden_size": 24,
    "intermediate_size": 32,
}  # fmt: skip


# Three snippets by hand.


def test_a_snippet_of_three_tokens_by_hand(monkeypatch):
    # x = y: distances 0 0 0 1 1 1 1 2 2; the quantile at place 2 is 0, and nothing is nearer than 0. Of the nine
    # weights the two above .3, at place 6, are high: 0 of 2.
    show(monkeypatch, [[0.5, 0.2, 0.3], [0.1, 0.3, 0.6], [0.3, 0.2, 0.1]])

    report = cat_score(under_test("bert"), ["x = y"])

    assert report.scores == (0.0,)


def test_a_snippet_with_two_uses_of_a_name_by_hand(monkeypatch):
    # f ( a , a ): below one Call, so 2 apart, but 1 for neighbours and for a and a. Zeros 6, ones 12, twos 18; the
    # quantile at place 8.75 is 1: near is each token to itself. Nine of 36 weights are above place 26.25; of them
    # three are on the diagonal: 3 of 9 + 6 - 3.
    weights = np.full((6, 6), 0.01) + np.arange(36).reshape(6, 6) * 1e-4
    for at in [(0, 0), (2, 2), (4, 4), (0, 1), (2, 4), (4, 2), (5, 1), (3, 0), (1, 5)]:
        weights[at] = 0.5 + at[0] / 100
    show(monkeypatch, weights)

    report = cat_score(under_test("bert"), ["f(a, a)"])

    assert report.scores == (pytest.approx(3 / 12),)
    assert report.token_types == ("identifier", "(", ")", ",")


def test_a_whole_function_by_hand(monkeypatch):
    distances = np.array([
        [0, 1, 2, 3, 2, 2, 3, 4, 4, 4],  # def
        [1, 0, 1, 2, 2, 2, 3, 3, 4, 4],  # f
        [2, 1, 0, 1, 2, 2, 3, 2, 3, 4],  # (
        [3, 2, 1, 0, 1, 2, 2, 1, 2, 3],  # x
        [2, 2, 2, 1, 0, 1, 2, 2, 3, 4],  # )
        [2, 2, 2, 2, 1, 0, 1, 2, 3, 4],  # :
        [3, 3, 3, 2, 2, 1, 0, 1, 2, 3],  # return
        [4, 3, 2, 1, 2, 2, 1, 0, 1, 2],  # x
        [4, 4, 3, 2, 3, 3, 2, 1, 0, 1],  # +
        [4, 4, 4, 3, 4, 4, 3, 2, 1, 0],  # 1
    ])  # fmt: skip
    # Half of 100 distances are at most 2 (10 zeros, 20 ones, 34 twos): nearer than the median are the 30 below 2.
    # Each token attends to the one before it alone: 10 weights of 1 (the first to itself), above the .75 quantile, 0.
    # All ten are near: 10 of 30.
    weights = np.eye(10, k=-1)
    weights[0, 0] = 1.0
    subtokens = [3, 1, 1, 1, 1, 1, 6, 1, 1, 1]  # this tokenizer's: letters
    show(monkeypatch, weights.repeat(subtokens, axis=0).repeat(subtokens, axis=1))

    report = cat_score(under_test("bert"), ["def f(x) :\n    return x + 1"], distance_quantile=0.5)

    assert (near_pairs(distances, 0.5).sum(), report.tokens) == (30, 10)
    assert report.scores == (pytest.approx(10 / 30),)


def test_subtokens_are_averaged_and_shared(monkeypatch):
    # abc is three sub-tokens, `((` one that is part of both tokens: f ( ( a b c ) ) has 5 tokens of 7 sub-tokens.
    text = "f((abc))"
    pieces = tokenizer()(text)
    assert len(pieces["input_ids"]) == 2 + 6
    groups = [[0], [1], [1], [2, 3, 4], [5], [5]]
    generator = np.random.default_rng(0)
    weights = generator.random((6, 6))
    by_token = np.array([[weights[np.ix_(a, b)].mean() for b in groups] for a in groups])
    show(monkeypatch, weights)

    report = cat_score(under_test("bert"), [text], distance_quantile=0.5)

    expected = formula(by_token, syntax_tree(text).distances(), 0.75, 0.5)
    assert report.scores == (pytest.approx(expected),)


def test_subtokens_belong_to_the_tokens_they_share_a_character_with():
    # Byte-level: é is two sub-tokens of one character; a space goes with what follows it; `x)` is one; a mark at the
    # end stands for nothing.
    offsets = [(0, 0), (0, 1), (0, 1), (1, 3), (3, 5), (5, 7), (0, 0)]

    assert pieces_of(syntax_tree("é = (x)"), offsets) == [[1, 2], [3], [4], [5], [5]]


# The formula, on models.


@pytest.mark.parametrize("name", FAMILIES)
def test_the_score_is_that_of_eager_attention(name):
    model = under_test(name, FAMILIES[name][0], dtype=torch.float64)
    expected = by_eager(model.model, CODE)

    report = cat_score(model, CODE, layer="all", **WHOLE)

    layers = [[formula_of(a.mean(axis=0), text) for a, text in zip(layer, CODE, strict=True)] for layer in expected]
    assert np.allclose(list(report.by_layer.values()), np.mean(layers, axis=1))
    assert np.allclose(report.scores, np.mean(layers, axis=0))
    assert report.score == pytest.approx(np.mean(layers))
    for head in model.heads:
        own = [formula_of(a[head.head], text) for a, text in zip(expected[head.layer], CODE, strict=True)]
        assert report.by_head[head] == pytest.approx(np.mean(own))


def test_layers_and_heads_are_those_asked_for():
    model = under_test("bert")
    everything = cat_score(model, CODE, layer="all", distance_quantile=0.4)

    last = cat_score(model, CODE, distance_quantile=0.4)
    first = cat_score(model, CODE, layer=[0], distance_quantile=0.4)
    one = cat_score(model, CODE, layer=0, heads=[(0, 2)], distance_quantile=0.4)

    assert last.by_layer == {1: pytest.approx(everything.by_layer[1])}
    assert first.score == pytest.approx(everything.by_layer[0])
    assert one.score == pytest.approx(everything.by_head[0, 2])
    assert list(one.head_scores) == [Head(0, 2)]


def test_neither_batches_nor_padding_matter():
    model = under_test("gpt2", "causal-lm", dtype=torch.float64)
    expected = cat_score(model, CODE, layer="all", distance_quantile=0.4)

    for budget, side in [(1, "right"), (30, "left"), (500, "left"), (500, "right")]:
        batching = Batching(tokens=budget, padding_side=side)
        found = cat_score(model, CODE, layer="all", distance_quantile=0.4, batching=batching)
        assert (found.scores, found.control) == (expected.scores, expected.control)


def test_long_texts_whose_heads_are_shown_in_parts(monkeypatch):
    model = under_test("llama", "causal-lm")
    expected = cat_score(model, CODE, layer="all")

    monkeypatch.setattr("pytest_bertology.engine.attending._AT_ONCE", 200)

    assert cat_score(model, CODE, layer="all").scores == pytest.approx(expected.scores)


def test_the_order_of_snippets_does_not_matter():
    model = under_test("bert")
    order = random.Random(0).sample(range(len(CODE)), len(CODE))
    types = ["identifier", "=", "(", ")", ","]

    straight = cat_score(model, CODE, token_types=types)
    mixed = cat_score(model, [CODE[index] for index in order], token_types=types)

    assert mixed.scores == pytest.approx([straight.scores[index] for index in order])
    assert mixed.control.scores == pytest.approx([straight.control.scores[index] for index in order])
    assert (mixed.interval, mixed.control.interval) == (
        pytest.approx(straight.interval), pytest.approx(straight.control.interval)
    )  # fmt: skip


def test_named_types_take_part_and_no_others():
    model = under_test("bert", dtype=torch.float64)
    text = "def f(ab, c):\n    return ab + c + f(ab)"
    tree = syntax_tree(text)
    part = [index for index, leaf in enumerate(tree.leaves) if leaf.type in ("identifier", "+")]
    (attention,) = by_eager(model.model, [text])[1]
    by_token = token_attention(attention.mean(axis=0), text)[np.ix_(part, part)]

    report = cat_score(model, [text], token_types=["identifier", "+"])

    assert report.tokens == len(part) == 9
    assert report.scores == (pytest.approx(formula(by_token, tree.distances()[np.ix_(part, part)])),)


def test_eight_types_are_frequent_and_equals_go_by_name():
    text = "a = b\nc = d\ndef f(g):\n    return g + 1 - [2]"

    report = cat_score(under_test("bert"), [text])

    assert report.token_types == ("identifier", "=", "number", "(", ")", "+", "-", ":")
    assert list(report.type_counts)[8:] == ["[", "]", "def", "return"]


def test_what_the_model_does_not_read_takes_no_part():
    model = under_test("bert", dtype=torch.float64)
    text = "x = " + " + ".join(f"a{index}" for index in range(20)) + " + abcdefghijk"
    with pytest.warns(BertologyWarning, match="were cut: 0"):
        report = cat_score(model, [text], distance_quantile=0.5)
    tree = syntax_tree(text)
    ends = tokenizer()(text, truncation=True, max_length=40, return_offsets_mapping=True)["offset_mapping"]
    read = max(end for _, end in ends)

    part = [index for index, leaf in enumerate(tree.leaves) if leaf.end <= read]
    (attention,) = by_eager(model.model, [text])[1]
    by_token = token_attention(attention.mean(axis=0), text)[np.ix_(part, part)]
    expected = formula(by_token, tree.distances()[np.ix_(part, part)], 0.75, 0.5)
    assert report.unseen == len(tree.leaves) - len(part) > 0
    assert report.tokens == len(part)
    assert report.scores == (pytest.approx(expected),)


def test_a_shared_layer_counts_as_it_runs_last():
    config = AlbertConfig(**SIZES, embedding_size=8, num_hidden_layers=3)
    model = redraw(AlbertForSequenceClassification(config), 0).double().eval()
    layers = by_eager(model, CODE)

    report = cat_score(load_model(model, tokenizer=tokenizer()), CODE, **WHOLE)

    assert report.scores == pytest.approx([formula_of(a.mean(axis=0), t) for a, t in zip(layers[2], CODE, strict=True)])


@pytest.mark.parametrize("stack", [None, "encoder", "decoder", "cross"])
def test_stacks_of_encoder_decoder_models(stack):
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=64, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, num_labels=3,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40, pad_token_id=0,
        eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    model = redraw(BartForSequenceClassification(config), 0).double().eval()
    field = f"{stack or 'encoder'}_attentions"

    report = cat_score(load_model(model, tokenizer=tokenizer()), CODE, stack=stack, **WHOLE)

    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = []
        for text in CODE:
            ids = tokenizer()(text, return_tensors="pt")["input_ids"]
            out = model.model(input_ids=ids, decoder_input_ids=ids, output_attentions=True)
            expected.append(formula_of(getattr(out, field)[-1][0].mean(dim=0).numpy(), text))
    assert report.scores == pytest.approx(expected)


def test_a_cut_model_has_the_heads_that_are_left():
    model = under_test("llama", "causal-lm", dtype=torch.float64)
    gone = [(1, 0), (1, 1)]
    heads = [(1, 2), (1, 3)]
    with model.masked(HeadMask.without(model.heads, gone)):
        expected = cat_score(model, CODE, heads=heads)

    assert cat_score(model.pruned(gone), CODE).scores == pytest.approx(expected.scores)


# Its properties.


@few
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_cat_is_between_0_and_1(tokens, seed, high, low):
    generator = np.random.default_rng(seed)
    attention = generator.dirichlet(np.ones(tokens), size=(3, tokens))
    distances = np.abs(np.subtract.outer(range(tokens), range(tokens)))

    found = cat_scores(attention, near_pairs(distances, low), high)

    assert ((found >= 0.0) & (found <= 1.0) | np.isnan(found)).all()
    assert found == pytest.approx([formula(each, distances, high, low) for each in attention], nan_ok=True)


def test_attention_to_all_that_is_near_scores_one():
    near = near_pairs(np.abs(np.subtract.outer(range(9), range(9))), 0.25)
    attention = np.where(near, 0.3, 0.01) + np.arange(81).reshape(9, 9) * 1e-6

    assert cat_scores(attention[None], near, 1.0 - near.mean())[0] == 1.0


def test_even_attention_is_above_no_quantile():
    model = under_test("bert")
    attention = model.model.bert.encoder.layer[1].attention.self
    with torch.no_grad():
        attention.query.weight.zero_()
        attention.query.bias.zero_()

    report = cat_score(model, CODE, distance_quantile=0.4)

    assert report.score == 0.0


def test_snippets_without_a_pair_are_skipped():
    model = under_test("bert")

    report = cat_score(model, [*CODE, "pass", "x"], token_types=["identifier", "=", "(", ")"])

    assert report.skipped == (6, 7)
    assert report.scores[6] is report.control.scores[7] is None
    assert report.score == pytest.approx(np.mean(report.scores[:6]))
    with pytest.raises(UndefinedScore, match="in 2 snippets no pair of tokens of the types 'identifier', 'pass'"):
        cat_score(model, ["pass", "x"])


def test_snippets_that_do_not_parse_are_named_or_left_out():
    model = under_test("bert")
    broken = [CODE[0], "x = = y", *CODE[1:], "if"]

    with pytest.raises(MalformedData, match=r"snippets\[1\]: it cannot be read as python: line 1"):
        cat_score(model, broken)
    report = cat_score(model, broken, errors="skip")

    plain = cat_score(model, CODE)
    assert report.unreadable == report.skipped == (1, 7)
    assert report.scores == (plain.scores[0], None, *plain.scores[1:], None)
    with pytest.raises(MalformedData, match="none of 2 can be read as python"):
        cat_score(model, ["x =", "if"], errors="skip")


# Random attention.


def test_random_attention_scores_as_random_numbers_do():
    text = functions(1)[0]
    model = under_test("bert", max_position_embeddings=512)
    tree = syntax_tree(text)
    generator = np.random.default_rng(0)
    pieces = tokenizer()(text)["input_ids"]

    report = cat_score(model, [text], token_types=list({leaf.type for leaf in tree.leaves}))

    drawn = [generator.dirichlet(np.ones(len(pieces)), size=len(pieces)) for _ in range(100)]
    scores = [formula_of(matrix, text) for matrix in drawn]
    deviation = np.std(scores) * (1 / np.sqrt(report.control.draws) + 0.1)
    assert report.control.score == pytest.approx(np.mean(scores), abs=3 * deviation)


def test_random_attention_of_causal_models_looks_back_only():
    text = functions(1)[0]
    model = under_test("gpt2", "causal-lm", n_positions=512)
    tree = syntax_tree(text)
    generator = np.random.default_rng(0)
    length = len(tokenizer()(text)["input_ids"])

    report = cat_score(model, [text], token_types=list({leaf.type for leaf in tree.leaves}))

    scores = []
    for _ in range(100):
        drawn = np.zeros((length, length))
        for row in range(length):
            drawn[row, : row + 1] = generator.dirichlet(np.ones(row + 1))
        scores.append(formula_of(drawn, text))
    deviation = np.std(scores) * (1 / np.sqrt(report.control.draws) + 0.1)
    assert report.control.score == pytest.approx(np.mean(scores), abs=3 * deviation)


def test_random_attention_goes_by_its_seed_alone():
    model = under_test("bert")
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()

    first, again, other = (cat_score(model, CODE, seed=seed).control for seed in (0, 0, 1))

    assert first == again
    assert first.scores != other.scores
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert first.difference == pytest.approx(cat_score(model, CODE).score - first.score)


@pytest.mark.parametrize(("name", "kind"), [("bert", "sequence-classification"), ("gpt2", "causal-lm")])
def test_neighbours_alone_score_what_their_distances_say(name, kind):
    length = [len(tokenizer()(text)["input_ids"]) for text in CODE]
    rows = [np.exp(-np.abs(np.subtract.outer(range(n), range(n)))) for n in length]
    rows = [np.tril(row) if name == "gpt2" else row for row in rows]
    rows = [row / row.sum(axis=1, keepdims=True) for row in rows]

    report = cat_score(under_test(name, kind), CODE, **WHOLE)

    assert report.neighbours == pytest.approx(np.mean([formula_of(*pair) for pair in zip(rows, CODE, strict=True)]))


# Real code, and a real model.


@pytest.fixture(scope="module")
def embedded():
    return load_embedded_model()


@pytest.mark.slow
def test_two_hundred_functions_of_the_standard_library(embedded):
    report = cat_score(embedded, functions(200, shortest=40, longest=160), layer=[2, -1])

    assert (report.scored, report.skipped, report.unseen) == (200, (), 0)
    assert all(0.0 <= score <= 1.0 for score in report.scores)
    assert report.control.below
    assert report.neighbours > report.by_layer[2]  # which is what positions alone give
    assert report.by_layer[2] > 2 * report.by_layer[5] > 2 * report.control.score
    low, high = report.interval
    assert low < report.score < high < low + 0.05


def test_a_report_is_told_in_words(embedded):
    report = cat_score(embedded, [*functions(6), "x ="], layer="all", errors="skip")
    table = report.table()

    assert "6 of python (1 not parsed)" in table
    assert "random" in table
    assert "'identifier'" in table
    assert repr(report).startswith("CatReport(0.")
    assert report.by_head.top(1)[0] == max(report.head_scores, key=report.head_scores.__getitem__)


def test_equal_snippets_count_once():
    model, code = under_test("bert", max_position_embeddings=160), functions(6, longest=140)
    once = cat_score(model, code)

    with pytest.warns(BertologyWarning, match="3 of 9 snippets are repeated"):
        report = cat_score(model, [code[0], *code, code[2], code[0]])

    assert report.repeated == (1, 7, 8)
    assert report.scores == (once.scores[0], *once.scores, once.scores[2], once.scores[0])
    assert report.scored == once.scored == 6
    for name in ("score", "interval", "neighbours", "neighbours_interval", "type_counts", "tokens"):
        assert getattr(report, name) == getattr(once, name)
    assert "3 repeated, counted once" in report.table()


def test_repeats_of_snippets_that_do_not_parse_do_not_parse():
    with pytest.warns(BertologyWarning, match="1 of 8 snippets"):
        report = cat_score(under_test("bert"), ["x =", *CODE, "x ="], errors="skip", **WHOLE)

    assert (report.unreadable, report.repeated) == ((0, 7), (7,))
    assert report.scored == len(CODE)


def test_the_difference_to_neighbours_is_paired():
    model = under_test("bert", max_position_embeddings=160)
    report = cat_score(model, functions(6, longest=140))
    each = [cat_score(model, [code]) for code in functions(6, longest=140)]

    assert report.neighbours_difference == pytest.approx(report.score - report.neighbours)
    low, high = report.neighbours_interval
    differences = [one.score - one.neighbours for one in each]
    assert min(differences) - 0.2 <= low < high <= max(differences) + 0.2
    assert report.above_neighbours == (low > 0)
    assert f"scores {report.neighbours:.4f}: nothing here shows more than the order" in report.table()


@pytest.mark.parametrize(
    ("snippets", "options", "error", "message"),
    [
        ([], {}, NothingToJudge, "no snippets were given"),
        ({"a.py": "x = 1"}, {}, InvalidArgument, "snippets='a dict' is not valid: expected a list of pieces of code"),
        ("x = 1", {}, InvalidArgument, "a list of pieces of code"),
        ([3], {}, InvalidArgument, r"snippets\[0\]=3"),
        (CODE, {"language": "klingon"}, InvalidArgument, "language='klingon'"),
        (CODE, {"layer": 2}, InvalidArgument, "a layer from -2 to 1"),
        (CODE, {"layer": "last"}, InvalidArgument, "or 'all'"),
        (CODE, {"layer": []}, InvalidArgument, "a layer from -2 to 1"),
        (CODE, {"layer": True}, InvalidArgument, "a layer from -2 to 1"),
        (CODE, {"stack": "decoder"}, InvalidArgument, "stack='decoder'"),
        (CODE, {"heads": [(0, 1)]}, InvalidArgument, "heads of each layer asked for"),
        (CODE, {"heads": []}, InvalidArgument, "heads='none'"),
        (CODE, {"heads": [(1, 7)]}, UnknownHead, "no head L1H7"),
        (CODE, {"attention_quantile": 1.0}, InvalidArgument, "attention_quantile=1.0"),
        (CODE, {"distance_quantile": "a"}, InvalidArgument, "distance_quantile='a'"),
        (CODE, {"token_types": ["name"]}, InvalidArgument, r"types of tokens in the snippets: 'identifier', '\(', "),
        (CODE, {"token_types": []}, InvalidArgument, "types of tokens"),
        (CODE, {"errors": "ignore"}, InvalidArgument, "'raise' or 'skip'"),
        (CODE, {"seed": -1}, InvalidArgument, "seed=-1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(snippets, options, error, message):
    with pytest.raises(error, match=message):
        cat_score(under_test("bert"), snippets, **options)


def test_scores_of_all_heads_need_all_layers():
    with pytest.raises(InvalidArgument, match=r"4 of 8 heads have a score.*layer='all'"):
        _ = cat_score(under_test("bert"), CODE).by_head


def test_a_tokenizer_that_knows_no_characters_is_refused(monkeypatch):
    model = under_test("bert")
    slow = copy.copy(model.tokenizer)
    monkeypatch.setattr(type(slow), "is_fast", False)

    with pytest.raises(CannotMeasure, match="load a fast one"):
        cat_score(model, CODE)


def show(monkeypatch, weights) -> None:
    """Let every head of the model's last layer have these weights, between [CLS] and [SEP]."""
    inner = torch.as_tensor(np.asarray(weights, dtype=np.float64))
    padded = torch.zeros(1, 4, len(inner) + 2, len(inner) + 2, dtype=torch.float64)
    padded[0, :, 1:-1, 1:-1] = inner

    def shown(model, texts, visit, **options):
        assert len(texts.ids(0)) == padded.shape[-1]
        real = torch.ones(1, padded.shape[-1], dtype=torch.bool)
        visit(Attended(1, slice(4, 8), 0, (0,), real, padded, None))

    monkeypatch.setattr(cat, "attend", shown)


def by_eager(model, snippets) -> list[list[np.ndarray]]:
    """Of each layer, of each snippet: (heads, sub-tokens, sub-tokens)."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    pieces, accepted = tokenizer(), inspect.signature(model.forward).parameters
    found = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in snippets:
            inputs = pieces(text, return_tensors="pt", truncation=True, max_length=40)
            inputs = {name: value for name, value in inputs.items() if name in accepted}
            found.append([layer[0].numpy() for layer in model(**inputs, output_attentions=True).attentions])
    return [list(layer) for layer in zip(*found, strict=True)]


def token_attention(attention: np.ndarray, text: str) -> np.ndarray:
    """Means over pairs of sub-tokens, by the characters that tokens and sub-tokens have in common."""
    offsets = tokenizer()(text, return_offsets_mapping=True, truncation=True, max_length=len(attention))
    characters = [set(range(start, end)) for start, end in offsets["offset_mapping"]]
    leaves = [set(range(leaf.start, leaf.end)) for leaf in syntax_tree(text).leaves]
    groups = [[index for index, own in enumerate(characters) if own & leaf] for leaf in leaves]
    found = np.full((len(groups), len(groups)), np.nan)
    for row, ours in enumerate(groups):
        for column, theirs in enumerate(groups):
            pairs = [attention[a, b] for a in ours for b in theirs]
            found[row, column] = np.mean(pairs) if pairs else np.nan
    return found


def formula_of(attention: np.ndarray, text: str) -> float:
    """Of a whole snippet."""
    low = 0.4 if text in CODE else 0.25
    return formula(token_attention(attention, text), syntax_tree(text).distances(), 0.75, low)


def formula(attention: np.ndarray, distances: np.ndarray, high: float = 0.75, low: float = 0.25) -> float:
    """METHODS 5, word for word; weights that are equal but for rounding are equal."""
    attention = np.round(attention, 13)
    above = attention > np.quantile(attention, high)
    near = distances < np.quantile(distances, low)
    return (above & near).sum() / (above | near).sum() if (above | near).any() else float("nan")
