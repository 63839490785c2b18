"""Statistics of attention are what NumPy makes of eager attention in float64, one unpadded text at a time.

And a planted model, whose one head attends to the previous token and to no other.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import Batching, Head, ResultStore, attention_statistics, load_model, load_task, using_store
from pytest_bertology.errors import CannotMeasure, EmptyTask, InvalidArgument, MalformedData, NonFinite, UndefinedScore
from pytest_bertology.measures.attention import STATISTICS
from tests.attending import PUNCTUATION, VOCABULARY, eager_attentions, ids_of, letters, spelled
from tests.families import family, few, redraw
from tests.planted_attention import PREVIOUS, previous_token_model

CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
MARKS = {VOCABULARY.index(mark) for mark in PUNCTUATION}
TEXTS = spelled(9)
SIZES = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


def by_numpy(attentions, ids, causal=False):
    """Every statistic, (layers · heads,), from maps of each text and layer; a mean over query tokens.

    Where tokens see no later ones, over those that have such a token before them, or are one.
    """
    sums = dict.fromkeys(STATISTICS, 0.0)
    counts = dict.fromkeys(STATISTICS, 0)

    def add(name, layers, query, share):
        counts[name] += 1
        sums[name] = sums[name] + np.concatenate([share(layer[:, query]) for layer in layers])

    for layers, tokens in zip(attentions, ids, strict=True):
        n = len(tokens)
        ends = [j for j in range(n) if tokens[j] == SEP]
        targets = {
            "to_self": lambda i: [i],
            "to_next": lambda i, n=n: [i + 1] if i + 1 < n else [],
            "to_previous": lambda i: [i - 1] if i else [],
            "to_first": lambda i: [0],
            "to_cls": lambda i, t=tokens: [j for j, token in enumerate(t) if token == CLS],
            "to_sep": lambda i, e=ends: e,
            "to_punctuation": lambda i, t=tokens: [j for j, token in enumerate(t) if token in MARKS],
            "to_same_token": lambda i, t=tokens: [j for j, token in enumerate(t) if token == t[i] and j != i],
        }
        for i in range(n):
            for name, keys in targets.items():
                at = [j for j in keys(i) if j <= i or not causal]
                if at:
                    add(name, layers, i, lambda row, at=tuple(at): row[:, list(at)].sum(axis=1))
            entropy = lambda row: -np.where(row > 0, row * np.log(np.where(row > 0, row, 1.0)), 0.0).sum(axis=1)  # noqa: E731
            add("entropy", layers, i, entropy)
            if tokens[i] == CLS:
                add("cls_entropy", layers, i, entropy)
            add("distance", layers, i, lambda row, n=n, i=i: row @ np.abs(np.arange(n) - i))
            if i not in ends:
                add("confidence", layers, i, lambda row, e=tuple(ends): np.delete(row, e, axis=1).max(axis=1))
    return {name: sums[name] / counts[name] for name in STATISTICS if counts[name]}, counts


def assert_equal(found, expected, counts, tolerance=1e-6):
    assert set(found.available) == set(expected)
    assert found.counts == counts
    for name, values in expected.items():
        assert np.abs(found.statistic(name).values - values).max() < tolerance, name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("tokens", [1, 40, 4096])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_statistics_are_those_of_eager_attention(name, tokens, side):
    model = family(name, "causal-lm" if name in ("gpt2", "llama") else "masked-lm", dtype=torch.float64)
    assert model.config._attn_implementation == "sdpa"
    causal = name in ("gpt2", "llama")
    expected = by_numpy(eager_attentions(model, letters(), TEXTS), ids_of(letters(), TEXTS), causal)

    found = attention_statistics(
        load_model(model, tokenizer=letters()), TEXTS, batching=Batching(tokens=tokens, padding_side=side)
    )

    assert_equal(found, *expected)
    even = sum(
        math.log(i + 1 if causal else len(ids)) for ids in ids_of(letters(), TEXTS) for i in range(len(ids))
    ) / sum(map(len, ids_of(letters(), TEXTS)))
    assert np.allclose(found.uniform_entropy.values, even)


@pytest.mark.parametrize("side", ["right", "left"])
def test_statistics_in_float32(side):
    model = family("bert", "sequence-classification")
    expected = by_numpy(eager_attentions(model, letters(), TEXTS), ids_of(letters(), TEXTS))

    found = attention_statistics(load_model(model, tokenizer=letters()), TEXTS, batching=Batching(padding_side=side))

    assert_equal(found, *expected, tolerance=2e-5)


@pytest.mark.parametrize(
    ("kind", "side"),
    [("gptj", "right"), ("gptj", "left"), ("falcon", "right"), ("falcon", "left"), ("bloom", "right")],
)
def test_models_that_attend_by_functions_of_their_own(kind, side):
    torch.manual_seed(0)
    names = {"bloom": ("Bloom", {"n_layer": 2, "n_head": 4}), "gptj": ("GPTJ", {"n_layer": 2, "n_head": 4})}
    names["falcon"] = ("Falcon", {"num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False})
    prefix, sizes = names[kind]
    sizes |= {"hidden_size": 24, "n_embd": 24, "rotary_dim": 4, "n_positions": 40}
    config = getattr(transformers, f"{prefix}Config")(**SIZES, **sizes)
    model = redraw(getattr(transformers, f"{prefix}ForCausalLM")(config), 0).double().eval()
    expected = by_numpy(eager_attentions(model, letters(), TEXTS), ids_of(letters(), TEXTS), causal=True)

    found = attention_statistics(
        load_model(model, tokenizer=letters()), TEXTS, batching=Batching(tokens=64, padding_side=side)
    )

    assert_equal(found, *expected)


def encoder_decoder(kind):
    torch.manual_seed(0)
    if kind == "t5":
        sizes = {"d_model": 24, "d_kv": 6, "num_heads": 4, "num_layers": 2, "d_ff": 32}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES, **sizes))
    else:
        sizes = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 40}
        sizes |= {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
                  (("attention_heads", 4), ("ffn_dim", 32))}  # fmt: skip
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**SIZES, **sizes))
    return redraw(model, 0).double().eval()


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_read_each_text_on_both_sides(kind):
    model = encoder_decoder(kind)
    under_test = load_model(model, tokenizer=letters())

    found = attention_statistics(under_test, TEXTS, batching=Batching(tokens=60))

    for stack, field in (("encoder", "encoder"), ("decoder", "decoder"), ("cross", "cross")):
        expected, _ = by_numpy(
            eager_attentions(model, letters(), TEXTS, f"{field}_attentions"),
            ids_of(letters(), TEXTS),
            causal=stack == "decoder",
        )
        at = [index for index, head in enumerate(under_test.heads) if head.stack == stack]
        for name, values in expected.items():
            assert np.abs(found.statistic(name).values[at] - values).max() < 1e-6, (stack, name)


def test_a_layer_that_runs_several_times_counts_each_run():
    config = transformers.AlbertConfig(
        vocab_size=64, embedding_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    model = redraw(transformers.AlbertForMaskedLM(config), 0).double().eval()
    runs = eager_attentions(model, letters(), TEXTS)
    each = [by_numpy([[text[run]] for text in runs], ids_of(letters(), TEXTS))[0] for run in range(3)]

    found = attention_statistics(load_model(model, tokenizer=letters()), TEXTS)

    for name in found.available:
        expected = np.mean([run[name] for run in each], axis=0)
        assert np.abs(found.statistic(name).values - expected).max() < 1e-6, name


def test_heads_of_a_cut_model_keep_their_attention():
    whole = load_model(family("bert", "masked-lm", dtype=torch.float64), tokenizer=letters())
    cut = whole.pruned([(0, 1), (0, 2)])
    expected = attention_statistics(whole, TEXTS)

    found = attention_statistics(cut, TEXTS)

    assert found.entropy[0, 1] == pytest.approx(expected.entropy[0, 3], abs=1e-9)


def test_masks_in_force_act_on_the_layers_above():
    model = load_model(family("bert", "masked-lm"), tokenizer=letters())
    plain = attention_statistics(model, TEXTS).entropy.to_numpy()

    with model.masked([(0, 1)]):
        masked = attention_statistics(model, TEXTS).entropy.to_numpy()

    assert np.array_equal(plain[0], masked[0])
    assert np.abs(plain[1] - masked[1]).max() > 1e-3


@few
@given(texts=st.lists(st.lists(st.sampled_from("abcd.,"), min_size=1, max_size=9), min_size=1, max_size=5))
def test_entropies_lie_between_none_and_that_of_even_attention(texts):
    model = load_model(family("bert", "masked-lm"), tokenizer=letters())

    found = attention_statistics(model, [" ".join(text) for text in texts])

    assert found.entropy.values.min() >= 0.0
    assert (found.entropy.values <= found.uniform_entropy.values + 1e-6).all()
    for name in found.available:
        if name.startswith("to_") or name == "confidence":
            assert -1e-9 <= found.statistic(name).values.min() <= found.statistic(name).values.max() <= 1 + 1e-6, name


@few
@given(order=st.permutations(range(len(TEXTS))), tokens=st.integers(1, 200))
def test_neither_order_nor_batches_matter(order, tokens):
    model = load_model(family("gpt2", "causal-lm"), tokenizer=letters())
    expected = attention_statistics(model, TEXTS)

    found = attention_statistics(model, [TEXTS[i] for i in order], batching=Batching(tokens=tokens))

    for name in expected.available:
        assert np.allclose(found.statistic(name).values, expected.statistic(name).values, atol=1e-5)


def test_even_attention_has_the_entropy_of_its_length():
    model = family("bert", "masked-lm")
    for layer in model.bert.encoder.layer:
        for part in (layer.attention.self.query.weight, layer.attention.self.query.bias):
            torch.nn.init.zeros_(part)
    texts = ["a b c", "a b c d e f"]

    found = attention_statistics(load_model(model, tokenizer=letters()), texts)

    assert np.allclose(found.entropy.values, (5 * math.log(5) + 8 * math.log(8)) / 13, atol=1e-6)
    assert np.allclose(found.uniform_entropy.values, (5 * math.log(5) + 8 * math.log(8)) / 13)
    assert np.allclose(found.to_self.values, 2 / 13, atol=1e-6)


def test_the_planted_head_attends_to_the_previous_token():
    model = previous_token_model()

    found = attention_statistics(model, TEXTS)

    assert found.to_previous[PREVIOUS] == pytest.approx(1.0, abs=1e-6)
    assert found.top("previous", 1) == [PREVIOUS]
    assert all(found.to_previous[head] < 0.7 for head in model.heads if head != PREVIOUS)
    assert found.of(PREVIOUS)["to_previous"] == found.to_previous[PREVIOUS]


def test_the_table_holds_every_head_or_the_first():
    found = attention_statistics(previous_token_model(), TEXTS)

    assert len(found.table().splitlines()) == 2 + len(found.heads)
    assert found.table(1, by="previous").splitlines()[2].startswith(str(PREVIOUS))


def test_a_task_gives_its_texts(tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n" + "".join(f"{t}\t{i % 2}\n" for i, t in enumerate(TEXTS)))
    task = load_task(tmp_path / "dev.tsv")
    model = load_model(family("bert"), tokenizer=letters())

    assert np.array_equal(
        attention_statistics(model, task).entropy.values, attention_statistics(model, TEXTS).entropy.values
    )


def test_what_no_token_attends_to_is_undefined():
    model = load_model(family("gpt2", "causal-lm"), tokenizer=letters(bare=True))
    found = attention_statistics(model, ["a b c"])

    assert not {"to_cls", "to_sep", "cls_entropy", "to_punctuation", "to_same_token"} & set(found.available)
    with pytest.raises(UndefinedScore, match="punctuation"):
        _ = found.to_punctuation
    assert "punctuation" not in found.table()


def test_a_causal_model_has_no_next_token_to_look_at():
    found = attention_statistics(load_model(family("gpt2", "causal-lm"), tokenizer=letters()), TEXTS)

    with pytest.raises(UndefinedScore, match="no layer looks ahead"):
        _ = found.to_next
    assert (found.entropy.values < found.uniform_entropy.values).all()


@pytest.mark.parametrize("wrong", ["a text", 7, [3], ["a", ("b", "c")], [b"a"], {"text": ["a"]}, ["a", ["b", "c"]]])
def test_what_is_no_list_of_texts_is_refused(wrong):
    model = load_model(family("bert"), tokenizer=letters())

    with pytest.raises(InvalidArgument, match="texts"):
        attention_statistics(model, wrong)


@pytest.mark.parametrize("empty", ["", "   "])
def test_texts_without_tokens_of_their_own_are_refused(empty):
    with pytest.raises(MalformedData, match="text 1 has no tokens of its own"):
        attention_statistics(load_model(family("bert"), tokenizer=letters()), ["a b", empty])


def test_what_was_meant_is_said():
    model = load_model(family("bert"), tokenizer=letters())

    with pytest.raises(EmptyTask, match=r"Give a list of texts"):
        attention_statistics(model, [])

    with pytest.raises(InvalidArgument, match=r"one of them: texts\['text'\]"):
        attention_statistics(model, {"text": ["a"]})
    with pytest.raises(InvalidArgument, match=r"read_conllu\(file\)"):
        attention_statistics(model, "dev.conllu")


def test_unknown_statistics_are_refused():
    found = attention_statistics(load_model(family("bert"), tokenizer=letters()), TEXTS)

    with pytest.raises(InvalidArgument, match="to_previous"):
        found.top("behind")


def test_numbers_that_are_not_finite_name_their_text():
    model = load_model(family("bert", "masked-lm"), tokenizer=letters())
    with torch.no_grad():
        model.model.bert.embeddings.word_embeddings.weight[VOCABULARY.index("!")] = float("inf")

    with pytest.raises(NonFinite, match="example 1"):
        attention_statistics(model, ["a b", "a !"])


def test_attention_of_images_is_refused():
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, image_size=8, patch_size=4
    )
    model = load_model(transformers.ViTForImageClassification(config), tokenizer=letters())

    with pytest.raises(CannotMeasure, match="pixel_values"):
        attention_statistics(model, TEXTS)


def test_results_are_stored_once():
    model = load_model(family("bert"), tokenizer=letters())
    with using_store(ResultStore()) as store:
        first = attention_statistics(model, TEXTS)
        again = attention_statistics(model, TEXTS)

    assert (store.computed, store.reused) == (1, 1)
    assert np.array_equal(first.entropy.values, again.entropy.values)
    assert Head(0, 0) in first.heads
