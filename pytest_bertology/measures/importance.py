"""How important each head is to a task."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batching, batches
from pytest_bertology.engine.encoding import Encoded, encode
from pytest_bertology.engine.objectives import judge
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import computed_once
from pytest_bertology.errors import InvalidArgument, MaskNotApplied, NonFinite
from pytest_bertology.heads import HeadMap, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.sites import Site
from pytest_bertology.names import IMPORTANCE_METHODS
from pytest_bertology.tasks.task import Task


def head_importance(
    model: ModelUnderTest, task: Task, method: str = "gradient", *, seed: int = 0, batching: Batching | None = None
) -> HeadScores:
    """Score each head's importance to `task`, unnormalised; masks in force around the call stay in force.

    "gradient" is the expected sensitivity of the loss to the head's gate (see `gradient_importance`); "random" is a
    control, uniform numbers drawn with `seed`. Raises InvalidArgument for another method.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    if method not in IMPORTANCE_METHODS:
        raise InvalidArgument("method", method, "one of " + ", ".join(IMPORTANCE_METHODS))
    if method == "random":
        return random_importance(model.heads, seed)
    return gradient_importance(model, task, batching=batching)


def gradient_importance(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """Expected sensitivity of the loss to each head's gate, per example.

    I[l, h] = mean over x of |∂ loss(x) / ∂ ξ[l, h]| at ξ = 1 (Michel et al. 2019, section 4, eq. 2), the absolute
    value taken of each example by itself: every example has gates of its own, so the result does not depend on the
    batch size. Weights are frozen and the model is in eval mode. Scores are in loss units (nats) per unit of gate.

    Raises NonFinite where an example's loss or gradient is not finite, naming the example.
    """
    encoded = encode(model, task)
    batching = batching or Batching()
    if not model.check.per_example:
        batching = replace(batching, tokens=1)  # one example at a time
    stored = computed_once(
        "gradient importance",
        (model, encoded, model.mask_in_force(), batching),
        lambda: {"scores": _mean_sensitivity(model, task, encoded, batching)},
    )
    return HeadScores(stored["scores"], model.heads, method="gradient")


def _mean_sensitivity(
    model: ModelUnderTest, task: Task, encoded: Encoded, batching: Batching
) -> npt.NDArray[np.float64]:
    """One gradient per example and head: every example of a batch has gates of its own."""
    totals = [np.zeros(site.heads, dtype=np.float64) for site in model.sites]
    done = 0
    # Gradients are needed here, whatever the caller has switched off around the call.
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), model.frozen()):
            stack.enter_context(context)
        show = stack.enter_context(tracked(f"{task.name}, head importance", len(task)))
        for batch in batches(model, encoded, batching):
            gates = [
                torch.ones(
                    len(batch.positions), site.heads, dtype=_gate_dtype(model), device=model.device, requires_grad=True
                )
                for site in model.sites
            ]
            with model.gated(gates):
                judged = judge(model, batch, encoded.objective)
                _refuse_non_finite(judged.losses, batch.positions, f"{task.name}", "the loss")
                slopes = torch.autograd.grad(judged.losses.sum(), gates, allow_unused=True)
                gradients: tuple[Tensor | None, ...] = slopes
            for site, total, gradient in zip(model.sites, totals, gradients, strict=True):
                if gradient is None:
                    _refuse_unused(model, site)
                    continue
                _refuse_non_finite(gradient.sum(dim=1), batch.positions, task.name, "the gradient of a head's gate")
                total += gradient.abs().double().sum(dim=0).cpu().numpy()
            done += len(batch.positions)
            show(done)
    return np.concatenate(totals) / len(task)


def random_importance(heads: HeadMap, seed: int) -> HeadScores:
    """Uniform random scores, as a control."""
    return HeadScores(np.random.default_rng(seed).random(len(heads)), heads, method=f"random (seed {seed})")


def _gate_dtype(model: ModelUnderTest) -> torch.dtype:
    return torch.float64 if model.model.dtype == torch.float64 else torch.float32


def _refuse_unused(model: ModelUnderTest, site: Site) -> None:
    """A gate without a gradient is one of heads that the model does not read, or an error."""
    if any((head.layer, head.stack) == (site.layer, site.stack) for head in set(model.heads) - model.check.idle):
        raise MaskNotApplied(f"the loss does not depend on the gates at {site.name}")


def _refuse_non_finite(values: torch.Tensor, positions: tuple[int, ...], where: str, what: str) -> None:
    finite = torch.isfinite(values).cpu()
    if not bool(finite.all()):
        raise NonFinite(what, f"example {positions[int((~finite).nonzero()[0])]} of {where}")
