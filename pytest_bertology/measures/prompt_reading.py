"""Log probabilities after texts of which many begin alike: what they share is read once, where the model allows it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching, batches, budget
from pytest_bertology.engine.encoding import IGNORED, Encoded, Example
from pytest_bertology.engine.memory import note_batch
from pytest_bertology.engine.objectives import at_judged_tokens
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.sampling import accepts

Ids = tuple[int, ...]
Said = list[tuple[int, Tensor]]
"""Positions of texts, and for each (judged tokens, vocabulary) log probabilities of what follows."""

ALONE = Batching(tokens=1)
_COPIES = 2**29
"""Bytes that the keys and values of repeated prompts may take."""
_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
_TRIED = 2


@dataclass(frozen=True)
class _Group:
    """Texts that are the same up to the first judged token."""

    start: Ids
    positions: tuple[int, ...]
    ends: tuple[Ids, ...]
    """What each has after that."""


def read(model: ModelUnderTest, encoded: Encoded, batching: Batching) -> Iterator[Said]:
    """What is said after the judged tokens of each text, some texts at a time, in no particular order.

    Starts that texts share are read once, and kept as the model's keys and values, if that is seen to give what whole
    texts give: of the shortest and the longest start it is tried. Texts read ALONE are read whole.
    """
    groups = _groups(encoded)
    if len(groups) < len(encoded.examples) and _can_share(model, encoded, batching, groups):
        yield from _sharing(model, encoded, batching, groups)
    else:
        yield from _whole(model, encoded, batching, range(len(encoded.examples)))


def _groups(encoded: Encoded) -> list[_Group]:
    found: dict[Ids, list[int]] = {}
    for position, example in enumerate(encoded.examples):
        assert isinstance(example.labels, tuple)
        found.setdefault(example.ids[: example.labels.index(0) + 1], []).append(position)
    return [
        _Group(start, tuple(own), tuple(encoded.examples[at].ids[len(start) :] for at in own))
        for start, own in found.items()
    ]


def _can_share(model: ModelUnderTest, encoded: Encoded, batching: Batching, groups: Sequence[_Group]) -> bool:
    """Whether the shortest and the longest start, read once and in one batch, give what their whole texts give."""
    takes = all(accepts(model.model, name) for name in ("attention_mask", "past_key_values", "use_cache"))
    if batching == ALONE or not takes or model.altered():
        return False
    several = [group for group in groups if len(group.ends) > 1]
    tried = [_part(group) for group in {min(several, key=_length), max(several, key=_length)}]
    roomy = Batching(4 * sum(_length(group) for group in tried), batching.padding_side)
    try:
        shared = {at: said for some in _sharing(model, encoded, roomy, tried) for at, said in some}
    except (_NoCache, TypeError, ValueError, IndexError, RuntimeError):  # this model does not go on from them
        return False
    for some in _whole(model, encoded, ALONE, sorted(shared)):
        for at, said in some:
            scale = float(said[said.isfinite()].abs().max()) if said.isfinite().any() else 1.0
            bound = _TOLERANCE.get(model.dtype, 1e-2) * max(1.0, scale)
            if not torch.allclose(said, shared[at], rtol=0.0, atol=bound, equal_nan=True):
                return False
    return True


def _length(group: _Group) -> int:
    return len(group.start) + max(map(len, group.ends))


def _part(group: _Group) -> _Group:
    """The texts with the shortest and the longest ends."""
    order = sorted(range(len(group.ends)), key=lambda at: len(group.ends[at]))
    chosen = [order[0], *order[1:][-(_TRIED - 1) :]]
    return _Group(group.start, tuple(group.positions[at] for at in chosen), tuple(group.ends[at] for at in chosen))


def _whole(model: ModelUnderTest, encoded: Encoded, batching: Batching, positions: Sequence[int]) -> Iterator[Said]:
    for batch in batches(model, encoded, batching, positions):
        said, _ = _after(model, batch)
        counts = (batch.labels != IGNORED).sum(dim=1).tolist()
        yield list(zip(batch.positions, torch.split(said, counts), strict=True))


class _NoCache(Exception):
    """The model gives no keys and values that rows can be chosen of."""


def _sharing(model: ModelUnderTest, encoded: Encoded, batching: Batching, groups: Sequence[_Group]) -> Iterator[Said]:
    examples = tuple(Example(group.start, None, (*(IGNORED,) * (len(group.start) - 1), 0)) for group in groups)
    starts = Encoded(encoded.objective, examples, 0, ())
    limit = budget(model, encoded, batching)
    for batch in batches(model, starts, batching):
        first, cache = _after(model, batch, use_cache=True)
        own = [(row, groups[position]) for row, position in enumerate(batch.positions)]
        ends = [
            (row, position, end)
            for row, group in own
            for position, end in zip(group.positions, group.ends, strict=True)
        ]
        yield [(position, first[row : row + 1]) for row, position, end in ends if not end]
        going_on = sorted((each for each in ends if each[2]), key=lambda each: (len(each[2]), each[0]))
        lengths = torch.tensor([len(group.start) for _, group in own], device=model.device)
        for some in _portions(going_on, limit, _most_copies(cache, len(own)) if going_on else 1):
            rows = torch.tensor([row for row, _, _ in some], device=model.device)
            then, _ = _after(model, _ends_batch(model, batch, rows, lengths, some), past_key_values=_of(cache, rows))
            parts = torch.split(then, [len(end) for _, _, end in some])
            yield [
                (position, torch.cat([first[row : row + 1], part]))
                for (row, position, _), part in zip(some, parts, strict=True)
            ]


def _portions(ends: Sequence[tuple[int, int, Ids]], limit: int, most: int) -> list[list[tuple[int, int, Ids]]]:
    found: list[list[tuple[int, int, Ids]]] = []
    for each in ends:
        if found and len(found[-1]) < most and len(each[2]) * (len(found[-1]) + 1) <= limit:
            found[-1].append(each)
        else:
            found.append([each])
    return found


def _ends_batch(
    model: ModelUnderTest, starts: Batch, rows: Tensor, lengths: Tensor, ends: Sequence[tuple[int, int, Ids]]
) -> Batch:
    """What follows the starts at `rows`; padding within and after starts stands in the mask."""
    longest = max(len(end) for _, _, end in ends)
    note_batch(len(ends), longest)
    padding = int(starts.inputs["input_ids"][0, 0])
    ids = torch.tensor([(*end, *(padding,) * (longest - len(end))) for _, _, end in ends], device=model.device)
    real = torch.arange(longest, device=model.device) < torch.tensor(
        [[len(end)] for _, _, end in ends], device=model.device
    )
    seen = starts.inputs["attention_mask"][rows]
    inputs = {"input_ids": ids, "attention_mask": torch.cat([seen, real.to(seen.dtype)], dim=1)}
    if accepts(model.model, "position_ids"):
        inputs["position_ids"] = lengths[rows, None] + torch.arange(longest, device=model.device)
        # Padding is read at a place that there is.
        inputs["position_ids"] = inputs["position_ids"].where(real, 0)
    labels = torch.where(real, 0, IGNORED)
    return Batch((), inputs, labels)


def _most_copies(cache: Any, rows: int) -> int:
    """How many rows of these keys and values may be held at a time; raises _NoCache."""
    layers = getattr(cache, "layers", None)
    if not layers or not hasattr(cache, "batch_select_indices"):
        raise _NoCache
    kept: list[Tensor] = []
    for layer in layers:
        for each in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if not isinstance(each, Tensor):
                raise _NoCache
            kept.append(each)
    return max(1, int(_COPIES * rows // sum(each.numel() * each.element_size() for each in kept)))


def _of(cache: Any, rows: Tensor) -> Any:
    """The keys and values of these rows, in tensors of their own."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    found.batch_select_indices(rows)
    return found


def _after(model: ModelUnderTest, batch: Batch, **more: Any) -> tuple[Tensor, Any]:
    """(judged tokens, vocabulary) log probabilities of what follows them, and the model's keys and values."""
    if model.model.get_output_embeddings() is None:
        result = model.model(**batch.inputs, **more)
        logits = result.logits[batch.labels != IGNORED]
    else:
        with at_judged_tokens(model, batch):
            result = model.model(**batch.inputs, **more)
        logits = result.logits[0]
    half = logits.dtype in (torch.float16, torch.bfloat16)
    said = torch.log_softmax(logits.float() if half else logits, dim=-1)
    return said, getattr(result, "past_key_values", None)
