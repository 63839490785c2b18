"""The load-time proof that masks act: run the model with gates and look, independently of the gates, at what arrives.

The oracle is the attention call itself: what it returned, (batch, tokens, heads, width), with one head set to zero,
must be what the projection receives; the projection's output must change by that head's share, context times
columns; and the model's output must move. Gates at the projections must give, bit for bit, what scaling the attention
calls' results gives, so that nothing else reads the heads past the gates. All gates open must be the plain model bit
for bit, and so must the model afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_bertology.errors import InvalidGate, MaskNotApplied, SelfCheckFailed
from pytest_bertology.heads import Head, HeadMap
from pytest_bertology.models.discovery import attention_calls
from pytest_bertology.models.gating import Gating
from pytest_bertology.models.sampling import repeat_row
from pytest_bertology.models.sites import Site

_ROWS = 96
"""Heads checked in one forward pass, each in a row of its own; bounds the memory of the check."""


@dataclass(frozen=True)
class SelfCheck:
    """What the proof found."""

    dead: tuple[Head, ...]
    """Heads whose share of the projection's output was exactly zero on the sample, such as those of zero columns."""
    silent: tuple[Head, ...]
    """Heads that write something, of which nothing reached the model's output on the sample."""
    passes: int
    """Forward passes used."""

    @property
    def idle(self) -> frozenset[Head]:
        """Heads that need not move the output when masked."""
        return frozenset(self.dead) | frozenset(self.silent)


def self_check(
    model: PreTrainedModel,
    sites: Sequence[Site],
    heads: HeadMap,
    gating: Gating,
    sample: Mapping[str, Any],
    *,
    own_sample: bool = False,
) -> SelfCheck:
    """Prove that each head's gate acts on `model`, which is in eval mode; `sample` is one forward pass's inputs.

    With `own_sample` the heads are checked many at a time, on rows of one made-up sequence. Raises SelfCheckFailed,
    naming the site and what did not hold.
    """
    try:
        return _prove(model, sites, heads, gating, sample, own_sample and repeat_row(model, 1) is not None)
    except (InvalidGate, MaskNotApplied) as error:
        raise SelfCheckFailed(type(model).__name__, "its gates", str(error)) from error


def _prove(
    model: PreTrainedModel,
    sites: Sequence[Site],
    heads: HeadMap,
    gating: Gating,
    sample: Mapping[str, Any],
    stacked: bool,
) -> SelfCheck:
    architecture = type(model).__name__
    with torch.no_grad():
        plain = output(model, sample)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in plain):
            raise SelfCheckFailed(architecture, "the sample", "the plain model's output is not finite")
        _check_identity(model, sites, gating, sample, plain)
        found = _Findings()
        passes = 5
        for group in _groups(heads, stacked):
            _check_heads(_Pass(model, sites, gating, group, stacked, sample), found)
            passes += 1 if stacked else 3
        _check_nothing_passes_by(model, sites, gating, sample)
        if not _equal(output(model, sample), plain):
            raise SelfCheckFailed(architecture, "the model", "its output is not the same after the gates were removed")
    live = [head for head in heads if head not in found.dead]
    if live and not found.moved:
        raise SelfCheckFailed(architecture, "every head", "masking a head moves nothing of the model's output")
    silent = tuple(head for head in live if head not in found.moved)
    return SelfCheck(tuple(head for head in heads if head in found.dead), silent, passes)


