"""A student and its teacher on the same texts: which layers belong together, and both run batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching, batches, budget
from pytest_bertology.engine.encoding import Encoded
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.texts import Texts, TextsLike, read_texts, real_tokens
from pytest_bertology.errors import InvalidArgument, UnknownLayer
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.kept import Left
from pytest_bertology.models.sampling import can_batch

_SHOWN = 60
"""Characters of a text in a message."""
_LISTED = 6
"""Layers of a mapping in a message."""
Kept: TypeAlias = "Mapping[str | None, Left] | None"
"""Of each stack of a model the layers that are left of an earlier one; None where that is not known."""


class PairedBatch(NamedTuple):
    """The same examples, as both models read them; which tokens are not padding, on each model's device."""

    student: Batch
    teacher: Batch
    real: Tensor
    real_teacher: Tensor


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two models that read the same token ids."""

    student: ModelUnderTest
    teacher: ModelUnderTest
    name: str
    """The texts' name."""
    texts: Sequence[Any]
    ours: Encoded
    """The texts as the student reads them."""
    theirs: Encoded

    def __post_init__(self) -> None:
        for index, (mine, other) in enumerate(zip(self.ours.examples, self.theirs.examples, strict=True)):
            if mine.ids == other.ids:
                continue
            text = repr(self.texts[index])
            text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            cut = "" if index not in {*self.ours.truncated, *self.theirs.truncated} else ", cut to what each can read"
            found = f"text {index} of {self.name} ({text}) is {len(mine.ids)} and {len(other.ids)} tokens{cut}"
            found += f", first {_differing(mine.ids, other.ids)}"
            wanted = f"a model that reads the same tokens as the student {self.student.name}: {found}"
            raise InvalidArgument("teacher", self.teacher.name, wanted)

    @contextmanager
    def running(self, what: str, total: int | None = None) -> Iterator[Any]:
        """Both frozen, without gradients, progress shown."""
        with torch.inference_mode(), self.student.frozen(), self.teacher.frozen():
            with tracked(f"{self.name}, {what}", len(self.texts) if total is None else total) as show:
                yield show

    def common(self, batching: Batching | None) -> Batching:
        """How both bring the examples together."""
        batching = batching or Batching()
        tokens = 1
        if can_batch(self.student.model) and can_batch(self.teacher.model):
            tokens = min(budget(self.student, self.ours, batching), budget(self.teacher, self.theirs, batching))
        return Batching(tokens, batching.padding_side)

    def batches(self, batching: Batching | None, positions: Sequence[int] | None = None) -> Iterator[PairedBatch]:
        """The examples, or those at `positions`, in the same batches for both."""
        common = self.common(batching)
        ours = batches(self.student, self.ours, common, positions)
        theirs = batches(self.teacher, self.theirs, common, positions)
        for mine, other in zip(ours, theirs, strict=True):
            real = real_tokens(self.ours, mine, common)
            yield PairedBatch(mine, other, real, real_tokens(self.theirs, other, common))


def _differing(mine: Sequence[int], other: Sequence[int]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other)))
    ids = [str(side[at]) if at < len(side) else "none" for side in (mine, other)]
    return f"different at token {at} (ids {ids[0]} and {ids[1]})"


def check_models(student: object, teacher: object) -> None:
    """Raise InvalidArgument for what is no model."""
    check_model(student, "student")
    check_model(teacher, "teacher")


def read_pair(student: ModelUnderTest, teacher: ModelUnderTest, texts: TextsLike) -> tuple[ModelPair, Texts, Texts]:
    """The texts as both read them; raises InvalidArgument where that is not the same, naming the text."""
    if isinstance(texts, Iterator):
        texts = list(texts)  # they are read twice
    ours, theirs = read_texts(student, texts), read_texts(teacher, texts)
    return ModelPair(student, teacher, ours.name, ours.texts, ours.encoded, theirs.encoded), ours, theirs


class LayerPair(NamedTuple):
    """A layer of the student and the teacher's that it follows, each with its stack."""

    stack: str | None
    student: int
    teacher_stack: str | None
    teacher: int


