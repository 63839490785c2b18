"""Checks that a score survives the masking of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_bertology.checks import explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument, NoHeadSelected
from pytest_bertology.heads import HeadLike, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.retention import Retention, least_important, mask_of, retention
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task

_ROUNDING = 1e-9
"""A drop of 0.90 - 0.89 is a drop of 0.01, whatever binary fractions make of it."""


def assert_metric_retained(
    model: ModelUnderTest,
    task: Task,
    *,
    mask: HeadMask | None = None,
    heads: Iterable[HeadLike] | None = None,
    prune: float | None = None,
    by: str | HeadScores = "gradient",
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    tolerance: float,
    relative: bool = False,
    confidence: float | None = None,
    structural: bool = False,
    seed: int = 0,
) -> Retention:
    """Assert that the score drops by at most `tolerance` when heads are masked; return both results.

    Say which heads by one of `mask`, `heads`, or `prune`, a fraction of all heads, the least important first: `by`
    names the importance method ("gradient", divided by each layer's norm, or "random", drawn with `seed`) or holds
    the scores to go by. The baseline is always the model as trained; masks in force around the call (the `head_mask`
    of a test among them) count as masked, and may be all that is judged. `relative` takes the tolerance as a share of
    the baseline. For a metric where less is better, such as perplexity, the drop is the rise.

    With `confidence` the check is a paired non-inferiority test: the upper confidence bound on the true drop must be
    within the tolerance, and where too few examples are the reason for a failure, the message says which tolerance
    they could establish.

    With `structural` the heads are cut out, and the cut model is judged instead of the masked one.

    Raises CheckFailed (an AssertionError) where the check does not hold, InvalidArgument or NoHeadSelected for
    arguments on which it could not fail, MaskNotApplied where the mask changes nothing, CannotPrune (with `structural`)
    where the heads can only be masked.
    """
    check_model_and_task(model, task)
    __tracebackhide__ = True
    _check_tolerance(tolerance)
    judged, why = _mask(model, task, mask, heads, prune, by, seed)
    found = retention(model, task.with_metric(metric), judged, confidence=confidence, structural=structural)
    scale = found.scale() if relative else 1.0
    observed = (found.drop if found.bound is None else found.bound.upper) / scale
    verdict = _verdict(model, found, observed, tolerance, relative, structural)
    give(verdict, lambda: explain.not_retained(model, found, tolerance, relative, why, structural=structural))
    return found


def assert_heads_prunable(
    model: ModelUnderTest, task: Task, heads: Iterable[HeadLike], tolerance: float, **options: Any
) -> Retention:
    """Assert that these heads, masked together, cost at most `tolerance` of the score; return both results.

    `options` are those of `assert_metric_retained`: metric, relative, confidence, structural.
    """
    __tracebackhide__ = True
    return assert_metric_retained(model, task, heads=heads, tolerance=tolerance, **options)


def _check_tolerance(tolerance: float) -> None:
    numeric = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not numeric or not 0.0 <= tolerance < float("inf"):
        raise InvalidArgument("tolerance", tolerance, "a number from 0, in units of the metric (0.01 is one point)")


def _mask(
    model: ModelUnderTest,
    task: Task,
    mask: HeadMask | None,
    heads: Iterable[HeadLike] | None,
    prune: float | None,
    by: str | HeadScores,
    seed: int,
) -> tuple[HeadMask, str]:
    """What is masked in all, and how it was chosen."""
    given = {"mask": mask, "heads": heads, "prune": prune}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InvalidArgument(named[1], given[named[1]], f"only one of mask, heads and prune; {named[0]} is given too")
    if prune is not None:
        chosen, scores = least_important(model, task, prune, by, seed)
        return model.together(chosen), f", the least important by {scores.method}"
    if heads is not None:
        return model.together(mask_of(model, heads)), ""
    judged = model.together(() if mask is None else mask)
    if not judged.touched:
        what = (
            "no mask is in force, and none of mask, heads and prune is given"
            if mask is None
            else "the mask keeps all heads"
        )
        raise NoHeadSelected(what, "Say which heads to mask.")
    return judged, ""


def _verdict(
    model: ModelUnderTest, found: Retention, observed: float, tolerance: float, relative: bool, structural: bool
) -> Verdict:
    return Verdict(
        check="assert_metric_retained",
        passed=observed <= tolerance + _ROUNDING,
        observed=observed,
        required=f"<= {tolerance:g}",
        judged=("bound on the " if found.bound else "") + ("relative " if relative else "") + "drop",
        model=model.name,
        task=found.baseline.task.name,
        metric=found.baseline.metric.name,
        baseline=found.baseline.score,
        score=found.masked.score,
        examples=len(found.baseline),
        heads=tuple(map(str, found.heads)),
        details={**_details(found), **({"structural": True} if structural else {})},
    )


def _details(found: Retention) -> dict[str, Any]:
    details: dict[str, Any] = {"drop": found.drop}
    if found.bound is not None:
        details |= {"confidence": found.bound.confidence, "bound": found.bound.upper, "method": found.bound.method}
    return details
