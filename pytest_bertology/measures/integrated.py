"""Integrated gradients of heads: the loss between all heads closed and all heads open, shared out among them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.heads import HeadMask, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.sensitivity import Work
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

STEPS = 16
"""Points on the path from closed to open, unless told otherwise."""
_INCOMPLETE = 0.05


def integrated_gradients(
    model: ModelUnderTest, task: Task, *, steps: int = STEPS, batching: Batching | None = None
) -> HeadScores:
    """What each head adds to the fall of the mean loss while all heads are opened together; signed, in nats.

    I[l, h] = mean over x of −∫ ∂ loss(x) / ∂ ξ[l, h] dα, all gates at α, from 0 (closed) to 1 (open): the integrated
    gradients of Sundararajan et al. 2017 with all heads closed as the baseline, their sign turned so that heads which
    lower the loss are positive. The integral is taken by the Gauss-Legendre rule of `steps` points, a forward and a
    backward pass each.

    The scores add up to loss(all closed) − loss(all open), but for the rule's error. `details` holds both losses,
    `steps`, and `completeness_error`: the mean over examples of what is missing, as a share of the mean difference of
    the two losses. Warns (BertologyWarning) where that is more than 0.05. Masks in force stay: their heads get 0.

    Raises InvalidArgument for fewer than one step, NonFinite naming the example.
    """
    if not is_whole(steps) or steps < 1:
        raise InvalidArgument("steps", steps, "a whole number from 1")
    work = Work.of(model, task, batching)
    nodes, weights = np.polynomial.legendre.leggauss(int(steps))

    def each(batch: Batch) -> Mapping[str, Tensor]:
        falls = torch.zeros(len(batch.positions), len(model.heads), dtype=torch.float64, device=model.device)
        for node, weight in zip(nodes, weights, strict=True):
            falls -= float(weight) / 2 * work.slopes(batch, (float(node) + 1) / 2).to(model.device)
        with torch.no_grad():
            opened = work.losses(batch).double()
            with model.masked(HeadMask.without(model.heads, model.heads)):
                closed = work.losses(batch).double()
        missing = falls.sum(dim=1).to(closed.device) - (closed - opened)
        return {
            "falls": falls,
            "opened": opened,
            "closed": closed,
            "differences": (closed - opened).abs(),
            "missing": missing.abs(),
        }

    sums = work.once(f"integrated gradients, {steps} points", each)
    means = {name: total / len(task) for name, total in sums.items()}
    difference = float(means["differences"])
    error = float(means["missing"]) / difference if difference > 0.0 else 0.0
    if error > _INCOMPLETE:
        warnings.warn(
            f"integrated gradients of {model.name} on {task.name} miss {error:.0%} of the difference between the loss "
            f"with all heads closed and with all open: raise steps from {steps}",
            BertologyWarning,
            stacklevel=3,
        )
    details = {
        "steps": float(steps),
        "loss_open": float(means["opened"]),
        "loss_closed": float(means["closed"]),
        "completeness_error": error,
    }
    return replace(work.mean(sums, "falls", "integrated_gradients"), details=details)
