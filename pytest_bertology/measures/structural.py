"""A cut model beside the masked one."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.agreement import Agreement, agreement
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True)
class PrunedModel:
    """A model without some heads, and how far its outputs are from those of the model with them masked."""

    model: ModelUnderTest
    """The cut model."""
    mask: HeadMask
    """What was cut, as a mask of the model it was cut out of."""
    agreement: Agreement | None
    """Its outputs on a task beside the masked model's; None where no task was given."""


def cut_beside_mask(model: ModelUnderTest, mask: HeadMask, task: Task | None = None) -> PrunedModel:
    """Cut the masked heads out and, with a task, run both models over it; what `model.pruned` raises is raised."""
    cut = model.pruned(mask)
    if task is None:
        return PrunedModel(cut, mask, None)
    with cut.exactly(None), model.exactly(mask):
        return PrunedModel(cut, mask, agreement(cut, model, task))