def output(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The floating-point tensors of the first level of the model's output: logits, or states."""
    result = model(**inputs)
    values = result.to_tuple() if hasattr(result, "to_tuple") else result
    values = values if isinstance(values, tuple) else (values,)
    return tuple(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


@dataclass
class _Findings:
    dead: set[Head] = field(default_factory=set)
    moved: set[Head] = field(default_factory=set)


@dataclass
class _Pass:
    """One gated forward pass: which heads it masks, each in which row."""

    model: PreTrainedModel
    sites: Sequence[Site]
    gating: Gating
    heads: Sequence[Head]
    stacked: bool
    sample: Mapping[str, Any]

    def inputs(self) -> Mapping[str, Any]:
        rows = repeat_row(self.model, len(self.heads) + 1) if self.stacked else None
        return self.sample if rows is None else rows

    def gates(self) -> list[Tensor]:
        """Row 0 keeps everything, row i + 1 masks head i; unstacked: the one head is masked in all rows."""
        gates = [torch.ones(len(self.heads) + 1, site.heads) for site in self.sites]
        for row, head in enumerate(self.heads):
            gates[self.site_index(head)][row + 1, head.head] = 0.0
        return gates if self.stacked else [gate[1] for gate in gates]

    def site_index(self, head: Head) -> int:
        return next(i for i, s in enumerate(self.sites) if (s.layer, s.stack) == (head.layer, head.stack))


@dataclass
class _Seen:
    """What arrived at one projection: the context as attention returned it, as received, and the output."""

    context: Tensor
    received: Tensor
    projected: Tensor | None = None


def _groups(heads: HeadMap, stacked: bool) -> list[list[Head]]:
    """Heads that share a forward pass: many where rows can be stacked, else one."""
    size = _ROWS if stacked else 1
    every = list(heads)
    return [every[start : start + size] for start in range(0, len(every), size)]


def _check_identity(
    model: PreTrainedModel, sites: Sequence[Site], gating: Gating, sample: Mapping[str, Any], plain: tuple[Tensor, ...]
) -> None:
    """All gates open is the plain model bit for bit; the gates act in order, each as often as discovery saw it run."""
    fired: list[int] = []
    with ExitStack() as stack:
        stack.enter_context(gating.gated([torch.ones(site.heads) for site in sites]))
        for index, site in enumerate(sites):
            stack.callback(site.projection.register_forward_pre_hook(_counter(fired, index)).remove)
        gated = output(model, sample)
        applied = gating.applied()
    for index, (site, acted) in enumerate(zip(sites, applied, strict=True)):
        count = fired.count(index)
        if count != site.calls or acted != site.calls:
            raise SelfCheckFailed(
                type(model).__name__,
                site.name,
                f"its gate must act {site.calls} times in one forward pass; it acted {acted} times, and the "
                f"projection ran {count} times",
            )
    if list(dict.fromkeys(fired)) != list(range(len(sites))):
        raise SelfCheckFailed(type(model).__name__, "the model", "its layers do not run in the order of their numbers")
    if not _equal(gated, plain):
        raise SelfCheckFailed(type(model).__name__, "the model", "with all gates open its output is not the plain one")


def _counter(fired: list[int], index: int) -> Any:
    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        fired.append(index)

    return count


def _check_nothing_passes_by(
    model: PreTrainedModel, sites: Sequence[Site], gating: Gating, sample: Mapping[str, Any]
) -> None:
    """Gates at the projections give what scaling the attention calls' results gives: no one reads heads past them."""
    gates = [torch.linspace(0.25, 0.75, site.heads) for site in sites]
    if not _passes_by(model, sites, gating, sample, gates):
        return

    def alone(index: int) -> list[Tensor]:
        return [gate if at == index else torch.ones_like(gate) for at, gate in enumerate(gates)]

    names = [s.name for i, s in enumerate(sites) if _passes_by(model, sites, gating, sample, alone(i))]
    raise SelfCheckFailed(
        type(model).__name__,
        ", ".join(names) or "the model",
        "gates there are not the same as scaling the heads where attention returns them: something beside the "
        "projection reads the heads too (an adapter, say), and no gate would reach it",
    )


def _passes_by(
    model: PreTrainedModel, sites: Sequence[Site], gating: Gating, sample: Mapping[str, Any], gates: Sequence[Tensor]
) -> bool:
    """Whether the model's output under these gates differs from that with the attention calls' results scaled."""
    site_of: dict[int, int] = {}
    calls: list[Any] = []
    with ExitStack() as stack:
        stack.enter_context(gating.gated(gates))
        stack.enter_context(attention_calls(calls))
        for index, site in enumerate(sites):
            stack.callback(site.projection.register_forward_pre_hook(_noter(site_of, calls, index)).remove)
        gated = output(model, sample)

    def scaled(context: Tensor, call: int) -> Tensor:
        return context * gates[site_of[call]].to(context.device, context.dtype).unsqueeze(-1)

    with attention_calls([], scaled):
        return not _equal(gated, output(model, sample))


def _noter(site_of: dict[int, int], calls: Sequence[Any], index: int) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        site_of[len(calls) - 1] = index

    return note


def _check_heads(run: _Pass, found: _Findings) -> None:
    """Mask each head of the pass and compare what its projection receives and returns with the attention call."""
    reference = None if run.stacked else (output(run.model, run.inputs()), _watch(run, gated=False)[1])
    outputs, seen = _watch(run, gated=True)
    for row, head in enumerate(run.heads):
        site = run.sites[run.site_index(head)]
        at = seen.get(id(site.projection))
        if at is None:
            raise SelfCheckFailed(type(run.model).__name__, site.name, "the projection did not run under the mask")
        if reference is None:
            _check_slice(run, site, head, at.context[row + 1], at.received[row + 1])
            dead = _check_share(run, site, head, at.context[row + 1], at.projected, row + 1, None)
            moved = any(not torch.equal(tensor[row + 1], tensor[0]) for tensor in outputs if len(tensor) > row + 1)
        else:
            plain, before = reference
            _check_slice(run, site, head, at.context, at.received)
            dead = _check_share(run, site, head, at.context, at.projected, None, before[id(site.projection)].projected)
            moved = not _equal(outputs, plain)
        if dead:
            found.dead.add(head)
        if moved:
            found.moved.add(head)


def _watch(run: _Pass, *, gated: bool) -> tuple[tuple[Tensor, ...], dict[int, _Seen]]:
    """Run the pass; per projection, note its first call. The hooks are registered behind the gates'."""
    seen: dict[int, _Seen] = {}
    calls: list[Any] = []
    with ExitStack() as stack:
        if gated:
            stack.enter_context(run.gating.gated(run.gates()))
        stack.enter_context(attention_calls(calls))
        for site in run.sites:
            for handle in _witness(site, calls, seen):
                stack.callback(handle.remove)
        outputs = output(run.model, run.inputs())
    return outputs, seen


def _witness(site: Site, calls: list[Any], seen: dict[int, _Seen]) -> list[Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if id(module) not in seen and calls:
            seen[id(module)] = _Seen(calls[-1].context, site.context(args, kwargs))

    def after(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        at = seen.get(id(module))
        if at is not None and at.projected is None:
            at.projected = result[0] if isinstance(result, tuple) else result

    return [
        site.projection.register_forward_pre_hook(before, with_kwargs=True),
        site.projection.register_forward_hook(after),
    ]


def _check_slice(run: _Pass, site: Site, head: Head, context: Tensor, received: Tensor) -> None:
    """The projection receives attention's own result with exactly this head's numbers zero."""
    expected = context.clone()
    expected[..., head.head, :] = 0.0
    expected = expected.flatten(-2)
    if expected.shape[-1] != received.shape[-1] or expected.numel() != received.numel():
        problem = f"it receives {tuple(received.shape)}, and attention returned {tuple(context.shape)}"
        raise SelfCheckFailed(type(run.model).__name__, site.name, problem)
    if not torch.equal(expected, received.reshape(expected.shape)):
        raise SelfCheckFailed(
            type(run.model).__name__,
            site.name,
            f"with {head} masked, the projection does not receive attention's result with that head's numbers zero",
        )


def _check_share(
    run: _Pass, site: Site, head: Head, context: Tensor, projected: Tensor | None, row: int | None, plain: Tensor | None
) -> bool:
    """The projection's output changes by the head's share; return whether that share is zero."""
    if projected is None:
        raise SelfCheckFailed(type(run.model).__name__, site.name, "the projection returned nothing")
    share = _share(site, head, context)
    open_, masked = (projected[0], projected[row]) if plain is None else (plain, projected)
    share = share.reshape(masked.shape).double()
    difference = open_.double() - masked.double()
    scale = float(open_.abs().max()) + float(share.abs().max())
    if float((difference - share).abs().max()) > _tolerance(masked.dtype) * (scale or 1.0):
        raise SelfCheckFailed(
            type(run.model).__name__,
            site.name,
            f"masking {head} does not change the projection's output by that head's share (context times columns)",
        )
    return not bool(share.any())


def _share(site: Site, head: Head, context: Tensor) -> Tensor:
    """What this head alone adds to the projection's output: its context times its columns."""
    own: Tensor = context[..., head.head, :]
    columns = slice(head.head * own.shape[-1], (head.head + 1) * own.shape[-1])
    weight = getattr(site.projection, "weight", None)
    if type(site.projection) is nn.Linear and weight is not None:
        return torch.matmul(own, weight[:, columns].T)
    if isinstance(site.projection, Conv1D):
        return torch.matmul(own, site.projection.weight[columns])
    alone = torch.zeros_like(context)
    alone[..., head.head, :] = own
    alone = alone.flatten(-2)
    result: Tensor = _first(site.projection.forward(alone)) - _first(site.projection.forward(torch.zeros_like(alone)))
    return result


def _first(result: Any) -> Tensor:
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


def _tolerance(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 5e-2)


def _equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
