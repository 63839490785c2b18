"""Attention weights that are changed on their way, while a context lasts: the model goes on with what they give.

An attention's weights are computed again from query and key (or seen in the model's own softmax), believed only where
they give the contexts that the model's attention returned, changed for the chosen heads, and multiplied with the values
again. The contexts of all other heads, and of padding, stay bit for bit what the model computed.

Calls are told by the module that makes them, and not counted: a pass in which layers do not run is none the worse.
"""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from transformers.modeling_utils import AttentionInterface

from pytest_bertology.errors import AttentionNotChanged, CannotChangeAttention, CopiedUnderMask
from pytest_bertology.models import compiling
from pytest_bertology.models.attention import Call, _Functions, _patching
from pytest_bertology.models.attention_weights import (
    AttentionCall,
    _functions,
    laid_back,
    of_function,
    showing,
    softmax_blocked,
    softmax_weights,
)
from pytest_bertology.models.gating import _checkpoints
from pytest_bertology.models.sides import Seen, Sides
from pytest_bertology.models.sites import Site

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

Change = Callable[[int, Tensor, Seen], Tensor | None]
"""Given which of `model.sites`, the weights (batch, heads, queries, keys) of the chosen heads there, and what is known
of the tokens: other weights for them, or None to leave them."""


@contextmanager
def changed_attention(
    model: ModelUnderTest, change: Change, heads: Mapping[int, Sequence[int]], said: str = "by a function"
) -> Iterator[None]:
    """Change the attention weights of heads for the length of the context, in this thread.

    `heads` are, for each of `model.sites` that is concerned, heads of it; `said` is the change in a few words. Contexts
    nest: a later change is given what the earlier ones made of a head. While one is in force, results neither come from
    the result store nor go there, and no pass is shortened. The weights take the memory that eager attention takes.

    Raises CannotChangeAttention where a head's weights are not seen or not those that gave the model's contexts (under
    dropout, too), or where they are of other than the tokens that the model was given; AttentionNotChanged at the end
    where the model ran and never called the attention of a site concerned.
    """
    places = {index: tuple(_slots(model, index, chosen)) for index, chosen in heads.items() if chosen}
    entry = _Entry(change, places, said)
    _check(model, entry)
    changes = _enter(model, entry)
    try:
        yield
    finally:
        _leave(changes, entry)
    for index in sorted(entry.heads.keys() - entry.acted if entry.forwards else ()):
        raise AttentionNotChanged(
            f"the model ran {entry.forwards} times and {model.sites[index].attention} was not called: a part of the "
            "model that does not run on these inputs, or one that was replaced or compiled after loading"
        )


@contextmanager
def unchanged(model: ModelUnderTest) -> Iterator[None]:
    """Attention as trained, whatever changes are in force outside; masks and skipped layers stay."""
    changes = _of(model)
    if changes is None:
        yield
        return
    changes.paused += 1
    try:
        yield
    finally:
        changes.paused -= 1


def in_force(model: ModelUnderTest) -> tuple[str, ...]:
    """The identities of the changes in force in this thread; each context has its own."""
    changes = _of(model)
    return () if changes is None or changes.paused else tuple(entry.identity for entry in changes.entries)


def described(model: ModelUnderTest) -> tuple[str, ...]:
    """The changes in force in this thread in a few words each, the outermost first."""
    changes = _of(model)
    return () if changes is None or changes.paused else tuple(entry.said for entry in changes.entries)


def depth(model: ModelUnderTest) -> int:
    """How many contexts are open in this thread."""
    changes = _of(model)
    return 0 if changes is None else len(changes.entries)


def unwind(model: ModelUnderTest, beyond: int) -> None:
    """Close the contexts of this thread that were opened beyond the first so many and never left."""
    changes = _of(model)
    if changes is not None:
        for entry in reversed(changes.entries[beyond:]):
            _leave(changes, entry)


@dataclass(eq=False)
class _Entry:
    """One context: what is changed, and what became of it."""

    change: Change
    heads: Mapping[int, tuple[int, ...]]
    """Per site, places among the heads that its attention computes."""
    said: str
    """The change in a few words."""
    forwards: int = 0
    """Passes of the whole model that came to their end."""
    acted: set[int] = field(default_factory=set)
    """Sites whose attention was called."""
    identity: str = field(default_factory=lambda: uuid4().hex)
    mode: _Functions | None = None
    """The torch function mode that came into force with it."""


