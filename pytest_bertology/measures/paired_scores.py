"""Attention scores of a student and its teacher, layer beside layer: squared differences, head by head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.attending import Attended, attend_batch
from pytest_bertology.engine.batching import Batch
from pytest_bertology.engine.texts import Texts
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.pairing import LayerPair, PairedBatch
from pytest_bertology.models import ModelUnderTest

HELD = 128 * 2**20
"""Bytes of scores that are held at a time, of both models."""
WHAT = "attention distance"


class Run(NamedTuple):
    """One run of an attention layer: which of `model.sites`, and which time it is."""

    site: int
    run: int


def attention_layers(model: ModelUnderTest) -> dict[str | None, list[Run | None]]:
    """The attention layers of each stack, as the model runs them; None for those without a head left."""
    layers: dict[str | None, list[Run | None]] = {
        stack: [None] * len(counts) for stack, counts in model.heads.to_stacks().items()
    }
    for stack in layers:
        sites = [(index, site) for index, site in enumerate(model.sites) if site.stack == stack]
        if any(len(site.taps) > 1 for _, site in sites):  # layers that share weights, in the order of their calls
            calls = sorted((key.number, index) for index, site in sites for key in site.taps)
            seen: dict[int, int] = {}
            layers[stack] = []
            for _, index in calls:
                layers[stack].append(Run(index, seen.get(index, 0)))
                seen[index] = seen.get(index, 0) + 1
        else:
            for index, site in sites:
                layers[stack][site.layer] = Run(index, 0)
    return layers


@dataclass(frozen=True)
class Side:
    """A layer of one of the models, and which of its heads are compared."""

    run: Run
    heads: tuple[int, ...]
    """By number within the layer as it is."""


@dataclass(frozen=True)
class Compared:
    """Two layers whose heads are compared, one by one or (with `mean`) their averages."""

    pair: LayerPair
    student: Side
    teacher: Side
    mean: bool

    @property
    def maps(self) -> int:
        """How many pairs of maps are compared."""
        return 1 if self.mean else len(self.student.heads)

    def part(self, maps: slice) -> Compared:
        """The same, of some of the heads."""
        if self.mean:
            return self
        return Compared(
            self.pair,
            Side(self.student.run, self.student.heads[maps]),
            Side(self.teacher.run, self.teacher.heads[maps]),
            mean=False,
        )


def compared_heads(
    student: ModelUnderTest, teacher: ModelUnderTest, pair: LayerPair, runs: tuple[Run, Run], mean: bool
) -> Compared | None:
    """The heads of two layers that belong together; None where of two cut layers there are none.

    Head h of the one and of the other, as they were numbered before heads were cut out.
    """
    ours, theirs = _originals(student, runs[0].site), _originals(teacher, runs[1].site)
    if mean:
        sides = [Side(run, tuple(range(len(own)))) for run, (_, own) in zip(runs, (ours, theirs), strict=True)]
        return Compared(pair, sides[0], sides[1], mean=True)
    if ours[0] != theirs[0]:
        wanted = (
            f"'mean', which compares averages over heads: layer {pair.student} of {student.name} has {ours[0]} heads, "
            f"layer {pair.teacher} of {teacher.name} {theirs[0]}, and they cannot be compared one by one"
        )
        raise InvalidArgument("reduce", None, wanted)
    common = [head for head in ours[1] if head in theirs[1]]
    if not common:
        return None
    sides = [
        Side(run, tuple(own.index(head) for head in common)) for run, (_, own) in zip(runs, (ours, theirs), strict=True)
    ]
    return Compared(pair, sides[0], sides[1], mean=False)


def _originals(model: ModelUnderTest, site: int) -> tuple[int, tuple[int, ...]]:
    """How many heads a layer had before heads were cut out of the model, and which of them it has."""
    found = model.sites[site]
    if model.plan is not None:
        for layer in model.plan.layers:
            if (layer.stack, layer.layer) == (found.stack, found.layer):
                return layer.heads, layer.kept
    return found.heads, tuple(range(found.heads))


class Sums(NamedTuple):
    """(maps,) each: squared differences, and the teacher's own squares, summed over real pairs of tokens."""

    differences: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


