"""Checks on single heads: redundant ones, the best of a layer, those that matter to two tasks, those to be spared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_bertology.checks import explain_heads as explain
from pytest_bertology.checks.drops import check_tolerance, drop_details, force_details, judge, together
from pytest_bertology.checks.evidence import changed_evidence, label_names
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument, NoHeadSelected, NotAHead, NothingToJudge
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadMask
from pytest_bertology.heads.maps import as_head
from pytest_bertology.measures.all_but_one import ReducedLayer, reduced_layer
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.measures.retention import Retention, retention, retentions
from pytest_bertology.measures.transfer import Transfer, importance_transfer
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task


def assert_head_redundant(
    model: ModelUnderTest,
    task: Task,
    heads: HeadLike | Iterable[HeadLike],
    tolerance: float,
    *,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    relative: bool = False,
    confidence: float | None = None,
) -> dict[Head, Retention]:
    """Assert that masking one head costs at most `tolerance` of the score; of several heads, each one alone.

    Two heads that do the same work are each redundant, and masked together they may cost everything: ask
    `assert_heads_prunable` about them together. The baseline is the model as trained; masks in force around the call
    count as masked beside the head. `tolerance`, `relative` and `confidence` are those of `assert_metric_retained`.
    Returns both results for each head.

    Raises CheckFailed (an AssertionError) where some head is not redundant, InvalidArgument, NoHeadSelected or
    UnknownHead for arguments on which it could not fail, MaskNotApplied where masking a head changes nothing.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    task = task.with_metric(metric)
    check_tolerance(tolerance, task.metric, relative)
    check_above_noise(model, task, tolerance, relative)
    named = _named(model.heads, heads)
    masks = [model.together([head]) for head in named]
    if len(masks) == 1:
        found = {named[0]: retention(model, task, masks[0], confidence=confidence)}
    else:
        found = dict(zip(named, retentions(model, task, masks, confidence=confidence), strict=True))
    judged = {head: judge(each, tolerance, relative) for head, each in found.items()}
    costs = {head: each.observed for head, each in judged.items()}
    worst = max(costs, key=lambda head: costs[head])
    told = together(list(judged.values()), list(judged).index(worst))
    verdict = Verdict(
        check="assert_head_redundant",
        **told.fields(),
        evidence=changed_evidence(found[worst].baseline, found[worst].masked, label_names(model)),
        required=f"<= {tolerance:g}",
        judged=("bound on the " if confidence is not None else "") + ("relative " if relative else "") + "drop",
        **_scores(model, found[worst]),
        heads=tuple(map(str, found[worst].heads)),
        details={
            "drops": {str(head): each.drop for head, each in found.items()},
            "worst": str(worst),
            **drop_details(found[worst], tolerance, relative),
            **force_details(model),
        },
    )
    give(verdict, lambda: explain.not_redundant(model, found, costs, tolerance, relative, told.inconclusive))
    return found