class _Changes:
    """The changes to one model in one thread."""

    def __init__(self, model: ModelUnderTest) -> None:
        self.model = model
        self.thread = threading.get_ident()
        self.entries: list[_Entry] = []
        self.paused = 0
        self.places = {id(model.model.get_submodule(site.attention)): at for at, site in enumerate(model.sites)}
        self._sides: Sides | None = None
        """What the forward pass under way was given."""
        self._asked: list[int] = []
        """Of the function site that runs: which it is, and how many attention functions it has called."""
        self._inside = 0
        self._hooked: set[int] = set()
        before = model.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        self._handles: list[Any] = [before, model.model.register_forward_hook(self._end, always_call=True)]
        self._eager = compiling.may_run_eager(model.model)
        if self._eager:
            compiling.enter_eager()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Changes:
        raise CopiedUnderMask(type(self.model.model).__name__)

    def hook(self, index: int) -> None:
        """Note when a module runs that calls softmax itself."""
        if index not in self._hooked:
            module = self.model.model.get_submodule(self.model.sites[index].attention)
            self._hooked.add(index)

            def begin(module: nn.Module, args: Any) -> None:
                if threading.get_ident() == self.thread:
                    self._asked = [index, 0]

            self._handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(self._check_one)]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        if self._eager:
            compiling.leave_eager()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Attention functions are the interface's own business."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def interface(self, call: AttentionCall) -> tuple[Tensor, Tensor] | None:
        """Other contexts and weights for a call of the attention interface; None to leave it."""
        index = self.places.get(id(call.module))
        return None if index is None else self._changed(index, call)

    def function(self, call: Call) -> Tensor | None:
        """Another result for a function that the model called itself; None to leave it."""
        if self._inside or self.paused or not self._asked or threading.get_ident() != self.thread:
            return None
        index, self._asked[1] = self._asked[0], self._asked[1] + 1
        site = self.model.sites[index]
        if self._asked[1] > 1 or not self._concerned(index):
            return None  # `_check_one` tells of the second
        own = of_function(call)
        if own is not None:
            found = self._changed(index, own)
            return None if found is None else found[0].transpose(1, 2).contiguous()
        heads, axis = site.computed or site.heads, next(iter(site.taps.values()))
        blocked = self._had(site, softmax_blocked(call, axis, heads))
        seen = self._seen(site, blocked)
        weights = self._had(site, softmax_weights(call, axis, heads, seen.queries.real))
        new, chosen = self._applied(index, weights, blocked, seen)
        return laid_back(call, axis, new).to(call.result.dtype) if chosen else None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self.thread or self.paused:
            return
        if torch.compiler.is_compiling():
            compiling.refuse()
        if torch.is_grad_enabled() and _checkpoints(self.model.model):
            raise self._cannot("gradient checkpointing runs its layers again when the change is no longer in force")
        bound = dict(inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments)
        for name, value in kwargs.items():
            bound.setdefault(name, value)
        self._sides = Sides(self.model, bound)

    def _end(self, module: nn.Module, args: Any, result: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        for entry in self.entries if self._sides is not None and result is not None else ():  # None: it failed
            entry.forwards += 1
        self._sides, self._asked = None, []

    def _check_one(self, module: nn.Module, args: Any, result: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        asked, self._asked = self._asked, []
        if asked and asked[1] > 1 and self._concerned(asked[0]):
            path = self.model.sites[asked[0]].attention
            raise self._cannot(f"{path} calls {asked[1]} attention functions, and which is its heads' cannot be told")

    def _concerned(self, index: int) -> bool:
        """Whether heads of a site that runs are to be changed; that it ran is noted, whatever comes of it."""
        concerned = [] if self.paused else [entry for entry in self.entries if index in entry.heads]
        for entry in concerned:
            entry.acted.add(index)
        return bool(concerned)

    def _changed(self, index: int, call: AttentionCall) -> tuple[Tensor, Tensor] | None:
        if not self._concerned(index):
            return None
        site = self.model.sites[index]
        seen = self._seen(site, call.query[..., :1].expand(*call.query.shape[:3], call.key.shape[2]))
        real = seen.queries.real
        if not bool(torch.isfinite(call.context[real]).all()):
            raise self._cannot(f"{site.attention} gives numbers that are not finite")
        weights = self._had(site, call.weights(real))
        blocked = call.blocked()
        new, chosen = self._applied(index, weights, None if blocked is None else self._had(site, blocked), seen)
        if not chosen:
            return None
        value = call.part(slice(None), slice(None)).value[:, chosen]
        own = call.context[:, :, chosen]
        mine = (new[:, chosen].to(value.dtype) @ value).transpose(1, 2).to(own.dtype)
        mine = torch.where(real[:, :, None, None], mine, own)
        return call.context.index_copy(2, torch.tensor(chosen, device=own.device), mine), new

    def _applied(self, index: int, weights: Tensor, blocked: Tensor | None, seen: Seen) -> tuple[Tensor, list[int]]:
        """Weights after all changes, one after the other, and which heads were changed."""
        changed: set[int] = set()
        for entry in self.entries:
            chosen = entry.heads.get(index)
            if chosen is None:
                continue
            places = torch.tensor(chosen, device=weights.device)
            part = weights.index_select(1, places)
            new = entry.change(index, part, seen.under(blocked, places))
            if new is not None:
                new = torch.where(seen.queries.real[:, None, :, None], new.to(weights.dtype), part)
                weights = weights.index_copy(1, places, new)
                changed.update(chosen)
        return weights, sorted(changed)

    def _seen(self, site: Site, like: Tensor) -> Seen:
        """The tokens of a call, for what is like its weights, (batch, heads, queries, keys)."""
        if self._sides is None:
            raise self._cannot(f"{site.attention} ran by itself, and what the model as a whole is given is not known")
        if like.ndim != 4 or like.shape[1] != (site.computed or site.heads):
            raise self._cannot(f"{site.attention} has weights {tuple(like.shape)}, and not as when it was loaded")
        found = self._sides.of(site, like)
        if isinstance(found, str):
            raise self._cannot(f"at {site.attention}: {found}")
        return found

    def _had(self, site: Site, found: Tensor | str) -> Tensor:
        if isinstance(found, str):
            raise self._cannot(f"at {site.attention}: {found}")
        return found

    def _cannot(self, reason: str) -> CannotChangeAttention:
        return CannotChangeAttention(type(self.model.model).__name__, reason)


_threads: dict[int, list[_Changes]] = {}
"""By thread, only while changes are in force there."""
_wrapper: Any = None
"""What the interface's look-up is wrapped in, while changes are in force in some thread."""


def _of(model: ModelUnderTest) -> _Changes | None:
    """The changes to a model in this thread."""
    return next((each for each in _threads.get(threading.get_ident(), ()) if each.model.model is model.model), None)


def _enter(model: ModelUnderTest, entry: _Entry) -> _Changes:
    changes = _of(model)
    if changes is None:
        changes = _Changes(model)
        _threads.setdefault(changes.thread, []).append(changes)
        _wrap()
    changes.entries.append(entry)
    functions = [at for at in entry.heads if any(key.via == "function" for key in model.sites[at].taps)]
    for at in functions:
        changes.hook(at)
    if functions and not any(each.mode for each in changes.entries):
        entry.mode = _functions(model.model, changes.function)
        entry.mode.__enter__()  # type: ignore[no-untyped-call]
    return changes


def _leave(changes: _Changes, entry: _Entry) -> None:
    """Take one context away; nothing where it was unwound before."""
    if entry not in changes.entries:
        return
    changes.entries = [other for other in changes.entries if other is not entry]
    if entry.mode is not None and _get_current_function_mode() is entry.mode:  # type: ignore[no-untyped-call]
        entry.mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
    if not changes.entries:
        changes.remove()
        left = [other for other in _threads[changes.thread] if other is not changes]
        if left:
            _threads[changes.thread] = left
        else:
            _threads.pop(changes.thread)
        _unwrap()


def _wrap() -> None:
    """Wrap the look-up of attention functions. Not locked for as long as a change lasts: other threads go on."""
    global _wrapper
    with _patching:
        if _wrapper is not None:
            return
        original = AttentionInterface.get_interface

        def get_interface(self: AttentionInterface, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            function: Callable[..., Any] = original(self, *args, **kwargs)
            own = _threads.get(threading.get_ident(), ()) if _wrapper is get_interface else ()
            for changes in own:
                function = showing(function, changes.interface, changes.inside, count())
            return function

        get_interface.original = original  # type: ignore[attr-defined]
        AttentionInterface.get_interface = _wrapper = get_interface


def _unwrap() -> None:
    """Put the look-up back, once no thread needs it; where someone else has wrapped it since, it stays, and is idle."""
    global _wrapper
    with _patching:
        if not _threads and _wrapper is not None:
            if AttentionInterface.get_interface is _wrapper:
                AttentionInterface.get_interface = _wrapper.original
            _wrapper = None


def _slots(model: ModelUnderTest, index: int, heads: Sequence[int]) -> list[int]:
    """Heads of a site by their places among those that its attention computes."""
    site = model.sites[index]
    return [site.slots[head] if site.slots else head for head in heads]


def _check(model: ModelUnderTest, entry: _Entry) -> None:
    """Raise CannotChangeAttention for sites at which it cannot be told whose weights are whose."""
    times = Counter(site.attention for site in model.sites)
    for index in entry.heads:
        site = model.sites[index]
        if not site.taps:
            reason = "computes its weights where they are not seen"
        elif times[site.attention] > 1:
            reason = "computes the heads of several layers"
        elif len(site.taps) != site.calls:
            reason = f"calls attention {len(site.taps)} times for {site.calls} times that its heads are read"
        else:
            continue
        raise CannotChangeAttention(type(model.model).__name__, f"{site.attention} {reason}")
