"""TransformerLens: `run_with_hooks` on a TransformerBridge, hooks at each layer's `hook_z`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from serving import CLASSIFIER, Batch, Head, Peer, load, serve
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


class TransformerLens(Peer):
    packages = ("transformer-lens", "transformers")

    def __init__(self, kind: str, folder: Path) -> None:
        model = load(kind, folder, attn_implementation="eager").requires_grad_(False)
        try:
            self.model = TransformerBridge.boot_transformers(str(folder / "model"), hf_model=model, device="cpu")
        except AttributeError as error:
            if kind == CLASSIFIER:  # its adapter for BERT knows the masked-LM and next-sentence heads
                raise NotImplementedError(f"TransformerBridge does not take it: {error}") from error
            raise
        self.layers = self.model.cfg.n_layers

    def ablated(self, batch: Batch, heads: Sequence[Head]) -> Tensor:
        ((layer, head),) = heads

        def zero(z: Tensor, hook: object) -> Tensor:
            z[:, :, head, :] = 0.0
            return z

        with torch.inference_mode():
            each = self.model.run_with_hooks(
                batch.ids, return_type="loss", loss_per_token=True, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)]
            )
        return each.mean(dim=1)[None]

    def sensitivities(self, batch: Batch) -> Tensor:
        """Every gate's derivative is the sum over its head of activation times gradient."""
        kept: dict[int, Tensor] = {}
        found: dict[int, Tensor] = {}

        def keep(z: Tensor, hook: object, layer: int) -> Tensor:
            kept[layer] = z if z.requires_grad else z.requires_grad_()
            return kept[layer]

        def multiply(gradient: Tensor, hook: object, layer: int) -> None:
            found[layer] = (gradient * kept[layer].detach()).sum(dim=(1, 3))

        names = [f"blocks.{layer}.attn.hook_z" for layer in range(self.layers)]
        with self.model.hooks(
            [(name, partial(keep, layer=layer)) for layer, name in enumerate(names)],
            [(name, partial(multiply, layer=layer)) for layer, name in enumerate(names)],
        ):
            each = self.model(batch.ids, return_type="loss", loss_per_token=True)
            each.mean(dim=1).sum().backward()
        return torch.stack([found[layer] for layer in range(self.layers)], dim=1).flatten(1)


if __name__ == "__main__":
    serve(TransformerLens)
