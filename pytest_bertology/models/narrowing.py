"""The last layer at a few tokens: a classifier reads one of them, and no other layer comes that would read the rest.

Keys and values of all tokens are needed, queries and everything after attention are not. The layer's own code runs
twice: once as far as its attention, for queries, keys and values; once over the needed tokens alone, given what
attention has for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_bertology.models.attention import Asked, answering
from pytest_bertology.models.skipping import states_key, states_of

if TYPE_CHECKING:
    from pytest_bertology.models.prefix import Layers
    from pytest_bertology.models.under_test import ModelUnderTest

_WITH_MASKS = ("sdpa", "eager")
"""Attention functions that take a mask as a tensor, and so can be asked for a few queries."""


class _Reached(Exception):
    """The layer has come to its attention."""


def can_narrow(model: ModelUnderTest, layers: Layers) -> bool:
    """Whether the last layer has one attention, through the interface, by a function that takes masks."""
    sites = layers.blocks[-1].sites
    return (
        len(sites) == 1
        and model.sites[sites[0]].found == "interface"
        and getattr(model.model.config, "_attn_implementation", None) in _WITH_MASKS
    )


@contextmanager
def narrowed(
    model: ModelUnderTest, layers: Layers, rows: Tensor, known: Tensor | None, queries: Sequence[nn.Module] = ()
) -> Iterator[None]:
    """The last layer computes its states at the tokens `rows` (examples, n) alone, and gives zeros elsewhere.

    `known` is what its projection would receive, of all tokens; None: its attention is computed. `queries` are linear
    maps of which only those tokens' results matter.
    """
    block = layers.blocks[-1]
    place = model.sites[block.sites[0]]
    attention = model.model.get_submodule(place.attention)
    whole = block.module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        key = states_key(block.module, args, kwargs)
        states: Tensor = args[0] if key is None else kwargs[key]
        few = _at(states, rows, 1)

        def contexts(call: Asked) -> Tensor | None:
            if call.module is not attention:
                return None
            if found is not None:
                return found
            return call.query.new_zeros(*rows.shape, call.query.shape[1], call.value.shape[-1])

        found = None if known is not None else _attended(whole, attention, args, kwargs, rows, queries)
        arguments = ((few, *args[1:]), kwargs) if key is None else (args, {**kwargs, key: few})
        with answering(contexts):
            result = whole(*arguments[0], **arguments[1])
        made = states_of(result)
        assert made is not None
        full = made.new_zeros(*states.shape[:2], *made.shape[2:])
        full.scatter_(1, _index(full, rows, 1), made)
        return full if isinstance(result, Tensor) else type(result)((full, *result[1:]))

    with replaced(block.module, forward):
        if known is None:
            yield
            return
        received = _at(known, rows, 1)
        hook = place.projection.register_forward_pre_hook(
            lambda module, args, kwargs: place.replaced(args, kwargs, received), with_kwargs=True, prepend=True
        )
        try:
            yield
        finally:
            hook.remove()


def _attended(
    whole: Callable[..., Any],
    attention: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rows: Tensor,
    queries: Sequence[nn.Module],
) -> Tensor:
    """The contexts (examples, n, heads, width) of these tokens, of whole examples."""
    asked: list[Asked] = []

    def reach(call: Asked) -> None:
        if call.module is attention:
            asked.append(call)
            raise _Reached

    with suppress(_Reached), ExitStack() as stack:
        for module in queries:
            stack.enter_context(replaced(module, _only_at(rows, module.forward)))
        stack.enter_context(answering(reach))
        whole(*args, **kwargs)
    (call,) = asked
    query, mask = _at(call.query, rows, 2), call.mask
    causal = call.options.get("is_causal")
    if causal is None:
        causal = getattr(attention, "is_causal", True)
    if mask is None and causal:
        reach_of = torch.arange(call.key.shape[2], device=rows.device)
        seen = reach_of[None, None, None, :] <= rows[:, None, :, None]
        mask = query.new_zeros(seen.shape).masked_fill(~seen, torch.finfo(query.dtype).min)
    elif mask is not None and mask.shape[2] > 1:
        mask = _at(mask.expand(len(rows), *mask.shape[1:]), rows, 2)
    return call.answered(query, mask, is_causal=False)


def _only_at(rows: Tensor, forward: Callable[..., Any]) -> Callable[..., Tensor]:
    """A linear map at these tokens alone, and zeros elsewhere."""

    def few(states: Tensor) -> Tensor:
        made: Tensor = forward(_at(states, rows, 1))
        full = made.new_zeros(*states.shape[:2], *made.shape[2:])
        return full.scatter_(1, _index(full, rows, 1), made)

    return few


def _at(tensor: Tensor, rows: Tensor, axis: int) -> Tensor:
    """Of each example these places along an axis."""
    return tensor.gather(axis, _index(tensor, rows, axis))


def _index(tensor: Tensor, rows: Tensor, axis: int) -> Tensor:
    """`rows` (examples, n) as an index into `tensor`, whose first axis runs over examples."""
    shape = [len(rows), *(1,) * (tensor.ndim - 1)]
    shape[axis] = rows.shape[1]
    wide = list(tensor.shape)
    wide[axis] = rows.shape[1]
    return rows.reshape(shape).expand(wide)


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward for a module, for the length of the context."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
