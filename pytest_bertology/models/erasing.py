"""Hidden states from which directions are taken while a context lasts: all that reads them reads what is left.

States are those of transformers' `output_hidden_states`: 0 the embeddings, n what the n-th block gives, and of the last
what the model's last norm makes of it, where it has one. Where that is, is found by running the model on its sample and
comparing, bit for bit; that the states are projected there is proven by running it once more.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from pytest_bertology.errors import (
    BertologyWarning,
    CannotErase,
    CopiedUnderMask,
    ErasedByAnotherThread,
    ErasureNotApplied,
    UnknownLayer,
)
from pytest_bertology.models import compiling, state
from pytest_bertology.models.capturing import HOOKED
from pytest_bertology.models.gating import _checkpoints
from pytest_bertology.models.intervening import unchanged
from pytest_bertology.models.projection import FoundOn, HasProjections, Projection, projections_of
from pytest_bertology.models.skipping import states_key, states_of, unskipped
from pytest_bertology.models.state_places import Place, places, shown_states, stack_of

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How far states may differ by rounding, in units of the largest number; 0.02 in half precision."""


class ErasesStates:
    """What `ModelUnderTest` has of erased states."""

    @contextmanager
    def erasing(self, *erasures: HasProjections | Projection) -> Iterator[ModelUnderTest]:
        """Take what `erase` found out of the hidden states of its layers, of all tokens, for the length of the context.

        In this thread; contexts nest, and of two at one layer the outer acts first. All that reads those states reads
        what is left. Measures in the context take the changed model for the model, and their results are never stored;
        it cannot be saved, copied or cut. Padding is projected like any token; no real token reads it.

        What was found on a model of other weights is refused; `*erasure.projections` apply to any of that width. Warns
        (BertologyWarning) where something else is in force than when it was found: masks, changes of attention, hooks.

        Raises InvalidArgument for what is no erasure or of another width, UnknownLayer; CannotErase, with the reason,
        for an erasure of another model, where the states are not found, or what reads them is not given what is left
        (a skipped layer before it, say); ErasureNotApplied at the end, where the model ran past a layer.
        """
        model = cast("ModelUnderTest", self)
        projections = projections_of(erasures)
        check_found_on(model, erasures)
        with _erasing(model, projections):
            yield model

    def erased(self) -> tuple[str, ...]:
        """The layers of which something is erased in this thread, in a few words each."""
        return erased(cast("ModelUnderTest", self))


@contextmanager
def unerased(model: ModelUnderTest) -> Iterator[None]:
    """States as the model makes them, whatever is erased outside."""
    if id(model.model) not in _active:
        yield
        return
    with _in_force(model, {}, fresh=True):
        yield


def erased(model: ModelUnderTest) -> tuple[str, ...]:
    """The layers of which something is erased in this thread, in a few words each."""
    return tuple(f"{each.rank} directions of layer {each.layer}" for each in in_force(model))


def in_force(model: ModelUnderTest) -> tuple[Projection, ...]:
    """What is projected in this thread."""
    own = _active.get(id(model.model))
    return () if own is None else own.current().projections()


def depth(model: ModelUnderTest) -> int:
    """How many contexts are open in this thread."""
    own = _active.get(id(model.model))
    return 0 if own is None else len(own.threads.get(threading.get_ident(), ()))


def unwind(model: ModelUnderTest, beyond: int) -> None:
    """Close the contexts of this thread that were opened beyond the first so many and never left."""
    own = _active.get(id(model.model))
    if own is not None:
        for frame in own.threads.get(threading.get_ident(), [])[beyond:]:
            _leave(own, frame)


# -- found on ---------------------------------------------------------------------------------------------------------


def check_found_on(model: ModelUnderTest, erasures: Sequence[Any]) -> None:
    """Raise CannotErase for what was found on other weights; warn where it was found under something else."""
    from pytest_bertology.models import conditions  # which tells of erasures, too

    if not any(isinstance(getattr(each, "found_on", None), FoundOn) for each in erasures):
        return
    now = conditions.in_words(model)
    for each in erasures:
        found = getattr(each, "found_on", None)
        if isinstance(found, FoundOn):
            _check_weights(model, found)
            if sorted(found.under) != sorted(now):
                then, here = ("; ".join(told) or "nothing" for told in (found.under, now))
                warnings.warn(
                    f"this erasure was found on {found.model} with {then} in force, and now there is {here}: what it "
                    "takes out is not what would be found here. Find it anew, or enter the same contexts before it.",
                    BertologyWarning,
                    stacklevel=4,
                )
        now += conditions.erasures(projections_of([each]))


