"""How far a student is from its teacher: in attention, in hidden states, in what both predict (TinyBERT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.attending import check_attention
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument, NonFinite, UndefinedScore
from pytest_bertology.measures.arguments import check_has_heads
from pytest_bertology.measures.paired_logits import LogitDistance, logit_distance
from pytest_bertology.measures.paired_scores import (
    WHAT,
    Compared,
    attention_layers,
    compared_heads,
    squared_differences,
)
from pytest_bertology.measures.paired_states import WHAT as STATES
from pytest_bertology.measures.paired_states import Projection, StateSums, state_sums
from pytest_bertology.measures.pairing import LayerPair, check_models, layer_pairs, read_pair
from pytest_bertology.models import ModelUnderTest

EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class LayerDistance:
    """How far a layer of the student is from the teacher's that it follows."""

    student: int | None
    """The student's layer, counted from 0; None for the embeddings."""
    teacher: int | None
    value: float
    """Mean squared difference."""
    scale: float
    """Mean square of the teacher's own numbers."""
    stack: str | None = None
    teacher_stack: str | None = None
    heads: int | None = None
    """How many heads were compared one by one; None where there was no such thing."""

    def __str__(self) -> str:
        ours, theirs = (
            (f"{stack} " if stack else "") + (EMBEDDINGS if layer is None else f"layer {layer}")
            for layer, stack in ((self.student, self.stack), (self.teacher, self.teacher_stack))
        )
        return ours if ours == theirs == EMBEDDINGS else f"{ours} to {theirs}"

    @property
    def relative(self) -> float:
        """`value` as a share of the teacher's mean square: 0 for the same, 1 for a student that gives zeros.

        Raises UndefinedScore where all of the teacher's numbers are zero.
        """
        if not self.scale:
            raise UndefinedScore(f"the relative distance of {self}", "all of the teacher's numbers are 0")
        return self.value / self.scale


@dataclass(frozen=True, repr=False)
class LayerDistances:
    """How far a student is from its teacher, layer by layer: mean squared differences."""

    kind: str
    """"attention" or "hidden states"."""
    student: str
    teacher: str
    task: str
    """The texts' name."""
    texts: int
    """How many were judged."""
    numbers: int
    """Real tokens of these texts, or for attention real pairs of a query and a key token, of each layer and head."""
    layers: tuple[LayerDistance, ...]
    """In the student's order."""
    left_out: tuple[str, ...] = ()
    """Layers that were not compared: of cut models, those without a head in common."""
    note: str = ""
    """How it was measured, where that was asked for."""

    def __repr__(self) -> str:
        return (
            f"LayerDistances({self.kind} of {self.student} and {self.teacher}: {self.overall:.4g} over "
            f"{len(self.layers)} layers; most {self.worst} {self.worst.value:.4g})"
        )

    @property
    def overall(self) -> float:
        """Mean over layers, without embeddings: a cut model has its teacher's, which would make any mean small."""
        return float(np.mean([layer.value for layer in self._averaged]))

    @property
    def relative(self) -> float:
        """Mean over layers, without embeddings, of each one's share of the teacher's mean square.

        See `LayerDistance.relative`.
        """
        return float(np.mean([layer.relative for layer in self._averaged]))

    @property
    def _averaged(self) -> Sequence[LayerDistance]:
        return [layer for layer in self.layers if layer.student is not None] or self.layers

    @property
    def worst(self) -> LayerDistance:
        """The layer that is farthest from the teacher's."""
        return max(self.layers, key=lambda layer: layer.value)

    def of(self, layer: int | None, stack: str | None = None) -> LayerDistance:
        """The distance of one layer of the student; None for the embeddings. Raises InvalidArgument for none such."""
        for found in self.layers:
            if (found.student, found.stack) == (layer, stack):
                return found
        raise InvalidArgument("layer", layer, f"one of those compared: {', '.join(map(str, self.layers))}")

    def table(self) -> str:
        """Every layer, its mean squared difference, and that as a share of the teacher's mean square."""
        width = max(12, *(len(str(layer)) for layer in self.layers))
        of = "pairs of tokens" if self.kind == "attention" else "tokens"
        lines = [
            f"{self.kind} of {self.student} and of its teacher {self.teacher} on {self.task}: {self.texts} texts, "
            f"{self.numbers} {of}" + (f"; {self.note}" if self.note else ""),
            f"{'layer':<{width}}  {'MSE':>10}  {'relative':>8}",
        ]
        for layer in self.layers:
            share = f"{layer.relative:>8.4f}" if layer.scale else f"{'-':>8}"
            lines.append(f"{layer!s:<{width}}  {layer.value:>10.4g}  {share}")
        without = f"  of the layers, without {EMBEDDINGS}" if len(self._averaged) < len(self.layers) else ""
        lines.append(f"{'mean':<{width}}  {self.overall:>10.4g}{without}")
        return "\n".join([*lines, *(f"{name:<{width}}  not compared: no head in common" for name in self.left_out)])


