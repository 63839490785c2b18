"""nnsight: one head a trace, or several as invokes of one trace; gradients by `with loss.backward()`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from nnsight import TransformersModel
from serving import ABLATION, CLASSIFIER, IMPORTANCE, SETTINGS, STACKED, Batch, Head, Peer, load, losses, result, serve
from torch import Tensor
from transformers import AutoTokenizer


class NNsight(Peer):
    packages = ("nnsight", "transformers")
    settings = {ABLATION: STACKED, IMPORTANCE: SETTINGS}  # noqa: RUF012

    def __init__(self, kind: str, folder: Path) -> None:
        model = load(kind, folder).requires_grad_(False)
        self.heads = model.config.num_attention_heads
        self.width = model.config.hidden_size // self.heads
        task = "text-classification" if kind == CLASSIFIER else "text-generation"
        self.model = TransformersModel(model, tokenizer=AutoTokenizer.from_pretrained(folder / "model"), task=task)
        if kind == CLASSIFIER:  # a module named `output` is `E_output` there, `output` what the parent returns
            self.projections = [layer.attention.E_output.dense for layer in self.model.bert.encoder.layer]
        else:
            self.projections = [block.attn.c_proj for block in self.model.transformer.h]

    def ablated(self, batch: Batch, heads: Sequence[Head]) -> Tensor:
        with torch.inference_mode():
            return self._one(batch, *heads[0])[None] if len(heads) == 1 else self._together(batch, heads)

    def _one(self, batch: Batch, layer: int, head: int) -> Tensor:
        projection, start = self.projections[layer], head * self.width
        with self.model.trace(batch.inputs):
            projection.input[..., start : start + self.width] = 0.0
            logits = self.model.output.logits.save()
        return result(logits, batch)

    def _together(self, batch: Batch, heads: Sequence[Head]) -> Tensor:
        with self.model.trace() as tracer:
            found = [].save()
            for layer, head in heads:
                with tracer.invoke(batch.inputs):
                    start = head * self.width
                    self.projections[layer].input[..., start : start + self.width] = 0.0
                    found.append(self.model.output.logits)
        return torch.stack([result(logits, batch) for logits in found])

    def sensitivities(self, batch: Batch) -> Tensor:
        gates = [torch.ones(len(batch.ids), self.heads, requires_grad=True) for _ in self.projections]
        with self.model.trace(batch.inputs):
            for projection, gate in zip(self.projections, gates, strict=True):
                context = projection.input.unflatten(-1, (self.heads, self.width))
                projection.input = (context * gate[:, None, :, None]).flatten(-2)
            logits = self.model.output.logits.save()
        gradients = torch.autograd.grad(losses(logits, batch).sum(), gates)
        return torch.stack(gradients, dim=1).flatten(1)


if __name__ == "__main__":
    serve(NNsight)
