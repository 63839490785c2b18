"""Of which tokens the last layer's states are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch
from pytest_bertology.engine.encoding import IGNORED
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.narrowing import can_narrow
from pytest_bertology.models.prefix import Layers, handed, states_in
from pytest_bertology.tasks.metrics import CLASSIFICATION, REGRESSION

LANGUAGE = ("causal-lm", "masked-lm")


def needed_rows(model: ModelUnderTest, layers: Layers, result: Any, batch: Batch, objective: str) -> Tensor | None:
    """Tokens (examples, n) of which the last layer's states are read; None where that is all, or cannot be told.

    Classifiers: the one token by whose states the logits move, seen by their derivative. Language models: those judged.
    """
    if not can_narrow(model, layers) or states_in(result).shape[:2] != batch.inputs["input_ids"].shape:
        return None
    if objective in LANGUAGE:
        read = batch.labels != IGNORED
    elif objective in (CLASSIFICATION, REGRESSION):
        read = _read(model, layers, result, batch)
        if bool((read.sum(dim=1) != 1).any()):
            return None
    else:
        return None
    n = int(read.sum(dim=1).max())
    # A stable sort: the tokens that are read come first, in order; an example with fewer of them repeats its last.
    places = read.int().argsort(dim=1, descending=True, stable=True)[:, :n]
    last = read.sum(dim=1, keepdim=True) - 1
    rows = places.gather(1, torch.arange(n, device=read.device).expand(len(read), n).minimum(last))
    return rows if 2 * n <= read.shape[1] else None


def _read(model: ModelUnderTest, layers: Layers, result: Any, batch: Batch) -> Tensor:
    """(examples, tokens) whether the logits move with the last layer's states there."""
    with torch.inference_mode(False), torch.enable_grad(), handed(layers, result) as states:
        inputs = {name: tensor.clone() for name, tensor in batch.inputs.items()}
        logits = model.model(**inputs).logits
        weights = torch.linspace(1.0, 2.0, logits.numel(), device=logits.device).reshape(logits.shape)
        (slopes,) = torch.autograd.grad((logits.float() * weights).sum(), states)
    return (slopes != 0.0).flatten(2).any(dim=2)
