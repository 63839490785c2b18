"""Checks that a score survives the masking of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_bertology.checks import explain, explain_early
from pytest_bertology.checks.drops import check_tolerance, drop_details, force_details, judge, warn_of_chance
from pytest_bertology.checks.evidence import changed_evidence, label_names
from pytest_bertology.checks.verdicts import CheckFailed, Verdict, give
from pytest_bertology.errors import NoHeadSelected
from pytest_bertology.heads import HeadLike, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.early import Requirement
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.retention import (
    Refutation,
    Retention,
    judged_mask,
    least_important,
    retention,
    retention_or_refutation,
)
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task


def assert_metric_retained(
    model: ModelUnderTest,
    task: Task,
    *,
    mask: HeadMask | None = None,
    heads: Iterable[HeadLike] | None = None,
    prune: float | None = None,
    by: str | Method | HeadScores = "gradient",
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    tolerance: float,
    relative: bool = False,
    confidence: float | None = None,
    structural: bool = False,
    early: bool = True,
    seed: int = 0,
) -> Retention:
    """Assert that the score drops by at most `tolerance` when heads are masked; return both results.

    Say which heads by one of `mask`, `heads`, or `prune`, a fraction of all heads, the least important first: `by` is
    a method of `head_importance` ("gradient", divided by each layer's norm; "random", drawn with `seed`; …) or holds
    the scores to go by. The baseline is always the model as trained; masks in force around the call (the `head_mask`
    of a test among them) count as masked, and may be all that is judged. Changes of attention and skipped layers in
    force count beside the mask, and are no part of the baseline; `prune` goes by the model as they leave it, as it does
    under masks. `relative` takes the tolerance as a share of
    the baseline. For a metric where less is better, such as perplexity, the drop is the rise.

    With `confidence` the check is a paired non-inferiority test: the upper confidence bound on the true drop must be
    within the tolerance. Where the lower bound is above it the check fails; where neither holds, the data cannot tell,
    and the check is inconclusive: it raises Inconclusive, a CheckFailed, and says which tolerance so many examples can
    establish.

    With `structural` the heads are cut out, and the cut model is judged instead of the masked one.

    A failure comes `early`, as soon as the examples run so far prove it: those that the baseline has wrong come first,
    then the least sure ones, and what is not run counts as right (its loss as 0). The verdict is that of all the data;
    only the drop is then known as "at least", and a loss that is not finite may go unseen. Accuracy and F1, Matthews'
    correlation of two labels, loss and perplexity can be judged so, with confidence only the accuracy of whole
    examples; early=False runs all the data whatever comes.

    Raises CheckFailed (an AssertionError) where the check does not hold, InvalidArgument or NoHeadSelected for
    arguments on which it could not fail, MaskNotApplied where the mask changes nothing, CannotPrune (with `structural`)
    where the heads can only be masked.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    task = task.with_metric(metric)
    check_tolerance(tolerance, task.metric, relative)
    check_above_noise(model, task, tolerance, relative)
    judged, why = _mask(model, task, mask, heads, prune, by, seed)
    required = Requirement(task.metric, task.kind, tolerance, relative, confidence)
    if early:
        found = retention_or_refutation(model, task, judged, required, structural=structural)
    else:
        found = retention(model, task, judged, confidence=confidence, structural=structural)
    return _judged(model, found, required, why, structural)


def assert_heads_prunable(
    model: ModelUnderTest, task: Task, heads: Iterable[HeadLike], tolerance: float, **options: Any
) -> Retention:
    """Assert that these heads, masked together, cost at most `tolerance` of the score; return both results.

    `options` are those of `assert_metric_retained`: metric, relative, confidence, structural, early.
    """
    __tracebackhide__ = True
    return assert_metric_retained(model, task, heads=heads, tolerance=tolerance, **options)


def _mask(
    model: ModelUnderTest,
    task: Task,
    mask: HeadMask | None,
    heads: Iterable[HeadLike] | None,
    prune: float | None,
    by: str | Method | HeadScores,
    seed: int,
) -> tuple[HeadMask, str]:
    """What is masked in all, and how it was chosen."""

    def least(fraction: float) -> tuple[HeadMask, str]:
        chosen, scores = least_important(model, task, fraction, by, seed)
        return chosen, scores.method

    judged, why = judged_mask(model, mask, heads, prune, least)
    if not judged.touched:
        what = (
            "no mask is in force, and none of mask, heads and prune is given"
            if mask is None
            else "the mask keeps all heads"
        )
        raise NoHeadSelected(what, "Say which heads to mask.")
    return judged, why


def _judged(
    model: ModelUnderTest, found: Retention | Refutation, required: Requirement, why: str, structural: bool
) -> Retention:
    """What was found, where it is within the requirement; raises CheckFailed otherwise."""
    __tracebackhide__ = True
    warn_of_chance(found.baseline)
    if isinstance(found, Refutation):
        verdict = _early_verdict(model, found, required, structural)
        message = explain_early.refuted(model, found, required, why, structural=structural)
        give(verdict, lambda: message)
        raise CheckFailed(message, verdict)
    tolerance, relative = required.tolerance, required.relative
    verdict = _verdict(model, found, required, structural)
    give(verdict, lambda: explain.not_retained(model, found, tolerance, relative, why, structural=structural))
    return found


def _verdict(model: ModelUnderTest, found: Retention, required: Requirement, structural: bool) -> Verdict:
    tolerance, relative = required.tolerance, required.relative
    return Verdict(
        **judge(found, tolerance, relative).fields(),
        score=found.masked.score,
        evidence=changed_evidence(found.baseline, found.masked, label_names(model)),
        details=drop_details(found, tolerance, relative)
        | force_details(model)
        | ({"structural": True} if structural else {}),
        **_about(model, found, required),
    )


def _early_verdict(model: ModelUnderTest, found: Refutation, required: Requirement, structural: bool) -> Verdict:
    """Failed; what was observed is the least that it could still have been, and the score is not known.

    So is the p-value: with the examples that were not run it could only be greater.
    """
    details: dict[str, Any] = {"examples_needed": len(found.positions), "examples": len(found.baseline)}
    if required.confidence is not None:
        details["confidence"] = required.confidence
    return Verdict(
        passed=False,
        observed=found.least,
        score=None,
        p_value=found.p_value,
        evidence=changed_evidence(found.part.baseline, found.part.masked, label_names(model), found.positions),
        details=details | force_details(model) | ({"structural": True} if structural else {}),
        **_about(model, found, required),
    )


def _about(model: ModelUnderTest, found: Retention | Refutation, required: Requirement) -> dict[str, Any]:
    """What was judged, whichever way it was."""
    judged = ("bound on the " if required.confidence is not None else "") + ("relative " if required.relative else "")
    return {
        "check": "assert_metric_retained",
        "required": f"<= {required.tolerance:g}",
        "judged": judged + "drop",
        "model": model.name,
        "task": found.baseline.task.name,
        "metric": found.baseline.metric.name,
        "baseline": found.baseline.score,
        "examples": len(found.baseline),
        "heads": tuple(map(str, found.heads)),
    }
