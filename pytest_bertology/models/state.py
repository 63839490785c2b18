"""What a test may leave behind on a model: capture it, put it back, tell what was changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from pytest_bertology.errors import WeightsElsewhere

HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_CONTEXTS = tuple(f"pytest_bertology.models.{name}" for name in ("skipping", "units", "erasing"))


def only_watches(hook: object) -> bool:
    """Whether a hook is one with which transformers notes hidden states: installed once, for good, changing nothing."""
    return getattr(hook, "__module__", None) == "transformers.utils.output_capturing"


def _gates(hook: object) -> bool:
    """Whether a hook is one of this package's contexts: it goes when that is left, and not before."""
    return getattr(hook, "__module__", None) == "pytest_bertology.models.gating" or changes_attention(hook)


def is_of_context(hook: object) -> bool:
    """Whether a hook is of any context of this package, layers skipped, units masked and erasures among them."""
    return _gates(hook) or getattr(hook, "__module__", None) in _CONTEXTS


def changes_attention(hook: object) -> bool:
    """Whether a hook is of a change of attention, which acts only in the thread that has entered it."""
    return getattr(hook, "__module__", None) == "pytest_bertology.models.intervening"


def gatings(model: nn.Module) -> list[Any]:
    """What the gates on a model belong to."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values() if _gates(hook))
    return [hook.__self__ for hook in hooks if hasattr(hook, "__self__")]


def remove_gates(model: nn.Module) -> None:
    """Take this package's gates off a model that was copied while masks were in force."""
    for module in model.modules():
        gates = [key for key, hook in module._forward_pre_hooks.items() if _gates(hook)]
        for key in gates:
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and each module back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients to the weights; both are restored, and the weights' `.grad` is never touched."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model):
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


def input_device(model: nn.Module) -> torch.device:
    """Where a model's inputs go; for a model that accelerate has offloaded, where its layers run."""
    device = torch.device(getattr(model, "device", "cpu"))
    if device.type != "meta":
        return device
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            place = getattr(part, "execution_device", None)
            if place is not None:
                return torch.device(place if isinstance(place, str | torch.device) else f"cuda:{place}")
    return device


def offloaded(model: nn.Module) -> bool:
    """Whether accelerate moves weights in and out while the model runs."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def checksums(model: nn.Module) -> dict[str, int]:
    """An XXH3 of each parameter's and buffer's bytes: cheap, and blind to no way of writing (`.data` included)."""
    return {name: xxhash.xxh3_64_intdigest(_bytes(tensor)) for name, tensor in tensors(model)}


def digest(model: nn.Module) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of all parameters and buffers, as hexadecimal."""
    sha = hashlib.sha256()
    for name, tensor in tensors(model):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def changed(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of the tensors that differ, came or went."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers by name, tied ones once; what accelerate has offloaded is fetched."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name, _offloaded(model, name) if tensor.is_meta else tensor


def _offloaded(model: nn.Module, name: str) -> Tensor:
    """The tensor that accelerate keeps elsewhere for one on the meta device; raises NoWeights where there is none."""
    path, _, own = name.rpartition(".")
    hook = getattr(model.get_submodule(path), "_hf_hook", None)
    for part in getattr(hook, "hooks", [hook]):
        weights = getattr(part, "weights_map", None)
        if weights is not None:
            found = weights[own]
            if isinstance(found, Tensor) and not found.is_meta:
                return found
    raise WeightsElsewhere(type(model).__name__, name)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


@dataclass(frozen=True)
class ModelState:
    """A model's mode, trainable parameters, hooks and weights at one moment."""

    model: nn.Module
    training: dict[int, bool]
    requires_grad: dict[str, bool]
    hooks: dict[tuple[int, str], dict[int, Any]]
    weights: dict[str, int]

    @classmethod
    def capture(cls, model: nn.Module) -> ModelState:
        """Note the state of `model` as it is now."""
        return cls(
            model=model,
            training={id(module): module.training for module in model.modules()},
            requires_grad={name: parameter.requires_grad for name, parameter in model.named_parameters()},
            hooks={(id(m), kind): dict(getattr(m, kind, {})) for m in model.modules() for kind in HOOKS},
            weights=checksums(model),
        )

    def restore(self) -> list[str]:
        """Put mode, `requires_grad`, `.grad` and hooks back; return the names of weights that were changed."""
        for module in self.model.modules():
            module.training = self.training.get(id(module), module.training)
            hooks = {**module._forward_pre_hooks, **module._forward_hooks}
            lasting = {key for key, hook in hooks.items() if only_watches(hook) or is_of_context(hook)}
            for kind in HOOKS:
                present, before = getattr(module, kind, {}), self.hooks.get((id(module), kind), {})
                # Those of transformers that were taken off since are not put back: it installs them anew.
                ours = {key: hook for key, hook in before.items() if key in present or not only_watches(hook)}
                kept = ours | {key: hook for key, hook in present.items() if key in lasting}
                if present != kept:
                    present.clear()
                    present.update(kept)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.requires_grad.get(name, parameter.requires_grad))
            parameter.grad = None
        return changed(self.weights, checksums(self.model))