def squared_differences(
    models: tuple[ModelUnderTest, ModelUnderTest],
    texts: tuple[Texts, Texts],
    batch: PairedBatch,
    layers: Sequence[Compared],
) -> Iterator[tuple[int, slice, Sums]]:
    """Of one batch: which of `layers`, which of its maps, and their sums; both models run as often as it needs."""
    rows, length = batch.real.shape
    size = 16 * rows * length**2  # of a map of each, in double precision
    for some in _groups(layers, max(1, HELD // size)):
        ours = _Scores([part.student for _, _, part in some], batch.student, mean=some[0][2].mean)
        theirs = _Scores([part.teacher for _, _, part in some], batch.teacher, mean=some[0][2].mean)
        for model, read, own, real, held in zip(
            models, texts, (batch.student, batch.teacher), (batch.real, batch.real_teacher), (ours, theirs), strict=True
        ):
            held.starts = _starts(model)
            attend_batch(model, read, own, real, held.visit, what=WHAT, sites=held.sites, scores=True)
        for index, maps, part in some:
            student, teacher = ours.maps[part.student], theirs.maps[part.teacher]
            student = student.to(teacher.device)
            yield index, maps, Sums(_squares(student - teacher), _squares(teacher))


def _squares(maps: Tensor) -> npt.NDArray[np.float64]:
    """(maps,) from (texts, maps, queries, keys)."""
    found: npt.NDArray[np.float64] = maps.square().sum(dim=-1).cpu().double().sum(dim=(0, 2)).numpy()
    return found


def _groups(layers: Sequence[Compared], most: int) -> Iterator[list[tuple[int, slice, Compared]]]:
    """Layers, or heads of them where they have more, of so many maps at a time."""
    some: list[tuple[int, slice, Compared]] = []
    filled = 0
    for index, layer in enumerate(layers):
        start = 0
        while start < layer.maps:
            stop = min(layer.maps, start + most - filled)
            some.append((index, slice(start, stop), layer.part(slice(start, stop))))
            filled, start = filled + stop - start, stop
            if filled == most:
                yield some
                some, filled = [], 0
    if some:
        yield some


def _starts(model: ModelUnderTest) -> list[int]:
    """Of each site, the place of its first head among `model.heads`."""
    return [sum(site.heads for site in model.sites[:index]) for index in range(len(model.sites))]


class _Scores:
    """Keeps the scores of some heads of one batch."""

    def __init__(self, sides: Sequence[Side], batch: Batch, mean: bool) -> None:
        self.maps: dict[Side, Tensor] = {}
        """(texts, maps, queries, keys)"""
        self.sites = sorted({side.run.site for side in sides})
        self.starts: Sequence[int] = ()
        self._sides: Mapping[Run, list[Side]] = {
            side.run: [other for other in dict.fromkeys(sides) if other.run == side.run] for side in sides
        }
        self._rows = {position: row for row, position in enumerate(batch.positions)}
        self._mean = mean

    def visit(self, attended: Attended) -> None:
        """What `attend` calls."""
        scores = attended.scores
        assert scores is not None
        first = attended.heads.start - self.starts[attended.site]
        rows = slice(self._rows[attended.positions[0]], self._rows[attended.positions[-1]] + 1)
        for side in self._sides.get(Run(attended.site, attended.run), ()):
            if side not in self.maps:
                count = 1 if self._mean else len(side.heads)
                self.maps[side] = scores.new_zeros(len(self._rows), count, *scores.shape[2:])
            maps = self.maps[side]
            here = [(to, head - first) for to, head in enumerate(side.heads) if 0 <= head - first < scores.shape[1]]
            if not here:
                continue
            to, own = (torch.tensor(list(each), device=scores.device) for each in zip(*here, strict=True))
            if self._mean:
                maps[rows] += scores[:, own].sum(dim=1, keepdim=True) / len(side.heads)
            else:
                maps[rows, to] = scores[:, own]
