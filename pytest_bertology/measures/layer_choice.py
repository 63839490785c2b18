"""Which layers to drop, by the strategies of Sajjad et al. 2023 (section 3)."""

from __future__ import annotations

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.layer_contribution import layer_similarity
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.blocks import Blocks, LayerLike, of_stack
from pytest_bertology.names import LAYER_STRATEGIES
from pytest_bertology.tasks.task import Task


def choose_layers(
    model: ModelUnderTest,
    strategy: str,
    count: int | None = None,
    *,
    fraction: float | None = None,
    task: Task | None = None,
    stack: str | None = None,
) -> tuple[LayerLike, ...]:
    """The layers that a strategy drops: `count` of them, or a `fraction` of all, rounded to whole layers.

    For twelve layers, counted from 0 at the bottom (the paper counts from 1):

    - "top" and "bottom" drop the last, or the first, so many;
    - "alternate_odd" and "alternate_even" drop every other layer from the top down: of the 1st, 3rd, … 11th, or of the
      2nd, 4th, … 12th. Four layers are 4 6 8 10, or 5 7 9 11; there are half as many layers to drop;
    - "symmetric" keeps the same number at both ends and drops those between: four layers are 4 5 6 7. Where the kept
      do not halve, the bottom keeps one more, for lower layers matter most;
    - "contribution" drops those whose output is most like their input on `task` (see `layer_similarity`); of equals,
      the upper goes first.

    `stack` names the stack where the model has several; its layers are then given as (number, stack). Raises
    InvalidArgument for a strategy that is not known, lacks a task, or for no layer, all layers, or more than it has.
    """
    found = of_stack(model, stack)
    if strategy not in LAYER_STRATEGIES:
        raise InvalidArgument("strategy", strategy, "one of " + ", ".join(LAYER_STRATEGIES))
    chosen = _chosen(model, strategy, _count(found, strategy, count, fraction), found, task)
    return tuple((layer, stack) if stack else layer for layer in sorted(chosen))


def _count(found: Blocks, strategy: str, count: int | None, fraction: float | None) -> int:
    """How many layers go; raises InvalidArgument where that is none, all, or more than the strategy can choose."""
    if (count is None) == (fraction is None):
        raise InvalidArgument("count", count, "one of count and fraction")
    most, what = found.count - 1, f"of {found.count} layers at least one and not all"
    if strategy.startswith("alternate"):
        most = min(most, (found.count + strategy.endswith("odd")) // 2)
        what = f"of {found.count} layers at least one and, for {strategy!r}, at most {most}"
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0.0 <= fraction <= 1.0:
            raise InvalidArgument("fraction", fraction, "a fraction of the layers, from 0 to 1")
        number = int(fraction * found.count + 0.5)
        if not 1 <= number <= most:
            raise InvalidArgument("fraction", fraction, f"{what}; this rounds to {number}")
        return number
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise InvalidArgument("count", count, what)
    return count


def _chosen(model: ModelUnderTest, strategy: str, count: int, found: Blocks, task: Task | None) -> list[int]:
    layers = list(range(found.count))
    match strategy:
        case "top":
            return layers[-count:]
        case "bottom":
            return layers[:count]
        case "alternate_odd":  # in the paper's numbers, which begin at 1
            return layers[::2][-count:]
        case "alternate_even":
            return layers[1::2][-count:]
        case "symmetric":
            start = (found.count - count + 1) // 2
            return layers[start : start + count]
    if task is None:
        raise InvalidArgument("task", None, "a task to measure layers on, for the strategy 'contribution'")
    similarity = layer_similarity(model, task, stack=found.stack)
    return [layers[i] for i in np.lexsort((-np.arange(found.count), -similarity))[:count]]
