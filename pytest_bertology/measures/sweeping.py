"""How well a model does a task under each of many head masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.sweeps import sweep
from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, repr=False)
class Sweep:
    """A model's results under a base mask and under variants of it, all on the same examples."""

    baseline: Outcomes
    """Under the base mask."""
    variants: tuple[Outcomes, ...]
    """Under each mask, in the order asked for."""

    def __repr__(self) -> str:
        return f"Sweep({len(self.variants)} masks; baseline {self.baseline!r})"


def evaluate_masks(
    model: ModelUnderTest,
    task: Task,
    masks: Sequence[HeadMask],
    *,
    base: HeadMask | None = None,
    batching: Batching | None = None,
) -> Sweep:
    """Run `model` over `task` under exactly `base` (default: all heads as trained) and exactly each of `masks`.

    Masks in force around the call do not count. Cheapest where masks differ from the base in late layers only.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    base = HeadMask.keep_all(model.heads) if base is None else model.as_mask(base)
    masks = [model.as_mask(mask) for mask in masks]
    encoded = encode(model, task)
    batching = batching or Batching()
    swept = sweep(model, encoded, base, masks, batching, task.name)

    def outcomes(mask: HeadMask, raw: object) -> Outcomes:
        return Outcomes(task, mask, task.metric, encoded.n_labels, encoded.truncated, raw)  # type: ignore[arg-type]

    variants = tuple(outcomes(mask, raw) for mask, raw in zip(masks, swept.variants, strict=True))
    return Sweep(outcomes(base, swept.base), variants)
