"""What a batch is judged by: a loss per example, and predictions and labels per judged item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_bertology.engine.batching import Batch
from pytest_bertology.engine.encoding import IGNORED
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import REGRESSION


@dataclass(frozen=True)
class Judged:
    """A batch's results; items are examples or, for token-level objectives, judged tokens in reading order."""

    losses: Tensor
    """(batch,) mean loss of each example's items, differentiable."""
    counts: Tensor
    """(batch,) items of each example."""
    labels: Tensor
    """(items,)"""
    logits: Tensor
    """(items, outputs)"""

    @cached_property
    def predictions(self) -> Tensor:
        """(items,) the numbers a regression gives, else the classes of the greatest logits; found when asked for."""
        return self.logits.squeeze(-1) if self.labels.is_floating_point() else self.logits.argmax(dim=-1)


def judge(model: ModelUnderTest, batch: Batch, objective: str, *, gather: bool = False) -> Judged:
    """Run the model on a batch and judge its logits.

    Cross entropy in nats, or squared error for a regression; an example's loss is the mean over its judged items, as
    the model's own loss is at batch size 1. With `gather` the output embedding of a language model is applied to the
    judged tokens alone.
    """
    with at_judged_tokens(model, batch) if gather else nullcontext():
        logits = model.model(**batch.inputs).logits
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if objective == REGRESSION:
        values = logits.squeeze(-1)
        labels = batch.labels.to(values.dtype)
        counts = torch.ones(len(values), dtype=torch.int64, device=values.device)
        return Judged((values - labels) ** 2, counts, labels, logits)
    labels = batch.labels
    if labels.ndim == 1:
        logits, labels = logits.unsqueeze(1), labels.unsqueeze(1)
    judged = labels != IGNORED
    items, wanted = logits[0] if gather else logits[judged], labels[judged]
    each = torch.zeros(labels.shape, dtype=items.dtype, device=items.device)
    each = each.masked_scatter(judged, F.cross_entropy(items, wanted, reduction="none"))
    counts = judged.sum(dim=1)
    return Judged(each.sum(dim=1) / counts, counts, wanted, items)


@contextmanager
def at_judged_tokens(model: ModelUnderTest, batch: Batch) -> Iterator[None]:
    """The output embedding is given the states of the judged tokens only, as if they were one text."""
    judged = batch.labels != IGNORED

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][judged].unsqueeze(0), *args[1:])

    hook = model.model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
