"""What does not fit in memory is computed once more, in batches of half the size.

A whole computation is begun anew, and none of its batches alone: whatever it has summed until then is thrown away with
it, so that no example is lost or counts twice. Results do not depend on the size of batches beyond float noise.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch

from pytest_bertology.errors import BertologyError, BertologyWarning, OutOfMemory

R = TypeVar("R")

_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)
"""What other errors than torch.OutOfMemoryError say where memory is short."""
_LONGEST = 160


@dataclass(eq=False)
class _Work:
    """A computation under way, and the batches that it has made so far."""

    limit: int | None
    """Tokens that a batch may hold; None: as many as its budget says."""
    around: _Work | None
    largest: int = 0
    """Tokens of the largest batch, padding among them."""
    rows: int = 0
    """The most examples that a batch held."""
    longest: int = 0
    """Tokens of the longest example."""


@dataclass
class _Tried(Generic[R]):
    """How an attempt ended: with a result, or why memory was short."""

    results: list[R]
    why: str = ""


_under_way: ContextVar[_Work | None] = ContextVar("the computation under way", default=None)
_known: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()
"""Per model and computation, the tokens that a batch may hold, once it was seen that more do not fit."""


def within_memory(what: str, model: Any, compute: Callable[[], R]) -> R:
    """What `compute` gives; computed anew in batches of half the tokens, with a warning, where memory is short.

    `compute` must begin from nothing each time. The innermost of several such computations is the one that is repeated.
    That is done once for each model and `what`: later ones of the session begin with what was seen to fit. Raises
    OutOfMemory where that does not fit either, or each batch holds a single example already. An error before any batch
    was made has nothing to do with batches and is left as it is.
    """
    around = _under_way.get()
    known = (_known.get(model, {}).get(what), None if around is None else around.limit)
    limits = [limit for limit in known if limit is not None]
    work = _Work(min(limits) if limits else None, around)
    tried = _tried(work, compute)
    if tried.why and work.limit is None and work.rows > 1:
        halved = max(1, work.largest // 2)
        _free()
        warnings.warn(
            f"{what} of {_name(model)}: a batch of {work.largest:,} tokens did not fit in memory ({tried.why}); it is "
            f"computed again in batches of at most {halved:,} tokens",
            BertologyWarning,
            stacklevel=3,
        )
        work = _Work(halved, around)
        tried = _tried(work, compute)
        if not tried.why:
            _known.setdefault(model, {})[what] = halved
    if tried.why:
        _free()
        raise OutOfMemory(what, _name(model), work.limit or work.largest, work.longest, tried.why)
    return tried.results[0]


def _tried(work: _Work, compute: Callable[[], R]) -> _Tried[R]:
    """Compute once; an error of memory is let go of here, and with it the tensors that its frames hold."""
    token = _under_way.set(work)
    try:
        return _Tried([compute()])
    except Exception as error:
        if not (out_of_memory(error) and work.rows):
            raise
        return _Tried([], " ".join(str(error).split())[:_LONGEST])
    finally:
        _under_way.reset(token)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the CPU, has no memory left for a tensor."""
    if isinstance(error, BertologyError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
    )


def allowed(tokens: int) -> int:
    """As many tokens, or as many as the computation under way is limited to."""
    work = _under_way.get()
    return tokens if work is None or work.limit is None else min(tokens, work.limit)


def note_batch(rows: int, length: int) -> None:
    """Tell the computations under way of a batch that is about to be run."""
    work = _under_way.get()
    while work is not None:
        work.largest, work.rows = max(work.largest, rows * length), max(work.rows, rows)
        work.longest = max(work.longest, length)
        work = work.around


def _free() -> None:
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _name(model: Any) -> str:
    return str(getattr(model, "name", type(model).__name__))
