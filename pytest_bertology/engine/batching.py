"""Batches of examples of like length, filled to a budget of tokens: the largest lever on speed there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.encoding import IGNORED, READ, Encoded, Example, lengths
from pytest_bertology.engine.memory import allowed, note_batch
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.capturing import behind_all_hooks
from pytest_bertology.models.intervening import unchanged
from pytest_bertology.models.sampling import accepts, can_batch, make_sample, padding_token

_LOGITS = 512 * 2**20
"""Bytes that one batch's language-model logits may take."""
_LEFT_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


@dataclass(frozen=True)
class Batching:
    """How examples are brought together; results do not depend on it beyond float noise (4e-6 in float32)."""

    tokens: int | None = None
    """Padded tokens per batch; None: 512 on a CPU, 16,384 on a GPU."""
    padding_side: str = "right"
    """"right", or "left" where the model is seen to give the same results for it."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise InvalidArgument("tokens", self.tokens, "a number of tokens from 1")
        if self.padding_side not in ("left", "right"):
            raise InvalidArgument("padding_side", self.padding_side, "'left' or 'right'")


@dataclass(frozen=True)
class Batch:
    """Some examples, padded to one length."""

    positions: tuple[int, ...]
    """Where they stand in the task."""
    inputs: dict[str, Tensor]
    """Keyword arguments of the model."""
    labels: Tensor
    """(batch,), or (batch, tokens) with IGNORED where nothing is judged."""


def batches(
    model: ModelUnderTest, encoded: Encoded, batching: Batching, positions: Sequence[int] | None = None
) -> Iterator[Batch]:
    """The examples, or those at `positions`, the shortest first, in batches of like length."""
    groups = plan(model, encoded, batching, positions)
    with_positions = batching.padding_side == "left" and left_needs_positions(model, encoded.objective)
    for group in groups:
        yield collate(model, [encoded.examples[i] for i in group], group, batching.padding_side, with_positions)


def plan(
    model: ModelUnderTest, encoded: Encoded, batching: Batching, positions: Sequence[int] | None = None
) -> list[tuple[int, ...]]:
    """Which examples go together: as many of like length as the budget holds, at least one."""
    length = lengths(encoded)
    chosen = np.arange(len(length)) if positions is None else np.asarray(positions, dtype=np.int64)
    order = chosen[np.lexsort((chosen, length[chosen]))]
    limit = budget(model, encoded, batching)
    groups: list[list[int]] = []
    for position in order.tolist():
        if groups and can_batch(model.model) and length[position] * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(position)
        else:
            groups.append([position])
    return [tuple(group) for group in groups]


def budget(model: ModelUnderTest, encoded: Encoded, batching: Batching) -> int:
    """Padded tokens that a batch may hold; fewer where more were seen not to fit in memory (see `within_memory`)."""
    tokens = batching.tokens or (512 if model.device.type == "cpu" else 16384)
    if encoded.objective in ("causal-lm", "masked-lm"):
        vocabulary = int(model.model.config.get_text_config().vocab_size)
        tokens = min(tokens, max(1, _LOGITS // (4 * vocabulary)))
    return allowed(tokens)


def collate(
    model: ModelUnderTest,
    examples: Sequence[Example],
    positions: Sequence[int],
    side: str = "right",
    with_positions: bool = False,
    *,
    extra: int = 0,
) -> Batch:
    """Pad examples to the longest of them, or `extra` tokens more.

    Padding is the model's own padding token, whatever the tokenizer's is.
    """
    longest = max(len(example.ids) for example in examples) + extra
    note_batch(len(examples), longest)
    padding = padding_token(model.model)
    if padding is None:
        padding = getattr(model.tokenizer, "pad_token_id", None) or 0
    fills = [longest - len(example.ids) for example in examples]

    def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        sides = [((), (fill,) * n) if side == "right" else ((fill,) * n, ()) for n in fills]
        return torch.tensor([(*before, *row, *after) for (before, after), row in zip(sides, rows, strict=True)])

    inputs = {"input_ids": padded([example.ids for example in examples], padding)}
    if accepts(model.model, "attention_mask"):
        inputs["attention_mask"] = padded([(1,) * len(example.ids) for example in examples], 0)
    if examples[0].types is not None:
        inputs["token_type_ids"] = padded([example.types or () for example in examples], 0)
    if with_positions:
        inputs["position_ids"] = padded([tuple(range(len(example.ids))) for example in examples], 0)
    first = examples[0].labels
    if isinstance(first, tuple):
        labels = padded([e.labels for e in examples], IGNORED)  # type: ignore[misc]
    else:
        dtype = torch.float64 if isinstance(first, float) and model.dtype == "float64" else None
        labels = torch.tensor([example.labels for example in examples], dtype=dtype)
    placed = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    return Batch(tuple(positions), placed, labels.to(model.device))


def left_needs_positions(model: ModelUnderTest, objective: str) -> bool:
    """Whether left padding must come with position ids; seen by trying it against the same text without padding.

    Raises InvalidArgument where neither way gives the text's own results: a model that pools its first position reads
    padding there, with results that are close and wrong. (Of texts that are only read, states are compared.)
    """
    states = objective == READ
    text = make_sample(model.model, rows=1, length=5)["input_ids"][0].tolist()
    example, longer = Example(tuple(text), None, 0), Example(tuple(text[:1] * 8), None, 0)
    alone = _last(model, collate(model, [example], (0,)), states)
    for with_positions in (False, True):
        if with_positions and not accepts(model.model, "position_ids"):
            continue
        rows = [example, longer] if can_batch(model.model) else [example]
        padded = _last(model, collate(model, rows, range(len(rows)), "left", with_positions), states)
        tolerance = _LEFT_TOLERANCE.get(model.dtype, 1e-2) * float(alone.abs().max())
        if torch.allclose(alone, padded, rtol=0.0, atol=tolerance):
            return with_positions
    raise InvalidArgument("padding_side", "left", "'right': this model gives other results under left padding")


def _last(model: ModelUnderTest, batch: Batch, states: bool) -> Tensor:
    """The first example's output, or its last layer's state, at its last token."""
    with torch.no_grad(), model.frozen(), model.exactly(None), unchanged(model), behind_all_hooks(model.model):
        result: Any = model.model(**batch.inputs, **({"output_hidden_states": True} if states else {}))
    if states:
        layers = getattr(result, "hidden_states", None) or result.encoder_hidden_states
        return layers[-1][0, -1]  # type: ignore[no-any-return]
    logits: Tensor = result[0]
    return logits[0] if logits.ndim == 2 else logits[0, -1]
