"""captum: FeatureAblation and Saliency of a forward function whose input is the gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from captum.attr import FeatureAblation, Saliency
from gates import Gated
from serving import ABLATION, IMPORTANCE, SETTINGS, STACKED, Batch, Head, Peer, load, losses, result, serve
from torch import Tensor


class Captum(Peer):
    packages = ("captum", "transformers")
    settings = {ABLATION: STACKED, IMPORTANCE: SETTINGS}  # noqa: RUF012

    def __init__(self, kind: str, folder: Path) -> None:
        model = load(kind, folder).requires_grad_(False)
        self.model = Gated(model)
        self.shape = (model.config.num_hidden_layers, model.config.num_attention_heads)

    def ablations(self, batch: Batch, heads: Sequence[Head], variants: int) -> Tensor:
        """FeatureAblation answers with how far each output falls from the whole model's, which it runs first."""
        index = torch.tensor([layer * self.shape[1] + head for layer, head in heads])
        whole: list[Tensor] = []

        def forward(gates: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            every = torch.ones(len(gates), self.shape[0] * self.shape[1]).index_copy(1, index, gates)
            logits = self.model(every.unflatten(1, self.shape), input_ids=ids, attention_mask=mask)
            found = result(logits, Batch([], ids, mask, labels))
            whole.append(found)
            return found

        gates = torch.ones(len(batch.ids), len(heads))
        falls = FeatureAblation(forward).attribute(
            gates, additional_forward_args=(batch.ids, batch.mask, batch.labels), perturbations_per_eval=variants
        )
        return whole[0] - falls.movedim(-1, 0).reshape(len(heads), *whole[0].shape)

    def sensitivities(self, batch: Batch) -> Tensor:
        def forward(gates: Tensor) -> Tensor:
            return losses(self.model(gates, **batch.inputs), batch)

        return Saliency(forward).attribute(torch.ones(len(batch.ids), *self.shape)).flatten(1)


if __name__ == "__main__":
    serve(Captum)