def attention_distance(
    student: ModelUnderTest,
    teacher: ModelUnderTest,
    texts: TextsLike,
    layer_map: str | Mapping[Any, Any] = "uniform",
    *,
    reduce: str | None = None,
    batching: Batching | None = None,
) -> LayerDistances:
    """Mean squared difference between the attention scores of a student and of its teacher (TinyBERT, eq. 7).

    Scores are what the softmax is given, biases for distance among them, masked ones as 0. For every head the mean is
    taken over all pairs of a real query and a real key token of all texts (those a causal mask forbids count, as in
    the paper: both scores are 0); then over the heads of a layer. Padding plays no part.

    `layer_map` is "uniform" (of m student layers, layer i follows teacher layer i · k, from 1; those of a student that
    `without_layers` cut out of such a teacher follow the layers that they were, as long as it is in memory: a saved
    checkpoint does not know) or a mapping {student layer: teacher layer} from 0, with (number, stack) pairs where there
    are several stacks. Head h is compared with
    head h; of models of which heads were cut out, those that both still have, by their numbers before. Layers with
    different numbers of heads can only be compared with reduce="mean": the average over heads of the one with that of
    the other. Both models run as they are, batch by batch in turn, under the masks in force.

    Raises InvalidArgument, naming the text, where both do not read the same tokens; InvalidArgument or UnknownLayer
    for layers that do not fit; CannotMeasure; NonFinite; UndefinedScore where no head is left to compare.
    """
    check_models(student, teacher)
    for model in (student, teacher):
        check_has_heads(model)
        check_attention(model, WHAT)
    if reduce not in (None, "mean"):
        raise InvalidArgument("reduce", reduce, "None, for heads one by one, or 'mean', for their average")
    pair, ours, theirs = read_pair(student, teacher, texts)
    layers, left_out = _compared(student, teacher, layer_map, reduce == "mean")

    def summed() -> tuple[list[npt.NDArray[np.float64]], int]:
        sums = [np.zeros((2, layer.maps)) for layer in layers]
        numbers = done = 0
        with pair.running(WHAT) as show:
            for batch in pair.batches(batching):
                numbers += int(batch.real.sum(dim=1).square().sum())
                for index, maps, found in squared_differences((student, teacher), (ours, theirs), batch, layers):
                    sums[index][:, maps] += np.stack(found)
                done += len(batch.student.positions)
                show(done)
        return sums, numbers

    sums, numbers = within_memory(WHAT, student, summed)
    distances = tuple(
        _layer_distance(layer, each / numbers, pair.name) for layer, each in zip(layers, sums, strict=True)
    )
    note = "averages over heads" if reduce else ""
    return LayerDistances(
        "attention", student.name, teacher.name, pair.name, len(ours), numbers, distances, left_out, note
    )