def layer_pairs(
    student: Mapping[str | None, int],
    teacher: Mapping[str | None, int],
    layer_map: Any,
    cuts: tuple[Kept, Kept] = (None, None),
) -> tuple[LayerPair, ...]:
    """Which layers belong together; `student` and `teacher` say how many layers each of their stacks has.

    "uniform": of m student layers and m · k of the teacher's, student layer i follows teacher layer i · k, both counted
    from 1: the last of each k (TinyBERT). Where `cuts` says which layers of an earlier model student and teacher have
    left, and the teacher has those of the student, each follows the one that it was. Or a mapping {student layer:
    teacher layer}, counted from 0, with (number, stack) pairs for layers where there are several stacks. Raises
    InvalidArgument, UnknownLayer.
    """
    if isinstance(layer_map, Mapping) and layer_map:
        pairs = []
        for mine, other in layer_map.items():
            stack, layer = _layer(mine, student, None)
            teacher_stack, teacher_layer = _layer(other, teacher, stack)
            pairs.append(LayerPair(stack, layer, teacher_stack, teacher_layer))
        order = list(student)
        return tuple(sorted(pairs, key=lambda pair: (order.index(pair.stack), pair.student)))
    if layer_map != "uniform":
        wanted = "'uniform', or a mapping {student layer: teacher layer}, both from 0, such as {0: 1, 1: 3}"
        raise InvalidArgument("layer_map", layer_map, wanted)
    if set(student) != set(teacher):
        shown = [", ".join(str(stack or "one without a name") for stack in stacks) for stacks in (student, teacher)]
        wanted = f"a mapping of layers: the student's stacks are {shown[0]}, the teacher's {shown[1]}"
        raise InvalidArgument("layer_map", layer_map, wanted)
    pairs = []
    for stack, count in student.items():
        were = _were(stack, count, teacher[stack], cuts)
        if were is not None:
            pairs += [LayerPair(stack, layer, stack, other) for layer, other in enumerate(were)]
            continue
        times, rest = divmod(teacher[stack], count)
        if rest or not times:
            of = f"{stack} layers" if stack else "layers"
            wanted = (
                f"a mapping of layers such as layer_map={_example(student, teacher)}: the teacher's {teacher[stack]} "
                f"{of} are no multiple of the student's {count}"
            )
            raise InvalidArgument("layer_map", layer_map, wanted)
        pairs += [LayerPair(stack, layer, stack, (layer + 1) * times - 1) for layer in range(count)]
    return tuple(pairs)


def _were(stack: str | None, count: int, teacher: int, cuts: tuple[Kept, Kept]) -> tuple[int, ...] | None:
    """The teacher's layers that the student's were before layers were cut; None where that is not known."""
    ours, theirs = (each.get(stack) if each else None for each in cuts)
    if ours is None or len(ours.layers) != count:
        return None
    if theirs is not None and (theirs.before, len(theirs.layers)) == (ours.before, teacher):  # both are cut
        if set(ours.layers).issubset(theirs.layers):
            return tuple(theirs.layers.index(layer) for layer in ours.layers)
        return None
    return ours.layers if ours.before == teacher else None


def _example(student: Mapping[str | None, int], teacher: Mapping[str | None, int]) -> str:
    """A mapping that would do, as users write it: each layer follows the one of its number, or the last."""
    shown = [
        f"{layer if stack is None else (layer, stack)}: {other if stack is None else (other, stack)}"
        for stack, count in student.items()
        for layer, other in ((layer, min(layer, teacher[stack] - 1)) for layer in range(count))
    ]
    return "{" + ", ".join(shown if len(shown) <= _LISTED else [*shown[: _LISTED - 1], "..."]) + "}"


def _layer(value: Any, counts: Mapping[str | None, int], default: str | None) -> tuple[str | None, int]:
    """Stack and number of a layer as users write it."""
    named = isinstance(value, tuple) and len(value) == 2
    number, stack = value if named else (value, default if default in counts else None)
    if not named and stack not in counts and len(counts) == 1:
        stack = next(iter(counts))
    if not is_whole(number):
        raise InvalidArgument("layer_map", value, "layers as numbers from 0, or (number, stack) pairs")
    if stack not in counts or not 0 <= number < counts[stack]:
        known = "; ".join(f"{n} layers" + (f" of stack {s!r}" if s else "") for s, n in counts.items())
        raise UnknownLayer(value, known)
    return stack, int(number)
