"""The load-time proof that masks act: run the model with gates and look, independently of the gates, at what happens.

Four things are shown, on one small input. All gates open are the plain model bit for bit. At each projection, closing
one head's gate zeroes that head's slice of what arrives, nothing else, and takes that head's share (context times
columns) from what leaves. Gates at the projections give, bit for bit, the model's output that scaling the heads where
attention computes them gives: the slices are the heads, and nothing reads them past the gates. And each head reaches
the model's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.errors import InvalidGate, MaskNotApplied, SelfCheckFailed
from pytest_bertology.heads import Head, HeadMap
from pytest_bertology.models.attention import Call, Key, attention_calls, scaled, watched
from pytest_bertology.models.gating import Gating
from pytest_bertology.models.recomputation import check_recomputation
from pytest_bertology.models.sampling import repeat_row
from pytest_bertology.models.shares import Row, Seen, adds_up, first_result, first_row, share_of, tolerance
from pytest_bertology.models.sites import Site

_ROWS = 32
"""Heads checked in one forward pass, each in a row of its own; bounds the memory of the check."""


@dataclass(frozen=True)
class SelfCheck:
    """What the proof found."""

    dead: tuple[Head, ...]
    """Heads whose share of the projection's output was exactly zero on the sample, such as those of zero columns."""
    silent: tuple[Head, ...]
    """Heads that write something, of which nothing reached the model's output on the sample."""
    joint: tuple[str, ...]
    """Sites whose gated module does not add heads' shares up, such as a norm before the projection."""
    per_example: bool
    """Whether each example of a batch can have gates of its own."""
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

    With `own_sample` heads are checked many at a time, on rows of one made-up input. Raises SelfCheckFailed, naming
    the site and what did not hold.
    """
    if not sites:  # all heads of the model were cut out
        return SelfCheck((), (), (), per_example=True, passes=0)
    rows = repeat_row(model, 1) if own_sample else None
    try:
        return _Proof(model, sites, heads, gating, sample, rows).run()
    except (InvalidGate, MaskNotApplied) as error:
        raise SelfCheckFailed(type(model).__name__, "its gates", str(error)) from error


def output(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The floating-point tensors of the first level of the model's output: logits, or states."""
    result = model(**inputs)
    values = result.to_tuple() if hasattr(result, "to_tuple") else result
    values = values if isinstance(values, tuple) else (values,)
    return tuple(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


@dataclass
class _Proof:
    model: PreTrainedModel
    sites: Sequence[Site]
    heads: HeadMap
    gating: Gating
    sample: Mapping[str, Any]
    row: Mapping[str, Any] | None
    """One example, to be repeated; None where the heads are checked one after the other."""
    passes: int = 0
    dead: set[Head] = field(default_factory=set)
    joint: set[str] = field(default_factory=set)

    def run(self) -> SelfCheck:
        with torch.no_grad():
            plain = self._output()
            if not plain or not all(bool(torch.isfinite(tensor).all()) for tensor in plain):
                raise self._failed("the sample", "the plain model's output is not finite")
            self._check_open(plain)
            per_example = self._check_each()
            self._check_nothing_passes_by()
        live = [head for head in self.heads if head not in self.dead]
        silent = tuple(self._check_moves(live, plain))
        if live and len(silent) == len(live):
            raise self._failed("every head", "masking a head moves nothing of the model's output")
        self.passes += check_recomputation(self.model, self.sites, self.gating, self.sample)
        with torch.no_grad():
            if not self._same_again(self._output(), plain):
                raise self._failed("the model", "its output is not the same after the gates were removed")
        dead = tuple(head for head in self.heads if head in self.dead)
        joint = tuple(site.name for site in self.sites if site.name in self.joint)
        return SelfCheck(dead, silent, joint, per_example, self.passes)

    def _output(self, inputs: Mapping[str, Any] | None = None) -> tuple[Tensor, ...]:
        self.passes += 1
        return output(self.model, self.sample if inputs is None else inputs)

    def _same_again(self, now: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> bool:
        """Bit for bit; but flex attention, which compiles a kernel per shape, rounds differently after other shapes."""
        if getattr(self.model.config, "_attn_implementation", None) == "flex_attention":
            return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(now, before, strict=True))
        return _equal(now, before)

    def _failed(self, site: str, problem: str) -> SelfCheckFailed:
        return SelfCheckFailed(type(self.model).__name__, site, problem)

    # -- all gates open --------------------------------------------------------------------------------------------

    def _check_open(self, plain: tuple[Tensor, ...]) -> None:
        """All gates open is the plain model bit for bit; the gates act in order, each as often as discovery saw."""
        fired: list[int] = []
        with ExitStack() as stack:
            stack.enter_context(self.gating.gated([torch.ones(site.heads) for site in self.sites]))
            for index, site in enumerate(self.sites):
                stack.callback(site.projection.register_forward_pre_hook(_counter(fired, index)).remove)
            gated = self._output()
            applied = self.gating.applied()
        for index, (site, acted) in enumerate(zip(self.sites, applied, strict=True)):
            count = fired.count(index)
            if count != site.calls or acted != site.calls:
                raise self._failed(
                    site.name,
                    f"its gate must act {site.calls} times in one forward pass; it acted {acted} times, and the "
                    f"projection ran {count} times",
                )
        order = [self.sites[index] for index in dict.fromkeys(fired)]
        for stack_name in {site.stack for site in self.sites}:
            layers = [site.layer for site in order if site.stack == stack_name]
            if layers != sorted(layers):
                raise self._failed("the model", "its layers do not run in the order of their numbers")
        if not _equal(gated, plain):
            raise self._failed("the model", "with all gates open its output is not the plain one")

    # -- one head at each projection -------------------------------------------------------------------------------

    def _check_each(self) -> bool:
        """Close each head's gate, at every projection at once; return whether examples can have gates of their own."""
        if self.row is not None:
            try:
                self._check_rows()
                return True
            except (SelfCheckFailed, InvalidGate):
                # The batch may be laid out so that no gates of one example can be told from another's; a fault that
                # is not of that kind shows again below.
                self.dead.clear()
                self.joint.clear()
        self._check_one_by_one()
        return False if self.row is not None else self._batches() == 1

    def _batches(self) -> int:
        return next((len(value) for value in self.sample.values() if isinstance(value, Tensor) and value.ndim), 1)

    def _check_rows(self) -> None:
        """Row 0 keeps all heads, row i + 1 has head i masked; each projection is offered what row 0 has."""
        most = max(site.heads for site in self.sites)
        for start in range(0, most, _ROWS):
            group = range(start, min(start + _ROWS, most))
            gates = [torch.ones(len(group) + 1, site.heads) for site in self.sites]
            for row, head in enumerate(group):
                for gate in gates:
                    gate[row + 1, head : head + 1] = 0.0
            rows = len(group) + 1
            seen = self._watch(gates, repeat_row(self.model, rows), partial(first_row, rows))
            for site in self.sites:
                for at in seen[id(site)]:
                    for row, head in enumerate(group):
                        if head < site.heads:
                            self._check_head(site, head, at, Row(site, row + 1, rows), at, 0)

    def _check_one_by_one(self) -> None:
        """One head masked at every projection, each of which is offered what it received in the plain model."""
        plain = self._watch([torch.ones(site.heads) for site in self.sites], self.sample, None)
        for head in range(max(site.heads for site in self.sites)):
            gates = [torch.ones(site.heads) for site in self.sites]
            for gate in gates:
                gate[head : head + 1] = 0.0
            seen = self._watch(gates, self.sample, lambda site, index, _: plain[id(site)][index].offered)
            for site in self.sites:
                if head < site.heads:
                    for at, before in zip(seen[id(site)], plain[id(site)], strict=True):
                        self._check_head(site, head, at, Row(site, 0, 1), before, 0)

    def _watch(
        self,
        gates: Sequence[Tensor],
        inputs: Mapping[str, Any] | None,
        offer: Callable[[Site, int, Tensor], Tensor] | None,
    ) -> dict[int, list[Seen]]:
        """Run gated; per site, what each call of its projection saw. `offer` says what it is to be offered."""
        seen: dict[int, list[Seen]] = {id(site): [] for site in self.sites}
        calls: list[Call] = []
        with ExitStack() as stack:
            stack.enter_context(self.gating.gated(gates))
            stack.enter_context(attention_calls(calls))
            for site in self.sites:
                for handle in self._witness(site, calls, seen[id(site)], offer):
                    stack.callback(handle.remove)
            self._output(inputs)
        for site in self.sites:
            if not seen[id(site)]:
                raise self._failed(site.name, "the projection did not run under the mask")
        return seen

    def _witness(
        self,
        site: Site,
        calls: list[Call],
        seen: list[Seen],
        offer: Callable[[Site, int, Tensor], Tensor] | None,
    ) -> list[Any]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            arrived = site.context(args, kwargs)
            if site.found == "interface":
                self._check_arrival(site, arrived, calls)
            offered = arrived if offer is None else offer(site, len(seen), arrived)
            seen.append(Seen(offered))
            return site.replaced(args, kwargs, offered)

        def behind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[-1].received = site.context(args, kwargs)

        def after(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            seen[-1].returned = first_result(result)

        return [
            site.projection.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
            site.projection.register_forward_pre_hook(behind, with_kwargs=True),
            site.projection.register_forward_hook(after),
        ]

    def _check_arrival(self, site: Site, arrived: Tensor, calls: Sequence[Call]) -> None:
        """The projection is offered attention's own result."""
        context = calls[-1].result if calls else arrived.new_empty(0)
        if context.shape[2:] != (site.computed or site.heads, site.width) or context.numel() != arrived.numel():
            shapes = f"{tuple(arrived.shape)}, and attention returned {tuple(context.shape)}"
            raise self._failed(site.name, f"it receives {shapes}")
        if not torch.equal(context.reshape(arrived.shape), arrived):
            raise self._failed(site.name, "what it receives is not attention's result")

    def _check_head(self, site: Site, head: int, at: Seen, row: Row, before: Seen, open_row: int) -> None:
        """With this head masked, its slice arrives as zeros and its share is gone from what leaves.

        `before`, in row `open_row`, is the same with all gates open.
        """
        assert at.received is not None
        assert at.returned is not None
        assert before.returned is not None
        name = Head(site.layer, head, site.stack)
        expected = row.of(at.offered).clone()
        expected[..., site.slice(head)] = 0.0
        if not torch.equal(expected, row.of(at.received)):
            raise self._failed(
                site.name,
                f"with {name} masked, the projection does not receive attention's result with that head's numbers zero",
            )
        open_ = replace(row, row=open_row).of(before.returned).double()
        difference = open_ - row.of(at.returned).double()
        share = share_of(site, head, at.offered, row).double()
        scale = float(open_.abs().max()) + float(share.abs().max())
        if float((difference - share).abs().max()) > tolerance(at.returned.dtype) * (scale or 1.0):
            if adds_up(site.projection):
                raise self._failed(
                    site.name,
                    f"masking {name} does not change the projection's output by that head's share (context times "
                    "columns)",
                )
            self.joint.add(site.name)
        elif not bool(share.any()):
            self.dead.add(name)

    # -- nothing passes by -----------------------------------------------------------------------------------------

    def _check_nothing_passes_by(self) -> None:
        """Gates at the projections give what scaling heads where attention computes them gives.

        The gates are powers of two, different for neighbours, so that scaling early or late rounds alike.
        """
        gates = [torch.tensor([0.5 ** (1 + head % 4) for head in range(site.heads)]) for site in self.sites]
        if not self._passes_by(gates):
            return

        def alone(index: int) -> list[Tensor]:
            return [gate if at == index else torch.ones_like(gate) for at, gate in enumerate(gates)]

        names = [site.name for index, site in enumerate(self.sites) if self._passes_by(alone(index))]
        raise self._failed(
            ", ".join(names) or "the model",
            "gates there are not the same as scaling the heads where attention computes them: something beside the "
            "projection reads the heads too (an adapter, say), and no gate would reach it, or these are not the heads",
        )

    def _passes_by(self, gates: Sequence[Tensor]) -> bool:
        """Whether the model's output under these gates differs from that with the heads scaled in attention."""
        taps: dict[Key, tuple[int, Tensor]] = {
            key: (axis, site.gates_computed(gate))
            for site, gate in zip(self.sites, gates, strict=True)
            for key, axis in site.taps.items()
        }

        def scale(call: Call) -> Tensor | None:
            if call.key not in taps:
                return None
            axis, gate = taps.pop(call.key)
            return scaled(call, axis, gate)

        with self.gating.gated(gates):
            gated = self._output()
        functions = any(site.found == "function" for site in self.sites)
        with watched(self.model, [], scale) if functions else attention_calls([], scale):
            other = self._output()
        if taps:
            raise self._failed("the model", "it does not make the same attention calls at each run")
        return not (_equal(gated, other) or self._rounded_alike(gated, other))

    def _rounded_alike(self, gated: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
        """Half precision has so few small numbers that probabilities scaled before their sum may round another way."""
        if all(site.found == "interface" for site in self.sites) or all(t.dtype.itemsize > 2 for t in gated):
            return False
        pairs = list(zip(gated, other, self._output(), strict=True))
        changes = [float((one.double() - plain.double()).abs().max()) for one, _, plain in pairs]
        differences = [float((one.double() - two.double()).abs().max()) for one, two, _ in pairs]
        return all(difference <= 0.02 * change for difference, change in zip(differences, changes, strict=True))

    # -- each head reaches the output ------------------------------------------------------------------------------

    def _check_moves(self, live: Sequence[Head], plain: tuple[Tensor, ...]) -> list[Head]:
        """The heads that do not reach the model's output: neither by gradient, nor when they are masked alone."""
        slopes = self._slopes()
        silent = []
        for head in live:
            if slopes.get(head, 0.0) != 0.0:
                continue
            at = self._site(head)
            closed = torch.ones(self.sites[at].heads)
            closed[head.head] = 0.0
            gates = [closed if index == at else None for index in range(len(self.sites))]
            with torch.no_grad(), self.gating.gated(gates):
                if _equal(self._output(), plain):
                    silent.append(head)
        return silent

    def _slopes(self) -> dict[Head, float]:
        """The derivative of a random sum of the output by each gate; empty where the model cannot be differentiated."""
        gates = [torch.ones(site.heads, requires_grad=True) for site in self.sites]
        generator = torch.Generator().manual_seed(0)
        try:
            with torch.enable_grad(), self.gating.gated(gates):
                total = torch.zeros(())
                for tensor in self._output():
                    weights = torch.randn(tensor.shape, generator=generator).to(tensor.device)
                    total = total + (tensor.float() * weights).sum().to(total.device)
                slopes = torch.autograd.grad(total, gates, allow_unused=True)
        except (RuntimeError, NotImplementedError):
            return {}
        found: dict[Head, float] = {}
        for site, slope in zip(self.sites, slopes, strict=True):
            if slope is not None:
                for head, value in enumerate(slope.tolist()):
                    found[Head(site.layer, head, site.stack)] = value if value == value else 0.0
        return found

    def _site(self, head: Head) -> int:
        return next(i for i, s in enumerate(self.sites) if (s.layer, s.stack) == (head.layer, head.stack))


def _counter(fired: list[int], index: int) -> Any:
    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        fired.append(index)

    return count


def _equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
