"""Many head masks over the same data: a model's results under each of them.

Examples come in groups of like length. A group is run once under the base mask, what its layers give is recorded, and
each mask is run from its first head on that differs from the base: the layers below are not computed again. Short
groups are filled up with several masks. Nothing of a group is kept but its results.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pytest_bertology.engine.ablations import Fills, Gates, filled, fills_for
from pytest_bertology.engine.batching import Batch, Batching, batches, budget, plan
from pytest_bertology.engine.encoding import Encoded, lengths
from pytest_bertology.engine.memory import out_of_memory, within_memory
from pytest_bertology.engine.objectives import Judged, judge
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.reading import needed_rows
from pytest_bertology.engine.resuming import Way, repeated, way_of
from pytest_bertology.engine.tables import Array, Table
from pytest_bertology.errors import BertologyError, BertologyWarning, InvalidArgument
from pytest_bertology.heads import HeadMask
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.prefix import Layers, Recording, recorded, resumed

_CLOSE = {"float64": 1e-12, "float32": 1e-5}
"""Differences that float noise makes, as a share of the largest logit (or loss), or of 1."""


@dataclass(frozen=True)
class Sweeping:
    """How sweeps are run; results do not depend on it beyond float noise."""

    memory: int = 2**30
    """Bytes that recorded states and a batch's own may take: groups of examples are made small enough, and of examples
    too long even alone fewer layers are recorded."""
    verify: int | None = None
    """How many masks to run the plain way too, on one group of examples each; None: one in a hundred, at least two.
    Where results differ by more than float noise, all is run the plain way, with a warning."""
    narrow: bool = True
    """Whether to compute the last layer, and a language model's output, only at the tokens that are read: quicker, and
    equal within float noise; without it a mask that has a batch for itself is the plain path bit for bit."""
    plain: bool = False
    """Whether to compute every mask from scratch, in a batch of its own."""

    def __post_init__(self) -> None:
        for name, value, least in (("memory", self.memory, 1), ("verify", self.verify or 0, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidArgument(name, value, f"a whole number from {least}")


def sweep(
    model: ModelUnderTest,
    encoded: Encoded,
    masks: Sequence[HeadMask],
    batching: Batching,
    where: str,
    *,
    ablation: str = "zero",
    seed: int = 0,
    sweeping: Sweeping | None = None,
) -> dict[str, Array]:
    """Run the model under exactly each of `masks`, of which the first is the base, over all examples.

    Heads that a mask closes and the base does not are ablated: see `ablations.fills_for`. Results are those of
    `engine.results.run`: bit for bit where a mask has a batch for itself and every token is computed, within float
    noise (4e-6 in float32) otherwise; classifications closer than that noise are decided by running the example alone.
    Raises NonFinite, naming the example. Returns a table's arrays (see `tables.raw`).
    """
    sweeping = sweeping or Sweeping()
    return within_memory(
        "a sweep",
        model,
        lambda: _swept(model, encoded, masks, batching, where, ablation=ablation, seed=seed, sweeping=sweeping),
    )


def _swept(
    model: ModelUnderTest,
    encoded: Encoded,
    masks: Sequence[HeadMask],
    batching: Batching,
    where: str,
    *,
    ablation: str,
    seed: int,
    sweeping: Sweeping,
) -> dict[str, Array]:
    title = f"{where}, {len(masks) - 1} masks"
    with torch.inference_mode(), model.frozen(), model.exactly(None):
        gates = [model.gates_of(mask) for mask in masks]
        fills = fills_for(ablation, model, encoded, gates[0], batching, seed, where)
        way = _PLAIN if sweeping.plain else way_of(model, encoded)
        if not sweeping.narrow:
            way = replace(way, narrows=False, gathers=False)
        try:
            return _Sweeper(model, encoded, way, gates, fills, where).run(batching, sweeping, title)
        except BertologyError:
            raise
        except Exception as error:
            if sweeping.plain or out_of_memory(error):
                raise
            why = str(error) if isinstance(error, _Differs) else f"fail ({type(error).__name__}: {error})"
            warnings.warn(
                f"masks of {model.name} are run one by one: run together, they {textwrap.shorten(why, 200)}",
                BertologyWarning,
                2,
            )
            return _Sweeper(model, encoded, _PLAIN, gates, fills, where).run(batching, sweeping, title)


_PLAIN = Way(None, (), stacks=False, reason="asked for")


class _Differs(Exception):
    """Results that are not those of the plain path."""


class _Sweeper:
    """One sweep under way; mask 0 is the base."""

    def __init__(
        self,
        model: ModelUnderTest,
        encoded: Encoded,
        way: Way,
        gates: Sequence[Gates],
        fills: Fills | None,
        where: str,
    ) -> None:
        self.model, self.encoded, self.way, self.gates, self.fills = model, encoded, way, gates, fills
        self.where = where
        self.tokens = self.every = 1
        self.fill: Mapping[int, Tensor] = {}
        """What stands in for the heads of the batch under way."""
        self.table = Table(encoded, len(gates))
        self.starts: dict[int | None, list[int]] = {}
        """The masks that differ from the base first at a site; under None those that do not differ."""
        for row in range(1, len(gates)):
            self.starts.setdefault(self._first(gates[row]), []).append(row)

    def run(self, batching: Batching, sweeping: Sweeping, title: str) -> dict[str, Array]:
        """All masks on all examples."""
        self.tokens = budget(self.model, self.encoded, batching)
        if self.way.layers is not None:
            each = _bytes_per_token(self.model, self.way.layers)
            self.tokens = max(1, min(self.tokens, int(sweeping.memory / each)))
            longest = int(lengths(self.encoded).max())
            self.every = max(1, -(-int(longest * each) // sweeping.memory))
        batching = replace(batching, tokens=self.tokens)
        checks = self._checks(len(plan(self.model, self.encoded, batching)), sweeping.verify)
        done = 0
        with tracked(title, len(self.encoded.examples)) as show:
            for number, batch in enumerate(batches(self.model, self.encoded, batching)):
                self.group(batch)
                for row in checks.get(number, ()):
                    self._verify(batch, row)
                done += len(batch.positions)
                show(done)
        return self.table.arrays()

    def _checks(self, groups: int, count: int | None) -> dict[int, list[int]]:
        """Which masks are run the plain way too, by the group of examples: the longest first, masks spread evenly."""
        masks = len(self.gates) - 1
        if self.way.layers is None and not self.way.stacks:
            return {}
        count = min(masks, max(2, masks * groups // 100) if count is None else count)
        checks: dict[int, list[int]] = {}
        for number in range(count):
            checks.setdefault(groups - 1 - number % groups, []).append(1 + (2 * number + 1) * masks // (2 * count))
        return checks

    def group(self, batch: Batch) -> None:
        """All masks on one batch of examples."""
        recording = self._base(batch)
        rows_read = self._read(batch, recording)
        self.fill = {} if self.fills is None else self.fills.of(batch)
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

    def _first(self, gates: Gates) -> int | None:
        """The site that runs first of those at which a mask differs from the base."""
        pairs = zip(self.gates[0], gates, strict=True)
        changed = [site for site, (base, gate) in enumerate(pairs) if not _equal(base, gate)]
        order = self.way.layers.order if self.way.layers is not None else range(len(self.model.sites))
        return min(changed, key=order.__getitem__, default=None)

    def _stacked(self, batch: Batch) -> int:
        """How many masks share a batch."""
        if not self.way.stacks:
            return 1
        return max(1, self.tokens // batch.inputs["input_ids"].numel())

    def _base(self, batch: Batch) -> Recording | None:
        layers = self.way.layers
        recording = nullcontext() if layers is None else recorded(self.model, layers, self.every)
        with self.model.gated(self.gates[0]), recording as kept:
            judged = judge(self.model, batch, self.encoded.objective, gather=self.way.gathers)
        self.table.put([0], batch.positions, judged, self.where)
        return kept

    def _read(self, batch: Batch, recording: Recording | None) -> Tensor | None:
        """The tokens that the last layer is computed at; None for all."""
        if not self.way.narrows or self.way.layers is None or recording is None or self.fills is not None:
            return None
        return needed_rows(self.model, self.way.layers, recording.results[-1], batch, self.encoded.objective)

    def _masks(
        self, batch: Batch, recording: Recording | None, site: int, rows: Sequence[int], read: Tensor | None
    ) -> None:
        layers = self.way.layers
        with ExitStack() as stack:
            skipped: frozenset[int] = frozenset()
            if layers is not None and recording is not None:
                options: dict[str, Any] = {"context": self.way.contexts[site], "rows": read}
                options["queries"] = self.way.queries
                stack.enter_context(resumed(self.model, layers, recording, site, len(rows), **options))
                skipped = layers.before(recording.start(layers, site))
            judged = self._judged(batch, rows, skipped, gather=self.way.gathers)
        self.table.put(rows, batch.positions, judged, self.where)

    def _judged(
        self, batch: Batch, rows: Sequence[int], skipped: frozenset[int] = frozenset(), *, gather: bool = False
    ) -> Judged:
        """Several masks on a batch, one after the other along its first axis."""
        examples = len(batch.positions)
        with ExitStack() as stack:
            gates = [[None if at in skipped else gate for at, gate in enumerate(self.gates[row])] for row in rows]
            stack.enter_context(self.model.gated(_together(gates, examples, 1.0)))
            if self.fills is not None:
                closed = [
                    [_closed(base, gate) for base, gate in zip(self.gates[0], each, strict=True)] for each in gates
                ]
                stack.enter_context(filled(self.model, _together(closed, examples, 0.0), self.fill, len(rows)))
            return judge(self.model, repeated(batch, len(rows)), self.encoded.objective, gather=gather)

    def _alone(self, row: int, position: int) -> None:
        single = next(batches(self.model, self.encoded, Batching(tokens=1), [position]))
        self.fill = {} if self.fills is None else self.fills.of(single)
        self.table.put([row], (position,), self._judged(single, [row]), self.where)

    def _verify(self, batch: Batch, row: int) -> None:
        """One mask on a batch the plain way; raises _Differs."""
        plain = Table(self.encoded, 1)
        self.fill = {} if self.fills is None else self.fills.of(batch)
        plain.put([0], batch.positions, self._judged(batch, [row]), self.where)
        difference = self.table.difference(row, plain, batch.positions)
        if difference > _CLOSE.get(self.model.dtype, 2e-2):
            raise _Differs(f"differ by {difference:.1e} from what they give alone")


def _together(gates: Sequence[Gates], examples: int, default: float) -> list[Tensor | None]:
    """The gates of several masks, for each example of a batch that holds the examples once for each of them."""
    if len(gates) == 1:
        return list(gates[0])
    together: list[Tensor | None] = []
    for each in zip(*gates, strict=True):
        known = next((gate for gate in each if gate is not None), None)
        if known is None:
            together.append(None)
            continue
        stacked = torch.stack([torch.full_like(known, default) if gate is None else gate for gate in each])
        together.append(stacked.repeat_interleave(examples, dim=0))
    return together


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _closed(base: Tensor | None, gate: Tensor | None) -> Tensor | None:
    """How far a mask closes each head that the base leaves open."""
    if gate is None:
        return None
    return (torch.ones_like(gate) if base is None else base).sub(gate).clamp(min=0.0)


def _bytes_per_token(model: ModelUnderTest, layers: Layers) -> float:
    """What a token takes: recorded, and in the layer under way (some thirty vectors of states), its logits among it."""
    config = model.model.config.get_text_config()
    states = int(getattr(config, "hidden_size", 0) or 1024)
    vocabulary = int(getattr(config, "vocab_size", 0) or 0) if model.kind.endswith("lm") else 0
    return layers.bytes_per_token + 4.0 * (32 * states + 4 * vocabulary)