def assert_layer_survives_one_head(
    model: ModelUnderTest,
    task: Task,
    layer: int,
    tolerance: float,
    *,
    stack: str | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    relative: bool = False,
) -> ReducedLayer:
    """Assert that some single head of a layer can do for all of it: the others masked, the score drops by `tolerance`.

    At most, that is, with the best head of the layer, which is chosen on the same examples (Michel et al. 2019, section
    3.3, choose it on others). `stack` is "encoder", "decoder" or "cross" where a model has several. The baseline is the
    model as trained; masks in force around the call count as masked. Returns the results for each head of the layer.

    Raises CheckFailed (an AssertionError) with every head's score, InvalidArgument, UnknownLayer, or NothingToJudge for
    a layer of one head.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    check_has_heads(model)
    task = task.with_metric(metric)
    check_tolerance(tolerance, task.metric, relative)
    check_above_noise(model, task, tolerance, relative)
    found = reduced_layer(model, task, layer, stack)
    best = found.retained[found.best]
    cost = _cost(best, relative)
    verdict = Verdict(
        check="assert_layer_survives_one_head",
        passed=cost <= tolerance + ROUNDING,
        observed=cost,
        required=f"<= {tolerance:g}",
        judged=("relative " if relative else "") + f"drop with only the best head of layer {layer}",
        **_scores(model, best),
        heads=tuple(map(str, best.heads)),
        details={
            "best": str(found.best),
            "scores": {str(head): each.masked.score for head, each in found.retained.items()},
            **force_details(model),
        },
    )
    give(verdict, lambda: explain.layer_needs_more(model, found, tolerance, relative))
    return found


def assert_importance_transfers(
    model: ModelUnderTest,
    task_a: Task,
    task_b: Task,
    min_correlation: float,
    *,
    method: str = "gradient",
    correlation: str = "pearson",
) -> Transfer:
    """Assert that the importance of heads to two tasks correlates by at least `min_correlation`; return it, and both.

    Pearson's r of scores divided by each layer's L2 norm, as Michel et al. (2019, section 4.2) report it, or Spearman's
    rank correlation ("spearman"). `method` is one of `head_importance`.

    Raises CheckFailed (an AssertionError), InvalidArgument for tasks of the same examples or the method "random", on
    which it could not fail, UndefinedScore where all scores of one task are equal. Warns of texts in both tasks.
    """
    __tracebackhide__ = True
    numeric = isinstance(min_correlation, int | float) and not isinstance(min_correlation, bool)
    if not numeric or not -1.0 < min_correlation <= 1.0:
        raise InvalidArgument("min_correlation", min_correlation, "a correlation above -1 and up to 1")
    found = importance_transfer(model, task_a, task_b, method=method, correlation=correlation)
    verdict = Verdict(
        check="assert_importance_transfers",
        passed=found.correlation >= min_correlation - 1e-12,
        observed=found.correlation,
        required=f">= {min_correlation:g}",
        judged=f"{found.kind} correlation of importance",
        model=model.name,
        task=f"{task_a.name} and {task_b.name}",
        details={"method": found.scores.method},
    )
    give(verdict, lambda: explain.does_not_transfer(model, task_a, task_b, found, min_correlation))
    return found


def assert_specialised_heads_survive(mask: Any, heads: Iterable[HeadLike]) -> HeadMask:
    """Assert that a mask masks none of `heads`: specialised heads go last (Voita et al. 2019); return the mask.

    `mask` is a HeadMask, what a search for prunable heads returns (anything with a HeadMask as `.mask`), or a model:
    one of which heads were cut, whose `heads` are then counted as before the cut, or one under a mask in force.

    Raises CheckFailed (an AssertionError) naming the heads that are gone, UnknownHead, and NoHeadSelected or
    NothingToJudge where no head is named or masked: the check could not fail.
    """
    __tracebackhide__ = True
    judged = _mask_of(mask)
    named = _named(judged.heads, heads)
    if not judged.masked:
        raise NothingToJudge("the mask masks no head", "Give the mask of a pruned model, or one that a search found.")
    gone = tuple(head for head in named if judged.gate(head) == 0.0)
    verdict = Verdict(
        check="assert_specialised_heads_survive",
        passed=not gone,
        observed=float(len(gone)),
        required="<= 0",
        judged="specialised heads masked",
        heads=tuple(map(str, named)),
        details={"gone": [str(head) for head in gone], "masked": len(judged.masked)},
    )
    give(verdict, lambda: explain.specialised_heads_gone(judged, named, gone))
    return judged


def _named(known: HeadMap, heads: HeadLike | Iterable[HeadLike]) -> tuple[Head, ...]:
    """One head or several; raises NoHeadSelected for none."""
    try:
        one: Any = as_head(heads)  # type: ignore[arg-type]
    except NotAHead:
        named = known.select(heads)  # type: ignore[arg-type]
    else:
        named = known.select([one])
    if not named:
        raise NoHeadSelected("heads=[] names no head", "Name the heads to judge.")
    return named


def _cost(found: Retention, relative: bool) -> float:
    """The drop, or the bound on it."""
    return (found.drop if found.bound is None else found.bound.upper) / (found.scale() if relative else 1.0)


def _scores(model: ModelUnderTest, found: Retention) -> dict[str, Any]:
    return {
        "model": model.name,
        "task": found.baseline.task.name,
        "metric": found.baseline.metric.name,
        "baseline": found.baseline.score,
        "score": found.masked.score,
        "examples": len(found.baseline),
    }


def _mask_of(value: Any) -> HeadMask:
    if isinstance(value, HeadMask):
        return value
    if isinstance(value, ModelUnderTest):
        if value.plan is not None and value.plan.removed:
            return HeadMask.without(value.plan.original, value.plan.removed)
        return value.mask_in_force()
    found = getattr(value, "mask", None)
    if isinstance(found, HeadMask):
        return found
    raise InvalidArgument("mask", type(value).__name__, "a HeadMask, a result with one as .mask, or a model")
