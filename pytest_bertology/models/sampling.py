"""Inputs for a dry run, made up from a model's configuration: token ids, pixels or sound, as the model asks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_bertology.errors import CannotSample
from pytest_bertology.models.state import input_device

_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
_CHARACTERS = 128
"""Ids of a model without a vocabulary, which reads characters (CANINE)."""
_FRAMES = 40
"""Frames of sound features, where the model does not fix their number."""
_SOUND = 4000
"""Numbers of a raw sound wave: a quarter of a second."""


def make_sample(model: PreTrainedModel, rows: int = 2, length: int = 6) -> dict[str, Any]:
    """One forward pass's inputs for `rows` examples; the same every time.

    Token ids (rows, length) come with an attention mask, the last row padded on the right; a decoder's ids are fewer
    than the encoder's. Raises CannotSample where the model reads none of tokens, pixels and sound.
    """
    batch = rows if can_batch(model) else 1
    main = model.main_input_name
    if main == "input_ids" and accepts(model, "input_ids"):
        sample = _tokens(model, batch, length)
    elif main == "pixel_values" and accepts(model, main):
        sample = {main: _noise(batch, *_pixels(model))}
    elif main in ("input_values", "input_features") and accepts(model, main):
        sample = {main: _noise(batch, *_sound(model, main))}
    else:
        raise CannotSample(type(model).__name__, f"it reads {main!r}, which is neither tokens, pixels nor sound")
    if _decodes(model):
        vocabulary = _vocabulary(model)
        sample["decoder_input_ids"] = _ordinary_ids(model.config, vocabulary, length // 2 + 1).repeat(batch, 1)
    missing = [name for name in _required(model) if name not in sample]
    if missing:
        raise CannotSample(type(model).__name__, f"it needs {', '.join(missing)} too")
    return {name: value.to(input_device(model), _dtype(value, model)) for name, value in sample.items()}


def repeat_row(model: PreTrainedModel, rows: int, length: int = 4) -> dict[str, Any] | None:
    """One made-up example `rows` times over, unpadded; None where the model takes one example at a time."""
    if not can_batch(model):
        return None
    sample = make_sample(model, rows=1, length=length)
    return {name: value.expand(rows, *value.shape[1:]).contiguous() for name, value in sample.items()}


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the model's forward takes an argument of this name."""
    return name in inspect.signature(model.forward).parameters


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


def _tokens(model: PreTrainedModel, batch: int, length: int) -> dict[str, Tensor]:
    length = max(length, _shortest(model))
    ids = _ordinary_ids(model.config, _vocabulary(model), length)
    inputs = ids.repeat(batch, 1)
    attention = torch.ones_like(inputs)
    if batch > 1 and length > 2:
        attention[-1, -2:] = 0
        inputs[-1, -2:] = padding_token(model) or 0
    if _reads_at_the_end(model):
        for row, last in zip(inputs, attention.sum(1), strict=True):
            row[int(last) - 1] = _first_id(model.config.eos_token_id)
    sample = {"input_ids": inputs}
    # On the meta device no one can look into a mask to see whether it is needed, as models do.
    if accepts(model, "attention_mask") and input_device(model).type != "meta":
        sample["attention_mask"] = attention
    return sample


def _shortest(model: PreTrainedModel) -> int:
    """Block-sparse attention (BigBird) turns itself into full attention, for good, where the input is too short."""
    if _setting(model.config, "attention_type") != "block_sparse":
        return 1
    block, chosen = _setting(model.config, "block_size"), _setting(model.config, "num_random_blocks")
    return int(block) * (5 + 2 * int(chosen) + 1)


def _decodes(model: PreTrainedModel) -> bool:
    """Whether the model wants decoder ids of their own; a classifier makes them from the encoder's."""
    encodes_too = getattr(model.config, "is_encoder_decoder", False) and accepts(model, "decoder_input_ids")
    return encodes_too and not _reads_at_the_end(model)


def _reads_at_the_end(model: PreTrainedModel) -> bool:
    """Encoder-decoder classifiers read the state at the end-of-sequence token, of which each row must have one."""
    classifies = "ForSequenceClassification" in type(model).__name__
    return classifies and bool(model.config.is_encoder_decoder) and _first_id(model.config.eos_token_id) is not None


def _first_id(token: Any) -> Any:
    return token[0] if isinstance(token, list) and token else token


def _vocabulary(model: PreTrainedModel) -> int:
    """How many token ids there are; in doubt the embedding knows."""
    sizes = [getattr(config, "vocab_size", None) for config in _configs(model.config)]
    size = next((size for size in sizes if isinstance(size, int)), None)
    if size is None:
        try:
            size = getattr(model.get_input_embeddings(), "num_embeddings", None)
        except NotImplementedError:
            size = _CHARACTERS
    if not isinstance(size, int) or size < 2:
        raise CannotSample(type(model).__name__, f"its configuration has vocab_size={size!r}")
    return size


def _pixels(model: PreTrainedModel) -> tuple[int, int, int]:
    """Channels, height and width of an image."""
    channels, size = _setting(model.config, "num_channels", "in_channels", "in_chans"), 224
    found = _setting(model.config, "image_size", "input_size")
    sizes = found if isinstance(found, list | tuple) else [found or size]
    return int(channels or 3), int(sizes[0]), int(sizes[-1])


def _sound(model: PreTrainedModel, name: str) -> tuple[int, ...]:
    """The shape of one example: a raw wave; or features, frames first or last as the configuration has it."""
    bins = _setting(model.config, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel")
    frames = _setting(model.config, "max_source_positions")
    if name == "input_values":
        longest = _setting(model.config, "max_length")
        return (int(longest), int(bins)) if bins and longest else (_SOUND,)
    if bins is None:
        raise CannotSample(type(model).__name__, "its configuration does not say how many sound features it reads")
    if frames and _setting(model.config, "num_mel_bins") and not _setting(model.config, "conv_kernel_sizes"):
        return (int(bins), 2 * int(frames))  # Whisper halves the frames, and takes no other number of them
    return (_FRAMES, int(bins))


def _setting(config: PreTrainedConfig, *names: str) -> Any:
    """The first of these settings that the configuration, or one of its parts, has."""
    for part in _configs(config):
        for name in names:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return None


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and its parts, the language model's first."""
    text = config.get_text_config()
    yield text
    if text is not config:
        yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig) and value is not text:
            yield value


def _required(model: PreTrainedModel) -> list[str]:
    """Arguments of the model's forward without a default."""
    fixed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in fixed]


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _dtype(value: Tensor, model: PreTrainedModel) -> torch.dtype:
    return model.dtype if value.is_floating_point() else value.dtype


def _ordinary_ids(config: Any, vocabulary: int, length: int) -> Tensor:
    """`length` different token ids that are not special, where the vocabulary allows it."""
    special = [getattr(config, name, None) for name in _SPECIAL]
    flat = {i for value in special if value is not None for i in (value if isinstance(value, list) else [value])}
    ordinary = [i for i in range(min(vocabulary, 4096)) if i not in flat] or list(range(vocabulary))
    order = torch.randperm(len(ordinary), generator=torch.Generator().manual_seed(0))
    return torch.tensor([ordinary[int(order[i % len(order)])] for i in range(length)])
