"""Which module reads which head: switch heads off where attention is computed, and see what goes out with them.

Needed where the numbers that attention returns do not reach a module as they are: a gate is multiplied to them on the
way, or the model calls softmax itself and its heads' contexts are never seen by themselves. In the input of the module
that reads the heads, the numbers that are zero whenever a head is off, and as ever when it is not, are the head's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pytest_bertology.models.attention import COMBINED, TOKENS_FIRST, Call, Key
from pytest_bertology.models.modules import computes, feature_axis, is_linear
from pytest_bertology.models.replay import OtherPath, Trace, Visit, coded_traces, plain_visits


@dataclass(eq=False)
class Group:
    """Attention calls that feed one projection: those made in one call of one module."""

    module: nn.Module
    calls: list[Call]
    batch: int
    frame: frozenset[Key] = frozenset()
    """All attention calls of that call of the module; what comes after them may read these heads."""

    @property
    def outer(self) -> int:
        """The call of the module around that."""
        return self.calls[0].outer if self.calls else -1

    def layouts(self) -> Iterator[tuple[int, Mapping[Key, int]]]:
        """How many heads there may be, and along which axis of each call's result."""
        options = [_axes(call, self.batch) for call in self.calls]
        counts = set.intersection(*({heads for heads, _ in option} for option in options)) if options else set()
        for heads in sorted(counts, reverse=True):
            axes = [[axis for count, axis in option if count == heads] for option in options]
            for chosen in itertools.product(*axes):
                yield heads, {call.key: axis for call, axis in zip(self.calls, chosen, strict=True)}


@dataclass(frozen=True)
class Owned:
    """What switching heads off showed of one group: who reads them, and how they lie in what it receives."""

    heads: int
    width: int
    axes: Mapping[Key, int]
    receivers: tuple[tuple[nn.Module, int | str], ...]
    """Modules, innermost last, and which of their arguments holds the heads side by side."""
    received: Tensor
    feature_axis: int


def owners(model: nn.Module, run: Callable[[], object], groups: Sequence[Group]) -> list[tuple[Group, Owned | str]]:
    """Who reads the heads of each group, or why no one can be said to.

    The calls of a group are first taken one by one: a layer may have several projections. Those for which that shows
    no reader may belong together, like attention to a window and to a few tokens beyond it; or with those of other
    calls of the same module, like attention to one window after the other.
    """
    visits = plain_visits(model, run)
    found: _Results = []
    rest: _Results = [
        (replace(group, calls=[], frame=frozenset(call.key for call in group.calls)), "") for group in groups
    ]
    for turn in range(max(len(group.calls) for group in groups)):
        at = [index for index, group in enumerate(groups) if turn < len(group.calls)]
        single = [replace(rest[index][0], calls=[groups[index].calls[turn]]) for index in at]
        for index, group, owned in zip(at, single, _try(model, run, single, visits), strict=True):
            if isinstance(owned, Owned):
                found.append((group, owned))
            else:
                rest[index][0].calls.extend(group.calls)
                rest[index] = (rest[index][0], rest[index][1] or owned)
    several = [group for group, _ in rest if len(group.calls) > 1]
    found += _solved(several, _try(model, run, several, visits))
    rest = _unsolved(rest, found)
    # Where windows were switched off at once, the last may have seemed to be read alone: it goes with those unsolved.
    beside = [group for group, _ in (*found, *rest) if group.outer in {group.outer for group, _ in rest}]
    joined = _joined(beside)
    solved = _solved(joined, _try(model, run, joined, visits))
    found = _unsolved(found, solved) + solved
    return [*found, *_unsolved(rest, solved)]


_Results = list[tuple[Group, Owned | str]]


def _solved(groups: Sequence[Group], owners: Sequence[Owned | str]) -> _Results:
    return [(group, owned) for group, owned in zip(groups, owners, strict=True) if isinstance(owned, Owned)]


def _unsolved(results: Iterable[tuple[Group, Owned | str]], solved: _Results) -> _Results:
    """The results whose calls are not among those solved."""
    keys = {call.key for group, _ in solved for call in group.calls}
    return [(group, owned) for group, owned in results if group.calls and group.calls[0].key not in keys]


def _joined(groups: Iterable[Group]) -> list[Group]:
    """Groups made in the same call of the module around theirs, as one."""
    by_outer: dict[int, list[Group]] = {}
    for group in groups:
        by_outer.setdefault(group.outer, []).append(group)
    return [
        replace(
            same[0],
            calls=[call for group in same for call in group.calls],
            frame=frozenset[Key]().union(*(group.frame for group in same)),
        )
        for same in by_outer.values()
        if len(same) > 1
    ]


