"""Texts of letters and punctuation, and what transformers' eager attention pays to them, text by text, unpadded."""

from __future__ import annotations

import copy
import random
import string
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PUNCTUATION = (".", ",", "!")
VOCABULARY = (*SPECIAL, *PUNCTUATION, *string.ascii_lowercase[:12])


def letters(*, bare: bool = False) -> PreTrainedTokenizerFast:
    """A token for each letter and each mark, between [CLS] and [SEP]; `bare`: without any special token."""
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if bare:
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def spelled(count: int, seed: int = 0, longest: int = 14) -> list[str]:
    """Texts of one to `longest` letters and marks, of which many occur twice; the first holds all there is."""
    draw = random.Random(seed)
    known = VOCABULARY[len(SPECIAL) :]
    return ["a b , a .", *(" ".join(draw.choices(known, k=draw.randint(1, longest))) for _ in range(count - 1))]


def eager_attentions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], field: str = "attentions"
) -> list[list[np.ndarray]]:
    """For each text the attention (heads, tokens, tokens) of each layer, in float64."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"  # not every model can be switched when it is built
    eager = type(model)(config).double().eval()
    eager.load_state_dict(model.state_dict())
    found = []
    for text in texts:
        inputs = {"input_ids": tokenizer(text, return_tensors="pt").input_ids}
        if eager.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            output = eager(**inputs, output_attentions=True)
        found.append([layer[0].numpy() for layer in output[field]])
    return found


def ids_of(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text."""
    return [tokenizer(text).input_ids for text in texts]
