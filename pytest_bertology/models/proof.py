"""The proof of a cut: the cut model runs beside the masked one, and what leaves chosen modules and the model agrees.

A wrong layout can fit all shapes and be silently wrong; and what leaves a projection shows it more sharply than the
output, in which the residual stream is the larger part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.errors import CutDiffers
from pytest_bertology.models.selfcheck import output
from pytest_bertology.models.shares import first_result

OUTPUT = "the output"


@dataclass(frozen=True)
class Seen:
    """What left some modules, and the model, in one run."""

    inside: Mapping[str, Sequence[Tensor]]
    """By module path, call by call."""
    outputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: PreTrainedModel, names: Sequence[str], sample: Mapping[str, Any]) -> Seen:
        """Run the model, and watch the modules of these names."""
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        handles = []
        for name, results in found.items():

            def note(module: nn.Module, args: Any, result: Any, results: list[Tensor] = results) -> None:
                results.append(first_result(result))

            handles.append(model.get_submodule(name).register_forward_hook(note))
        try:
            return cls(found, output(model, sample))
        finally:
            for handle in handles:
                handle.remove()

    def named(self) -> list[tuple[str, Tensor]]:
        """All of it, in order."""
        inside = [(name, result) for name, results in self.inside.items() for result in results]
        return inside + [(OUTPUT, tensor) for tensor in self.outputs]


@dataclass(frozen=True)
class Reference:
    """A model as trained, and under the mask of what is to be cut."""

    plain: Seen
    masked: Seen

    def check(self, cut: PreTrainedModel, sample: Mapping[str, Any], architecture: str) -> bool:
        """Raise CutDiffers where the cut model is not the masked one on real tokens; return whether the mask acts."""
        with torch.no_grad():
            found = Seen.of(cut, list(self.masked.inside), sample)
        moved = False
        for (name, plain), (_, masked), (_, own) in zip(
            self.plain.named(), self.masked.named(), found.named(), strict=True
        ):
            if masked.shape != own.shape:
                raise CutDiffers(architecture, name, f"its shape is {tuple(own.shape)}, not {tuple(masked.shape)}")
            allowed = tolerance(masked.dtype)
            plain, masked, own = (_real(tensor, sample) for tensor in (plain, masked, own))
            scale = _largest(masked) or _largest(plain) or 1.0
            if name == OUTPUT:
                scale = max(1.0, scale)
            difference = _difference(masked, own)
            if not difference <= allowed * scale:
                raise CutDiffers(architecture, name, f"they differ by {difference:.3g} of {scale:.3g}")
            moved = moved or _difference(masked, plain) > 0.0
        return moved


def tolerance(dtype: torch.dtype) -> float:
    """How far a cut model may be from the masked one by rounding, in units of the largest number."""
    return {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 5e-2)


def _real(tensor: Tensor, sample: Mapping[str, Any]) -> Tensor:
    """What belongs to real tokens, where a tensor has as many positions as the sample."""
    attention = sample.get("attention_mask")
    if isinstance(attention, Tensor) and tensor.shape[:2] == attention.shape:
        tensor = tensor[attention.bool()]
    return tensor.double()


def _largest(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference; numbers that are not finite must be the same on both sides."""
    same = (one == other) | (one.isnan() & other.isnan())
    if not one.numel() or bool(same.all()):
        return 0.0
    largest = float((one - other)[~same].abs().max())
    return largest if largest == largest else float("inf")
