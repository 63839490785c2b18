"""What planted models are made of: a tiny BERT whose heads attend at random and write nothing, and words as tokens.

Features are pairs of coordinates (+x, −x), so that a LayerNorm only rescales what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertModel, PreTrainedTokenizerFast


def set_feature(vector: torch.Tensor, feature: int, value: float) -> None:
    """Write one feature into a vector of the residual stream."""
    vector[2 * feature] = value
    vector[2 * feature + 1] = -value


def silence(bert: BertModel) -> None:
    """Let every head attend at random and write nothing; nor do feed-forward layers write, nor embeddings hold any."""
    for layer in bert.encoder.layer:
        attention = layer.attention
        for part in (attention.self.query, attention.self.key, attention.self.value):
            part.weight.normal_()
        for part in (attention.output.dense, layer.output.dense):
            part.weight.zero_()
            part.bias.zero_()
    embeddings: nn.Module = bert.embeddings
    for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.zero_()


def words_as_tokens(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each word, between [CLS] and [SEP], which are the third and fourth of the vocabulary."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
