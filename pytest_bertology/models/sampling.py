"""Inputs for a dry run, made up from a model's configuration."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from pytest_bertology.errors import CannotSample
from pytest_bertology.models.discovery import accepts

_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


def make_sample(model: PreTrainedModel, rows: int = 2, length: int = 6) -> dict[str, Any]:
    """Token ids (rows, length) and their attention mask, the last row padded on the right; the same every time.

    Raises CannotSample where the model does not read token ids.
    """
    config = model.config
    architecture = type(model).__name__
    if not accepts(model, "input_ids") or model.main_input_name != "input_ids":
        raise CannotSample(architecture, f"it reads {model.main_input_name!r} and not token ids")
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(vocabulary, int) or vocabulary < 2:
        raise CannotSample(architecture, f"its configuration has vocab_size={vocabulary!r}")
    ids = _ordinary_ids(config, vocabulary, length)
    batch = rows if can_batch(model) else 1
    inputs = ids.repeat(batch, 1)
    attention = torch.ones_like(inputs)
    if batch > 1 and length > 2:
        attention[-1, -2:] = 0
        inputs[-1, -2:] = padding_token(model) or 0
    sample = {"input_ids": inputs.to(model.device)}
    if accepts(model, "attention_mask"):
        sample["attention_mask"] = attention.to(model.device)
    return sample


def repeat_row(model: PreTrainedModel, rows: int, length: int = 4) -> dict[str, Any] | None:
    """One made-up sequence `rows` times over, unpadded; None where the model takes one sequence at a time."""
    if not can_batch(model):
        return None
    sample = make_sample(model, rows=1, length=length)
    return {name: value.expand(rows, -1).contiguous() for name, value in sample.items()}


def can_batch(model: PreTrainedModel) -> bool:
    """False for sequence classifiers whose configuration names no padding token.

    Decoder classifiers read the last token that is not padding, and cannot tell it in a batch without that name.
    """
    return "ForSequenceClassification" not in type(model).__name__ or padding_token(model) is not None


def padding_token(model: PreTrainedModel) -> int | None:
    """The padding token of the model's own configuration, which its pooling goes by."""
    for config in (model.config, model.config.get_text_config()):
        token = getattr(config, "pad_token_id", None)
        if isinstance(token, int) and token >= 0:
            return token
    return None


def _ordinary_ids(config: Any, vocabulary: int, length: int) -> torch.Tensor:
    """`length` different token ids that are not special, where the vocabulary allows it."""
    special = {getattr(config, name, None) for name in _SPECIAL}
    flat = {i for value in special if value is not None for i in (value if isinstance(value, list) else [value])}
    ordinary = [i for i in range(min(vocabulary, 4096)) if i not in flat] or list(range(vocabulary))
    order = torch.randperm(len(ordinary), generator=torch.Generator().manual_seed(0))
    return torch.tensor([ordinary[int(order[i % len(order)])] for i in range(length)])