def _compared(
    student: ModelUnderTest, teacher: ModelUnderTest, layer_map: Any, mean: bool
) -> tuple[list[Compared], tuple[str, ...]]:
    """The layers that are compared, and those that cannot be since they have no head in common."""
    ours, theirs = attention_layers(student), attention_layers(teacher)
    counts = [{stack: len(layers) for stack, layers in each.items()} for each in (ours, theirs)]
    found, left_out = [], []
    cuts = [each and each.attention for each in (student.layers_kept, teacher.layers_kept)]
    for pair in layer_pairs(counts[0], counts[1], layer_map, (cuts[0], cuts[1])):
        runs = ours[pair.stack][pair.student], theirs[pair.teacher_stack][pair.teacher]
        both = None
        if runs[0] is not None and runs[1] is not None:
            both = compared_heads(student, teacher, pair, (runs[0], runs[1]), mean)
        if both is None:
            left_out.append(str(LayerDistance(pair.student, pair.teacher, 0.0, 0.0, pair.stack, pair.teacher_stack)))
        else:
            found.append(both)
    if not found:
        raise UndefinedScore(WHAT, "no layer of the student has a head in common with the teacher's that it follows")
    return found, tuple(left_out)


def _layer_distance(layer: Compared, means: Any, name: str) -> LayerDistance:
    value, scale = (float(each) for each in means.mean(axis=1))
    if not np.isfinite([value, scale]).all():
        raise NonFinite(f"the attention distance of layer {layer.pair.student}", name)
    pair = layer.pair
    heads = None if layer.mean else layer.maps
    return LayerDistance(pair.student, pair.teacher, value, scale, pair.stack, pair.teacher_stack, heads)


def hidden_state_distance(
    student: ModelUnderTest,
    teacher: ModelUnderTest,
    texts: TextsLike,
    layer_map: str | Mapping[Any, Any] = "uniform",
    *,
    projection: Any = None,
    batching: Batching | None = None,
) -> LayerDistances:
    """Mean squared difference between the hidden states of a student and of its teacher (TinyBERT, eq. 8 and 9).

    The mean is over all real tokens of all texts and the teacher's width; embeddings are compared with embeddings (they
    are listed, and `overall` is the mean over layers without them), and the output of each student layer with that of
    the teacher's layer that it follows: see `attention_distance` for `layer_map` (layers are here all of the model's,
    those without attention too). Encoder-decoder models read each text on both sides, and the states of both are
    compared.

    Where widths differ the student's states are multiplied by `projection`: a matrix (student width, teacher width)
    for all layers, such as the one a student was trained with; or "least_squares", for each layer the matrix that fits
    best, which is fitted on every second text, the first among them, and judged on the others.

    Raises InvalidArgument, naming the text, where both do not read the same tokens, and for widths and layers that do
    not fit; UnknownLayer; CannotMeasure; NonFinite; UndefinedScore where texts are too few to fit and to judge.
    """
    check_models(student, teacher)
    pair, ours, _ = read_pair(student, teacher, texts)
    how = Projection.of(projection)
    found = state_sums(pair, layer_map, how, batching)
    note = "states projected by the matrix given" if how.matrix is not None else ""
    if how.fitted:
        note = f"states projected by least squares, fitted on the other {len(ours) - found.texts} texts"
    layers = tuple(_state_distance(found, index, each) for index, each in enumerate(found.pairs))
    return LayerDistances(STATES, student.name, teacher.name, pair.name, found.texts, found.tokens, layers, note=note)


def _state_distance(found: StateSums, index: int, pair: LayerPair) -> LayerDistance:
    """Layers of states are counted from 0 for the embeddings, those of models from 0 for the first layer."""
    ours, theirs = (None if layer == 0 else layer - 1 for layer in (pair.student, pair.teacher))
    value, scale = (float(each) for each in found.sums[index] / (found.tokens * found.widths[index]))
    return LayerDistance(ours, theirs, value, scale, pair.stack, pair.teacher_stack)


__all__ = [
    "LayerDistance",
    "LayerDistances",
    "LogitDistance",
    "attention_distance",
    "hidden_state_distance",
    "logit_distance",
]
