"""Every subset of a model's heads, by a plain transformers model whose projection columns are set to zero."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch

from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks import Task

Heads = tuple[tuple[int, int], ...]


def every_score(model: ModelUnderTest, task: Task, width: int) -> dict[Heads, tuple[float, float]]:
    """Accuracy and mean loss of a BERT classifier without each set of heads, each `width` columns wide."""
    twin = copy.deepcopy(model.model).eval()
    projections = [layer.attention.output.dense for layer in twin.bert.encoder.layer]
    originals = [projection.weight.detach().clone() for projection in projections]
    inputs = model.tokenizer(list(task.texts), padding=True, return_tensors="pt")
    names = {name: index for index, name in twin.config.id2label.items()}
    labels = torch.tensor([label if isinstance(label, int) else names[label] for label in task.labels])
    found = {}
    for heads in subsets(model):
        with torch.no_grad():
            for projection, original in zip(projections, originals, strict=True):
                projection.weight.copy_(original)
            for layer, head in heads:
                projections[layer].weight[:, head * width : (head + 1) * width] = 0.0
            logits = twin(**inputs).logits
        right = float(np.mean((logits.argmax(-1) == labels).numpy()))
        found[heads] = right, float(torch.nn.functional.cross_entropy(logits, labels))
    return found


def subsets(model: ModelUnderTest) -> Iterator[Heads]:
    """All sets of heads, the smallest first."""
    heads = [(head.layer, head.head) for head in model.heads]
    for size in range(len(heads) + 1):
        yield from combinations(heads, size)


def best(scores: dict[Heads, tuple[float, float]], floor: float) -> tuple[int, float] | None:
    """The size of the largest set that keeps the floor, and the best score of that size; None where none does."""
    holding = [(len(heads), score) for heads, (score, _) in scores.items() if score >= floor - 1e-9]
    return max(holding, default=None)
