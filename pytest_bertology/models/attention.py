"""Watch attention while a model computes it, and change it on its way.

Two ways lead to an attention probability. Most models of transformers >= 5.1 look their attention function up in
`AttentionInterface.get_interface`; for the length of a run that look-up is wrapped, so that each call is seen with the
contexts it returns. The others call softmax, or torch's own attention functions, themselves; those calls are seen by a
torch function mode. Both wrappers act in the thread that entered them, and are gone afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import AttentionInterface

from pytest_bertology.errors import InvalidGate

_patching = threading.RLock()
_SOFTMAX = {torch.softmax, torch.special.softmax, functional.softmax, Tensor.softmax}
_ATTENTION = functional.scaled_dot_product_attention
_WHOLE = {functional.multi_head_attention_forward, getattr(torch, "_native_multi_head_attention", None)}


class Key(NamedTuple):
    """Which call of a run it was: the channel it was seen through, and how many were seen there before it."""

    via: str
    number: int


@dataclass(eq=False)
class Call:
    """One attention call of a run."""

    key: Key
    """`via` is "interface"; or "function", for softmax and torch's own attention functions called by the model."""
    module: nn.Module
    """Who made it."""
    frame: int
    """Which call of a module it was part of; calls of one frame mostly feed one projection."""
    outer: int
    """Which call of the module around that."""
    kind: str
    """"context" (batch, tokens, heads, width), "sdpa" (batch, heads, tokens, width), "softmax" or "whole"."""
    result: Tensor
    """Contexts; or probabilities (…, queries, keys) where the model calls softmax itself."""
    heads: int
    """Query heads, or 0 where only the run can tell."""
    kv_heads: int
    queries: int
    keys: int
    """How many tokens attend, and are attended to."""
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """Arguments and keywords of softmax or torch's attention function, where they are looked at."""

    @property
    def scores(self) -> Tensor | None:
        """What a softmax was given."""
        if self.kind != "softmax" or self.given is None:
            return None
        args, kwargs = self.given
        found = args[0] if args else kwargs.get("input")
        return found if isinstance(found, Tensor) else None


COMBINED = 0
"""The axis of heads in results (batch * heads, queries, keys), where they share the first axis with the batch."""
TOKENS_FIRST = 2
"""The axis of heads in results (batch, queries, heads, keys)."""

Edit = Callable[[Call], Tensor | None]
"""Given a call, what the model is to see instead of its result; None for the result itself."""


