"""Which attention stack a layer belongs to, where a model has several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.errors import CannotSample
from pytest_bertology.models.attention import Call, watched
from pytest_bertology.models.sampling import accepts

_MODALITIES = {"image": "vision", "audio": "audio"}


def stacks_of(model: PreTrainedModel, calls: Sequence[Call], sample: Mapping[str, Any]) -> list[str | None]:
    """Per attention layer, its stack; `calls` holds the first call of each, in the order they ran.

    Encoder-decoder models have "encoder", "decoder" and "cross" (the decoder's attention to the encoder). Elsewhere
    the stack is None, but for the towers beside a language model, "vision" and "audio".
    """
    if getattr(model.config, "is_encoder_decoder", False):
        names = _encoder_decoder(model, calls, sample)
    elif isinstance(sample.get("encoder_hidden_states"), Tensor):
        names = _decoder(model, calls)
    else:
        names = _towers(model, calls)
    return names if len(set(names)) > 1 else [None] * len(names)


def _encoder_decoder(model: PreTrainedModel, calls: Sequence[Call], sample: Mapping[str, Any]) -> list[str | None]:
    """The decoder's attention to the encoder is told by its keys, which are not as many as its queries."""
    decoder = _part(model, "get_decoder")
    inside = {id(module) for module in decoder.modules()} if decoder is not None else set()
    of_decoder = [call for call in calls if id(call.module) in inside]
    crossing = {id(call.module) for call in of_decoder if call.queries != call.keys}
    if of_decoder and not crossing:
        crossing = {id(call.module) for call in _unequal(model, sample) if call.queries != call.keys}
    return [
        "encoder" if id(call.module) not in inside else "cross" if id(call.module) in crossing else "decoder"
        for call in calls
    ]


def _decoder(model: PreTrainedModel, calls: Sequence[Call]) -> list[str | None]:
    """A decoder given an encoder's states: its attention to them is "cross", that to itself has no name."""
    names: list[str | None] = [None if call.queries == call.keys else "cross" for call in calls]
    if "cross" not in names:
        raise CannotSample(type(model).__name__, _ALIKE)
    return names


_ALIKE = (
    "the decoder's attention to itself and to the encoder cannot be told apart where source and target have the same "
    "length"
)


def _unequal(model: PreTrainedModel, sample: Mapping[str, Any]) -> list[Call]:
    """The attention calls of a run with half as many decoder tokens, where the sample has as many as the encoder."""
    base: PreTrainedModel = model.base_model
    ids = sample.get("decoder_input_ids", sample.get("input_ids"))
    calls: list[Call] = []
    if isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] > 1 and accepts(base, "decoder_input_ids"):
        inputs = {name: sample[name] for name in (base.main_input_name, "attention_mask") if name in sample}
        with torch.no_grad(), watched(model, calls):
            base(**inputs, decoder_input_ids=ids[:, : ids.shape[1] // 2])
    if not calls:
        raise CannotSample(type(model).__name__, _ALIKE)
    return calls


def _towers(model: PreTrainedModel, calls: Sequence[Call]) -> list[str | None]:
    inside: dict[int, str] = {}
    for modality, name in _MODALITIES.items():
        tower = _part(model, "get_encoder", modality=modality)
        if tower is not None:
            inside |= {id(module): name for module in tower.modules()}
    return [inside.get(id(call.module)) for call in calls]


def _part(model: PreTrainedModel, getter: str, **options: Any) -> nn.Module | None:
    """What a getter of transformers' own returns, where it is a proper part of the model."""
    try:
        part = getattr(model, getter)(**options)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None
    proper = isinstance(part, nn.Module) and part is not model and part is not model.base_model
    return part if proper else None
