"""A planted model whose heads track two relations by vocabulary, and sentences in no fixed order for it.

Nouns, determiners and prepositions come in kinds, and belong together by kind: `det1` depends on `noun1`. In the head
DET each determiner attends to the noun of its kind ("to_head" tracks det); in the head CASE each noun attends to the
preposition of its kind ("from_head" tracks case). All other heads attend at random. Nothing writes: each layer reads
the words themselves.
"""

from __future__ import annotations

import random

import torch
from transformers import BertConfig, BertModel

from pytest_bertology import Head, ModelUnderTest, Sentence, load_model, read_conllu
from tests.planting import set_feature, silence, words_as_tokens

LAYERS, HEADS, WIDTH, KINDS = 3, 4, 6, 3
DET, CASE = Head(1, 2), Head(2, 0)
VERBS = ("runs", "sleeps", "sings")
_WORDS = [f"{kind}{index}" for kind in ("det", "noun", "case") for index in range(KINDS)]
_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *VERBS)


def tracking_model() -> ModelUnderTest:
    """A BERT of three layers of four heads, of which DET and CASE are planted."""
    config = BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=HEADS * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = BertModel(config).eval()
    embeddings = model.embeddings
    with torch.no_grad():
        silence(model)
        for index, word in enumerate(_VOCABULARY):
            set_feature(embeddings.word_embeddings.weight[index], _feature(word), 1.0)
        for head, asks, asked in ((DET, "det", "noun"), (CASE, "noun", "case")):
            attention, rows = model.encoder.layer[head.layer].attention.self, slice(head.head * WIDTH, None)
            for part, kind, size in ((attention.query, asks, 4.0), (attention.key, asked, 1.0)):
                part.weight[rows][:WIDTH], part.bias[rows][:WIDTH] = 0.0, 0.0
                for index in range(KINDS):
                    set_feature(part.weight[rows][index], _feature(f"{kind}{index}"), size)
    return load_model(model, tokenizer=words_as_tokens(_VOCABULARY))


def tracked_sentences(count: int, seed: int = 0) -> tuple[Sentence, ...]:
    """Sentences of one to three nouns, each with a determiner and a preposition or not, in any order."""
    draw = random.Random(seed)
    return read_conllu([_tokens(draw) for _ in range(count)])


def _tokens(draw: random.Random) -> list[dict[str, object]]:
    kinds = draw.sample(range(KINDS), draw.randint(1, KINDS))
    governors = {draw.choice(VERBS): ("", "root")}
    for kind in kinds:
        governors[f"noun{kind}"] = (next(iter(governors)), "obl")
        governors |= {f"{name}{kind}": (f"noun{kind}", name) for name in ("det", "case") if draw.random() < 0.8}
    words = draw.sample(list(governors), len(governors))
    return [
        {"id": at + 1, "form": word, "head": words.index(head) + 1 if head else 0, "deprel": relation, "upos": "X"}
        for at, word in enumerate(words)
        for head, relation in [governors[word]]
    ]


def _feature(word: str) -> int:
    if word in _WORDS:
        return _WORDS.index(word)
    return len(_WORDS) + (word in VERBS)