def _try(
    model: nn.Module, run: Callable[[], object], groups: Sequence[Group], visits: Sequence[Visit]
) -> list[Owned | str]:
    """Per group, who reads its heads under the first layout that shows a reader; else why the first does not."""
    found: dict[int, Owned | str] = {}
    pending = {index: group.layouts() for index, group in enumerate(groups)}
    while pending:
        tried = {index: layout for index, layouts in pending.items() if (layout := next(layouts, None)) is not None}
        for index in pending.keys() - tried.keys():
            found.setdefault(index, "its heads cannot be told apart in what it computes")
        pending = {index: pending[index] for index in tried}
        if not tried:
            break
        try:
            traces = coded_traces(model, run, tried, visits)
        except OtherPath:
            for index in pending:
                found.setdefault(index, "the model takes another path through its modules without them")
            break
        for index, (heads, axes) in tried.items():
            owned = _read(groups[index].frame, heads, axes, visits, traces)
            if isinstance(owned, Owned):
                pending.pop(index)
            if isinstance(owned, Owned) or index not in found:
                found[index] = owned
    return [found[index] for index in range(len(groups))]


def _axes(call: Call, batch: int) -> list[tuple[int, int]]:
    """(heads, axis) that a call's result may have."""
    shape = call.result.shape
    if call.kind == "context":
        return [(call.heads, 2)]
    if call.kind == "whole":
        return []
    if call.result.ndim == 3:
        return [(shape[0] // batch, COMBINED)] if shape[0] % batch == 0 else []
    axes = [(shape[1], 1)]
    if call.kind == "softmax" and shape[2] != shape[1]:
        axes.append((shape[2], TOKENS_FIRST))
    return axes


def _read(
    frame: Collection[Key],
    heads: int,
    axes: Mapping[Key, int],
    visits: Sequence[Visit],
    traces: Mapping[tuple[int, int | str], Trace],
) -> Owned | str:
    """What the traces say of one group under one layout."""
    unsure = any(axis == TOKENS_FIRST for axis in axes.values())
    found: list[_Receiver] = []
    touched: nn.Module | None = None
    for index, visit in enumerate(visits):
        if visit.after not in frame:
            continue
        for key, value in visit.inputs.items():
            trace = traces.get((index, key))
            if trace is None or all(bool(same.all()) for same in trace.same):
                continue
            width = _width(trace, heads)
            if width is not None and (is_linear(visit.module) or not (unsure and computes(visit.module))):
                found.append(_Receiver(visit.module, key, width, value, trace.scaled))
            elif computes(visit.module) and touched is None:
                touched = visit.module
    reader = next((receiver for receiver in found if computes(receiver.module)), None)
    if reader is None:
        if touched is None:
            return (
                "no module receives anything of its heads: they are projected by a function, without a call of a "
                "module, or write nothing on the sample"
            )
        return (
            "its heads do not arrive side by side, in order and apart from one another, at the first module that they "
            f"reach (a {type(touched).__name__}): before it they are mixed, normalised together, or projected by a "
            "function"
        )
    alike = [r for r in found if r.width == reader.width and r.value.shape == reader.value.shape]
    if not reader.scaled:
        # Something between attention and projection (an activation) is not linear; it may be a module to gate at.
        before = next((r for r in alike if r.scaled and not any(True for _ in r.module.children())), None)
        if before is not None:
            alike, reader = [before], before
    axis = feature_axis(reader.module)
    receivers = tuple((r.module, r.key) for r in alike if feature_axis(r.module) == axis)
    return Owned(heads, reader.width, axes, receivers, reader.value, axis)


@dataclass(frozen=True, eq=False)
class _Receiver:
    """A module that receives the heads side by side."""

    module: nn.Module
    key: int | str
    width: int
    value: Tensor
    scaled: bool
    """Whether what it receives is exactly proportional to the heads."""


def _width(trace: Trace, heads: int) -> int | None:
    """Numbers per head, where the input holds all heads side by side and in order, perhaps followed by others."""
    zero, same = torch.stack(trace.zero), torch.stack(trace.same)  # (bits, features)
    if not bool((zero | same).all()):
        return None
    known = ~(zero & same).any(0)  # numbers that are zero in the plain run tell nothing
    code = (zero.long() << torch.arange(len(zero), device=zero.device).unsqueeze(1)).sum(0)
    owner = torch.where(known, code - 1, torch.full_like(code, -2)).tolist()  # -1: no head's, -2: cannot be told
    owned = [position for position, head in enumerate(owner) if head >= 0]
    if not owned:
        return None
    for width in _widths(owner, heads):
        expected = [position // width if position < heads * width else -1 for position in range(len(owner))]
        if all(found in (-2, head) for found, head in zip(owner, expected, strict=True)):
            return width
    return None


def _widths(owner: Sequence[int], heads: int) -> list[int]:
    """Widths to try: the whole input first; else what the last head's numbers say."""
    features = len(owner)
    widths = [features // heads] if features % heads == 0 else []
    last = max(position for position, head in enumerate(owner) if head >= 0)
    if (last + 1) % heads == 0 and (last + 1) // heads not in widths:
        widths.append((last + 1) // heads)
    return widths
