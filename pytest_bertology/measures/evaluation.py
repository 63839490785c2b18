"""How well a model does a task, under a head mask."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import Encoded, encode
from pytest_bertology.engine.results import RawResults, run
from pytest_bertology.engine.store import computed_once
from pytest_bertology.errors import BertologyWarning
from pytest_bertology.heads import HeadLike, HeadMask
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import (
    CLASSIFICATION,
    LANGUAGE,
    TOKENS,
    Array,
    Metric,
    Results,
    find_metric,
)
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, eq=False, repr=False)
class Outcomes:
    """A model's results on a task, in the task's order."""

    task: Task
    mask: HeadMask
    """The mask they were made under."""
    metric: Metric
    n_labels: int
    truncated: tuple[int, ...]
    """Examples longer than the model can read; their ends were cut."""
    raw: RawResults = field(repr=False)

    def __len__(self) -> int:
        return len(self.raw.losses)

    def __repr__(self) -> str:
        masked = len(self.mask.masked)
        return f"Outcomes({self.metric.name} {self.score:.4f} on {len(self)} examples, {masked} heads masked)"

    @cached_property
    def score(self) -> float:
        """The metric's value; raises UndefinedScore where it has none."""
        return self.metric(self.results())

    @property
    def losses(self) -> Array:
        """(examples,) cross entropy in nats, mean over an example's judged tokens; squared error for regression."""
        return self.raw.losses

    @property
    def labels(self) -> Any:
        """(examples,) ids the model was judged by; a list of arrays for token-level tasks."""
        return self._per_example(self.raw.labels)

    @property
    def predictions(self) -> Any:
        """Aligned with `labels`."""
        return self._per_example(self.raw.predictions)

    @property
    def logits(self) -> Any:
        """(examples, outputs), or a list of (words, outputs); None for language models, which keep none."""
        return None if self.task.kind == LANGUAGE else self._per_example(self.raw.logits)

    @property
    def right(self) -> Array:
        """(items,) whether each prediction equals its label; items are examples, or judged tokens."""
        return np.asarray(self.raw.labels == self.raw.predictions)

    def rescored(self, metric: Any) -> Outcomes:
        """The same results judged by another metric; None keeps this one. Raises UnknownMetric."""
        if metric is None:
            return self
        found = find_metric(metric, self.task.kind)
        return Outcomes(self.task, self.mask, found, self.n_labels, self.truncated, self.raw)

    def resampled(self, positions: Array) -> float:
        """The metric on these examples, repeated as they are repeated in `positions`."""
        raw = self.raw
        if len(raw.labels) == len(raw.losses):
            items = positions
        else:
            starts = np.concatenate([[0], np.cumsum(raw.counts)])
            items = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in positions])
        if self.metric.from_confusion is not None:
            k = self.n_labels
            pairs = np.bincount(raw.labels[items] * k + raw.predictions[items], minlength=k * k)
            return float(self.metric.from_confusion(pairs.reshape(k, k), k))
        return self.metric(
            Results(
                raw.labels[items], raw.predictions[items], raw.losses[positions], raw.counts[positions], self.n_labels
            )
        )

    def results(self) -> Results:
        """What a metric looks at."""
        raw = self.raw
        return Results(raw.labels, raw.predictions, raw.losses, raw.counts, self.n_labels)

    def _per_example(self, items: Array) -> Any:
        if self.task.kind not in (TOKENS, LANGUAGE):
            return items
        return np.split(items, np.cumsum(self.raw.counts)[:-1])


@remakeable
def evaluate(
    model: ModelUnderTest,
    task: Task,
    mask: HeadMask | Iterable[HeadLike] | None = None,
    *,
    batching: Batching | None = None,
) -> Outcomes:
    """Run `model` over `task`, in eval mode, under `mask` and whatever masks are in force around the call.

    The same weights, data and masks are run once: results come from the session's store where it has them. Raises
    NonFinite for a loss or logit that is not finite, LabelMismatch, WrongTaskKind or NoTokenizer where the model
    cannot do the task.
    """
    check_model_and_task(model, task)
    return evaluate_exactly(model, task, model.together(() if mask is None else mask), batching)


def evaluate_exactly(model: ModelUnderTest, task: Task, mask: HeadMask, batching: Batching | None = None) -> Outcomes:
    """`evaluate` under `mask` alone, whatever masks are in force around the call."""
    encoded = encode(model, task)
    warn_of_truncation(model, task, encoded)
    batching = batching or Batching()
    stored = computed_once(
        "evaluation",
        (model, encoded, mask, batching),
        lambda: vars(run(model, encoded, mask, batching, task.name)),
    )
    raw = RawResults(**stored)
    return Outcomes(task, mask, task.metric, encoded.n_labels, encoded.truncated, raw)


def warn_of_truncation(model: ModelUnderTest, task: Task, encoded: Encoded) -> None:
    """Say how many examples the model cannot read to their ends."""
    if encoded.truncated:
        share = f"{len(encoded.truncated)} of {len(task)} examples of {task.name}"
        warnings.warn(f"{share} are longer than {model.name} can read and were cut", BertologyWarning, stacklevel=4)


__all__ = ["CLASSIFICATION", "Outcomes", "evaluate", "evaluate_exactly"]
