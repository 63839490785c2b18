"""Find the heads of a model by running it: no name tables, no guesses.

Every attention call of one forward pass is watched. Where the contexts that a call returns, (batch, tokens, heads,
width), reach a module unchanged as (…, heads * width), that module is the projection whose columns belong to the
heads. Where they do not, or the model calls softmax itself, `ownership` switches heads off and looks where they go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.errors import CannotGate, NoAttentionHeads
from pytest_bertology.heads import HeadMap
from pytest_bertology.models import stacks
from pytest_bertology.models.attention import Call, Key, watched
from pytest_bertology.models.modules import computes
from pytest_bertology.models.ownership import Group, Owned, owners
from pytest_bertology.models.sites import Site
from pytest_bertology.models.state import offloaded


@dataclass(frozen=True)
class Discovery:
    """What running a model showed of its heads."""

    sites: tuple[Site, ...]
    """In the order of `heads`."""
    heads: HeadMap
    ungated: tuple[tuple[str, str], ...]
    """Further attention that no gate can act on: module path and reason."""
    not_run: tuple[str, ...]
    """Topmost modules with weights that did not run: heads in them, if any, were not seen."""


@dataclass(eq=False)
class _Reader:
    """Who reads the heads of some attention calls."""

    projection: nn.Module
    argument: int | str
    heads: int
    kv_heads: int
    width: int
    received: Tensor
    found: str
    taps: Mapping[Key, int]
    call: Call
    """The first of the calls."""
    feature_axis: int = -1


@dataclass
class _Run:
    """One forward pass: its attention calls in order, and which modules received the contexts they returned."""

    calls: list[Call] = field(default_factory=list)
    receivers: dict[int, list[tuple[nn.Module, int | str]]] = field(default_factory=dict)
    """Per call, by its place in `calls`."""
    ran: dict[int, int] = field(default_factory=dict)
    """Modules that ran, and which of all calls was their first."""


def discover(model: PreTrainedModel, sample: Mapping[str, Any], headless: Collection[str] = frozenset()) -> Discovery:
    """Run `model` on `sample` and find its attention sites, but for those at the module paths `headless`.

    Raises NoAttentionHeads where no attention is seen, CannotGate, with the reason, where no gate could act exactly.
    """
    architecture = type(model).__name__
    names = {id(module): name or architecture for name, module in model.named_modules()}
    with torch.no_grad():
        run = _record(model, sample)
        attends = _attending(run.calls, sample)
        readers, groups = _direct(run, attends, _batch(sample))
        refused: list[tuple[Group, str]] = []
        # On the meta device there are no numbers to follow; what is not seen directly is not found.
        found: list[tuple[Group, Owned | str]] = []
        if groups and _meta(model):
            found = [(group, "the model has no weights (meta device) to find out with") for group in groups]
        elif groups:
            found = owners(model, lambda: model(**sample), groups)
        for group, owned in found:
            reader = _owned(group, owned)
            if isinstance(reader, _Reader):
                readers.append(reader)
            else:
                refused.append((group, reader))
    if headless:  # layers of a cut model that are left without a head
        readers = [reader for reader in readers if names[id(reader.projection)] not in headless]
        refused = [entry for entry in refused if _name(entry[0].module, names) not in headless]
    if readers or refused or not headless:
        _refuse(architecture, names, readers, refused)
    sites = _sites(model, readers, names, sample, run)
    ungated = tuple((_name(group.module, names), reason) for group, reason in refused)
    return Discovery(sites, _map(sites), tuple(dict.fromkeys(ungated)), _not_run(model, run))


def _record(model: PreTrainedModel, sample: Mapping[str, Any]) -> _Run:
    run = _Run()
    with ExitStack() as stack:
        stack.enter_context(watched(model, run.calls))
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(_receiver(run), with_kwargs=True).remove)
        model(**sample)
    return run


def _receiver(run: _Run) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A pre-hook that notes which module receives the contexts of the latest attention call."""

    thread = threading.get_ident()

    def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            return
        run.ran.setdefault(id(module), len(run.ran))
        if not run.calls or run.calls[-1].kind != "context":
            return
        context = run.calls[-1].result
        arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for key, value in arguments:
            if isinstance(value, Tensor) and _same_memory(value, context):
                run.receivers.setdefault(len(run.calls) - 1, []).append((module, key))

    return receive


def _same_memory(value: Tensor, context: Tensor) -> bool:
    """Whether `value` is the memory of `context`, its heads laid side by side in the last dimension."""
    return (
        value.untyped_storage()._cdata == context.untyped_storage()._cdata  # also told apart on the meta device
        and value.storage_offset() == context.storage_offset()
        and value.numel() == context.numel()
        and value.is_contiguous()
        and context.is_contiguous()
        and value.shape[-1] == context.shape[2] * context.shape[3]
    )


def _direct(run: _Run, attends: Callable[[Call], bool], batch: int) -> tuple[list[_Reader], list[Group]]:
    """The readers that receive a call's own contexts; the calls without one, grouped by what made them."""
    readers: list[_Reader] = []
    groups: dict[int, Group] = {}
    for index, call in enumerate(run.calls):
        holder = _holder(run.receivers.get(index, []))
        if holder is None and not attends(call):
            continue
        if holder is None:
            groups.setdefault(call.frame, Group(call.module, [], batch)).calls.append(call)
            continue
        width = call.result.shape[-1]
        received = call.result.flatten(-2)
        readers.append(_Reader(*holder, call.heads, call.kv_heads, width, received, "interface", {call.key: 2}, call))
    return readers, list(groups.values())


