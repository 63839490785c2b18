"""Planted models: tiny BERT classifiers set by hand so that one known head does all the work.

The task: a text is positive if it holds a good word and negative if it holds a bad one, among words that say nothing.
The planted head attends from [CLS] to the good or bad word and copies whether it is good into [CLS]; the pooler reads
it there. All other heads attend at random, and their columns of the projection are zero.

Features are pairs of coordinates (+x, −x), so that every LayerNorm only rescales what is there: the mean of a pair is
zero, and a feature that is absent stays exactly absent, since both of its coordinates are equal.
"""

from __future__ import annotations

import random

import torch
from transformers import BertConfig, BertForSequenceClassification

from pytest_bertology import Head, ModelUnderTest, Task, load_model
from tests.planting import set_feature, silence, words_as_tokens

LAYERS, HEADS, WIDTH = 3, 4, 6
GOOD = ("good", "fine", "great", "lovely", "superb")
BAD = ("bad", "poor", "awful")
OTHER = ("the", "film", "a", "was", "it", "plot", "and", "cast")
_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER)
_CLS, _MARKED, _QUALITY, _FILLER = range(4)
"""Features, each a pair of coordinates of the residual stream."""


def planted_model(head: Head, twin: int | None = None) -> ModelUnderTest:
    """A classifier of three layers of four heads in which `head` does all the work.

    With `twin`, that head of the same layer does it too: either alone is enough.
    """
    config = BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=HEADS * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=32,
        pad_token_id=0,
        num_labels=2,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        silence(model.bert)
        _embed(model)
        for each in (head.head, *(() if twin is None else (twin,))):
            _plant(model.bert.encoder.layer[head.layer].attention, each)
        _read(model)
    return load_model(model, tokenizer=words_as_tokens(_VOCABULARY))


def _embed(model: BertForSequenceClassification) -> None:
    embeddings = model.bert.embeddings
    for index, word in enumerate(_VOCABULARY):
        vector = embeddings.word_embeddings.weight[index]
        if word == "[CLS]":
            set_feature(vector, _CLS, 1.0)
        elif word in GOOD + BAD:
            set_feature(vector, _MARKED, 1.0)
            set_feature(vector, _QUALITY, 1.0 if word in GOOD else -1.0)
        else:
            set_feature(vector, _FILLER, 1.0)


def _plant(attention: torch.nn.Module, head: int) -> None:
    """[CLS] asks for marked words; their quality is copied."""
    rows = slice(head * WIDTH, (head + 1) * WIDTH)
    for part in (attention.self.query, attention.self.key, attention.self.value):
        part.weight[rows] = 0.0
        part.bias[rows] = 0.0
    set_feature(attention.self.query.weight[rows][0], _CLS, 10.0)
    set_feature(attention.self.key.weight[rows][0], _MARKED, 1.0)
    set_feature(attention.self.value.weight[rows][0], _QUALITY, 0.5)
    set_feature(attention.output.dense.weight[:, rows][:, 0], _QUALITY, 1.0)


def _read(model: BertForSequenceClassification) -> None:
    """The classifier says positive where [CLS] holds a good quality, and negative where it holds a bad one or none."""
    pooler, classifier = model.bert.pooler.dense, model.classifier
    for parameter in (pooler.weight, pooler.bias, classifier.weight, classifier.bias):
        parameter.zero_()
    set_feature(pooler.weight[0], _QUALITY, 0.25)
    classifier.weight[1, 0] = 2.0
    classifier.bias[0] = 0.125


def planted_task(count: int = 24, seed: int = 0) -> Task:
    """As many positive as negative texts of up to nine words."""
    draw = random.Random(seed)
    labels = [index % 2 for index in range(count)]
    draw.shuffle(labels)
    texts = []
    for label in labels:
        words = draw.choices(OTHER, k=draw.randint(1, 8))
        words.insert(draw.randint(0, len(words)), draw.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
    return Task("quality", "sequence-classification", tuple(texts), tuple(labels))
