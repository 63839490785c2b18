"""Gates on heads by forward pre-hooks, for packages that leave the model's insides to their user."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def projections(model: nn.Module) -> list[nn.Module]:
    """What reads each layer's heads side by side: BERT's or GPT-2's output projections."""
    if hasattr(model, "bert"):
        return [layer.attention.output.dense for layer in model.bert.encoder.layer]
    return [block.attn.c_proj for block in model.transformer.h]


class Gated(nn.Module):
    """The model as a function of its gates too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.gates: Tensor | None = None
        for layer, projection in enumerate(projections(model)):
            projection.register_forward_pre_hook(lambda _, inputs, layer=layer: self._gate(inputs, layer))

    def forward(self, gates: Tensor, **inputs: Tensor) -> Tensor:
        """Logits under `gates`, (batch, layers, heads)."""
        self.gates = gates
        return self.model(**inputs).logits

    def _gate(self, inputs: tuple[Any, ...], layer: int) -> tuple[Any, ...]:
        (context,) = inputs
        gates = self.gates[:, layer, :]
        heads = context.unflatten(-1, (gates.shape[-1], -1))
        return ((heads * gates[:, None, :, None]).flatten(-2),)
