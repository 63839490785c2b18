"""How important each head is to a task, by any of several methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.errors import InvalidArgument, InvalidScores, MaskNotApplied
from pytest_bertology.heads import HeadMap, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.confidence import head_confidence
from pytest_bertology.measures.integrated import STEPS, integrated_gradients
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.own_methods import Method, find_method
from pytest_bertology.measures.sensitivity import (
    bertology_importance,
    gradient_importance,
    taylor_importance,
    token_importance,
)
from pytest_bertology.measures.sweeping import evaluate_masks
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.names import IMPORTANCE_METHODS, OWN_METHOD
from pytest_bertology.tasks.task import Task


@remakeable
@announced("importance")
def head_importance(
    model: ModelUnderTest,
    task: Task,
    method: str | Method = "gradient",
    *,
    seed: int = 0,
    steps: int | None = None,
    per_layer: bool | None = None,
    min_max: bool | None = None,
    batching: Batching | None = None,
) -> HeadScores:
    """Score each head's importance to `task`; masks in force around the call stay in force.

    By `method`, in order of what they cost:

    - "gradient": mean size of each example's slope of the loss by the head's gate (Michel et al. 2019);
    - "gradient_per_token": the same with sizes taken token by token, an upper bound of it;
    - "bertology": what transformers' run_bertology script defines, normalised twice as it has it, its faults mended;
    - "taylor": first-order estimate of the rise of the mean loss when the head is masked, signed;
    - "confidence": mean greatest attention weight of the head (Voita et al. 2019), whatever the labels;
    - "integrated_gradients": share of the loss between all heads closed and all open, `steps` (16) points, signed;
    - "ablation": rise of the mean loss when that head alone is masked, signed: exact, an evaluation per head;
    - "random": a control, uniform numbers drawn with `seed`;
    - a function `(model, task)` of your own that returns HeadScores or an array with a number per head, or the name
      of one (see `using_importance_method` and the hook `pytest_bertology_importance_method`).

    None of them depends on the batches that examples come in. `per_layer` and `min_max` normalise the scores as
    `HeadScores.normalized` does; by default only those of "bertology" are.

    Raises InvalidArgument for a method that is not known, or `steps` for another method than theirs; InvalidScores
    where a method of your own does not give a finite number per head; NonFinite naming the example.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    own, name = chosen_method(method)
    if steps is not None and name != "integrated_gradients":
        raise InvalidArgument("steps", steps, f"method='integrated_gradients' with it; {name} takes no steps")
    if own is not None:
        scores = _own_importance(model, task, own, name)
    elif name == "random":
        scores = random_importance(model.heads, seed)
    elif name == "integrated_gradients":
        scores = integrated_gradients(model, task, steps=STEPS if steps is None else steps, batching=batching)
    else:
        scores = _MEASURES[name](model, task, batching=batching)
    by_script = name == "bertology"
    normalisations = [by_script if asked is None else asked for asked in (per_layer, min_max)]
    return scores.normalized(*normalisations) if any(normalisations) else scores


def pruning_scores(
    model: ModelUnderTest, task: Task, by: str | Method, *, seed: int = 0, batching: Batching | None = None
) -> HeadScores:
    """The scores of a method, made such that heads of different layers can be ordered by them.

    Sizes of gradients ("gradient", "gradient_per_token") are divided by each layer's L2 norm (Michel et al. 2019,
    section 4), without which layers cannot be compared, and "bertology" comes normalised. Estimates of a loss
    ("taylor", "integrated_gradients", "ablation"), "confidence", "random" and methods of one's own are of one scale in
    all layers: they are left as they are.
    """
    sizes = by in ("gradient", "gradient_per_token")
    return head_importance(model, task, by, seed=seed, per_layer=True if sizes else None, batching=batching)


