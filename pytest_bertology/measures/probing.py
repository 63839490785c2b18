"""What each layer of a frozen model knows of a task: probes, their control task and their baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.probe_linear import BACKENDS, SKLEARN, TORCH, Split, linear_probe, standardised
from pytest_bertology.measures.probe_random import with_random_weights
from pytest_bertology.measures.probing_data import (
    HELD_OUT,
    PARTS,
    TESTED,
    TRAIN,
    ProbingData,
    States,
    chosen_layers,
    probing_data,
)
from pytest_bertology.measures.probing_report import CONTROL, PROBE, RANDOM, ProbeReport
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

Array = npt.NDArray[Any]

LINEAR, MLP = "linear", "mlp"
KINDS = (LINEAR, MLP)
_WHAT = "a probe"


@announced("probe")
def probe(
    model: ModelUnderTest,
    task: Task,
    layers: str | Collection[int] = "all",
    kind: str = LINEAR,
    *,
    train: Task | None = None,
    held_out: Task | None = None,
    control: bool = True,
    random_model: bool = True,
    learning_curve: Sequence[float] = (),
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    backend: str | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    batching: Batching | None = None,
) -> ProbeReport:
    """Train a probe on the hidden states of each layer, and score it on texts that it did not learn from."""
    batching = batching or Batching()
    _check(kind, control, random_model, learning_curve, backend, confidence)
    data = probing_data(
        model, task, train=train, held_out=held_out, pooling=pooling, too_long=too_long, seed=seed, what=_WHAT
    )
    backend = backend or (SKLEARN if model.device.type == "cpu" else TORCH)
    work = _Work(model, data, kind, backend, stack, batching)
    numbers = chosen_layers(layers, work.last)
    found = {PROBE: work.all(numbers, PROBE)}
    if control:
        found[CONTROL] = work.all(numbers, CONTROL)
    if random_model:
        found[RANDOM] = work.all(numbers, RANDOM)
    return ProbeReport(
        model=model.name,
        data=data.name,
        training=data.source,
        kind=kind,
        layers=numbers,
        probing=data,
        confidence=confidence,
        seed=seed,
        learning_shares=tuple(learning_curve),
        _found=found,
    )


class _Work:
    """Probes of one model and its data; states are recorded when the first of them is fitted."""

    def __init__(
        self, model: ModelUnderTest, data: ProbingData, kind: str, backend: str, stack: str | None, batching: Batching
    ) -> None:
        self.model, self.data, self.kind, self.backend, self.stack = model, data, kind, backend, stack
        self.batching = batching

    @property
    def last(self) -> int:
        return self.states.layers

    @cached_property
    def states(self) -> States:
        return self.data.record(self.model, what=_WHAT, stack=self.stack, batching=self.batching)

    @cached_property
    def random_states(self) -> States:
        twin = with_random_weights(self.model, self.data.seed)
        return self.data.record(twin, what=_WHAT, stack=self.stack, batching=self.batching)

    @cached_property
    def digest(self) -> str:
        """Of all that a probe learns and is judged by, but the token ids that are judged on."""
        digest = hashlib.sha256(repr((self.data.seed, len(self.data.classes))).encode())
        for part in PARTS:
            each = self.data.parts[part]
            digest.update(each.read.texts.encoded.digest.encode())
            for array in (each.labels, each.control, *each.at):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(repr([[unit.tolist() for unit in text] for text in self.data.units(part)]).encode())
        return digest.hexdigest()

    def all(self, layers: Sequence[int], way: str) -> tuple[Arrays, ...]:
        found = []
        with tracked(f"{self.data.name}, {self.kind} probes ({way})", len(layers)) as show:
            for done, layer in enumerate(layers):
                found.append(self._once(layer, way))
                show(done + 1)
        return tuple(found)

    def _once(self, layer: int, way: str) -> Arrays:
        what = f"{self.kind} probe 1, {way}, layer {layer}, {self.stack}, {self.backend}, {self.digest}"
        inputs = (
            self.model,
            self.data.parts[TESTED].read.texts.encoded,
            self.model.mask_in_force(),
            self.batching,
        )
        return computed_once(what, inputs, lambda: self._fitted(layer, way))

    def _fitted(self, layer: int, way: str) -> Arrays:
        states = self.random_states if way == RANDOM else self.states
        vectors = standardised(*(states.vectors(part, layer) for part in (TRAIN, HELD_OUT, TESTED)))
        parts = [self.data.parts[part] for part in (TRAIN, HELD_OUT)]
        labels = [each.control if way == CONTROL else each.labels for each in parts]
        split = Split(vectors[0], labels[0], vectors[1], labels[1], vectors[2])
        what = f"the probe of layer {layer} ({way})"
        return linear_probe(split, what, backend=self.backend, device=str(self.model.device))


def _check(
    kind: object, control: object, random_model: object, curve: object, backend: object, confidence: object
) -> None:
    if kind not in KINDS:
        raise InvalidArgument("kind", kind, f"one of {', '.join(map(repr, KINDS))}")
    if backend is not None and backend not in BACKENDS:
        raise InvalidArgument("backend", backend, f"one of {', '.join(map(repr, BACKENDS))}, or None")
    for name, value in (("control", control), ("random_model", random_model)):
        if not isinstance(value, bool):
            raise InvalidArgument(name, value, "True or False")
    numeric = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if not numeric or not 0.0 < confidence < 1.0:  # type: ignore[operator]
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
