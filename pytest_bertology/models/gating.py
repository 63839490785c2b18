"""Head gates on a live model: scale each head's slice of what its output projection receives.

That equals scaling the head's attention probabilities, and does not depend on the attention backend. (Behind the
projection there are no heads left to scale: its output is one vector of the residual stream.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks as global_hooks
from torch.nn.modules.module import _global_forward_pre_hooks as global_pre_hooks

from pytest_bertology.errors import BackwardAfterMask, CopiedUnderMask, InvalidGate, MaskNotApplied, MaskOfAnotherThread
from pytest_bertology.models import compiling
from pytest_bertology.models.edits import is_own_hook
from pytest_bertology.models.sites import Site
from pytest_bertology.models.state import changes_attention, only_watches


@dataclass
class _Frame:
    """The gates in force in one thread, the product of all contexts entered there."""

    gates: list[Tensor | None]
    """Per site None (all open), (heads,) or (batch, heads)."""
    forwards: int = 0
    """Forward passes of the whole model under this frame."""
    recomputes: bool = False
    """Whether one of them checkpointed, so that `backward()` will run layers again."""
    fired: list[int] = field(default_factory=list)
    """How often each site's gate was applied, counted where the model itself was run."""
    placed: dict[tuple[int, torch.device, torch.dtype], Tensor] = field(default_factory=dict)


class Gating:
    """The gates of one model. Each thread has its own; hooks are on the model only while a gate is in force."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        self._model = model
        self._sites = tuple(sites)
        self._lock = threading.Lock()
        self._entered = 0
        self._handles: list[Any] = []
        self._eager = False
        self._threads: dict[int, list[_Frame]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Gating:
        raise CopiedUnderMask(type(self._model).__name__)

    @property
    def active(self) -> bool:
        """Whether gates are in force in this thread."""
        return bool(self._threads.get(threading.get_ident()))

    def current(self) -> tuple[Tensor | None, ...]:
        """The gates in force in this thread, per site None, (heads,) or (batch, heads)."""
        frames = self._threads.get(threading.get_ident())
        return tuple(frames[-1].gates) if frames else (None,) * len(self._sites)

    def others_hooks(self) -> bool:
        """Whether someone else's forward hooks, or a replaced forward, may change what the model computes."""
        own = {handle.id for handle in self._handles}
        for module in self._model.modules():
            hooks = module._forward_pre_hooks | module._forward_hooks
            others = (
                hook
                for key, hook in hooks.items()
                if key not in own and not (only_watches(hook) or is_own_hook(hook) or changes_attention(hook))
            )
            if _replaced(module) or any(True for _ in others):
                return True
        return bool(global_pre_hooks or global_hooks)

    def applied(self) -> tuple[int, ...]:
        """How often each site's gate has acted in the innermost context of this thread."""
        return tuple(self._frame().fired)

    @contextmanager
    def gated(self, gates: Sequence[Tensor | None], *, fresh: bool = False) -> Iterator[None]:
        """Multiply these gates to those in force: per site None, (heads,) or (batch, heads).

        With `fresh`, forget for the length of the context what is in force outside. Raises InvalidGate for gates of
        the wrong shape, MaskNotApplied at the end where the model ran and a gate did not act.
        """
        self._check_shapes(gates)
        thread = threading.get_ident()
        frames = self._threads.setdefault(thread, [])
        outer = frames[-1].gates if frames and not fresh else [None] * len(self._sites)
        frame = _Frame([_product(a, b) for a, b in zip(outer, gates, strict=True)], fired=[0] * len(self._sites))
        frames.append(frame)
        self._enter()
        try:
            yield
        finally:
            self._remove(thread, frame)
        self._check_fired(frame)
        if frame.recomputes:
            self._guard()

    def depth(self) -> int:
        """How many contexts are open in this thread."""
        return len(self._threads.get(threading.get_ident(), ()))

    def unwind(self, depth: int) -> None:
        """Close the contexts of this thread that were opened beyond `depth` and never left."""
        thread = threading.get_ident()
        for frame in self._threads.get(thread, [])[depth:]:
            self._remove(thread, frame)

    def _remove(self, thread: int, frame: _Frame) -> None:
        """Take one context away, wherever it stands; nothing where it was unwound before."""
        frames = self._threads.get(thread, [])
        kept = [other for other in frames if other is not frame]
        if len(kept) == len(frames):
            return
        if kept:
            self._threads[thread] = kept
        else:
            self._threads.pop(thread)
        self._leave()

    def _check_shapes(self, gates: Sequence[Tensor | None]) -> None:
        if len(gates) != len(self._sites):
            raise InvalidGate(f"gates for {len(gates)} layers", f"gates for {len(self._sites)} layers")
        for site, gate in zip(self._sites, gates, strict=True):
            if gate is not None and (gate.ndim not in (1, 2) or gate.shape[-1] != site.heads):
                raise InvalidGate(
                    f"shape {tuple(gate.shape)}", f"({site.heads},) or (batch, {site.heads}) at {site.name}"
                )

    def _enter(self) -> None:
        with self._lock:
            self._entered += 1
            if self._entered > 1:
                return
            self._eager = compiling.may_run_eager(self._model)
            if self._eager:
                compiling.enter_eager()
            self._handles = [self._model.register_forward_pre_hook(self._count)]
            for index, site in enumerate(self._sites):
                hook = self._hook(index, site)
                self._handles.append(site.projection.register_forward_pre_hook(hook, with_kwargs=True))

    def _leave(self) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                for handle in self._handles:
                    handle.remove()
                self._handles = []
                if self._eager:
                    compiling.leave_eager()

    def _frame(self) -> _Frame:
        if torch.compiler.is_compiling():
            compiling.refuse()
        frames = self._threads.get(threading.get_ident())
        if frames:
            return frames[-1]
        others = [stack[-1] for stack in list(self._threads.values()) if stack]
        # Autograd runs the backward pass of a GPU in threads of its own, and gradient checkpointing recomputes there.
        if len(others) == 1 and torch._C._current_graph_task_id() != -1:
            return others[0]
        raise MaskOfAnotherThread(type(self._model).__name__)

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        frame = self._frame()
        frame.forwards += 1
        frame.recomputes = frame.recomputes or (torch.is_grad_enabled() and _checkpoints(self._model))

    def _guard(self) -> None:
        """Until the model runs again, tell a `backward()` that recomputes layers that their gates are gone."""
        guards: list[Any] = []

        def too_late(module: nn.Module, args: tuple[Any, ...]) -> None:
            if torch._C._current_graph_task_id() != -1 and not self.active:
                raise BackwardAfterMask(type(self._model).__name__)

        def run_again(module: nn.Module, args: tuple[Any, ...]) -> None:
            if torch._C._current_graph_task_id() == -1:
                for guard in guards:
                    guard.remove()

        guards.append(self._model.register_forward_pre_hook(run_again))
        guards += [site.projection.register_forward_pre_hook(too_late) for site in self._sites]

    def _hook(self, index: int, site: Site) -> Callable[..., Any]:
        def gate(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            frame = self._frame()
            if frame.gates[index] is None:
                return None
            frame.fired[index] += 1
            gated = _apply(frame, index, site, site.context(args, kwargs))
            return site.replaced(args, kwargs, gated)

        return gate

    def _check_fired(self, frame: _Frame) -> None:
        for site, gate, fired in zip(self._sites, frame.gates, frame.fired, strict=True):
            if gate is not None and frame.forwards and not fired:
                raise MaskNotApplied(
                    f"the model ran {frame.forwards} times and its projection {site.name} was never called: a part of "
                    "the model that does not run on these inputs, or one that was replaced or compiled after loading"
                )


def _replaced(module: nn.Module) -> bool:
    """Whether a module has a forward of its own; older transformers leave its class's there, where it is no other."""
    forward = vars(module).get("forward")
    own = getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) is type(module).forward
    return forward is not None and not own


