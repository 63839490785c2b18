"""Masks and `torch.compile`: compiled code leaves hooks out, so under a mask nothing compiled runs compiled.

But for flex attention, which compiles itself: run uncompiled it would round differently than the plain model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_bertology.errors import CompiledUnderMask

_lock = threading.Lock()
_eager = 0
_stance: Any = None


def may_run_eager(model: nn.Module) -> bool:
    """Whether the model gives the same numbers while torch's compiler is out of force."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) != "flex_attention"


def original(model: Any) -> Any:
    """The module that `torch.compile(module)` wraps; anything else as it is."""
    return getattr(model, "_orig_mod", model)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def refuse() -> None:
    """Raise CompiledUnderMask: called by code that is about to be compiled, when it runs."""
    raise CompiledUnderMask


def enter_eager() -> None:
    """Run compiled code uncompiled, in all threads, until the last `leave_eager`; nothing before torch 2.6."""
    global _eager, _stance
    with _lock:
        _eager += 1
        if _stance is None and hasattr(torch.compiler, "set_stance"):
            _stance = torch.compiler.set_stance("force_eager")
            _stance.__enter__()


def leave_eager() -> None:
    """The end of one `enter_eager`."""
    global _eager, _stance
    with _lock:
        _eager -= 1
        if _eager == 0 and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Uncompiled for the length of the context, if the model may be."""
    if not may_run_eager(model):
        yield
        return
    enter_eager()
    try:
        yield
    finally:
        leave_eager()
