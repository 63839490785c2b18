"""The attention weights of many heads side by side, as many tokens of a batch at a time as may be held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.attending import Attended
from pytest_bertology.engine.batching import Batch
from pytest_bertology.errors import CannotMeasure
from pytest_bertology.models import ModelUnderTest

HELD = 64 * 2**20
"""Bytes of attention weights that are held at a time, of all heads."""


class Span(NamedTuple):
    """Some query tokens of a text, from `start` to `stop`, and where their weights are kept."""

    position: int
    start: int
    stop: int
    at: slice


class HeldWeights:
    """Keeps what `attend` shows of some heads, on the query tokens asked for."""

    def __init__(self, model: ModelUnderTest, heads: Sequence[int], what: str) -> None:
        self._place = torch.full((len(model.heads),), -1, dtype=torch.long)
        self._place[list(heads)] = torch.arange(len(heads))
        self._count = len(heads)
        ends = np.cumsum([site.heads for site in model.sites]).tolist()
        parts = zip([0, *ends], ends, strict=False)
        self.sites = [index for index, part in enumerate(parts) if bool((self._place[slice(*part)] >= 0).any())]
        """The layers that these heads are in."""
        runs = sorted({len(model.sites[index].taps) for index in self.sites} - {0})
        if len(runs) > 1:
            reason = f"some of its layers run {runs[0]} times in one pass, others {runs[-1]} times"
            raise CannotMeasure(what, type(model.model).__name__, reason)
        self.runs = max(runs, default=1)
        """How often each of these layers runs in one pass."""
        size = max(4, torch.empty(0, dtype=model.model.dtype).element_size())
        self._most = max(1, HELD // (size * self._count * self.runs))
        self._spans: dict[int, list[Span]] = {}
        self._width = 0
        self._buffers: dict[int, Tensor] = {}

    def passes(self, batch: Batch, real: Tensor) -> Iterator[list[Span]]:
        """The query tokens of a batch: as many at a time as may be held, one at least."""
        spans: list[Span] = []
        filled = 0
        for position, length in zip(batch.positions, real.sum(dim=1).tolist(), strict=True):
            start = 0
            while start < length:
                room = (self._most - filled) // length
                if room < 1 and spans:
                    yield spans
                    spans, filled = [], 0
                    continue
                stop = min(length, start + max(1, room))
                spans.append(Span(position, start, stop, slice(filled, filled + (stop - start) * length)))
                filled, start = spans[-1].at.stop, stop
        yield spans

    def hold(self, spans: Sequence[Span]) -> None:
        """Keep these, and forget all others."""
        self._buffers = {}
        self._spans = {}
        for span in spans:
            self._spans.setdefault(span.position, []).append(span)
        self._width = spans[-1].at.stop

    def visit(self, attended: Attended) -> None:
        """What `attend` calls."""
        place = self._place[attended.heads]
        wanted = (place >= 0).nonzero()[:, 0]
        weights = attended.weights
        buffer = self._buffers.get(attended.run)
        if buffer is None:
            buffer = self._buffers[attended.run] = weights.new_zeros(self._count, self._width)
        rows, own = place[wanted].to(buffer.device), wanted.to(weights.device)
        for position, each in attended.each():
            for span in self._spans.get(position, ()):
                buffer[rows, span.at] = each[own, span.start : span.stop].flatten(1).to(buffer.device)

    def taken(self) -> Iterator[Tensor]:
        """(heads, numbers) the weights kept, first run first; forgotten as they are taken."""
        for run in sorted(self._buffers):
            yield self._buffers.pop(run)
