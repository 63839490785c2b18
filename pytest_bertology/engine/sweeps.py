"""Many head masks over the same data: a model's results under each of them.

Examples come in groups of like length. A group is run once under the base mask, what its layers give is recorded, and
each mask is run from its first head on that differs from the base: the layers below are not computed again. Short
groups are filled up with several masks. Nothing of a group is kept but its results.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching, batches, budget
from pytest_bertology.engine.encoding import Encoded
from pytest_bertology.engine.objectives import judge
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.results import RawResults
from pytest_bertology.engine.resuming import Way, needed_rows, repeated, way_of
from pytest_bertology.engine.tables import Table
from pytest_bertology.heads import HeadMask
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.prefix import Recording, recorded, resumed


@dataclass(frozen=True)
class Swept:
    """The results under the base mask, and under each variant in the order asked for."""

    base: RawResults
    variants: tuple[RawResults, ...]
    reason: str
    """Why every mask took a whole forward pass; empty where layers were skipped."""


def sweep(
    model: ModelUnderTest,
    encoded: Encoded,
    base: HeadMask,
    variants: Sequence[HeadMask],
    batching: Batching,
    where: str,
) -> Swept:
    """Run the model under exactly `base`, and under exactly each of `variants`, over all examples.

    Results are those of `engine.results.run`: bit for bit where a mask has a batch for itself, within float noise
    where several share one; classifications closer than that noise are decided by running the example alone.
    Raises NonFinite, naming the example.
    """
    title = f"{where}, {len(variants)} masks"
    with ExitStack() as stack:
        for context in (torch.inference_mode(), model.frozen(), model.exactly(None)):
            stack.enter_context(context)
        way = way_of(model, encoded)
        show = stack.enter_context(tracked(title, len(encoded.examples)))
        sweeper = _Sweeper(model, encoded, way, (base, *variants), where, budget(model, encoded, batching))
        done = 0
        for batch in batches(model, encoded, batching):
            sweeper.group(batch)
            done += len(batch.positions)
            show(done)
    table = sweeper.table
    return Swept(table.raw(0), tuple(table.raw(row) for row in range(1, len(variants) + 1)), way.reason)


class _Sweeper:
    """One sweep under way; mask 0 is the base."""

    def __init__(
        self, model: ModelUnderTest, encoded: Encoded, way: Way, masks: Sequence[HeadMask], where: str, tokens: int
    ) -> None:
        self.model, self.encoded, self.way, self.where, self.tokens = model, encoded, way, where, tokens
        self.table = Table(encoded, len(masks))
        self.gates = [model.gates_of(mask) for mask in masks]
        self.starts: dict[int | None, list[int]] = {}
        """The masks that differ from the base first at a site; under None those that do not differ."""
        for row, mask in enumerate(masks[1:], start=1):
            self.starts.setdefault(self._first(masks[0], mask), []).append(row)

    def group(self, batch: Batch) -> None:
        """All masks on one batch of examples."""
        recording = self._base(batch)
        rows_read = self._read(batch, recording)
        for site, rows in self.starts.items():
            if site is None:
                for row in rows:
                    self.table.copy(0, row)
                continue
            size = self._stacked(batch)
            for start in range(0, len(rows), size):
                self._masks(batch, recording, site, rows[start : start + size], rows_read)
        for row, position in self.table.near_ties(range(len(self.gates)), batch.positions, self.model.dtype):
            self._alone(row, position)

    def _first(self, base: HeadMask, mask: HeadMask) -> int | None:
        """The site that runs first of those at which two masks differ."""
        changed, start = [], 0
        for index, site in enumerate(self.model.sites):
            if base.gates[start : start + site.heads] != mask.gates[start : start + site.heads]:
                changed.append(index)
            start += site.heads
        order = self.way.layers.order if self.way.layers is not None else range(len(self.model.sites))
        return min(changed, key=lambda index: order[index], default=None)

    def _stacked(self, batch: Batch) -> int:
        """How many masks share a batch."""
        if not self.way.stacks:
            return 1
        return max(1, self.tokens // batch.inputs["input_ids"].numel())

    def _base(self, batch: Batch) -> Recording | None:
        layers = self.way.layers
        with self.model.gated(self.gates[0]), nullcontext() if layers is None else recorded(self.model, layers) as kept:
            judged = judge(self.model, batch, self.encoded.objective, gather=self.way.gathers)
        self.table.put([0], batch.positions, judged, self.where)
        return kept

    def _read(self, batch: Batch, recording: Recording | None) -> Tensor | None:
        """The tokens that the last layer is computed at; None for all."""
        if not self.way.narrows or self.way.layers is None or recording is None:
            return None
        return needed_rows(self.model, self.way.layers, recording, batch, self.encoded.objective)

    def _masks(
        self, batch: Batch, recording: Recording | None, site: int, rows: Sequence[int], read: Tensor | None
    ) -> None:
        layers = self.way.layers
        with ExitStack() as stack:
            skipped: frozenset[int] = frozenset()
            if layers is not None and recording is not None:
                context = self.way.contexts[site]
                options: dict[str, Any] = {"context": context, "rows": read, "queries": self.way.queries}
                stack.enter_context(resumed(self.model, layers, recording, site, len(rows), **options))
                skipped = layers.before(site)
            stack.enter_context(self.model.gated(self._together(rows, len(batch.positions), skipped)))
            judged = judge(self.model, repeated(batch, len(rows)), self.encoded.objective, gather=self.way.gathers)
        self.table.put(rows, batch.positions, judged, self.where)

    def _together(self, rows: Sequence[int], examples: int, skipped: frozenset[int]) -> list[Tensor | None]:
        """The gates of several masks, for each example of a batch that holds the examples once for each of them."""
        if len(rows) == 1:
            return [None if site in skipped else gate for site, gate in enumerate(self.gates[rows[0]])]
        together: list[Tensor | None] = []
        for index, site in enumerate(self.model.sites):
            gates = [self.gates[row][index] for row in rows]
            if index in skipped or all(gate is None for gate in gates):
                together.append(None)
                continue
            ones = torch.ones(site.heads, dtype=torch.float64)
            stacked = torch.stack([ones if gate is None else gate for gate in gates])
            together.append(stacked.repeat_interleave(examples, dim=0))
        return together

    def _alone(self, row: int, position: int) -> None:
        single = next(batches(self.model, self.encoded, Batching(tokens=1), [position]))
        with self.model.gated(self.gates[row]):
            judged = judge(self.model, single, self.encoded.objective)
        self.table.put([row], (position,), judged, self.where)
