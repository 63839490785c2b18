"""How much faster one model is than another: both on the same examples, in turns, so that noise meets both alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pytest_bertology.engine.batching import Batching, collate, plan
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import InvalidArgument, NonFinite
from pytest_bertology.measures.arguments import check_model, check_model_and_task
from pytest_bertology.measures.weights import has_nan
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.sampling import can_batch
from pytest_bertology.statistics import Array, median_bounds, pairs_needed
from pytest_bertology.tasks.task import Task

Inputs: TypeAlias = Mapping[str, Any]
Work: TypeAlias = tuple[tuple[Inputs, ...], tuple[Inputs, ...]]
"""The batches of either model."""


class Spread(NamedTuple):
    """The middle of some measurements, and the quartiles that half of them lie between."""

    lower: float
    median: float
    upper: float


@dataclass(frozen=True, eq=False, repr=False)
class Timing:
    """Two models' times over the same examples, measured in pairs."""

    model: str
    reference: str
    seconds: Array = field(repr=False)
    """(pairs,) of the model, one pass over all batches."""
    reference_seconds: Array = field(repr=False)
    """(pairs,) of the reference, each right before or after the model's."""
    batches: int
    examples: int
    confidence: float

    def __repr__(self) -> str:
        return (
            f"Timing({self.model} is {self.speedup:.3g} times as fast as {self.reference}, from {self.lower:.3g} with "
            f"{self.confidence:.0%} confidence, {len(self.seconds)} pairs)"
        )

    @property
    def ratios(self) -> Array:
        """(pairs,) the reference's time by the model's: above 1 where the model is faster."""
        ratios: Array = self.reference_seconds / self.seconds
        return ratios

    @property
    def speedup(self) -> float:
        """The median ratio."""
        return float(np.median(self.ratios))

    @property
    def lower(self) -> float:
        """The true median ratio is above this with `confidence` (an order statistic; see `median_bounds`)."""
        return median_bounds(self.ratios, self.confidence)[0]

    @property
    def upper(self) -> float:
        """The true median ratio is below this with `confidence`."""
        return median_bounds(self.ratios, self.confidence)[1]

    @property
    def latency(self) -> Spread:
        """Seconds of the model per batch."""
        return _spread(self.seconds / self.batches)

    @property
    def reference_latency(self) -> Spread:
        """Seconds of the reference per batch."""
        return _spread(self.reference_seconds / self.batches)

    @property
    def throughput(self) -> Spread:
        """Examples per second of the model."""
        return _spread(self.examples / self.seconds)

    @property
    def reference_throughput(self) -> Spread:
        """Examples per second of the reference."""
        return _spread(self.examples / self.reference_seconds)


def timing(
    model: ModelUnderTest,
    reference: ModelUnderTest,
    task: Task | None = None,
    *,
    inputs: Inputs | None = None,
    pairs: int = 20,
    warmup: int = 2,
    examples: int = 32,
    confidence: float = 0.95,
    tokens: int | None = None,
    seed: int = 0,
) -> Timing:
    """Time two models on the same batches: `examples` of the task drawn with `seed`, or `inputs`, or their samples.

    Each of `pairs` runs both models over all batches, one right after the other; which goes first is drawn with `seed`,
    each as often as the other. `warmup` passes of both come before and are not counted. Inputs are ready on the device,
    in eval mode and inference mode, and CUDA is waited for: what is timed is the forward pass alone. Batches hold up to
    `tokens` padded tokens, those that `evaluate` takes by default; 1 gives every example a batch of its own. A model
    compiled in place (`model.compile()`) is timed compiled.

    Raises InvalidArgument for too few pairs for the confidence, models on two devices, or masks in force (a masked
    head takes its time all the same); NonFinite where a model's output is NaN.
    """
    _check_models(model, reference)
    _check_numbers(pairs, warmup, examples, confidence, tokens)
    if task is None:
        work = _given(model, reference, inputs)
        count = _rows(work[0][0])
    else:
        check_model_and_task(model, task)
        if inputs is not None:
            raise InvalidArgument("inputs", "given with a task", "one of task and inputs")
        count = min(examples, len(task))
        work = _batches(model, reference, task, count, Batching(tokens), seed)
    orders = _order(warmup, seed) + _order(pairs, seed)
    with tracked(f"{model.name} against {reference.name}", 2 * count * len(orders)) as show:
        seconds = _in_turns((model, reference), work, orders, lambda done: show(2 * count * done))
    ours, theirs = seconds[warmup:].T
    return Timing(model.name, reference.name, ours, theirs, len(work[0]), count, float(confidence))


