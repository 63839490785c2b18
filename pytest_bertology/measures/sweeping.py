"""How well a model does a task under each of many head masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.store import computed_once
from pytest_bertology.engine.sweeps import Sweeping, sweep
from pytest_bertology.engine.tables import raw
from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.evaluation import Outcomes, warn_of_truncation
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
    ablation: str = "zero",
    seed: int = 0,
    batching: Batching | None = None,
    sweeping: Sweeping | None = None,
) -> Sweep:
    """Run `model` over `task` under exactly `base` (default: all heads as trained) and exactly each of `masks`.

    Layers below the first head in which a mask differs from the base are not computed again, so that this costs about
    half of evaluating one mask after the other where the heads are spread over all layers, and less where they are
    late. Heads that a mask closes, and the base does not, are taken away ("zero"), give their mean over the task's
    tokens ("mean"), or what they give for another example of like length ("resample", drawn with `seed`). Masks in
    force around the call do not count.

    Raises NonFinite, naming the example; InvalidArgument for another ablation; as `evaluate` does.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    base = HeadMask.keep_all(model.heads) if base is None else model.as_mask(base)
    every = (base, *(model.as_mask(mask) for mask in masks))
    encoded = encode(model, task)
    warn_of_truncation(model, task, encoded)
    batching = batching or Batching()
    sha = hashlib.sha256(repr([mask.gates for mask in every[1:]]).encode()).hexdigest()
    arrays = computed_once(
        f"sweep {ablation} {seed if ablation == 'resample' else ''} {sha} {sweeping or ''}",
        (model, encoded, base, batching),
        lambda: sweep(model, encoded, every, batching, task.name, ablation=ablation, seed=seed, sweeping=sweeping),
    )
    outcomes = [
        Outcomes(task, mask, task.metric, encoded.n_labels, encoded.truncated, raw(arrays, row))
        for row, mask in enumerate(every)
    ]
    return Sweep(outcomes[0], tuple(outcomes[1:]))