def scaled(call: Call, axis: int, gates: Tensor) -> Tensor:
    """A call's result, each head multiplied by its gate (heads,)."""
    result = call.result
    gates = gates.to(result.device, result.dtype)
    if result.shape[axis] % len(gates) or (axis != COMBINED and result.shape[axis] != len(gates)):
        raise InvalidGate(f"{len(gates)} gates", f"one for each of the {result.shape[axis]} heads that attention has")
    if axis == COMBINED:
        return result * gates.repeat(result.shape[0] // len(gates)).reshape(-1, *(1,) * (result.ndim - 1))
    return result * gates.reshape(-1, *(1,) * (result.ndim - 1 - axis))


@contextmanager
def watched(model: nn.Module, calls: list[Call], edit: Edit | None = None) -> Iterator[None]:
    """Record every attention call that this thread makes, through the interface or by functions of its own."""
    frames = _Frames(model)
    functions = _Functions(frames, calls, edit)
    with ExitStack() as stack:
        stack.enter_context(frames.tracked())
        stack.enter_context(attention_calls(calls, edit, frames, functions))
        stack.enter_context(functions)
        yield


@contextmanager
def attention_calls(
    calls: list[Call], edit: Edit | None = None, frames: _Frames | None = None, functions: _Functions | None = None
) -> Iterator[None]:
    """Record every attention call that this thread makes through the attention interface."""
    thread = threading.get_ident()
    count = 0
    with _patching:
        original = AttentionInterface.get_interface

        def get_interface(self: AttentionInterface, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            function: Callable[..., Any] = original(self, *args, **kwargs)
            return recording(function) if threading.get_ident() == thread else function

        def recording(function: Callable[..., Any]) -> Callable[..., Any]:
            def attention(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
                nonlocal count
                # What happens inside is the interface's own business: its softmax is not another attention.
                with functions.suspended() if functions is not None else nullcontext():
                    result = function(module, query, key, *rest, **options)
                if result[0].ndim != 4 or result[0].shape[2] != query.shape[1]:
                    return result
                # The same numbers, laid out as the projection reads them (GPT-2's eager attention does not).
                context = result[0].contiguous()
                at, inner = Key("interface", count), frames.innermost() if frames is not None else (0, 0)
                shape = (query.shape[1], key.shape[1], *_lengths(query, key))
                call = Call(at, module, *inner, "context", context, *shape)
                count += 1
                edited = edit(call) if edit is not None else None
                if edited is not None:
                    call.result = edited.contiguous()
                calls.append(call)
                return (call.result, *result[1:])

            return attention

        AttentionInterface.get_interface = get_interface
        try:
            yield
        finally:
            AttentionInterface.get_interface = original


def _lengths(query: Tensor, key: Tensor) -> tuple[int, int]:
    return query.shape[-2], key.shape[-2]


@dataclass(frozen=True, eq=False)
class Asked:
    """One call of the attention interface, before it is answered."""

    function: Callable[..., Any]
    """What the interface would answer with."""
    module: nn.Module
    query: Tensor
    """(batch, heads, tokens, width), as `key` and `value`."""
    key: Tensor
    value: Tensor
    rest: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def mask(self) -> Any:
        """The attention mask, or None."""
        return self.rest[0] if self.rest else self.options.get("attention_mask")

    def answered(self, query: Tensor, mask: Any, **options: Any) -> Tensor:
        """The contexts (batch, tokens, heads, width) of another query under another mask."""
        rest, given = self.rest[1:], {**self.options, **options}
        given.pop("attention_mask", None)
        result = self.function(self.module, query, self.key, self.value, mask, *rest, **given)
        found: Tensor = result[0]
        return found


@contextmanager
def answering(answer: Callable[[Asked], Tensor | None]) -> Iterator[None]:
    """Answer this thread's calls of the attention interface with contexts of one's own; None leaves one as it is."""
    thread = threading.get_ident()
    with _patching:
        original = AttentionInterface.get_interface

        def get_interface(self: AttentionInterface, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            function: Callable[..., Any] = original(self, *args, **kwargs)
            if threading.get_ident() != thread:
                return function

            def attention(
                module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
            ) -> Any:
                context = answer(Asked(function, module, query, key, value, rest, options))
                return function(module, query, key, value, *rest, **options) if context is None else (context, None)

            return attention

        AttentionInterface.get_interface = get_interface
        try:
            yield
        finally:
            AttentionInterface.get_interface = original


class _Frames:
    """Which modules are being run: a stack, kept by hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._running: list[tuple[nn.Module, int]] = []
        self._entered = 0
        self._thread = threading.get_ident()

    @contextmanager
    def tracked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.model.modules():
                if any(True for _ in module.children()) or module is self.model:
                    stack.callback(module.register_forward_pre_hook(self._enter, prepend=True).remove)
                    stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            yield

    @property
    def module(self) -> nn.Module:
        """The innermost module that is running and has modules of its own."""
        return self._running[-1][0] if self._running else self.model

    def innermost(self) -> tuple[int, int]:
        """Numbers for that very call of it, and for the call around that."""
        numbers = [0, 0, *(number for _, number in self._running)]
        return numbers[-1], numbers[-2]

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() == self._thread:
            self._entered += 1
            self._running.append((module, self._entered))

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if threading.get_ident() == self._thread:
            while self._running and self._running.pop()[0] is not module:
                pass


class _Functions(TorchFunctionMode):
    """Sees softmax and torch's own attention functions where a model calls them itself."""

    def __init__(self, frames: _Frames, calls: list[Call], edit: Edit | None, *, given: bool = False) -> None:
        super().__init__()
        self._given = given  # arguments are as large as results, and mostly not looked at
        self._frames = frames
        self._calls = calls
        self._edit = edit
        self._count = 0

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Not in force: flex attention compiles itself, and would compile itself differently under a mode."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        call = self._call(func, args, kwargs or {}, result)
        if call is None:
            return result
        self._count += 1
        edited = self._edit(call) if self._edit is not None else None
        if edited is not None:
            call.result = edited
        self._calls.append(call)
        return result if edited is None else edited

    def _call(self, func: Any, args: Any, kwargs: Any, result: Any) -> Call | None:
        at, module, inner = Key("function", self._count), self._frames.module, self._frames.innermost()
        if func is _ATTENTION:
            query, key = (
                kwargs.get(name, args[i] if i < len(args) else None) for i, name in enumerate(("query", "key"))
            )
            heads, kv_heads = (query.shape[1], key.shape[1]) if query.ndim == 4 else (0, 0)
            given = (tuple(args), dict(kwargs)) if self._given else None
            return Call(at, module, *inner, "sdpa", result, heads, kv_heads, *_lengths(query, key), given)
        if func in _SOFTMAX and _over_tokens(args, kwargs, result):
            given = (tuple(args), dict(kwargs)) if self._given else None
            return Call(at, module, *inner, "softmax", result, 0, 0, result.shape[-2], result.shape[-1], given)
        if func in _WHOLE:
            found = result[0] if isinstance(result, tuple) else result
            return Call(at, module, *inner, "whole", found, 0, 0, 0, 0)
        return None


def _over_tokens(args: Any, kwargs: Any, result: Tensor) -> bool:
    """Whether a softmax may be attention: over the last dimension of (…, queries, keys), with keys to choose from."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if result.ndim < 3 or not isinstance(dim, int) or dim % result.ndim != result.ndim - 1:
        return False
    return result.ndim >= 4 or result.shape[-1] > 1 or result.shape[-2] == 1
