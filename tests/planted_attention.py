"""A planted model: a tiny BERT one of whose heads attends to the previous token, and to nothing else.

Positions are one-hot in the residual stream; the planted head's query is its position moved back by one, its key the
position itself. The first token has no previous one, and attends evenly. All other heads attend at random.
"""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForMaskedLM

from pytest_bertology import Head, ModelUnderTest, load_model
from tests.attending import VOCABULARY, letters

LAYERS, HEADS, LONGEST = 2, 2, 20
PREVIOUS = Head(1, 0)
_WIDTH = LONGEST
"""Of a head: one number for each position."""


def previous_token_model(offset: int = -1) -> ModelUnderTest:
    """Two layers of two heads; L1H0 attends to the token at `offset`, the previous one by default."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HEADS * _WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=LONGEST,
        pad_token_id=0,
    )
    generator = torch.Generator().manual_seed(0)
    model = BertForMaskedLM(config).eval()
    embeddings = model.bert.embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        # Each position is a pair (+1, −1): a LayerNorm keeps its direction.
        embeddings.position_embeddings.weight.zero_()
        for position in range(LONGEST):
            embeddings.position_embeddings.weight[position, 2 * position] = 1.0
            embeddings.position_embeddings.weight[position, 2 * position + 1] = -1.0
        embeddings.word_embeddings.weight.mul_(0.01)
        embeddings.token_type_embeddings.weight.zero_()
        for layer in model.bert.encoder.layer:  # nothing is written between the embeddings and the planted head
            for part in (layer.attention.output.dense, layer.output.dense):
                part.weight.mul_(0.01)
        planted = model.bert.encoder.layer[PREVIOUS.layer].attention.self
        rows = slice(PREVIOUS.head * _WIDTH, (PREVIOUS.head + 1) * _WIDTH)
        for part in (planted.query, planted.key):
            part.weight[rows] = 0.0
            part.bias[rows] = 0.0
        for position in range(LONGEST):
            _read(planted.key.weight[rows][position], position, 1.0)
            if 0 <= position + offset < LONGEST:
                _read(planted.query.weight[rows][position + offset], position, 50.0)
    return load_model(model, tokenizer=letters())


def _read(row: torch.Tensor, position: int, value: float) -> None:
    row[2 * position] = value
    row[2 * position + 1] = -value