def _checkpoints(model: nn.Module) -> bool:
    return any(
        module.training and getattr(module, "gradient_checkpointing", False) is True for module in model.modules()
    )


def _product(outer: Tensor | None, inner: Tensor | None) -> Tensor | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer.to(inner.device, inner.dtype) * inner


def _apply(frame: _Frame, index: int, site: Site, context: Tensor) -> Tensor:
    """`context`, (…, features), each head's slice multiplied by its gate."""
    features = context.shape[site.feature_axis]
    if features != site.features or features < site.heads * site.width:
        raise MaskNotApplied(
            f"{site.name} received {features} numbers per token and not {site.heads} heads of {site.width}"
        )
    gate = frame.gates[index]
    assert gate is not None
    if gate.ndim == 1 and not gate.requires_grad:
        key = (index, context.device, context.dtype)
        if key not in frame.placed:
            # Not an inference tensor, which autograd could not save should the caller leave inference mode.
            with torch.inference_mode(False):
                frame.placed[key] = spread(site, gate.to(context.device, context.dtype))
        return context * shaped(site, context, frame.placed[key])
    return context * shaped(site, context, spread(site, gate.to(context.device, context.dtype)))


def spread(site: Site, gate: Tensor, rest: float = 1.0) -> Tensor:
    """(…, heads) to (…, features): each head's gate once for each of its numbers; `rest` for numbers of no head."""
    each = site.gates_computed(gate).repeat_interleave(site.width, dim=-1)
    others = site.features - each.shape[-1]
    return torch.cat([each, each.new_full((*each.shape[:-1], others), rest)], dim=-1) if others else each


def shaped(site: Site, context: Tensor, spread: Tensor) -> Tensor:
    """Gates (features,), or (batch, features) for each example its own, shaped to multiply `context`.

    `context` is (batch, …, features), (tokens, batch, features), or has tokens or windows of tokens of one example
    after the other along its first axis; under a convolution it is (batch, features, …).
    """
    shape = [1] * context.ndim
    shape[site.feature_axis] = site.features
    if spread.ndim == 2:
        batch, rows = spread.shape[0], context.shape[site.batch_axis]
        if batch == 1:
            rows = 1
        elif rows != batch:
            if not site.flattened or rows % batch:
                raise InvalidGate(
                    f"gates for {batch} examples", f"gates for the {rows} examples that reach {site.name}"
                )
            spread = spread.repeat_interleave(rows // batch, dim=0)
        shape[site.batch_axis] = rows
    return spread.reshape(shape)
