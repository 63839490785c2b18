"""transformers below 5: `head_mask`, as run_bertology.py's loop has it, or with a mask of each example's own.

The script runs one mask a pass, and takes gradients one example at a time, because its masks are of the whole batch;
its weights ask for gradients too. `--tuned` gives every row of a batch its own mask and freezes the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from serving import ABLATION, IMPORTANCE, SETTINGS, STACKED, Batch, Head, Peer, Setting, load, losses, result, serve
from torch import Tensor


class Script(Peer):
    """As run_bertology.py does it."""

    packages = ("transformers",)
    settings = {ABLATION: SETTINGS, IMPORTANCE: [Setting(1)]}  # noqa: RUF012

    def __init__(self, kind: str, folder: Path) -> None:
        self.model = load(kind, folder, attn_implementation="eager")  # else GPT-2 drops the mask and says nothing
        config = self.model.config
        self.shape = (config.num_hidden_layers, config.num_attention_heads)

    def ablated(self, batch: Batch, heads: Sequence[Head]) -> Tensor:
        (head,) = heads
        mask = torch.ones(self.shape)
        mask[head] = 0.0
        with torch.no_grad():
            return result(self.model(**batch.inputs, head_mask=mask).logits, batch)[None]

    def sensitivities(self, batch: Batch) -> Tensor:
        mask = torch.ones(self.shape, requires_grad=True)
        losses(self.model(**batch.inputs, head_mask=mask).logits, batch).sum().backward()
        self.model.zero_grad()
        return mask.grad.flatten()[None]


class Tuned(Script):
    """The best that its argument allows: (layers, batch, heads, 1, 1)."""

    settings = {ABLATION: STACKED, IMPORTANCE: SETTINGS}  # noqa: RUF012

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind, folder)
        self.model.requires_grad_(False)

    def ablated(self, batch: Batch, heads: Sequence[Head]) -> Tensor:
        rows, times = len(batch.ids), len(heads)
        mask = torch.ones(self.shape[0], times, rows, self.shape[1], 1, 1)
        for variant, (layer, head) in enumerate(heads):
            mask[layer, variant, :, head] = 0.0
        repeated = batch.repeated(times)
        with torch.inference_mode():
            logits = self.model(**repeated.inputs, head_mask=mask.flatten(1, 2)).logits
            return result(logits, repeated).unflatten(0, (times, rows))

    def sensitivities(self, batch: Batch) -> Tensor:
        mask = torch.ones(self.shape[0], len(batch.ids), self.shape[1], 1, 1, requires_grad=True)
        loss = losses(self.model(**batch.inputs, head_mask=mask).logits, batch).sum()
        (gradient,) = torch.autograd.grad(loss, mask)
        return gradient.flatten(2).transpose(0, 1).flatten(1)


if __name__ == "__main__":
    tuned = "--tuned" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--tuned"]
    serve(Tuned if tuned else Script)
