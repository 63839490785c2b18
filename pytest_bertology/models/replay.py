"""Run a model again with heads switched off inside attention, and see what that does to what every module receives.

Head h is switched off in those runs in which bit k of h + 1 is set, so that log2(heads) runs tell all heads apart.
Modules that compute are given what they received in the plain run, so that layers do not blur one another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pytest_bertology.models.attention import Call, Edit, Key, scaled, watched
from pytest_bertology.models.modules import computes, feature_axis, hooked, tensors


@dataclass
class Visit:
    """One call of one module in the plain run."""

    module: nn.Module
    after: Key | None
    """The attention call before it."""
    inputs: dict[int | str, Tensor]


@dataclass
class Trace:
    """What one input did over the runs: which numbers were zero, and which as ever, in each."""

    zero: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)
    scaled: bool = False
    """Whether all of it was halved where all heads were."""


def plain_visits(model: nn.Module, run: Callable[[], object]) -> list[Visit]:
    """Every call of every module in the plain run, with copies of what it received."""
    visits: list[Visit] = []
    calls: list[Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {key: value.clone() for key, value in tensors(args, kwargs)}
        visits.append(Visit(module, calls[-1].key if calls else None, inputs))

    with watched(model, calls), hooked(model, note):
        run()
    return visits


def coded_traces(
    model: nn.Module,
    run: Callable[[], object],
    tried: Mapping[int, tuple[int, Mapping[Key, int]]],
    visits: Sequence[Visit],
) -> dict[tuple[int, int | str], Trace]:
    """The runs with heads switched off by their binary codes; per visit and argument, what its numbers did."""
    layouts = {key: (heads, axis) for heads, axes in tried.values() for key, axis in axes.items()}
    bits = max(heads for heads, _ in tried.values()).bit_length()
    traces: dict[tuple[int, int | str], Trace] = {}
    for bit in range(bits):

        def off(call: Call, bit: int = bit) -> Tensor | None:
            if call.key not in layouts:
                return None
            heads, axis = layouts[call.key]
            codes = torch.arange(1, heads + 1)
            return scaled(call, axis, ((codes >> bit) & 1 == 0).double())

        _replay(model, run, off, visits, traces, layouts)

    def half(call: Call) -> Tensor | None:
        return call.result * 0.5 if call.key in layouts else None

    halved: dict[tuple[int, int | str], Trace] = {}
    _replay(model, run, half, visits, halved, layouts)
    for at, trace in traces.items():
        trace.scaled = at in halved and halved[at].scaled
    return traces


def _replay(
    model: nn.Module,
    run: Callable[[], object],
    edit: Edit,
    visits: Sequence[Visit],
    traces: dict[tuple[int, int | str], Trace],
    layouts: Mapping[Key, tuple[int, int]],
) -> None:
    """One run with `edit`; modules that compute see what they saw in the plain run."""
    count = 0
    heads = {heads for heads, _ in layouts.values()}

    def compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal count
        index, count = count, count + 1
        if index >= len(visits) or visits[index].module is not module:
            raise OtherPath
        new_args, new_kwargs = list(args), dict(kwargs)
        for key, value in tensors(args, kwargs):
            before = visits[index].inputs.get(key)
            if before is None or before.shape != value.shape:
                raise OtherPath
            if value.ndim >= 2:
                trace = traces.setdefault((index, key), Trace())
                axis = feature_axis(module)
                trace.zero.append(_everywhere(value == 0, axis))
                trace.same.append(_everywhere(value == before, axis))
                trace.scaled = torch.equal(value, before * 0.5)
            if computes(module) and not _apart(value, heads):
                if isinstance(key, int):
                    new_args[key] = before.clone()
                else:
                    new_kwargs[key] = before.clone()
        return tuple(new_args), new_kwargs

    calls: list[Call] = []
    with watched(model, calls, edit), hooked(model, compare):
        run()


class OtherPath(Exception):
    """The model took another path through its modules than in the plain run."""


def _everywhere(mask: Tensor, axis: int) -> Tensor:
    """Per feature, whether it holds at all positions."""
    return mask.movedim(axis, -1).flatten(0, -2).all(0)


def _apart(value: Tensor, heads: Collection[int]) -> bool:
    """Whether heads still have an axis of their own, (batch, tokens, heads, width): what reads them comes later."""
    return value.ndim == 4 and value.shape[2] in heads