def _owned(group: Group, owned: Owned | str) -> _Reader | str:
    """The reader that switching heads off has shown, or why there is none."""
    if isinstance(owned, str):
        whole = any(call.kind == "whole" for call in group.calls)
        return "torch's multi-head attention projects heads itself, without a call of a module" if whole else owned
    holder = _holder(owned.receivers) if len(owned.receivers) > 1 else owned.receivers[0]
    if holder is None:
        return "several modules receive its heads, and no one module holds them"
    first = group.calls[0]
    found = "gated" if first.kind == "context" else "function"
    return _Reader(
        *holder, owned.heads, first.kv_heads, owned.width, owned.received, found, owned.axes, first, owned.feature_axis
    )


def _holder(receivers: Sequence[tuple[nn.Module, int | str]]) -> tuple[nn.Module, int | str] | None:
    """The innermost module that receives the contexts and holds every module that computes with them.

    Usually the output projection itself. Where several modules share the input (an adapter beside the projection),
    their common parent, so that none is left without the gate.
    """
    computing = {id(module) for module, _ in receivers if computes(module)}
    holders = [(module, key) for module, key in receivers if computing <= set(map(id, module.modules()))]
    if not computing or not holders:
        return None
    return min(holders, key=lambda holder: sum(1 for _ in holder[0].modules()))


def _refuse(
    architecture: str, names: Mapping[int, str], readers: Sequence[_Reader], refused: Sequence[tuple[Group, str]]
) -> None:
    """Raise where attention of the model's main kind cannot be gated."""
    through_interface = [entry for entry in refused if any(call.kind == "context" for call in entry[0].calls)]
    for group, reason in through_interface or (refused if not readers else []):
        raise CannotGate(architecture, _name(group.module, names), reason)
    if not readers:
        raise NoAttentionHeads(architecture)


def _attending(calls: Sequence[Call], sample: Mapping[str, Any]) -> Callable[[Call], bool]:
    """Which calls are attention over tokens, and not a choice of experts or a mixture of layers, say.

    A softmax over (batch, a, b) may be either. Where a model uses the attention interface, such a softmax counts if
    it runs over as many tokens as some call of the interface does, or as the sample has.
    """
    lengths = {call.keys for call in calls if call.kind == "context"}
    if lengths:
        lengths |= {value.shape[1] for value in sample.values() if isinstance(value, Tensor) and value.ndim == 2}
    return lambda call: call.kind != "softmax" or call.result.ndim >= 4 or not lengths or call.keys in lengths


def _sites(
    model: PreTrainedModel,
    readers: Sequence[_Reader],
    names: Mapping[int, str],
    sample: Mapping[str, Any],
    run: _Run,
) -> tuple[Site, ...]:
    """One site per projection, however often it runs, named by stack and layer."""
    architecture = type(model).__name__
    by_projection: dict[int, list[_Reader]] = {}
    for reader in sorted(readers, key=lambda reader: run.ran[id(reader.projection)]):
        by_projection.setdefault(id(reader.projection), []).append(reader)
    stack_of = stacks.stacks_of(model, [same[0].call for same in by_projection.values()], sample)
    layers: dict[str | None, int] = {}
    sites = []
    for same, stack in zip(by_projection.values(), stack_of, strict=True):
        first = same[0]
        name = names[id(first.projection)]
        if any((reader.heads, reader.width) != (first.heads, first.width) for reader in same):
            raise CannotGate(architecture, name, "attention calls with different heads share one projection")
        layers[stack] = layers.get(stack, -1) + 1
        sites.append(
            Site(
                layer=layers[stack],
                stack=stack,
                name=name,
                attention=_name(first.call.module, names),
                projection=first.projection,
                argument=first.argument,
                heads=first.heads,
                kv_heads=first.kv_heads,
                width=first.width,
                features=first.received.shape[first.feature_axis],
                feature_axis=first.feature_axis,
                calls=len(same),
                found=first.found,
                **_batch_layout(first.received, _batch(sample)),
                taps={key: axis for reader in same for key, axis in reader.taps.items()},
            )
        )
    rank = {stack: index for index, stack in enumerate(layers)}
    return tuple(sorted(sites, key=lambda site: (rank[site.stack], site.layer)))


def _map(sites: Sequence[Site]) -> HeadMap:
    """The map of the heads of all sites, stack by stack."""
    counts: dict[str | None, list[int]] = {}
    for site in sites:
        counts.setdefault(site.stack, []).append(site.heads)
    return HeadMap(counts)


def _batch(sample: Mapping[str, Any]) -> int:
    """How many examples the sample holds."""
    return next((value.shape[0] for value in sample.values() if isinstance(value, Tensor) and value.ndim), 1)


def _batch_layout(received: Tensor, batch: int) -> dict[str, Any]:
    """Which axis runs over examples: the first, perhaps with tokens or windows, unless only the second fits."""
    if received.shape[0] == batch:
        return {"batch_axis": 0}
    if received.ndim >= 3 and received.shape[1] == batch:
        return {"batch_axis": 1}
    return {"batch_axis": 0, "flattened": True}


def _not_run(model: nn.Module, run: _Run) -> tuple[str, ...]:
    """The topmost modules with weights of their own of which nothing ran."""
    used = {id(p) for module in model.modules() if id(module) in run.ran for p in module.parameters(recurse=False)}
    idle: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{above}.") for above in idle):
            continue
        if not any(True for _ in module.children()):
            continue  # a leaf has no heads, and may be used as weights alone
        own = [parameter for parameter in module.parameters() if id(parameter) not in used]
        if own and not any(id(part) in run.ran for part in module.modules()):
            idle.append(name)
    return tuple(idle)


def _meta(model: PreTrainedModel) -> bool:
    return any(parameter.is_meta for parameter in model.parameters()) and not offloaded(model)


def _name(module: nn.Module, names: Mapping[int, str]) -> str:
    return names.get(id(module), type(module).__name__)
