"""How far a candidate's outputs are from those of the model it was made from, example by example."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode
from pytest_bertology.errors import InvalidArgument, LabelMismatch, WrongTaskKind
from pytest_bertology.measures.arguments import check_model, check_model_and_task
from pytest_bertology.measures.evaluation import Outcomes, evaluate
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.statistics import Array
from pytest_bertology.tasks.metrics import CLASSIFICATION, LANGUAGE, REGRESSION, TOKENS
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, eq=False, repr=False)
class Agreement:
    """Two models' outputs on the same task."""

    model: Outcomes
    reference: Outcomes
    differences: Array = field(repr=False)
    """(examples,) the largest absolute difference of a logit; of the example's loss for language models."""
    flipped: Array | None = field(repr=False)
    """(items,) where the predictions differ, items being examples or judged tokens; None for regressions."""
    order: tuple[int, ...] = ()
    """Where each of the reference's labels stands among the model's logits."""

    def __repr__(self) -> str:
        return (
            f"Agreement({self.judged} {self.largest:.3g} on {len(self.differences)} examples, {self.changed} changed)"
        )

    @property
    def judged(self) -> str:
        """What `differences` are of."""
        return "largest difference of a " + ("loss" if self.model.task.kind == LANGUAGE else "logit")

    @property
    def largest(self) -> float:
        """The largest difference of all examples."""
        return float(self.differences.max())

    @property
    def changed(self) -> int | None:
        """How many predictions differ; None for regressions, whose predictions are the logits."""
        return None if self.flipped is None else int(self.flipped.sum())


def agreement(
    model: ModelUnderTest, reference: ModelUnderTest, task: Task, *, batching: Batching | None = None
) -> Agreement:
    """Run both models over the task, each with its own tokenizer and under the masks in force on it, and compare.

    Logits are compared label by label, by name where the two models number them differently. Language models are
    compared by the mean loss of each example, and must read the same tokens.

    Raises InvalidArgument where both are one model or read different tokens or words, LabelMismatch where their labels
    differ, WrongTaskKind for a language model of another kind, and what `evaluate` raises.
    """
    check_model_and_task(model, task)
    check_model(reference, "reference")
    if model.model is reference.model:
        raise InvalidArgument("reference", reference.name, "another model: this is the one that is judged")
    if model.kind != reference.kind:
        raise WrongTaskKind(model.name, model.kind, task.name, f"a {reference.kind} model, as {reference.name} is")
    _check_tokens(model, reference, task)
    order = _label_order(model, reference, task)
    ours, theirs = (evaluate(each, task, batching=batching) for each in (model, reference))
    _check_items(model, ours, theirs)
    if task.kind == LANGUAGE:
        differences = np.abs(ours.losses - theirs.losses)
    else:
        apart = np.abs(_wide(ours)[:, order] - _wide(theirs)).max(axis=1)
        differences = np.maximum.reduceat(apart, np.cumsum(ours.raw.counts) - ours.raw.counts)
    return Agreement(ours, theirs, differences, _flipped(ours, theirs, order), tuple(order))


def _check_tokens(model: ModelUnderTest, reference: ModelUnderTest, task: Task) -> None:
    """Losses per token say nothing side by side where the tokens are others."""
    if task.kind == LANGUAGE and encode(model, task).examples != encode(reference, task).examples:
        expected = f"a language model that reads the tokens that {reference.name} reads: losses per token are compared"
        raise InvalidArgument("model", model.name, expected)


def _check_items(model: ModelUnderTest, ours: Outcomes, theirs: Outcomes) -> None:
    if not np.array_equal(ours.raw.counts, theirs.raw.counts):
        example = int(np.flatnonzero(ours.raw.counts != theirs.raw.counts)[0])
        expected = f"a model that reads as many words as the reference; example {example} is cut elsewhere"
        raise InvalidArgument("model", model.name, expected)


def _label_order(model: ModelUnderTest, reference: ModelUnderTest, task: Task) -> list[int]:
    """Where the reference's labels stand among the model's; raises LabelMismatch where they are others."""
    if task.kind not in (CLASSIFICATION, TOKENS):
        return [0]
    ours, theirs = ([m.model.config.id2label[i] for i in sorted(m.model.config.id2label)] for m in (model, reference))
    if ours == theirs:
        return list(range(len(ours)))
    if len(set(ours)) < len(ours) or sorted(ours) != sorted(theirs):
        raise LabelMismatch(reference.name, theirs, model.name, ours)
    return [ours.index(label) for label in theirs]


def _wide(outcomes: Outcomes) -> Array:
    """(items, outputs) in double precision."""
    return outcomes.raw.logits.reshape(len(outcomes.raw.labels), -1).astype(np.float64)


def _flipped(ours: Outcomes, theirs: Outcomes, order: list[int]) -> Array | None:
    kind = ours.task.kind
    if kind == REGRESSION:
        return None
    predictions = theirs.raw.predictions
    if kind != LANGUAGE:
        predictions = np.asarray(order)[predictions]
    return np.asarray(ours.raw.predictions != predictions)
