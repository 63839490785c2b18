"""Probes of one hidden layer, trained until they get no better on a held-out part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_bertology.engine.store import Arrays
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.probe_linear import BETTER, Split

Array = npt.NDArray[Any]

_HIDDEN = 256
_BATCH = 256
_RATE = 1e-3
_EPOCHS, _PATIENCE = 60, 4
_ROWS = 2**14
"""Items that are predicted at a time."""


def mlp_probe(split: Split, what: str, *, seed: int, device: str = "cpu") -> Arrays:
    """Train softmax(W₂ relu(W₁ h + b₁) + b₂), of 256 hidden units, and predict by the epoch that did best.

    Hewitt & Liang 2019, section 3.1, MLP-1. Adam at 10^-3 on batches of 256; after 4 epochs without a lower loss on the
    held-out part, or 60 in all, training ends, and the epoch of least loss is taken. First weights and batches are
    drawn with `seed`, by a generator of their own: global random state is left alone.

    Returns what `linear_probe` does; the curve's first column numbers the epochs. Raises UndefinedScore where a loss is
    not finite.
    """
    present, labels = np.unique(split.labels, return_inverse=True)
    held = np.searchsorted(present, split.held_out_labels)
    held[~np.isin(split.held_out_labels, present)] = len(present)
    if not (held < len(present)).any():
        raise UndefinedScore(what, "no item of the held-out part has a label that is trained on")
    vectors, target = torch.as_tensor(split.train).to(device), torch.as_tensor(labels).to(device)
    held_out, held_target = torch.as_tensor(split.held_out).to(device), torch.as_tensor(held).to(device)
    generator = torch.Generator().manual_seed(seed)
    weights = [each.to(device).requires_grad_() for each in _drawn(vectors.shape[1], len(present), generator)]
    optimizer = torch.optim.Adam(weights, lr=_RATE)
    rows: list[tuple[float, ...]] = []
    best, chosen = 0, [each.detach().clone() for each in weights]
    for epoch in range(_EPOCHS):
        for batch in torch.split(torch.randperm(len(vectors), generator=generator).to(device), _BATCH):
            loss = F.cross_entropy(_logits(vectors[batch], weights), target[batch])
            for each, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                each.grad = gradient
            optimizer.step()
        losses, right = zip(
            *(_judged(part, of, weights) for part, of in ((vectors, target), (held_out, held_target))), strict=True
        )
        if not np.isfinite(losses).all():
            raise UndefinedScore(what, f"its loss is not finite after epoch {epoch + 1}")
        rows.append((epoch + 1.0, *losses, *right, -(-len(vectors) // _BATCH)))
        if not epoch or losses[1] < rows[best][2] - BETTER:
            best, chosen = epoch, [each.detach().clone() for each in weights]
        elif epoch - best >= _PATIENCE:
            break
    said = [_predicted(torch.as_tensor(part).to(device), chosen) for part in (split.held_out, split.tested)]
    return {
        "held_out": present[said[0].numpy()],
        "predictions": present[said[1].numpy()],
        "curve": np.array(rows),
        "chosen": np.array(best),
    }


def _drawn(width: int, classes: int, generator: torch.Generator) -> list[Tensor]:
    """W₁, b₁, W₂, b₂ as torch's linear layers begin."""
    found = []
    for rows, columns in ((_HIDDEN, width), (classes, _HIDDEN)):
        weight, bias = torch.empty(rows, columns), torch.empty(rows)
        bound = columns**-0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)
        nn.init.uniform_(bias, -bound, bound, generator=generator)
        found += [weight, bias]
    return found


def _logits(vectors: Tensor, weights: list[Tensor]) -> Tensor:
    hidden = F.relu(F.linear(vectors, weights[0], weights[1]))
    return F.linear(hidden, weights[2], weights[3])


@torch.no_grad()
def _judged(vectors: Tensor, target: Tensor, weights: list[Tensor]) -> tuple[float, float]:
    """Mean cross entropy of the items whose label is known, and the share of all that are right."""
    total, count, right = 0.0, 0, 0
    for part, of in zip(torch.split(vectors, _ROWS), torch.split(target, _ROWS), strict=True):
        logits = _logits(part, weights)
        known = of < logits.shape[1]
        total += float(F.cross_entropy(logits[known].double(), of[known], reduction="sum"))
        count += int(known.sum())
        right += int((logits.argmax(dim=1) == of).sum())
    return total / count, right / len(target)


@torch.no_grad()
def _predicted(vectors: Tensor, weights: list[Tensor]) -> Tensor:
    return torch.cat([_logits(part, weights).argmax(dim=1).cpu() for part in torch.split(vectors, _ROWS)])
