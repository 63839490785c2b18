"""What a model costs: numbers and bytes to keep, operations and memory of a forward pass."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.weights import module_weights, plain_tensors
from pytest_bertology.models import ModelUnderTest

_aten = torch.ops.aten
_MULTIPLIES = re.compile(
    r"mm|mv|dot|conv(?!ert)|attention|(?<!upsample_)(?<!upsample_bi)linear|lstm|gru|rnn|transformer"
)
"""Names of operations of torch's that are counted, or would have to be."""


@dataclass(frozen=True)
class Size:
    """What it takes to keep a model."""

    parameters: int
    """Numbers in parameters, a tied one counted once; packed weights of quantised layers among them."""
    weight_bytes: int
    """Bytes of parameters and persistent buffers; memory that several share counts once."""


@dataclass(frozen=True)
class Cost(Size):
    """What it takes to keep a model, and to run it once."""

    flops: int | None
    """Operations of matrix products, convolutions and attention in one forward pass, a multiplication and an addition
    being two; what is done number by number is not counted. None where `uncounted` operations ran."""
    uncounted: tuple[str, ...]
    """Operations that multiply, or may (a quantised layer's own kernels), and that torch cannot count."""
    peak_bytes: int
    """The most bytes a forward pass without gradients holds at once, beyond the weights and its inputs.

    On CUDA what the allocator handed out; elsewhere the live tensors, without what kernels use within themselves."""


def size(model: ModelUnderTest) -> Size:
    """Count a model's numbers and bytes; nothing is run."""
    check_model(model)
    own = {id(parameter): parameter for parameter in model.model.parameters()}
    packed = _packed(model.model)
    numbers = {_view(tensor): tensor.numel() for tensor in (*own.values(), *packed)}
    kept = (part for tensor in module_weights(model.model).values() for part in plain_tensors(tensor))
    return Size(sum(numbers.values()), _bytes(kept))


@remakeable
def cost(model: ModelUnderTest, inputs: Mapping[str, Any] | None = None) -> Cost:
    """Measure a model's costs, those of running it on `inputs`, by default `model.sample()`, as trained.

    The model runs uncompiled, in eval mode, without gradients, and without masks: masked heads cost what open ones
    do. Attention is counted in full, whether or not a kernel leaves out what is masked. Raises InvalidArgument.
    """
    check_model(model)
    if inputs is not None and not isinstance(inputs, Mapping):
        raise InvalidArgument("inputs", type(inputs).__name__, "the keyword inputs of one pass, {'input_ids': ...}")
    placed = model.sample() if inputs is None else tree_map_only(Tensor, lambda x: x.to(model.device), dict(inputs))
    keeps = size(model)
    with torch.no_grad(), model.frozen(), model.exactly(None):
        counter, watch = FlopCounterMode(display=False, custom_mapping=_ATTENTION), _Watch()
        with counter, watch:
            model.model(**placed)
        uncounted = tuple(sorted(op for op in watch.operations if _escapes(op, counter)))
        flops = None if uncounted else int(counter.get_total_flops())
        peak = _allocated(model, placed) if model.device.type == "cuda" else _live(model, placed)
    return Cost(keeps.parameters, keeps.weight_bytes, flops, uncounted, peak)


def _packed(model: nn.Module) -> list[Tensor]:
    """Weights that are neither parameters nor buffers: quantised layers keep theirs packed, beside a scale each."""
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    own = model.state_dict(keep_vars=True)
    return [leaf for leaf in tree_leaves(own) if isinstance(leaf, Tensor) and leaf.ndim and id(leaf) not in known]


def _view(tensor: Tensor) -> tuple[Any, ...]:
    """What two tied tensors have in common, though they be two objects."""
    (part, *more) = plain_tensors(tensor)
    if more:
        return (id(tensor),)
    return part.untyped_storage()._cdata, part.storage_offset(), tuple(part.shape), part.stride()


def _bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes that these tensors span, those that several span counted once."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for tensor in tensors:
        if tensor.numel():
            last = sum((n - 1) * int(step) for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            start = int(tensor.storage_offset()) * tensor.element_size()
            span = start, start + (last + 1) * tensor.element_size()
            spans.setdefault(tensor.untyped_storage()._cdata, []).append(span)
    total = 0
    for parts in spans.values():
        reached = 0
        for start, end in sorted(parts):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of softmax(QKᵀ)V: two products, over (batch, heads, queries, keys)."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))


_ATTENTION = {
    getattr(_aten, name): _attention_flops
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_attention_math_for_mps",
    )
    if hasattr(_aten, name)
}
"""Attention kernels that torch's counter leaves out."""


def _escapes(operation: str, counter: FlopCounterMode) -> bool:
    """Whether an operation that ran may have multiplied without being counted."""
    namespace, _, name = operation.partition("::")
    if namespace not in ("aten", "prim", "prims"):
        return True
    return bool(_MULTIPLIES.search(name)) and getattr(_aten, name, None) not in counter.flop_registry


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operations ran, and the most bytes that tensors made by them held at once."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: set[str] = set()
        self.peak = 0
        self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            self._note(tensor, ours=False)
        result = func(*args, **(kwargs or {}))
        if isinstance(func, torch._ops.OpOverload):
            self.operations.add(func._schema.name)
        for tensor in tree_leaves(result):
            self._note(tensor, ours=True)
        return result

    def _note(self, value: Any, *, ours: bool) -> None:
        """A storage is ours from its first operation on until it is freed, unless it came from outside."""
        if not isinstance(value, Tensor) or value.is_meta:
            return
        for part in plain_tensors(value):
            storage = part.untyped_storage()
            if storage._cdata in self._known:
                continue
            size = storage.nbytes() if ours else 0
            self._known.add(storage._cdata)
            self._held += size
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._freed, storage._cdata, size).atexit = False

    def _freed(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._held -= size


def _live(model: ModelUnderTest, inputs: Mapping[str, Any]) -> int:
    watch = _Watch()
    with watch:
        model.model(**inputs)
    return watch.peak


def _allocated(model: ModelUnderTest, inputs: Mapping[str, Any]) -> int:
    """By the allocators of all CUDA devices that the model is on."""
    devices = {parameter.device for parameter in model.model.parameters() if parameter.is_cuda} | {model.device}
    before = {}
    for device in devices:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before[device] = torch.cuda.memory_allocated(device)
    model.model(**inputs)
    for device in devices:
        torch.cuda.synchronize(device)
    peaks: list[int] = [torch.cuda.max_memory_allocated(device) - held for device, held in before.items()]
    return sum(peaks)
