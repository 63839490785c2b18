"""Hidden states of a student and its teacher, layer beside layer: squared differences, through a projection or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.states import States, check_padding, check_reads_texts, states_by_stack
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.measures.pairing import Kept, LayerPair, ModelPair, PairedBatch, layer_pairs

WHAT = "hidden states"
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Projection:
    """What takes the student's states to the teacher's width."""

    matrix: Matrix | None = None
    """(student width, teacher width) for all layers, or None."""
    fitted: bool = False
    """Whether each layer's is fitted."""

    @classmethod
    def of(cls, value: Any) -> Projection:
        """As users write it; raises InvalidArgument."""
        if value is None or (isinstance(value, str) and value == "least_squares"):
            return cls(fitted=value is not None)
        wanted = "a matrix (student width, teacher width), 'least_squares', or None"
        if isinstance(value, str):
            raise InvalidArgument("projection", value, wanted)
        try:
            matrix = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidArgument("projection", type(value).__name__, wanted) from None
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise InvalidArgument("projection", f"an array {matrix.shape}", f"{wanted}, all of finite numbers")
        return cls(matrix)


@dataclass(frozen=True, eq=False)
class StateSums:
    """Of each pair of layers, embeddings among them (layer 0), what was summed."""

    pairs: tuple[LayerPair, ...]
    """Layers as transformers counts hidden states."""
    sums: Matrix
    """(pairs, 2) squared differences, and the teacher's own squares."""
    widths: tuple[int, ...]
    """The teacher's."""
    tokens: int
    texts: int


def state_sums(pair: ModelPair, layer_map: Any, how: Projection, batching: Batching | None) -> StateSums:
    """Sums over all real tokens; of a fitted projection, over those of every second text."""
    return within_memory(WHAT, pair.student, lambda: _summed(pair, layer_map, how, batching))


def _summed(pair: ModelPair, layer_map: Any, how: Projection, batching: Batching | None) -> StateSums:
    for model in (pair.student, pair.teacher):
        check_reads_texts(model, WHAT)
    judged = range(len(pair.texts))
    summed = _Sums(pair, layer_map, how)
    with pair.running(WHAT) as show:
        done = 0
        for model, encoded in ((pair.student, pair.ours), (pair.teacher, pair.theirs)):
            check_padding(model, encoded, pair.common(batching), WHAT)
        if how.fitted:
            for batch in pair.batches(batching, judged[::2]):
                summed.fit(batch)
                done += len(batch.student.positions)
                show(done)
            judged = judged[1::2]
            summed.solve(len(judged))
        for batch in pair.batches(batching, judged):
            summed.add(batch)
            done += len(batch.student.positions)
            show(done)
    return StateSums(summed.pairs, summed.sums, tuple(summed.widths), summed.tokens, len(judged))


