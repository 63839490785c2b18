"""Find the heads of a model by running it once: no name tables, no guesses.

Every attention layer of transformers >= 5.1 looks its attention function up in `AttentionInterface.get_interface`.
For the length of one forward pass that look-up is wrapped, so that each call is seen: the module, its query heads and
key-value heads, and the contexts it returns, (batch, tokens, heads, width). The module that then receives those very
numbers, unchanged, as (…, heads * width) is the projection whose columns belong to the heads.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import AttentionInterface

from pytest_bertology.errors import CannotGate, NoAttentionHeads
from pytest_bertology.heads import HeadMap
from pytest_bertology.models.sites import Site

_patching = threading.Lock()


@dataclass
class _Call:
    """One attention call seen during the dry run, and who received its contexts."""

    module: nn.Module
    heads: int
    kv_heads: int
    context: Tensor
    """What the call returned, (batch, tokens, heads, width); kept, so that its memory is not used again."""
    receivers: list[tuple[nn.Module, int | str]] = field(default_factory=list)


def discover(model: PreTrainedModel, sample: Mapping[str, Any]) -> tuple[tuple[Site, ...], HeadMap]:
    """Run `model` on `sample` once and return its attention sites and the map of their heads.

    Raises NoAttentionHeads where no attention call is seen, CannotGate where no module receives a call's contexts.
    """
    architecture = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise CannotGate(architecture, "both stacks", "encoder-decoder models are not supported by this version")
    calls = _record(model, sample)
    if not calls:
        raise NoAttentionHeads(architecture)
    names = {id(module): name or architecture for name, module in model.named_modules()}
    sites: dict[int, Site] = {}
    for call in calls:
        projection, argument = _projection(call, architecture, names)
        known = sites.get(id(projection))
        sites[id(projection)] = Site(
            layer=known.layer if known else len(sites),
            stack=None,
            name=names[id(projection)],
            attention=names.get(id(call.module), type(call.module).__name__),
            projection=projection,
            argument=argument,
            heads=call.heads,
            kv_heads=call.kv_heads,
            width=call.context.shape[-1],
            calls=known.calls + 1 if known else 1,
        )
        if known and (known.heads, known.width) != (call.heads, call.context.shape[-1]):
            raise CannotGate(architecture, known.name, "attention calls with different heads share one projection")
    found = tuple(sites.values())
    return found, HeadMap([site.heads for site in found])


def _record(model: PreTrainedModel, sample: Mapping[str, Any]) -> list[_Call]:
    """The attention calls of one forward pass, in order."""
    calls: list[_Call] = []
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(attention_calls(calls))
        for module in model.modules():
            handle = module.register_forward_pre_hook(_receiver(calls), with_kwargs=True)
            stack.callback(handle.remove)
        model(**sample)
    return calls


@contextmanager
def attention_calls(calls: list[_Call], edit: Callable[[Tensor, int], Tensor] | None = None) -> Iterator[None]:
    """Record every attention call that this thread makes through the attention interface.

    `edit`, given a call's contexts and how many calls came before it, returns what the model is to see instead.
    """
    thread = threading.get_ident()
    with _patching:
        original = AttentionInterface.get_interface

        def get_interface(self: AttentionInterface, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            function: Callable[..., Any] = original(self, *args, **kwargs)
            return recording(function) if threading.get_ident() == thread else function

        def recording(function: Callable[..., Any]) -> Callable[..., Any]:
            def attention(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
                result = function(module, query, key, *rest, **options)
                if result[0].ndim != 4 or result[0].shape[2] != query.shape[1]:
                    return result
                # The same numbers, laid out as the projection reads them (GPT-2's eager attention leaves that to it).
                context = result[0].contiguous() if edit is None else edit(result[0], len(calls)).contiguous()
                calls.append(_Call(module, query.shape[1], key.shape[1], context))
                return (context, *result[1:])

            return attention

        AttentionInterface.get_interface = get_interface
        try:
            yield
        finally:
            AttentionInterface.get_interface = original


def _receiver(calls: list[_Call]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A pre-hook that notes which module receives the contexts of the latest attention call."""

    def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not calls:
            return
        call = calls[-1]
        arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for key, value in arguments:
            if isinstance(value, Tensor) and _same_numbers(value, call.context):
                call.receivers.append((module, key))

    return receive


def _same_numbers(value: Tensor, context: Tensor) -> bool:
    """Whether `value` is the memory of `context`, its heads laid side by side in the last dimension."""
    return (
        value.data_ptr() == context.data_ptr()
        and value.numel() == context.numel()
        and value.is_contiguous()
        and context.is_contiguous()
        and value.shape[-1] == context.shape[2] * context.shape[3]
    )


def _projection(call: _Call, architecture: str, names: Mapping[int, str]) -> tuple[nn.Module, int | str]:
    """The innermost module that receives the contexts and holds every module that computes with them.

    Usually the output projection itself. Where several modules share the input (an adapter beside the projection),
    their common parent, so that none is left without the gate.
    """
    site = names.get(id(call.module), type(call.module).__name__)
    computing = [module for module, _ in call.receivers if _computes(module)]
    if not computing:
        raise CannotGate(
            architecture,
            site,
            "no module receives the heads' contexts as they leave attention; they are changed, mixed or projected "
            "by a function in between",
        )
    holders = [
        (module, key) for module, key in call.receivers if set(map(id, computing)) <= set(map(id, module.modules()))
    ]
    if not holders:
        raise CannotGate(
            architecture, site, f"{len(computing)} modules receive the contexts, and no one module holds them"
        )
    return min(holders, key=lambda holder: sum(1 for _ in holder[0].modules()))


def _computes(module: nn.Module) -> bool:
    """A leaf with weights: it does something to what it receives (a dropout or an identity does not)."""
    return not any(True for _ in module.children()) and any(True for _ in module.parameters(recurse=False))


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the model's forward takes an argument of this name."""
    return name in inspect.signature(model.forward).parameters
