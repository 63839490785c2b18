"""How much of a score is left when layers are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.measures.bounds import drop_bound
from pytest_bertology.measures.evaluation import evaluate_exactly
from pytest_bertology.measures.retention import Retention, trained_outcomes
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.blocks import LayerLike, choose
from pytest_bertology.models.skipping import skipping
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, repr=False)
class LayerRetention(Retention):
    """A model's results as trained (`baseline`), and with some layers skipped (`masked`)."""

    layers: tuple[LayerLike, ...]
    """The layers skipped, in order: numbers, or (number, stack) pairs."""

    def __repr__(self) -> str:
        return (
            f"LayerRetention({self.baseline.metric.name} {self.baseline.score:.4f} → {self.masked.score:.4f} "
            f"without layers {list(self.layers)})"
        )


def layer_retention(
    model: ModelUnderTest,
    task: Task,
    layers: Iterable[LayerLike],
    *,
    confidence: float | None = None,
    batching: Batching | None = None,
) -> LayerRetention:
    """Compare the model without these layers with the model as trained, example by example.

    The baseline is the model as trained, whatever is in force around the call; masks and skipped layers in force count
    beside `layers`. `confidence` adds an upper bound on the true drop (see `drop_bound`). Warns where skipping changes
    no result, bit for bit: the layers then return what they are given.
    """
    numeric = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if confidence is not None and not (numeric and 0.5 <= confidence < 1.0):
        raise InvalidArgument("confidence", confidence, "a number from 0.5 to below 1, such as 0.95")
    chosen = tuple(layer for cut in choose(model, layers) for layer in cut.layers)
    baseline = trained_outcomes(model, task, batching)
    with skipping(model, chosen):
        masked = evaluate_exactly(model, task, model.mask_in_force(), batching)
    one, other = baseline.raw, masked.raw
    if np.array_equal(one.losses, other.losses) and np.array_equal(one.logits, other.logits):
        text = f"skipping layers {list(chosen)} changes no result of {model.name} on {task.name}, bit for bit"
        warnings.warn(text, BertologyWarning, stacklevel=4)
    bound = None if confidence is None else drop_bound(baseline, masked, confidence)
    return LayerRetention(baseline, masked, bound, chosen)