class _Sums:
    """What is summed, batch by batch."""

    def __init__(self, pair: ModelPair, layer_map: Any, how: Projection) -> None:
        self._models, self._layer_map, self._how = pair, layer_map, how
        self.pairs: tuple[LayerPair, ...] = ()
        self.widths: list[int] = []
        self.tokens = self._fitted = 0
        self.sums: Matrix = np.zeros((0, 2))
        self._projections: list[Matrix | None] = []
        self._grams: list[tuple[Matrix, Matrix]] = []

    def fit(self, batch: PairedBatch) -> None:
        """Add XᵀX and XᵀY of every pair of layers."""
        self._fitted += int(batch.real.sum())
        for index, (mine, other) in enumerate(self._states(batch)):
            x, y = mine.cpu(), other.cpu()
            if index == len(self._grams):
                self._grams.append((np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], y.shape[1]))))
            gram, cross = self._grams[index]
            gram += (x.T @ x).numpy()
            cross += (x.T @ y).numpy()

    def solve(self, left: int) -> None:
        """The least-squares projections of what was added."""
        width = max((len(gram) for gram, _ in self._grams), default=0)
        if not left or self._fitted < width:
            reason = f"{self._fitted} tokens to fit {width} rows of a projection, and {left} other texts to judge it on"
            raise UndefinedScore("a least-squares projection", reason)
        self._projections = [_solved(gram, cross) for gram, cross in self._grams]

    def add(self, batch: PairedBatch) -> None:
        """Add squared differences."""
        self.tokens += int(batch.real.sum())
        for index, (mine, other) in enumerate(self._states(batch)):
            projection = self._projections[index]
            if projection is not None:
                mine = mine @ torch.from_numpy(projection).to(mine.device)
            self.sums[index] += [float((mine - other).square().sum()), float(other.square().sum())]

    def _states(self, batch: PairedBatch) -> list[tuple[Tensor, Tensor]]:
        """Of every pair of layers (tokens, width) each, in double precision, without padding."""
        models, name = self._models, self._models.name
        ours = states_by_stack(models.student, name, batch.student, batch.real, what=WHAT)
        theirs = states_by_stack(models.teacher, name, batch.teacher, batch.real_teacher, what=WHAT)
        if not self.pairs:
            self._begin(ours, theirs)
        found = []
        for pair in self.pairs:
            mine, other = ours[pair.stack][pair.student], theirs[pair.teacher_stack][pair.teacher]
            found.append((_flat(mine), _flat(other).to(mine.states.device)))
        return found

    def _begin(
        self, ours: Mapping[str | None, Sequence[States]], theirs: Mapping[str | None, Sequence[States]]
    ) -> None:
        """Which layers belong together, and whether their widths do."""
        both = self._models.student.layers_kept, self._models.teacher.layers_kept
        cuts = [each and each.blocks for each in both]
        self.pairs = _pairs(ours, theirs, self._layer_map, (cuts[0], cuts[1]))
        self.sums = np.zeros((len(self.pairs), 2))
        self._projections = [self._how.matrix] * len(self.pairs)
        for pair in self.pairs:
            shapes = ours[pair.stack][pair.student].states.shape, theirs[pair.teacher_stack][pair.teacher].states.shape
            widths = int(shapes[0][-1]), int(shapes[1][-1])
            self.widths.append(widths[1])
            matrix = self._how.matrix
            if matrix is not None and matrix.shape != widths:
                wanted = f"of shape {widths}, the widths of student and teacher"
                raise InvalidArgument("projection", f"a matrix {matrix.shape}", wanted)
            if matrix is None and not self._how.fitted and widths[0] != widths[1]:
                wanted = (
                    f"a matrix {widths}, or 'least_squares': the student's states have {widths[0]} numbers, the "
                    f"teacher's {widths[1]}"
                )
                raise InvalidArgument("projection", None, wanted)


def _solved(gram: Matrix, cross: Matrix) -> Matrix:
    return np.asarray(np.linalg.lstsq(gram, cross, rcond=1e-12)[0], dtype=np.float64)


def _flat(states: States) -> Tensor:
    return states.states[states.real.to(states.states.device)].double()


def _pairs(
    ours: Mapping[str | None, Sequence[States]],
    theirs: Mapping[str | None, Sequence[States]],
    layer_map: Any,
    cuts: tuple[Kept, Kept],
) -> tuple[LayerPair, ...]:
    """Layers as hidden states are counted: embeddings with embeddings, then what layers give."""
    if isinstance(layer_map, Mapping):  # a layer of cross-attention has no states of its own
        layer_map = {mine: other for mine, other in layer_map.items() if not _crosses(mine)}
    counts = [{stack: len(states) - 1 for stack, states in each.items()} for each in (ours, theirs)]
    found: list[LayerPair] = []
    for pair in layer_pairs(counts[0], counts[1], layer_map, cuts):
        embeddings = LayerPair(pair.stack, 0, pair.teacher_stack, 0)
        if embeddings not in found:
            found.append(embeddings)
        found.append(LayerPair(pair.stack, pair.student + 1, pair.teacher_stack, pair.teacher + 1))
    return tuple(found)


def _crosses(layer: Any) -> bool:
    return isinstance(layer, tuple) and len(layer) == 2 and layer[1] == "cross"
