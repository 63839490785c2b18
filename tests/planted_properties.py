"""A planted classifier that knows two properties of a text and uses one: its head reads the colour and not the size.

Each word has a colour and a size. A head of the first layer attends evenly to all tokens and writes the mean of both;
[CLS], which has none of its own, knows both from hidden states 1 on, and the head of the model reads its colour alone.
"""

from __future__ import annotations

import random

import torch
from transformers import BertConfig, BertForSequenceClassification

from pytest_bertology import ModelUnderTest, Task, load_model, load_task
from tests.planting import set_feature, silence, words_as_tokens

LAYERS, WIDTH, HEADS = 2, 8, 2
COLOURS, SIZES = ("blue", "red"), ("big", "small")
_KINDS = [(colour, size) for colour in COLOURS for size in SIZES]
_WORDS = [f"{colour}{size}{index}" for colour, size in _KINDS for index in range(5)]
_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS)


def colour_classifier() -> ModelUnderTest:
    """Right about the colour of every text; its states know the size as well."""
    config = BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=HEADS * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=0,
        id2label=dict(enumerate(COLOURS)),
        label2id={colour: index for index, colour in enumerate(COLOURS)},
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
        bert = model.bert
        silence(bert)
        for index, word in enumerate(_VOCABULARY):
            vector = bert.embeddings.word_embeddings.weight[index]
            set_feature(vector, 4 + index % 3, 1.0)  # which word it is; [CLS] and [SEP] have it too
            for feature, names in enumerate((COLOURS, SIZES)):
                signs = [1.0 if name in word else -1.0 for name in names if any(each in word for each in names)]
                if signs and word in _WORDS:
                    set_feature(vector, feature, signs[0])
        first = bert.encoder.layer[0].attention
        for part in (first.self.query, first.self.key, first.self.value):
            part.weight[:WIDTH], part.bias[:WIDTH] = 0.0, 0.0
        for feature in range(2):
            first.self.value.weight[feature, 2 * feature] = 1.0
            set_feature(first.output.dense.weight[:, feature], feature, 1.0)
        model.bert.pooler.dense.weight.zero_()
        model.bert.pooler.dense.bias.zero_()
        model.bert.pooler.dense.weight[0, 0] = 1.0
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.weight[:, 0] = torch.tensor([5.0, -5.0])
    return load_model(model, tokenizer=words_as_tokens(_VOCABULARY))


def colours_and_sizes(count: int, seed: int) -> tuple[Task, Task]:
    """So many different texts of three to six words of one kind, labelled with their colour, and with their size."""
    draw = random.Random(seed)
    kinds = [_KINDS[index % len(_KINDS)] for index in range(count)]
    texts = [
        " ".join(f"{colour}{size}{draw.randrange(5)}" for _ in range(draw.randint(3, 6))) for colour, size in kinds
    ]
    tasks = [load_task({"text": texts, "label": [kind[at] for kind in kinds]}) for at in range(2)]
    return tasks[0], tasks[1]
