"""A model's raw results on a task, in the task's order, whatever the batching was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pytest_bertology.engine.batching import Batching, batches, collate
from pytest_bertology.engine.encoding import Encoded
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.objectives import Judged, judge
from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import NonFinite
from pytest_bertology.heads import HeadMask
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import REGRESSION

_NEAR_TIE = {"float64": 1e-9, "float32": 1e-4}
KEEPS_LOGITS = ("sequence-classification", "regression", "token-classification")


@dataclass(frozen=True)
class RawResults:
    """Plain arrays that can be stored: items are examples or, at token level, judged tokens in reading order."""

    losses: npt.NDArray[Any]
    """(examples,) mean loss of each example's items."""
    counts: npt.NDArray[Any]
    """(examples,) items of each example."""
    labels: npt.NDArray[Any]
    """(items,)"""
    predictions: npt.NDArray[Any]
    """(items,)"""
    logits: npt.NDArray[Any]
    """(items, outputs); empty for language models, whose logits would not fit in memory."""


def run(
    model: ModelUnderTest,
    encoded: Encoded,
    mask: HeadMask | None,
    batching: Batching,
    where: str,
    *,
    positions: Sequence[int] | None = None,
) -> RawResults:
    """Run the model, in eval mode and under exactly this mask, over all examples, or over those at `positions`.

    Classifications whose two best logits are nearly equal (1e-4 in float32) are decided by running the example alone,
    so that the batching never decides them. Results come in the examples' order, or in that of `positions`. Raises
    NonFinite, naming the example; OutOfMemory.
    """
    return within_memory("an evaluation", model, lambda: _run(model, encoded, mask, batching, where, positions))


def _run(
    model: ModelUnderTest,
    encoded: Encoded,
    mask: HeadMask | None,
    batching: Batching,
    where: str,
    positions: Sequence[int] | None,
) -> RawResults:
    rows: dict[int, _Row] = {}
    chosen = range(len(encoded.examples)) if positions is None else positions
    with torch.inference_mode(), model.frozen(), model.exactly(mask), tracked(where, len(chosen)) as show:
        for batch in batches(model, encoded, batching, positions):
            judged = judge(model, batch, encoded.objective)
            rows.update(zip(batch.positions, _split(judged, encoded, batch.positions, where), strict=True))
            alone = len(batch.positions) == 1
            for position in () if alone else _near_ties(model, encoded, rows, batch.positions):
                single = collate(model, [encoded.examples[position]], (position,))
                rows[position] = _split(judge(model, single, encoded.objective), encoded, (position,), where)[0]
            show(len(rows))
    ordered = [rows[position] for position in chosen]
    return RawResults(
        losses=np.array([row.loss for row in ordered], dtype=np.float64),
        counts=np.array([len(row.labels) for row in ordered], dtype=np.int64),
        labels=np.concatenate([row.labels for row in ordered]),
        predictions=np.concatenate([row.predictions for row in ordered]),
        logits=np.concatenate([row.logits for row in ordered]),
    )


@dataclass(frozen=True)
class _Row:
    loss: float
    labels: npt.NDArray[Any]
    predictions: npt.NDArray[Any]
    logits: npt.NDArray[Any]


def _split(judged: Judged, encoded: Encoded, positions: Sequence[int], where: str) -> list[_Row]:
    """A batch's results, example by example."""
    ends = np.cumsum(judged.counts.cpu().numpy())[:-1]
    losses = judged.losses.double().cpu().numpy()
    keeps = encoded.objective in KEEPS_LOGITS
    logits = judged.logits.cpu().numpy() if keeps else np.zeros((len(judged.labels), 0), dtype=np.float32)
    for index, position in enumerate(positions):
        if not np.isfinite(losses[index]):
            raise NonFinite("the loss", f"example {position} of {where}")
    rows = [
        _Row(float(loss), *parts)
        for loss, *parts in zip(
            losses,
            np.split(judged.labels.cpu().numpy(), ends),
            np.split(judged.predictions.cpu().numpy(), ends),
            np.split(logits, ends),
            strict=True,
        )
    ]
    for row, position in zip(rows, positions, strict=True):
        if not np.isfinite(row.logits).all():
            raise NonFinite("a logit", f"example {position} of {where}")
    return rows


def _near_ties(model: ModelUnderTest, encoded: Encoded, rows: dict[int, _Row], positions: Sequence[int]) -> list[int]:
    """Examples with an item whose two greatest logits are closer than re-batching can move them."""
    limit = near_tie(encoded.objective, model.dtype)
    if limit is None:
        return []
    near = []
    for position in positions:
        best = np.partition(rows[position].logits, -2, axis=-1)[:, -2:]
        if (best[:, 1] - best[:, 0] < limit).any():
            near.append(position)
    return near


def near_tie(objective: str, dtype: str) -> float | None:
    """Logits closer than this are a tie that re-batching may turn; None where no logits are compared."""
    if objective not in KEEPS_LOGITS or objective == REGRESSION:
        return None
    return noise(dtype)


def noise(dtype: str) -> float:
    """How far batching alone can move a logit or a loss, with a margin: measured are 4e-6 in float32."""
    return _NEAR_TIE.get(dtype, 3e-2)
