"""Layers left out of a live model while a context lasts: what comes into a layer goes on in place of what it computes.

The layer still runs, on a copy of its input, so that whatever else it gives (attention weights, a position bias that
later layers use, its entry in the cache) is there as before.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_bertology.errors import CannotDropLayers, CopiedUnderMask, MaskNotApplied, SkippedByAnotherThread
from pytest_bertology.models import compiling
from pytest_bertology.models.blocks import LayerLike, choose

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


@contextmanager
def skipping(model: ModelUnderTest, layers: Iterable[LayerLike]) -> Iterator[ModelUnderTest]:
    """Leave layers out for the length of the context, in this thread; contexts nest, and their layers add up.

    `layers` are numbers from 0, counted as `blocks` counts them, or (number, stack) pairs. While layers are skipped,
    results neither come from the result store nor go there. Raises UnknownLayer or InvalidArgument for layers that
    there are not, or that are none or all; CannotDropLayers where a layer's output cannot be its input; MaskNotApplied
    at the end where the model ran and a layer was not skipped. Where layers hand on more than their states, as LiLT's
    second stream, the rest is not held back; `without_layers` refuses such models.
    """
    names = {path for cut in choose(model, layers) for path in cut.paths}
    with _in_force(model.model, names):
        yield model


@contextmanager
def unskipped(model: ModelUnderTest) -> Iterator[ModelUnderTest]:
    """All layers as trained, whatever layers are skipped outside."""
    if id(model.model) not in _active:
        yield model
        return
    with _in_force(model.model, (), fresh=True):
        yield model


def skipped(model: ModelUnderTest) -> tuple[str, ...]:
    """Module paths of the layers that are skipped in this thread."""
    skips = _active.get(id(model.model))
    return () if skips is None else tuple(sorted(skips.current()))


def depth(model: ModelUnderTest) -> int:
    """How many contexts are open in this thread."""
    skips = _active.get(id(model.model))
    return 0 if skips is None else len(skips.threads.get(threading.get_ident(), ()))


def unwind(model: ModelUnderTest, beyond: int) -> None:
    """Close the contexts of this thread that were opened beyond the first so many and never left."""
    skips = _active.get(id(model.model))
    if skips is not None:
        for frame in skips.threads.get(threading.get_ident(), [])[beyond:]:
            _leave(skips, frame)


@dataclass(eq=False)
class _Frame:
    """The layers skipped in one thread: those of all contexts entered there."""

    names: frozenset[str]
    forwards: int = 0
    fired: set[str] = field(default_factory=set)
    received: dict[str, Tensor] = field(default_factory=dict)


class _Skips:
    """The layers skipped of one model. Each thread has its own; hooks are on the model only while some are."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.threads: dict[int, list[_Frame]] = {}
        self.handles: list[Any] = [model.register_forward_pre_hook(self._count)]
        self.hooked: set[str] = set()
        self.eager = compiling.may_run_eager(model)
        if self.eager:
            compiling.enter_eager()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Skips:
        raise CopiedUnderMask(type(self.model).__name__)

    def current(self) -> frozenset[str]:
        frames = self.threads.get(threading.get_ident())
        return frames[-1].names if frames else frozenset()

    def hook(self, name: str) -> None:
        if name not in self.hooked:
            layer = _Layer(self, name)
            block = self.model.get_submodule(name)
            self.handles.append(block.register_forward_pre_hook(layer.before, with_kwargs=True))
            # Before hooks that stay on a model and record its hidden states, as those of transformers do.
            self.handles.append(block.register_forward_hook(layer.after, with_kwargs=True, prepend=True))
            self.hooked.add(name)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.eager:
            compiling.leave_eager()

    def frame(self) -> _Frame | None:
        """What is skipped in this thread, or in that for which autograd runs layers again; None where nothing is."""
        if torch.compiler.is_compiling():
            compiling.refuse()
        frames = self.threads.get(threading.get_ident())
        if frames:
            return frames[-1]
        others = [frames[-1] for frames in list(self.threads.values()) if frames]
        return others[0] if len(others) == 1 and torch._C._current_graph_task_id() != -1 else None

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        frame = self.frame()
        if frame is None:
            raise SkippedByAnotherThread(type(self.model).__name__)
        frame.forwards += 1


class _Layer:
    """The hooks of one skipped layer."""

    def __init__(self, skips: _Skips, name: str) -> None:
        self.skips = skips
        self.name = name

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep the states, and give the layer a copy, which it may write to."""
        frame = self.skips.frame()
        if frame is None or self.name not in frame.names:
            return None
        key = states_key(block, args, kwargs)
        states = args[0] if key is None else kwargs.get(key)
        if not isinstance(states, Tensor):
            raise self._refused("it is given no states as its first argument")
        frame.received[self.name] = states
        return ((states.clone(), *args[1:]), kwargs) if key is None else (args, {**kwargs, key: states.clone()})

    def after(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """Put the states that came in in place of those that the layer made."""
        frame = self.skips.frame()
        states = None if frame is None else frame.received.pop(self.name, None)
        if frame is None or states is None:
            return None
        made = states_of(result)
        if made is None or made.shape != states.shape:
            shown = type(result).__name__ if made is None else str(tuple(made.shape))
            raise self._refused(f"it is given states {tuple(states.shape)} and returns {shown}")
        frame.fired.add(self.name)
        return states if isinstance(result, Tensor) else type(result)((states, *result[1:]))

    def _refused(self, reason: str) -> CannotDropLayers:
        return CannotDropLayers(type(self.skips.model).__name__, f"{self.name} cannot be passed by: {reason}")


def states_key(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Which keyword a call gives the layer its states by: its first argument's name, or None where by position."""
    return None if args else next(iter(inspect.signature(block.forward).parameters), "")


def states_of(result: Any) -> Tensor | None:
    """The states among what a layer returns: the whole, or the first of several."""
    first = result[0] if type(result) in (tuple, list) and result else result
    return first if isinstance(first, Tensor) else None


_lock = threading.Lock()
_active: dict[int, _Skips] = {}
"""By the identity of the model, only while layers of it are skipped."""


@contextmanager
def _in_force(model: nn.Module, names: Iterable[str], *, fresh: bool = False) -> Iterator[None]:
    thread = threading.get_ident()
    with _lock:
        skips = _active.get(id(model))
        if skips is None:
            skips = _active[id(model)] = _Skips(model)
        outer = frozenset() if fresh else skips.current()
        frame = _Frame(outer | frozenset(names))
        skips.threads.setdefault(thread, []).append(frame)
        for name in frame.names:
            skips.hook(name)
    try:
        yield
    finally:
        _leave(skips, frame)
    for name in sorted(frame.names - frame.fired if frame.forwards else ()):
        raise MaskNotApplied(
            f"the model ran {frame.forwards} times and its layer {name} was not skipped: a layer that does not run on "
            "these inputs, or one that was replaced or compiled after loading"
        )


def _leave(skips: _Skips, frame: _Frame) -> None:
    """Take one context away; nothing where it was unwound before."""
    with _lock:
        thread = threading.get_ident()
        frames = skips.threads.get(thread, [])
        kept = [other for other in frames if other is not frame]
        if len(kept) == len(frames):
            return
        if kept:
            skips.threads[thread] = kept
        else:
            skips.threads.pop(thread)
        if not skips.threads:
            _active.pop(id(skips.model)).remove()
