"""Attention weights while a model runs as it is: computed again from query and key, and proven by what they give.

Fused attention (SDPA) returns no weights, and asking for them runs other code. Weights are believed only where, times
the values, they are the contexts that the model's own attention returned. Models that call softmax themselves
show them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from pytest_bertology.models.attention import COMBINED, TOKENS_FIRST, Call, _Frames, _Functions, _patching

_EAGER = "loaded with attn_implementation='eager', the model may show its weights"
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


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
        groups, rest = divmod(self.query.shape[1], self.key.shape[1])
        if rest or self.value.shape[1] != self.key.shape[1]:
            return f"{self.query.shape[1]} query heads share {self.key.shape[1]} keys in no way that is known"
        value = self.value.repeat_interleave(groups, dim=1)
        shape = (*self.query.shape[:3], self.key.shape[2])
        if isinstance(self.returned, Tensor) and self.returned.shape == shape:
            weights: Tensor = self.returned
        else:
            scores = self._scores(self.key.repeat_interleave(groups, dim=1))
            if isinstance(scores, str):
                return scores
            weights = scores.softmax(dim=-1)
        given = (weights.to(value.dtype) @ value).transpose(1, 2)[real]
        wanted = self.context[real]
        limit = _TOLERANCE.get(self.context.dtype, 3e-2) * max(1.0, float(wanted.abs().max())) if len(wanted) else 0.0
        if given.shape != wanted.shape or not bool(((given - wanted).abs() <= limit).all()):
            return f"its attention returns something else than its weights times its values; {_EAGER}"
        return weights

    def _scores(self, key: Tensor) -> Tensor | str:
        """(batch, heads, queries, keys) before the softmax, as scaled dot-product attention has them."""
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        scaling = self.options.get("scaling")
        scale = self.query.shape[-1] ** -0.5 if scaling is None else scaling
        scores: Tensor = self.query.to(dtype) @ key.to(dtype).transpose(2, 3) * scale
        bias = self.options.get("position_bias")
        if isinstance(bias, Tensor):
            scores = scores + bias
        if self.mask is None:
            causal = self.options.get("is_causal")
            causal = getattr(self.module, "is_causal", True) if causal is None else causal
            if causal and scores.shape[2] > 1:
                seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
                scores = scores.masked_fill(~seen, float("-inf"))
            return scores
        if not isinstance(self.mask, Tensor) or self.mask.ndim != 4:
            return f"its attention mask is of a kind that cannot be read here ({type(self.mask).__name__}); {_EAGER}"
        if self.mask.dtype == torch.bool:
            return scores.masked_fill(~self.mask, float("-inf"))
        return scores + self.mask


def softmax_weights(call: Call, axis: int, heads: int, real: Tensor) -> Tensor | str:
    """(batch, heads, queries, keys) weights of a model that calls softmax itself, or the reason why there are none.

    `axis` is that of heads in the result. That these are the heads' weights was proven when the model was loaded:
    scaling them there is the same as gating the heads.
    """
    if call.kind != "softmax":
        return f"it calls torch's own attention function, which returns no weights; {_EAGER}"
    weights = call.result
    if axis == COMBINED and weights.ndim == 3 and weights.shape[0] % heads == 0:
        weights = weights.reshape(-1, heads, *weights.shape[1:])
    elif axis == TOKENS_FIRST and weights.ndim == 4:
        weights = weights.transpose(1, 2)
    if weights.ndim != 4 or weights.shape[1] != heads:
        return f"its weights are laid out as {tuple(call.result.shape)}, in which {heads} heads cannot be told apart"
    if weights.shape[0] != real.shape[0] or weights.shape[2] != real.shape[1]:
        return "it attends to something else than the tokens of the text, each to all"
    sums = weights.sum(dim=-1).transpose(1, 2)[real]
    if not bool(((sums - 1.0).abs() <= 1e-2).all()):
        return "its weights do not add up to one"
    return weights


@contextmanager
def seeing_attention(
    model: nn.Module, see: Callable[[AttentionCall], None], see_function: Callable[[Call], None] | None = None
) -> Iterator[None]:
    """Show each attention call that this thread makes, counted as `watched` counts them.

    Those of the attention interface, and with `see_function` also the softmax and attention functions that the model
    calls itself.
    """
    functions = None if see_function is None else _functions(model, see_function)
    with _interface(see, functions.suspended if functions is not None else nullcontext):
        with functions if functions is not None else nullcontext():
            yield


def _functions(model: nn.Module, see: Callable[[Call], None]) -> _Functions:
    calls: list[Call] = []

    def shown(call: Call) -> None:
        calls.clear()  # one call's numbers at a time
        see(call)

    return _Functions(_Frames(model), calls, shown)


@contextmanager
def _interface(see: Callable[[AttentionCall], None], apart: Callable[[], Any]) -> Iterator[None]:
    """Show each call of the attention interface; what happens inside is run in the context `apart`."""
    thread = threading.get_ident()
    count = 0
    with _patching:
        original = AttentionInterface.get_interface

        def get_interface(self: AttentionInterface, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            function: Callable[..., Any] = original(self, *args, **kwargs)
            return shown(function) if threading.get_ident() == thread else function

        def shown(function: Callable[..., Any]) -> Callable[..., Any]:
            def attention(
                module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
            ) -> Any:
                nonlocal count
                with apart():
                    result = function(module, query, key, value, *rest, **options)
                    if result[0].ndim == 4 and result[0].shape[2] == query.shape[1]:
                        mask = rest[0] if rest else options.get("attention_mask")
                        given = {"scaling": rest[1], **options} if len(rest) > 1 else options
                        weights = result[1] if len(result) > 1 else None
                        see(AttentionCall(count, module, query, key, value, mask, given, result[0], weights))
                        count += 1
                return result

            return attention

        AttentionInterface.get_interface = get_interface
        try:
            yield
        finally:
            AttentionInterface.get_interface = original
