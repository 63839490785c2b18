"""A planted model in which one layer alone writes the label of a word: the colour of the word before it.

Words are of three colours, drawn at random, so that the label is independent of the word itself and of where it stands.
A head of the planted layer attends to the token before (from the first word to the second, as none stands before it)
and writes its colour; nothing else is written, but for the next layer that, with `fading`, takes the label out again.
Words of one colour have one embedding: that a word is one of 450 is not to be read from any layer, and labels drawn at
random for each of the 450, a control task, are at chance.

What a vector stands for is spread over all of its coordinates by a rotation that LayerNorm leaves as it is, so that
what was taken out lies 1e-7 below anything else, also where coordinates are brought to unit variance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from transformers import BertConfig, BertModel

from pytest_bertology import ModelUnderTest, Task, load_model, load_task
from tests.planting import silence, words_as_tokens

LAYERS, HEADS, WIDTH = 4, 2, 16
"""Of `WIDTH` the heads; hidden states are of 0 (the embeddings) to `LAYERS`."""
POSITIONS = 16
COLOURS = ("blue", "green", "red")
TYPES = 150
"""Words of each colour."""
WORDS = tuple(f"{colour}{index}" for colour in COLOURS for index in range(TYPES))
_OWN, _LABEL = POSITIONS, POSITIONS + len(COLOURS)
"""Where the features of a word's own colour, and of its label, begin; before them are those of positions."""
_SURE = 500.0
"""Of a query times a key: a softmax of such numbers has nothing left beside its greatest."""


def planted_layer_model(layer: int, *, fading: bool = False) -> ModelUnderTest:
    """The label can be read from hidden states `layer` (1 to LAYERS) on; with `fading` from those of `layer` alone."""
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HEADS * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        bert = BertModel(config, add_pooling_layer=False).eval()
        silence(bert)
        basis = _basis(HEADS * WIDTH)
        for position in range(POSITIONS):
            bert.embeddings.position_embeddings.weight[position] = basis[position]
        for index, word in enumerate(WORDS):
            colour = COLOURS.index(word.rstrip("0123456789"))
            bert.embeddings.word_embeddings.weight[vocabulary.index("[MASK]") + 1 + index] = basis[_OWN + colour]
        before = [(1, 2), *((position, position - 1) for position in range(2, POSITIONS))]
        _plant(bert, layer, basis, before, reads=_OWN, size=1.0)
        if fading and layer < LAYERS:
            itself = ((position, position) for position in range(POSITIONS))
            _plant(bert, layer + 1, basis, itself, reads=_LABEL, size=-1.0)
    return load_model(bert, tokenizer=words_as_tokens(vocabulary))


def planted_layer_task(count: int, seed: int) -> Task:
    """So many sentences of 4 to 12 words, each word labelled with the colour of that before it."""
    draw = random.Random(seed)
    sentences = [draw.choices(WORDS, k=draw.randint(4, 12)) for _ in range(count)]
    return load_task({"tokens": sentences, "labels": [_labels(words) for words in sentences]})


def _labels(words: list[str]) -> list[str]:
    return [word.rstrip("0123456789") for word in (words[1], *words[:-1])]


def _basis(width: int) -> torch.Tensor:
    """(width − 1, width) orthonormal rows without a mean: LayerNorm only rescales sums of them."""
    drawn = torch.randn(width, width, dtype=torch.float64)
    drawn[:, 0] = 1.0
    return torch.linalg.qr(drawn)[0].T[1:].float()


def _plant(
    bert: BertModel, layer: int, basis: torch.Tensor, links: Iterable[tuple[int, int]], *, reads: int, size: float
) -> None:
    """The first head of the layer attends along `links`; it reads colours there and adds them to the label."""
    block = bert.encoder.layer[layer - 1]
    attention, rows = block.attention.self, slice(0, WIDTH)
    for part in (attention.query, attention.key, attention.value):
        part.weight[rows], part.bias[rows] = 0.0, 0.0
    for asks, asked in links:
        attention.query.weight[asked] += _SURE * basis[asks]
        attention.key.weight[asked] = basis[asked]
    for colour in range(len(COLOURS)):
        attention.value.weight[colour] = basis[reads + colour]
        block.attention.output.dense.weight[:, colour] = size * basis[_LABEL + colour]