def chosen_method(method: object, argument: str = "method") -> tuple[Method | None, str]:
    """The user's own function, or None for a method of the package, and its name; raises InvalidArgument."""
    if callable(method):
        return method, str(getattr(method, "__name__", type(method).__name__))
    own, known = find_method(method) if isinstance(method, str) and method not in IMPORTANCE_METHODS else (None, ())
    if own is None and method not in IMPORTANCE_METHODS:
        names = ", ".join((*IMPORTANCE_METHODS, *known))
        raise InvalidArgument(argument, method, f"one of {names}, {OWN_METHOD}, or a function of a model and a task")
    return own, str(method)


def ablation_importance(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """The rise of the mean loss when a head is masked by itself; signed, in nats (leave one out).

    I[l, h] = mean over x of loss(x; ξ[l, h] = 0) − loss(x) (Michel et al. 2019, section 3.2, of the loss in place of
    the score). Masks in force stay, and their heads get 0. One evaluation per head.

    Raises MaskNotApplied where no head changes the loss of any example, bit for bit; NonFinite naming the example.
    """
    base = model.mask_in_force()
    live = [head for head in model.heads if base.gate(head) != 0.0]

    def measured() -> Arrays:
        masks = [base | HeadMask.without(model.heads, [head]) for head in live]
        swept = evaluate_masks(model, task, masks, base=base, batching=batching)
        found, errors, n = np.zeros(len(model.heads)), np.zeros(len(model.heads)), len(task)
        for head, variant in zip(live, swept.variants, strict=True):
            rises = variant.losses - swept.baseline.losses
            found[model.heads.index(head)] = rises.mean()
            errors[model.heads.index(head)] = rises.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
        moving = any((variant.losses != swept.baseline.losses).any() for variant in swept.variants)
        if not moving and not set(live) <= set(model.check.idle):
            raise MaskNotApplied(f"masking any one head changes no loss of {model.name} on {task.name}, bit for bit")
        return {"rises": found, "errors": errors}

    inputs = (model, encode(model, task), base, batching or Batching())
    found = computed_once("ablation importance, and errors", inputs, measured)
    errors = found["errors"] if len(task) > 1 else None
    return HeadScores(found["rises"], model.heads, "ablation", standard_errors=errors)


def random_importance(heads: HeadMap, seed: int) -> HeadScores:
    """Uniform random scores, as a control."""
    return HeadScores(np.random.default_rng(seed).random(len(heads)), heads, method=f"random (seed {seed})")


_MEASURES: dict[str, Callable[..., HeadScores]] = {
    "gradient": gradient_importance,
    "gradient_per_token": token_importance,
    "bertology": bertology_importance,
    "taylor": taylor_importance,
    "ablation": ablation_importance,
    "confidence": head_confidence,
}


def _own_importance(model: ModelUnderTest, task: Task, method: Method, name: str) -> HeadScores:
    """What a method of the user's own gives, checked to be a finite number for each head."""
    _check_takes(method, model, task)
    found: Any = method(model, task)
    if isinstance(found, HeadScores):
        model.as_mask(HeadMask.keep_all(found.heads))  # raises MaskOfAnotherModel
        return replace(found, method=name)
    expected = f"one finite number for each of {len(model.heads)} heads, as the importance method {name!r} must give"
    if found is None:
        raise InvalidScores("nothing: it returned None", expected)
    try:
        values = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidScores(type(found).__name__, expected) from None
    table = HeadScores(np.zeros(len(model.heads)), model.heads, name).to_numpy()
    if values.ndim == 2 and values.shape == table.shape:
        values = values[~np.isnan(table)]
    if values.shape != (len(model.heads),):
        raise InvalidScores(f"{type(found).__name__} of shape {values.shape}", expected)
    try:
        return HeadScores(values, model.heads, name)
    except InvalidScores as error:
        raise InvalidScores(error.found, expected) from None


def _check_takes(method: Method, model: ModelUnderTest, task: Task) -> None:
    """Raise InvalidArgument where a function cannot be called with a model and a task."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # some callables written in C tell nothing
        return
    try:
        signature.bind(model, task)
    except TypeError as error:
        name = getattr(method, "__name__", type(method).__name__)
        raise InvalidArgument(
            "method", f"{name}{signature}", f"a function called as method(model, task): {error}"
        ) from None
