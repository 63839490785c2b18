"""What discovery asks of a module: does it compute, is it linear, where its features lie; and hooks on all modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_bertology.models.reduced import ReducedLinear


def computes(module: nn.Module) -> bool:
    """A leaf with weights: it does something to what it receives (a dropout or an identity does not).

    Quantised layers keep theirs in buffers, or packed.
    """
    if hasattr(module, "_packed_params"):
        return True
    kept: list[Tensor] = [*module.parameters(recurse=False)]
    if hasattr(module, "in_features"):
        kept += module.buffers(recurse=False)
    return bool(kept) and not any(True for _ in module.children())


def is_linear(module: nn.Module) -> bool:
    """A linear map over the last dimension."""
    return isinstance(module, nn.Linear | Conv1D | ReducedLinear)


def feature_axis(module: nn.Module) -> int:
    """Along which dimension a module's features lie: the channels' for convolutions, else the last."""
    return 1 if isinstance(module, nn.Conv1d | nn.Conv2d) else -1


def tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[int | str, Tensor]]:
    """The floating-point tensors among the arguments of a call."""
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, value in arguments:
        if isinstance(value, Tensor) and value.is_floating_point():
            yield key, value


@contextmanager
def hooked(model: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """`hook` before every call of a module that this thread makes."""
    thread = threading.get_ident()

    def own(*call: Any) -> Any:
        return hook(*call) if threading.get_ident() == thread else None

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(own, with_kwargs=True).remove)
        yield
