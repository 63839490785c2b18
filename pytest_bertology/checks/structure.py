"""Checks on what cutting makes of a model."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_bertology.checks import explain_models as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import CutDiffers, InvalidArgument
from pytest_bertology.heads import HeadLike, HeadMask
from pytest_bertology.measures.arguments import check_model, check_model_and_task
from pytest_bertology.measures.structural import PrunedModel, cut_beside_mask
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def assert_prune_equals_mask(
    model: ModelUnderTest,
    heads: HeadMask | Iterable[HeadLike],
    task: Task | None = None,
    *,
    tolerance: float = 1e-4,
) -> PrunedModel:
    """Assert that the model without these heads is the model with them masked; return the cut model, and how far.

    Every cut is proven on the model's sample before it is handed out (see `ModelUnderTest.pruned`). With a `task` both
    are also run over all of it: no logit may differ by more than `tolerance`, and for language models no example's mean
    loss.

    Raises CheckFailed (an AssertionError) where they differ, CannotPrune where these heads can only be masked,
    NoHeadSelected for none.
    """
    __tracebackhide__ = True
    if task is None:
        check_model(model, "model")
    else:
        check_model_and_task(model, task)
    numeric = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not numeric or not 0.0 <= tolerance < float("inf"):
        raise InvalidArgument("tolerance", tolerance, "a number from 0, in units of the logits (0.0001)")
    mask = model.as_mask(heads)
    try:
        found = cut_beside_mask(model, mask, task)
    except CutDiffers as error:
        page = explain.cut_differs(model, mask, error)
        give(_verdict(model, mask, task, None, tolerance, passed=False), lambda: page)
        raise
    largest = None if found.agreement is None else found.agreement.largest
    verdict = _verdict(model, mask, task, largest, tolerance, passed=largest is None or largest <= tolerance)
    give(verdict, lambda: explain.cut_outputs_differ(model, mask, found, tolerance))
    return found


def _verdict(
    model: ModelUnderTest, mask: HeadMask, task: Task | None, observed: float | None, tolerance: float, *, passed: bool
) -> Verdict:
    return Verdict(
        check="assert_prune_equals_mask",
        passed=passed,
        observed=observed,
        required="equal on the sample" if task is None else f"<= {tolerance:g}",
        judged="cut beside masked: largest difference" + ("" if task is None else " on the task"),
        model=model.name,
        task=None if task is None else task.name,
        examples=None if task is None else len(task),
        heads=tuple(map(str, mask.masked)),
    )
