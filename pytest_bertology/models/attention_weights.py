"""Attention weights while a model runs as it is: computed again from query and key, and proven by what they give.

Fused attention (SDPA) returns no weights, and asking for them runs other code. Weights are believed only where, times
the values, they are the contexts that the model's own attention returned. Models that call softmax themselves
show them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from pytest_bertology.models.attention import COMBINED, TOKENS_FIRST, Call, _Frames, _Functions, _patching

_EAGER = "loaded with attn_implementation='eager', the model may show its weights"
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}  # parts of some models run in float32 whatever they are given
_BLOCKED = -9999.0
"""What is added to scores that are masked, or less; no bias for distance comes near it."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of the attention interface: what it was given, and what it returned."""

    number: int
    """How many calls were seen before it."""
    module: nn.Module
    query: Tensor
    """(batch, heads, queries, width)"""
    key: Tensor
    """(batch, key-value heads, keys, width)"""
    value: Tensor
    mask: Any
    options: dict[str, Any]
    context: Tensor
    """(batch, queries, heads, width)"""
    returned: Any
    """The weights, where the attention function returns them."""

    def weights(self, real: Tensor) -> Tensor | str:
        """(batch, heads, queries, keys) attention weights, or the reason why they cannot be had.

        `real`, (batch, queries), says which queries are judged; rows of padding may hold anything.
        """
        given = self._own_heads()
        if given is None:
            return f"{self.query.shape[1]} query heads share {self.key.shape[1]} keys in no way that is known"
        value, wanted = given[1].detach(), self.context.detach()[real]
        limit = _TOLERANCE.get(self.context.dtype, 3e-2) * max(1.0, float(wanted.abs().max())) if len(wanted) else 0.0
        shape = (*self.query.shape[:3], self.key.shape[2])
        if isinstance(self.returned, Tensor) and self.returned.shape == shape:
            found = (self.returned.detach().to(value.dtype) @ value).transpose(1, 2)[real]
            if found.shape == wanted.shape and bool(((found - wanted).abs() <= limit).all()):
                return self.returned
        scores = self._masked_scores()
        if isinstance(scores, str):
            return scores
        weights = self._softmax(scores)
        found = (weights.detach().to(value.dtype) @ value).transpose(1, 2)[real]
        if found.shape != wanted.shape or not bool(((found - wanted).abs() <= limit).all()):
            return f"its attention returns something else than its weights times its values; {_EAGER}"
        return weights

    def _softmax(self, scores: Tensor) -> Tensor:
        """Weights of scores; a sink, a further score of each head, takes its share and is left out (gpt-oss)."""
        sink = self.options.get("s_aux")
        if not isinstance(sink, Tensor) or sink.shape != scores.shape[1:2]:
            return scores.softmax(dim=-1)
        sinks = sink.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]

    def scores(self, weights: Tensor, real: Tensor) -> Tensor | str:
        """(batch, heads, queries, keys) scores before the softmax, 0 where masked; or why they cannot be had.

        `weights` are those that `weights(real)` gave: what the softmax makes of the scores must be the same.
        """
        scores, blocked = self._scores(), self.blocked()
        if isinstance(scores, str) or isinstance(blocked, str):
            return scores if isinstance(scores, str) else str(blocked)
        if blocked is not None:
            scores = scores.masked_fill(blocked, float("-inf"))
        difference = (self._softmax(scores) - weights).transpose(1, 2)[real].abs()
        if not bool((difference <= _TOLERANCE.get(self.context.dtype, 3e-2)).all()):
            return "its weights are not the softmax of query times key and what its mask adds"
        return scores if blocked is None else scores.masked_fill(blocked, 0.0)

    def blocked(self) -> Tensor | str | None:
        """True where a query may not attend to a key, a shape that expands to (batch, heads, queries, keys).

        None where all may; the reason, where that cannot be read.
        """
        if self.mask is None:
            causal = self.options.get("is_causal")
            causal = getattr(self.module, "is_causal", True) if causal is None else causal
            if not causal or self.query.shape[2] <= 1:
                return None
            shape = (1, 1, self.query.shape[2], self.key.shape[2])
            return ~torch.ones(shape, dtype=torch.bool, device=self.query.device).tril()
        if not isinstance(self.mask, Tensor) or self.mask.ndim != 4:
            return f"its attention mask is of a kind that cannot be read here ({type(self.mask).__name__}); {_EAGER}"
        return ~self.mask if self.mask.dtype == torch.bool else self.mask <= _BLOCKED

    def part(self, rows: slice, heads: slice) -> AttentionCall:
        """The same call, of some examples and heads alone, each head with a key and a value of its own."""
        own = self._own_heads()
        if own is None:
            return self
        options = dict(self.options)
        if isinstance(options.get("position_bias"), Tensor):
            options["position_bias"] = _part(options["position_bias"], rows, heads)
        sink = options.get("s_aux")
        if isinstance(sink, Tensor) and sink.shape == self.query.shape[1:2]:
            options["s_aux"] = sink[heads]
        mask = _part(self.mask, rows, heads) if isinstance(self.mask, Tensor) and self.mask.ndim == 4 else self.mask
        returned = _part(self.returned, rows, heads) if isinstance(self.returned, Tensor) else self.returned
        key, value = (each[rows, heads] for each in own)
        context = self.context[rows, :, heads]
        return replace(
            self, query=self.query[rows, heads], key=key, value=value, mask=mask, options=options, context=context,
            returned=returned,
        )  # fmt: skip

    def _own_heads(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values, (batch, heads, keys, width): each query head's own."""
        groups, rest = divmod(self.query.shape[1], self.key.shape[1])
        if rest or self.value.shape[1] != self.key.shape[1]:
            return None
        if groups == 1:
            return self.key, self.value
        return self.key.repeat_interleave(groups, dim=1), self.value.repeat_interleave(groups, dim=1)

    def _masked_scores(self) -> Tensor | str:
        """(batch, heads, queries, keys) before the softmax, -inf or very small where masked."""
        scores, blocked = self._scores(), self.blocked()
        if isinstance(scores, str) or isinstance(blocked, str):
            return scores if isinstance(scores, str) else str(blocked)
        return scores if blocked is None else scores.masked_fill(blocked, float("-inf"))

    def _scores(self) -> Tensor | str:
        """(batch, heads, queries, keys): query times key, and what is added; without what is masked."""
        own = self._own_heads()
        if own is None:
            return f"{self.query.shape[1]} query heads share {self.key.shape[1]} keys in no way that is known"
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        scaling = self.options.get("scaling")
        scale = self.query.shape[-1] ** -0.5 if scaling is None else scaling
        scores: Tensor = (self.query.to(dtype) * scale) @ own[0].to(dtype).transpose(2, 3)
        cap = self.options.get("softcap")
        if cap is not None and isinstance(self.returned, Tensor):  # a backend that shows no weights may ignore it
            scores = torch.tanh(scores / cap) * cap
        bias = self.options.get("position_bias")
        if isinstance(bias, Tensor):
            scores = scores + bias
        if isinstance(self.mask, Tensor) and self.mask.ndim == 4 and self.mask.dtype != torch.bool:
            scores = scores + self.mask
        return scores


def of_function(call: Call) -> AttentionCall | None:
    """A call of torch's own scaled dot-product attention, as one of the interface; None for any other call."""
    if call.kind != "sdpa" or call.given is None or call.result.ndim != 4:
        return None
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    args, kwargs = call.given
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mask = given.get("attn_mask")
    if isinstance(mask, Tensor) and mask.ndim < 4:
        mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
    options = {"scaling": given.get("scale"), "is_causal": bool(given.get("is_causal", False))}
    query, key, value = (given[name] for name in names[:3])
    context = call.result.transpose(1, 2)
    return AttentionCall(call.key.number, call.module, query, key, value, mask, options, context, None)


def softmax_weights(call: Call, axis: int, heads: int, real: Tensor) -> Tensor | str:
    """(batch, heads, queries, keys) weights of a model that calls softmax itself, or the reason why there are none.

    `axis` is that of heads in the result. That these are the heads' weights was proven when the model was loaded:
    scaling them there is the same as gating the heads.
    """
    if call.kind != "softmax":
        return f"it calls torch's own attention function, which returns no weights; {_EAGER}"
    weights = _laid_out(call.result, axis, heads)
    if weights.ndim != 4 or weights.shape[1] != heads:
        return f"its weights are laid out as {tuple(call.result.shape)}, in which {heads} heads cannot be told apart"
    if weights.shape[0] != real.shape[0] or weights.shape[2] != real.shape[1]:
        return "it attends to something else than the tokens of the text, each to all"
    sums = weights.sum(dim=-1).transpose(1, 2)[real]
    if not bool(((sums - 1.0).abs() <= 1e-2).all()):
        return "its weights do not add up to one"
    return weights


def softmax_scores(call: Call, axis: int, heads: int) -> Tensor | str:
    """(batch, heads, queries, keys) scores that such a model gives its softmax, 0 where masked."""
    if call.scores is None or call.scores.shape != call.result.shape:
        return "the scores that its softmax was given are not seen"
    scores = _laid_out(call.scores, axis, heads)
    return scores.masked_fill(scores <= _BLOCKED, 0.0)


def softmax_blocked(call: Call, axis: int, heads: int) -> Tensor | str:
    """True where such a model masks a key, (batch, heads, queries, keys); or why that is not seen.

    Some add no more than -10,000 to scores that may be above zero: they stand far below the greatest, all the same.
    """
    if call.scores is None or call.scores.shape != call.result.shape:
        return "the scores that its softmax was given are not seen"
    scores = _laid_out(call.scores, axis, heads)
    below = (scores < scores.amax(dim=-1, keepdim=True) + _BLOCKED / 2) & (_laid_out(call.result, axis, heads) == 0.0)
    return (scores <= _BLOCKED) | below


def laid_back(call: Call, axis: int, weights: Tensor) -> Tensor:
    """Weights (batch, heads, queries, keys) in the layout in which such a model has them."""
    if axis == COMBINED and call.result.ndim == 3:
        return weights.reshape(call.result.shape)
    return weights.transpose(1, 2) if axis == TOKENS_FIRST and call.result.ndim == 4 else weights


def _laid_out(found: Tensor, axis: int, heads: int) -> Tensor:
    if axis == COMBINED and found.ndim == 3 and found.shape[0] % heads == 0:
        return found.reshape(-1, heads, *found.shape[1:])
    return found.transpose(1, 2) if axis == TOKENS_FIRST and found.ndim == 4 else found


def _part(values: Tensor, rows: slice, heads: slice) -> Tensor:
    """Some rows and heads of (batch or 1, heads or 1, …)."""
    return values[rows if values.shape[0] > 1 else slice(None), heads if values.shape[1] > 1 else slice(None)]


See = Callable[[AttentionCall], Tensor | tuple[Tensor, Tensor] | None]
"""Given a call, None, other contexts, or other contexts and weights."""


@contextmanager
def seeing_attention(
    model: nn.Module,
    see: See,
    see_function: Callable[[Call], Tensor | None] | None = None,
) -> Iterator[None]:
    """Show each attention call that this thread makes, counted as `watched` counts them.

    Those of the attention interface, and with `see_function` also the softmax and attention functions that the model
    calls itself. What either returns, contexts (batch, queries, heads, width), perhaps with the weights that gave them,
    or a function's result, the model is given instead of its own; None leaves it. What they compute themselves no one
    else who watches takes for the model's.
    """
    functions = None if see_function is None else _functions(model, see_function)
    with _interface(see, functions.suspended if functions is not None else nullcontext):
        with functions if functions is not None else nullcontext():
            yield


def _functions(model: nn.Module, see: Callable[[Call], Tensor | None]) -> _Functions:
    calls: list[Call] = []

    def shown(call: Call) -> Tensor | None:
        calls.clear()  # one call's numbers at a time
        with torch._C.DisableTorchFunction():
            return see(call)

    return _Functions(_Frames(model), calls, shown, given=True)


@contextmanager
def _interface(see: See, apart: Callable[[], Any]) -> Iterator[None]:
    """Show each call of the attention interface; what happens inside is run in the context `apart`."""
    thread = threading.get_ident()
    numbers = count()
    with _patching:
        original = AttentionInterface.get_interface

        def get_interface(self: AttentionInterface, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            function: Callable[..., Any] = original(self, *args, **kwargs)
            return showing(function, see, apart, numbers) if threading.get_ident() == thread else function

        AttentionInterface.get_interface = get_interface
        try:
            yield
        finally:
            AttentionInterface.get_interface = original


def showing(
    function: Callable[..., Any], see: See, apart: Callable[[], Any], numbers: Iterator[int]
) -> Callable[..., Any]:
    """An attention function of the interface that shows each of its calls; it runs in the context `apart`."""

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
        with apart():
            result = function(module, query, key, value, *rest, **options)
            if result[0].ndim != 4 or result[0].shape[2] != query.shape[1]:
                return result
            mask = rest[0] if rest else options.get("attention_mask")
            given = {"scaling": rest[1], **options} if len(rest) > 1 else options
            weights = result[1] if len(result) > 1 else None
            call = AttentionCall(next(numbers), module, query, key, value, mask, given, result[0], weights)
            with torch._C.DisableTorchFunction():
                changed = see(call)
        if changed is None:
            return result
        context, *others = changed if isinstance(changed, tuple) else (changed,)
        return (context.contiguous(), *(*others, *(None for _ in result))[: len(result) - 1])

    return attention