def _in_turns(
    both: tuple[ModelUnderTest, ModelUnderTest], work: Work, orders: Sequence[int], show: Callable[[int], None]
) -> Array:
    """(turns, 2) the seconds of each model, the one that `orders` names first going first."""
    devices = {parameter.device for each in both for parameter in each.model.parameters()} | {both[0].device}
    seconds = np.zeros((len(orders), 2))
    with torch.inference_mode(), both[0].frozen(), both[1].frozen():
        for each, batches in zip(both, work, strict=True):
            _refuse_nan(each, batches)
        for index, first in enumerate(orders):
            for turn in (first, 1 - first):
                seconds[index, turn] = _seconds(both[turn], work[turn], devices)
            show(index + 1)
    return seconds


def _refuse_nan(model: ModelUnderTest, batches: Sequence[Inputs]) -> None:
    """One pass, not counted: a model that has broken down is fast for no good reason."""
    for index, inputs in enumerate(batches):
        result: Any = model.model(**inputs)
        if isinstance(result[0], Tensor) and has_nan(result[0]):
            raise NonFinite("the output", f"batch {index} of {model.name}")


def _seconds(model: ModelUnderTest, batches: Sequence[Inputs], devices: Collection[torch.device]) -> float:
    _wait(devices)
    start = time.perf_counter()
    for inputs in batches:
        model.model(**inputs)
    _wait(devices)
    return time.perf_counter() - start


def _wait(devices: Collection[torch.device]) -> None:
    """Until all that was started there is done; a CPU is never ahead of the program."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type not in ("cpu", "meta"):
            torch.get_device_module(device.type).synchronize()


def _check_models(model: ModelUnderTest, reference: ModelUnderTest) -> None:
    check_model(model)
    check_model(reference, "reference")
    if model.model is reference.model:
        raise InvalidArgument("reference", reference.name, "another model: this is the one that is timed")
    for argument, each in (("model", model), ("reference", reference)):
        if each.masks_open():
            expected = "a model without masks in force: a masked head takes its time all the same. Leave the mask"
            raise InvalidArgument(argument, each.name, expected)
    if model.device != reference.device:
        found = f"{reference.name} on {reference.device}"
        raise InvalidArgument("reference", found, f"a model on the same device as {model.name}, {model.device}")


def _check_numbers(pairs: int, warmup: int, examples: int, confidence: float, tokens: int | None) -> None:
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 <= confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number from 0.5 to below 1, such as 0.95")
    needed = pairs_needed(confidence)
    given = {"pairs": pairs, "warmup": warmup, "examples": examples, "tokens": 1 if tokens is None else tokens}
    for name, value in given.items():
        least = needed if name == "pairs" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            why = f": fewer cannot give {confidence:.4g} confidence" if name == "pairs" else ""
            raise InvalidArgument(name, value, f"a whole number from {least}{why}")


def _given(model: ModelUnderTest, reference: ModelUnderTest, inputs: Inputs | None) -> Work:
    """The inputs for either model: those given, or its sample, which must be of one shape for both."""
    if inputs is not None:
        if not isinstance(inputs, Mapping) or not inputs:
            raise InvalidArgument(
                "inputs", type(inputs).__name__, "the keyword inputs of one forward pass, {'input_ids': ...}"
            )
        placed = tree_map_only(Tensor, lambda tensor: tensor.to(model.device), dict(inputs))
        return (placed,), (placed,)
    ours, theirs = model.sample(), reference.sample()
    if _shapes(ours) != _shapes(theirs):
        found = f"the samples {_shapes(ours)} and {_shapes(theirs)}"
        raise InvalidArgument("inputs", found, "inputs that both models read, or a task")
    return (ours,), (theirs,)


def _shapes(inputs: Inputs) -> dict[str, Any]:
    return {name: tuple(value.shape) for name, value in sorted(inputs.items()) if isinstance(value, Tensor)}


def _rows(inputs: Inputs) -> int:
    return next((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim), 1)


def _batches(
    model: ModelUnderTest, reference: ModelUnderTest, task: Task, count: int, batching: Batching, seed: int
) -> Work:
    """The same examples in the same batches for both, each as its own tokenizer has them."""
    positions = sorted(random.Random(seed).sample(range(len(task)), count))  # noqa: S311
    leading = reference if can_batch(model.model) else model
    groups = plan(leading, encode(leading, task), batching, positions)
    ours, theirs = (
        tuple(collate(each, [encode(each, task).examples[i] for i in group], group).inputs for group in groups)
        for each in (model, reference)
    )
    return ours, theirs


def _order(count: int, seed: int) -> list[int]:
    """Which of two goes first, each as often as the other, in random order."""
    order = [index % 2 for index in range(count)]
    random.Random(seed).shuffle(order)  # noqa: S311
    return order


def _spread(values: Array) -> Spread:
    return Spread(*np.quantile(values, [0.25, 0.5, 0.75]).tolist())