def _check_weights(model: ModelUnderTest, found: FoundOn) -> None:
    weights = model.weights_digest()
    if weights != found.weights:
        raise CannotErase(
            type(model.model).__name__,
            f"the erasure was found on {found.model} (weights {found.weights[:12]}), and {model.name} has others "
            f"({weights[:12]}); find it on this model, or apply it all the same by model.erasing(*erasure.projections)",
        )


# -- in force ---------------------------------------------------------------------------------------------------------


Changes = Mapping[Place, tuple[Projection, ...]]


@dataclass(eq=False)
class _Frame:
    """What is erased in one thread: what all contexts entered there erase."""

    changes: Changes
    forwards: int = 0
    fired: set[Place] = field(default_factory=set)
    given: dict[Place, Tensor] = field(default_factory=dict)
    """What was left, until it is seen to be read."""
    _placed: dict[tuple[Any, ...], tuple[Tensor, ...]] = field(default_factory=dict)

    def projections(self) -> tuple[Projection, ...]:
        return tuple(projection for own in self.changes.values() for projection in own)

    def left(self, place: Place, states: Tensor) -> Tensor:
        """What is left of states; computed in double precision where the device has it."""
        exact = torch.float32 if states.device.type == "mps" else torch.float64
        found = states.to(exact)
        for projection in self.changes[place]:
            mean, left, right = self._tensors(projection, states.device, exact)
            found = found - ((found - mean) @ right) @ left.T
        return found.to(states.dtype)

    def _tensors(self, projection: Projection, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        key = (id(projection), device, dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                arrays = (projection.mean, projection.left, projection.right)
                self._placed[key] = tuple(torch.from_numpy(np.array(each)).to(device, dtype) for each in arrays)
        return self._placed[key]


class _Erasures:
    """What is erased of one model. Each thread has its own; hooks are on the model only while something is."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.threads: dict[int, list[_Frame]] = {}
        self.handles: list[Any] = [model.register_forward_pre_hook(self._count)]
        self.hooked: set[Place] = set()
        self.eager = compiling.may_run_eager(model)
        if self.eager:
            compiling.enter_eager()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Erasures:
        raise CopiedUnderMask(type(self.model).__name__)

    def current(self) -> _Frame:
        frames = self.threads.get(threading.get_ident())
        return frames[-1] if frames else _Frame({})

    def hook(self, place: Place) -> None:
        """Before any other hook: transformers notes hidden states by hooks of its own."""
        if place in self.hooked:
            return
        self.hooked.add(place)
        own, module = _Layer(self, place), self.model.get_submodule(place.path)
        if place.given:
            self.handles.append(module.register_forward_pre_hook(own.before, prepend=True, with_kwargs=True))
            return
        self.handles.append(module.register_forward_hook(own.after, prepend=True))
        if place.read_by is not None:
            reader = self.model.get_submodule(place.read_by)
            self.handles.append(reader.register_forward_pre_hook(own.read, prepend=True, with_kwargs=True))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.eager:
            compiling.leave_eager()

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            compiling.refuse()
        if threading.get_ident() not in self.threads:
            raise ErasedByAnotherThread(type(self.model).__name__)
        frame = self.current()
        if frame.changes and torch.is_grad_enabled() and _checkpoints(self.model):
            reason = "gradient checkpointing runs its layers again when the erasure is no longer in force"
            raise CannotErase(type(self.model).__name__, reason)
        frame.forwards += 1
        frame.given.clear()


class _Layer:
    """The hooks of one layer's states."""

    def __init__(self, erasures: _Erasures, place: Place) -> None:
        self.erasures = erasures
        self.place = place

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the first block what is left of the embeddings."""
        frame = self.erasures.current()
        if self.place not in frame.changes:
            return None
        key = states_key(block, args, kwargs)
        left = self._left(frame, args[0] if key is None else kwargs.get(key))
        return ((left, *args[1:]), kwargs) if key is None else (args, {**kwargs, key: left})

    def after(self, block: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        """Put what is left of the states in their place."""
        frame = self.erasures.current()
        if self.place not in frame.changes:
            return None
        left = self._left(frame, states_of(result))
        frame.given[self.place] = left
        return left if isinstance(result, Tensor) else type(result)((left, *result[1:]))

    def read(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See that the next block is given what is left."""
        frame = self.erasures.current()
        if self.place not in frame.changes:
            return
        key = states_key(block, args, kwargs)
        states = args[0] if key is None else kwargs.get(key)
        left = frame.given.pop(self.place, None)
        if left is None or not isinstance(states, Tensor) or not (states is left or torch.equal(states, left)):
            reason = f"{self.place.read_by} is not given what {self.place.path} gives (is a layer skipped there?)"
            raise self._cannot(reason)

    def _left(self, frame: _Frame, states: Any) -> Tensor:
        projection = frame.changes[self.place][0]
        if not isinstance(states, Tensor) or states.shape[-1] != projection.width:
            shown = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
            raise self._cannot(f"at {self.place.path}, states are {shown}, and not {projection.width} numbers each")
        frame.fired.add(self.place)
        return frame.left(self.place, states)

    def _cannot(self, reason: str) -> CannotErase:
        return CannotErase(type(self.erasures.model).__name__, reason)


_lock = threading.Lock()
_active: dict[int, _Erasures] = {}
"""By the identity of the model, only while something of it is erased."""


@contextmanager
def _erasing(model: ModelUnderTest, projections: Sequence[Projection]) -> Iterator[None]:
    if not HOOKED:
        reason = (
            f"transformers {transformers.__version__} notes hidden states before hooks act, so that it could not be "
            "seen whether they are erased; a newer one is needed"
        )
        raise CannotErase(type(model.model).__name__, reason)
    changes: dict[Place, tuple[Projection, ...]] = {}
    for stack in dict.fromkeys(projection.stack for projection in projections):
        own: dict[Place, tuple[Projection, ...]] = {}
        with _as_trained(model):
            found = places(model, stack)
        for projection in projections:
            if projection.stack == stack:
                if not 0 <= projection.layer < len(found):
                    known = f"hidden states of layers 0 (the embeddings) to {len(found) - 1}"
                    raise UnknownLayer(projection.layer, known)
                place = found[projection.layer]
                own[place] = (*own.get(place, ()), projection)
        _prove(model, stack, own)
        changes |= own
    with _in_force(model, changes):
        yield


def _prove(model: ModelUnderTest, stack: str | None, changes: Changes) -> None:
    """The hidden states that the model shows are projected ones: of the lowest layer, those of the plain model."""
    architecture, name = type(model.model).__name__, stack_of(model, stack).stack
    with _as_trained(model):
        plain = shown_states(model, name)
        with _in_force(model, changes):
            shown = shown_states(model, name)
    real = model.sample().get("decoder_attention_mask" if name == "decoder" else "attention_mask")
    lowest = min(changes, key=lambda place: place.layer)
    for place, own in changes.items():
        states = (plain if place is lowest else shown)[place.layer]
        known = isinstance(real, Tensor) and real.shape == states.shape[:2]
        kept = real.bool() if known else torch.ones(states.shape[:2], dtype=torch.bool)  # type: ignore[union-attr]
        expected = states[kept.to(states.device)].double().cpu().numpy()
        for projection in own if place is lowest else own[-1:]:  # projected once more, states stay as they are
            expected = projection(expected)
        found = shown[place.layer][kept.to(states.device)].double().cpu().numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        if not float(np.abs(found - expected).max()) <= _TOLERANCE.get(states.dtype, 0.02) * scale:
            raise CannotErase(architecture, f"its hidden states of layer {place.layer} are not the projected ones")


@contextmanager
def _as_trained(model: ModelUnderTest) -> Iterator[None]:
    """In eval mode without gradients, nothing of this package in force."""
    with ExitStack() as stack:
        contexts = (torch.no_grad(), state.evaluating(model.model), compiling.eager(model.model))
        for context in (*contexts, model.exactly(None), unchanged(model), unskipped(model), unerased(model)):
            stack.enter_context(context)
        yield


@contextmanager
def _in_force(model: ModelUnderTest, changes: Changes, *, fresh: bool = False) -> Iterator[None]:
    live, thread = model.model, threading.get_ident()
    with _lock:
        own = _active.get(id(live))
        if own is None:
            own = _active[id(live)] = _Erasures(live)
        outer = {} if fresh else own.current().changes
        together = {place: (*outer.get(place, ()), *changes.get(place, ())) for place in {**outer, **changes}}
        frame = _Frame(together)
        own.threads.setdefault(thread, []).append(frame)
        for place in frame.changes:
            own.hook(place)
    try:
        yield
    finally:
        _leave(own, frame)
    for place in frame.changes if frame.forwards else ():
        if place not in frame.fired:
            raise ErasureNotApplied(
                f"the model ran {frame.forwards} times and nothing was erased at {place.path}: a module that does not "
                "run on these inputs, or one that was replaced or compiled after loading"
            )


def _leave(own: _Erasures, frame: _Frame) -> None:
    """Take one context away; nothing where it was unwound before."""
    with _lock:
        thread = threading.get_ident()
        frames = own.threads.get(thread, [])
        kept = [other for other in frames if other is not frame]
        if len(kept) == len(frames):
            return
        if kept:
            own.threads[thread] = kept
        else:
            own.threads.pop(thread)
        if not own.threads:
            _active.pop(id(own.model)).remove()
