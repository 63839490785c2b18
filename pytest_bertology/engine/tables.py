"""The results of many masks on the same examples, in a few arrays: a row per mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pytest_bertology.engine.encoding import IGNORED, Encoded
from pytest_bertology.engine.objectives import Judged
from pytest_bertology.engine.results import KEEPS_LOGITS, RawResults, near_tie
from pytest_bertology.errors import NonFinite

Array = npt.NDArray[Any]


class Table:
    """Losses, predictions and logits of every mask, example by example in the task's order."""

    def __init__(self, encoded: Encoded, masks: int) -> None:
        self._encoded = encoded
        self.counts: Array = np.array([items_of(example.labels) for example in encoded.examples], dtype=np.int64)
        self._starts = np.cumsum(self.counts) - self.counts
        self._losses = np.full((masks, len(self.counts)), np.nan)
        self._keeps = encoded.objective in KEEPS_LOGITS
        self._labels: Array | None = None
        self._predictions: Array | None = None
        self._logits: Array | None = None

    def put(self, rows: Sequence[int], positions: Sequence[int], judged: Judged, where: str) -> None:
        """Keep a batch's results: the examples at `positions` under the mask of each row, one mask after the other.

        Raises NonFinite, naming the example.
        """
        losses = judged.losses.double().cpu().numpy().reshape(len(rows), len(positions))
        if not np.isfinite(losses).all():
            bad = int(np.argwhere(~np.isfinite(losses))[0][1])
            raise NonFinite("the loss", f"example {positions[bad]} of {where}")
        items = self._at(positions)
        labels, predictions = _numbers(judged.labels), _numbers(judged.predictions)
        shape = (len(self._losses), int(self.counts.sum()))
        if self._labels is None or self._predictions is None or self._logits is None:
            width = judged.logits.shape[-1] if self._keeps and judged.logits.ndim > 1 else 0
            self._labels = np.zeros(shape[1], dtype=labels.dtype)
            self._predictions = np.zeros(shape, dtype=predictions.dtype)
            self._logits = np.zeros((*shape, width), dtype=_numbers(judged.logits[:0]).dtype)
        self._losses[_grid(rows, positions)] = losses
        self._labels[items] = labels[: len(items)]
        self._predictions[_grid(rows, items)] = predictions.reshape(len(rows), -1)
        if self._keeps:
            logits = _numbers(judged.logits)
            if not np.isfinite(logits).all():
                raise NonFinite("a logit", f"an example of {where}")
            self._logits[_grid(rows, items)] = logits.reshape(len(rows), len(items), -1)

    def near_ties(self, rows: Sequence[int], positions: Sequence[int], dtype: str) -> list[tuple[int, int]]:
        """(row, example) pairs with an item whose two greatest logits are closer than re-batching can move them."""
        limit = near_tie(self._encoded.objective, dtype)
        if limit is None or self._logits is None:
            return []
        items = self._at(positions)
        best = np.partition(self._logits[_grid(rows, items)], -2, axis=-1)[..., -2:]
        near = best[..., 1] - best[..., 0] < limit
        owners = np.repeat(np.asarray(positions), self.counts[list(positions)])
        found = {(rows[int(row)], int(owners[item])) for row, item in np.argwhere(near)}
        return sorted(found)

    def arrays(self) -> dict[str, Array]:
        """All results: losses (masks, examples), predictions (masks, items), logits (masks, items, outputs)."""
        assert self._labels is not None
        assert self._predictions is not None
        assert self._logits is not None
        assert np.isfinite(self._losses).all()
        return {
            "losses": self._losses,
            "counts": self.counts,
            "labels": self._labels,
            "predictions": self._predictions,
            "logits": self._logits,
        }

    def difference(self, row: int, other: Table, positions: Sequence[int]) -> float:
        """How far a mask's results on these examples are from those of another table's first, as a share of them."""
        ours, theirs = self._losses[row, list(positions)], other._losses[0, list(positions)]
        if self._keeps and self._logits is not None and other._logits is not None:
            items = self._at(positions)
            ours, theirs = self._logits[row, items], other._logits[0, items]
        return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max())))

    def copy(self, source: int, row: int) -> None:
        """The results of a mask that is the same as another."""
        assert self._predictions is not None
        assert self._logits is not None
        for array in (self._losses, self._predictions, self._logits):
            array[row] = array[source]

    def _at(self, positions: Sequence[int]) -> Array:
        """Where the items of these examples are."""
        return np.concatenate([np.arange(self._starts[p], self._starts[p] + self.counts[p]) for p in positions])


def raw(arrays: Mapping[str, Array], row: int) -> RawResults:
    """One mask's results of a table's arrays."""
    return RawResults(
        arrays["losses"][row], arrays["counts"], arrays["labels"], arrays["predictions"][row], arrays["logits"][row]
    )


def items_of(labels: Any) -> int:
    """How many items of an example are judged."""
    return sum(label != IGNORED for label in labels) if isinstance(labels, tuple) else 1


def _numbers(tensor: Tensor) -> Array:
    found: Array = tensor.cpu().numpy()
    return found


def _grid(rows: Sequence[int], columns: Sequence[int] | Array) -> tuple[Array, Array]:
    """An index of all of these rows by all of these columns."""
    return np.asarray(rows)[:, None], np.asarray(columns)[None, :]
