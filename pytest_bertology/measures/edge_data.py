"""The tokens of spans, and their hidden states, as edge probes read them: a few items at a time, all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.recording import Recording, record
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.probing_data import PARTS, TRAIN, ProbingData, chosen_layers
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import Ints

_ROWS = 4096
"""Tokens whose squares are summed at a time."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one span of each item, one after the other."""

    rows: Ints
    """(tokens,) which unit of the recording each is."""
    starts: Ints
    """(items + 1,) where each item's tokens begin."""

    def of(self, items: Ints) -> tuple[Ints, Ints]:
        """The rows of these items' tokens, and for each of them the place among `items` of its item."""
        first, counts = self.starts[items], np.diff(self.starts)[items]
        places = np.repeat(np.arange(len(items)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.rows[np.repeat(first, counts) + within], places


@dataclass(frozen=True, eq=False)
class SpanStates:
    """The states of one span of each item of a batch."""

    states: Tensor
    """(layers, tokens, width)"""
    places: Tensor
    """(tokens,) which of the batch's items each token is of."""


@dataclass(frozen=True, eq=False)
class EdgePart:
    """One part of the items: their labels and their tokens."""

    labels: Ints
    """(items,) numbers of classes; as many as there are classes: a label that is not trained on."""
    texts: Ints
    """(items,) which text each is of."""
    spans: tuple[Tokens, ...]
    """One, or two of pairs."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> Ints:
        """(items,) how many tokens each has."""
        found: Ints = sum((np.diff(span.starts) for span in self.spans), np.zeros(len(self), dtype=np.int64))
        return found


@dataclass(frozen=True, eq=False)
class EdgeData:
    """All parts, and the states of some layers."""

    parts: dict[str, EdgePart]
    layers: tuple[int, ...]
    scale: float
    """What states are divided by: the root mean square of those trained on, one number for all layers."""
    _recordings: dict[str, Recording]

    @property
    def width(self) -> int:
        """Of the states."""
        return int(self._recordings[TRAIN].vectors(0).shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Single precision, or double for models in double precision."""
        return torch.float64 if self._recordings[TRAIN].vectors(0).dtype == np.float64 else torch.float32

    def read(self, part: str, items: Ints, device: torch.device) -> tuple[SpanStates, ...]:
        """The states of each span of these items: copied into memory, and nothing else."""
        found = []
        for span in self.parts[part].spans:
            rows, places = span.of(items)
            states = np.stack([self._recordings[part].vectors(layer)[rows] for layer in self.layers])
            states /= self.scale
            found.append(SpanStates(torch.from_numpy(states).to(device), torch.from_numpy(places).to(device)))
        return tuple(found)

    def chunks(self, part: str, items: Ints, tokens: int) -> Iterator[Ints]:
        """The same items in their order, in pieces of at most so many tokens, or one item."""
        ends = np.cumsum(self.parts[part].sizes[items])
        start = 0
        while start < len(items):
            before = ends[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + tokens, side="right")))
            yield items[start:end]
            start = end


def edge_data(
    model: ModelUnderTest,
    data: ProbingData,
    layers: object,
    *,
    what: str,
    stack: str | None,
    batching: Batching,
) -> EdgeData:
    """Record the states of every token that a span holds, each token of a text once.

    Raises InvalidArgument for fewer than two layers, or one that there is not; and what `record` raises.
    """
    parts, recordings = {}, {}
    for part in PARTS:
        read = data.parts[part].read
        units, spans = _units(read.tokens, read.items.starts)
        parts[part] = EdgePart(data.parts[part].labels, data.parts[part].texts, spans)
        recordings[part] = record(model, read.texts, units, what=what, stack=stack, batching=batching)
    chosen = chosen_layers("all" if layers is None else layers, recordings[TRAIN].layers)
    if len(chosen) < 2:
        raise InvalidArgument("layers", layers, "two layers or more, or 'all': an edge probe mixes layers")
    return EdgeData(parts, chosen, _scale(recordings[TRAIN], chosen), recordings)


def _units(tokens: Sequence[tuple[Ints, ...]], starts: Ints) -> tuple[list[list[Ints]], tuple[Tokens, ...]]:
    """For each text the tokens to record; for each span where its items' tokens are among them."""
    count = max(len(each) for each in tokens)
    units: list[list[Ints]] = []
    rows: list[list[npt.NDArray[Any]]] = [[] for _ in range(count)]
    before = 0
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        held = [span for item in tokens[first:end] for span in item]
        own = np.unique(np.concatenate(held)) if held else np.zeros(0, dtype=np.int64)
        for item in tokens[first:end]:
            for place, span in enumerate(item):
                rows[place].append(before + np.searchsorted(own, span))
        units.append([own[index : index + 1] for index in range(len(own))])
        before += len(own)
    ends = [np.concatenate([[0], np.cumsum([len(each) for each in found])]).astype(np.int64) for found in rows]
    return units, tuple(
        Tokens(np.concatenate(found).astype(np.int64), end) for found, end in zip(rows, ends, strict=True)
    )


def _scale(recording: Recording, layers: Sequence[int]) -> float:
    total = count = 0.0
    for layer in layers:
        states = recording.vectors(layer)
        for start in range(0, len(states), _ROWS):
            total += float(np.square(states[start : start + _ROWS], dtype=np.float64).sum())
        count += states.size
    return float(np.sqrt(total / count)) or 1.0
