"""Items and the tokens that they are: against characters compared one by one, and splits put together again."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from pytest_bertology import load_model, load_task
from pytest_bertology.engine.items import read_items
from pytest_bertology.errors import BertologyWarning, EmptyTask, InvalidArgument
from pytest_bertology.measures.control_task import control_labels
from pytest_bertology.tasks.items import items_of
from tests.tiny import tiny_model

_PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["un", "##read", "##able", "a", "film", "##s", "dull", "##er", "."],
)
LIMIT = 12


@pytest.fixture(scope="module")
def model():
    """A BERT that reads 12 tokens, pieces of words; its tokenizer drops dashes."""
    vocabulary = {piece: index for index, piece in enumerate(_PIECES)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace("—", "")
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LIMIT, **names)
    config = BertConfig(
        vocab_size=len(_PIECES),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=LIMIT,
    )
    return load_model(BertModel(config, add_pooling_layer=False).eval(), tokenizer=tokenizer)


def task(*sentences):
    """Words, each labelled with its number of letters."""
    words = [each.split() for each in sentences]
    return load_task({"tokens": words, "labels": [[str(len(word)) for word in each] for each in words]})


def by_characters(model, text, span):
    """The tokens that stand for any character of the span, found one by one."""
    offsets = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    inside = set(range(*span))
    return [at for at, (a, b) in enumerate(offsets) if inside & set(range(a, b))]


def test_each_word_is_the_tokens_of_its_characters(model):
    read = read_items(model, items_of(task("unreadable films .", "a duller film")), what="it")

    assert [tokens[0].tolist() for tokens in read.tokens] == [[1, 2, 3], [4, 5], [6], [1], [2, 3], [4]]
    for text, (span,), (tokens,) in zip(read.items.text_of, read.items.spans, read.tokens, strict=True):
        assert tokens.tolist() == by_characters(model, read.items.texts[text], span)
    assert read.items.labels == ("10", "5", "1", "1", "6", "4")
    assert read.left_out.items == 0


def test_words_without_a_token_are_counted_and_gone(model):
    read = read_items(model, items_of(task("a — film", "dull film")), what="it")

    assert read.items.labels == ("1", "4", "4", "4")
    assert read.left_out.without_tokens == 1
    assert "1 item has no token" in str(read.left_out)
    nothing = load_task({"tokens": [["—", "a"], ["——", "film"]], "labels": [["x", "x"], ["y", "y"]]})
    dashes = items_of(nothing)
    only = replace(dashes, text_of=dashes.text_of[::2], spans=dashes.spans[::2], labels=dashes.labels[::2])
    with pytest.raises(EmptyTask, match="leaves nothing of any of its 2 items"):
        read_items(model, only, what="it")


def test_long_texts_are_split_between_words_and_nothing_is_lost(model):
    draw = random.Random(0)
    long = [draw.choices(["unreadable", "films", "a", "duller", "."], k=draw.randint(1, 30)) for _ in range(20)]
    items = items_of(task(*map(" ".join, long)))

    read = read_items(model, items, what="it")

    assert read.items.labels == items.labels
    assert [read.items.types[index] for index in range(len(items))] == list(items.types)
    assert max(len(read.texts.ids(text)) for text in range(len(read.texts))) <= LIMIT
    assert "".join(map(str, read.items.texts)).replace(" ", "") == "".join("".join(words) for words in long)
    for text, (span,), (tokens,) in zip(read.items.text_of, read.items.spans, read.tokens, strict=True):
        assert tokens.tolist() == by_characters(model, read.items.texts[text], span)
    too_long = sum(len(model.tokenizer(text)["input_ids"]) > LIMIT for text in items.texts)
    assert read.left_out.long_texts == too_long > 5
    assert read.left_out.pieces == len(read.texts) - (20 - too_long)
    assert read.left_out.items == 0


def test_or_dropped_and_counted(model):
    items = items_of(task("a film", " ".join(["films"] * 9), "duller film ."))

    read = read_items(model, items, what="it", too_long="drop")

    assert read.items.texts == ("a film", "duller film .")
    assert (read.left_out.long_texts, read.left_out.pieces, read.left_out.long_items) == (1, 0, 9)
    assert str(read.left_out) == "1 text longer than the model can read was dropped; 9 items went with them"
    with pytest.raises(EmptyTask, match="longer than the 12 tokens"):
        read_items(model, items.of_texts([1]), what="it", too_long="drop")
    with pytest.raises(InvalidArgument, match="too_long"):
        read_items(model, items, what="it", too_long="cut")


def test_whole_texts_are_all_their_tokens_and_cut_where_they_are_long():
    model = tiny_model()
    short, long = "the film was good", " ".join(["film"] * 40)
    items = items_of(load_task({"text": [short, long], "label": ["a", "b"]}))

    with pytest.warns(BertologyWarning):
        read = read_items(model, items, what="it")

    assert [tokens[0].tolist() for tokens in read.tokens] == [[1, 2, 3, 4], list(range(1, 31))]
    assert (read.left_out.long_texts, read.left_out.items) == (1, 0)
    assert str(read.left_out) == "1 text longer than the model can read was cut"


@pytest.fixture(scope="module")
def items():
    draw = random.Random(1)
    return items_of(task(*(" ".join(draw.choices(["a", "film", "dull", "cast"], k=3)) for _ in range(40))))


def by_text(items):
    starts = items.starts.tolist()
    return [(text, items.labels[a:b]) for text, a, b in zip(items.texts, starts, starts[1:], strict=False)]


def test_their_order_is_decided_by_seed_and_contents(items):
    shuffled = items.of_texts(random.Random(2).sample(range(40), 40))

    assert by_text(shuffled.in_order(0)) == by_text(items.in_order(0))
    assert by_text(items.in_order(1)) != by_text(items.in_order(0))
    assert Counter(by_text(items.in_order(1))) == Counter(by_text(items))


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_a_split_keeps_equal_texts_together_and_both_sides_filled(items, share):
    first, second = items.split(share, seed=0)

    assert not set(first.texts) & set(second.texts)
    assert Counter(by_text(first)) + Counter(by_text(second)) == Counter(by_text(items))
    different = len(set(items.texts))
    assert len(set(first.texts)) == min(max(1, round(share * different)), different - 1)
    assert by_text(second) == by_text(items.of_texts(list(range(39, -1, -1))).split(share, seed=0)[1])
    assert by_text(items.without_texts_of(first).in_order(0)) == by_text(second)


def test_one_text_cannot_be_split():
    with pytest.raises(InvalidArgument, match="two different texts"):
        items_of(task("a film", "a film")).split(0.5, seed=0)


def test_control_labels_are_one_for_each_type_in_the_shares_of_the_counts():
    types = [f"word{index % 5000}" for index in range(10_000)]
    counts = np.array([10, 0, 30, 60])

    drawn = control_labels(types, counts, seed=0)

    assert len({(each, label) for each, label in zip(types, drawn.tolist(), strict=True)}) == 5000
    assert np.bincount(drawn, minlength=4) / 10_000 == pytest.approx(counts / 100, abs=0.02)
    assert control_labels(types[::-1][:7], counts, seed=0).tolist() == drawn[::-1][:7].tolist()
    assert (control_labels(types, counts, seed=1) != drawn).any()
