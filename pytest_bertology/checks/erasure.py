"""Checks of whether a model uses what its hidden states know: the property is erased, and the task scored again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_bertology.checks import explain_erasure as explain
from pytest_bertology.checks.drops import check_tolerance, force_details, largest_drop, most_to_lose, warn_of_chance
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.amnesic import amnesic_probe
from pytest_bertology.measures.amnesic_report import AmnesicReport, LayerAmnesia
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.erasure import LEACE
from pytest_bertology.measures.evaluation import Outcomes, evaluate
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task


def assert_property_unused(
    model: ModelUnderTest,
    property_task: Task,
    task: Task,
    layer: int,
    tolerance: float,
    *,
    method: str = LEACE,
    train: Task | None = None,
    held_out: Task | None = None,
    pooling: str | None = None,
    stack: str | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    confidence: float | None = None,
    random_controls: int = 5,
    seed: int = 0,
) -> AmnesicReport:
    """Assert that the score drops by at most `tolerance` when a property is erased from a layer's hidden states.

    The property is in the labels of `property_task`, learned from `train` (see `erase`), and `task` is what the model
    is for: labelled examples, or texts of a language model. Elazar et al. 2021: that a probe decodes a property does
    not say that the model uses it. With `confidence` it is the upper bound on the drop that has to be within the
    tolerance. Returns what `amnesic_probe` returns.

    Raises CheckFailed (an AssertionError); NothingToJudge where no linear probe beats the majority class before, so
    that there is nothing to erase; UndefinedScore where one still does after; InvalidArgument for a tolerance that no
    drop exceeds, down to the most frequent label's share of an accuracy; and what `amnesic_probe` raises. Warns where
    the model as it is does no better than chance.
    """
    __tracebackhide__ = True
    task = _ready(model, task, layer, metric)
    check_tolerance(tolerance, task.metric, relative=False)
    check_above_noise(model, task, tolerance)
    baseline = evaluate(model, task)
    warn_of_chance(baseline)
    _check_can_fail(baseline, tolerance)
    options = {"method": method, "train": train, "held_out": held_out, "pooling": pooling, "stack": stack}
    report, found = _measured(model, property_task, task, layer, confidence, random_controls, seed, options)
    bound = None if confidence is None else found.drop_interval[1]
    verdict = _verdict(
        "assert_property_unused",
        model,
        report,
        found,
        passed=(found.drop if bound is None else bound) <= tolerance + ROUNDING,
        # Neither surely within the tolerance nor surely above it.
        inconclusive=bound is not None and found.drop_interval[0] <= tolerance + ROUNDING < bound,
        observed=found.drop if bound is None else bound,
        required=f"<= {tolerance:g}",
        judged="drop" if bound is None else "bound on the drop",
    )
    give(verdict, lambda: explain.used(model, report, found, tolerance, bound, confidence))
    return report


def assert_property_used(
    model: ModelUnderTest,
    property_task: Task,
    task: Task,
    layer: int,
    at_least: float = 0.0,
    *,
    method: str = LEACE,
    train: Task | None = None,
    held_out: Task | None = None,
    pooling: str | None = None,
    stack: str | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    confidence: float = 0.95,
    random_controls: int = 5,
    seed: int = 0,
) -> AmnesicReport:
    """Assert that erasing a property from a layer costs at least so much, and more than random directions do.

    More than as many directions drawn at random, on average over `random_controls` draws: the lower bound on the
    difference, with `confidence`, is above 0. The rest is as in `assert_property_unused`, the errors too;
    InvalidArgument for an `at_least` above the baseline, which cannot drop so far.
    """
    __tracebackhide__ = True
    task = _ready(model, task, layer, metric)
    numeric = isinstance(at_least, int | float) and not isinstance(at_least, bool)
    if not numeric or not 0.0 <= at_least < float("inf"):
        raise InvalidArgument("at_least", at_least, "a number from 0, in units of the metric (0.01 is one point)")
    _check_can_pass(evaluate(model, task), at_least)
    options = {"method": method, "train": train, "held_out": held_out, "pooling": pooling, "stack": stack}
    report, found = _measured(model, property_task, task, layer, confidence, random_controls, seed, options)
    verdict = _verdict(
        "assert_property_used",
        model,
        report,
        found,
        passed=found.drop >= at_least - ROUNDING and found.interval[0] > 0.0,
        observed=found.drop,
        required=f">= {at_least:g}, and more than random directions cost",
        judged="drop",
    )
    give(verdict, lambda: explain.unused(model, report, found, at_least))
    return report


def _ready(model: ModelUnderTest, task: Task, layer: int, metric: Any) -> Task:
    check_model_and_task(model, task)
    if not is_whole(layer) or layer < 0:
        raise InvalidArgument("layer", layer, "a number from 0 (the embeddings) to the last layer")
    return task.with_metric(metric)


def _check_can_fail(baseline: Outcomes, tolerance: float) -> None:
    """Raise InvalidArgument for a tolerance that is not exceeded where all is lost."""
    most, least = most_to_lose(baseline)
    if baseline.score > 0.0 and tolerance >= most - ROUNDING:
        wanted = (
            f"less than {most:.4f}: {baseline.metric.name} of {baseline.task.name} is {baseline.score:.4f}, {least}, "
            "and so the check could not fail; did you mean 0.01?"
        )
        raise InvalidArgument("tolerance", tolerance, wanted)


def _check_can_pass(baseline: Outcomes, at_least: float) -> None:
    """Raise InvalidArgument for a drop greater than that to the worst score of all."""
    most = largest_drop(baseline)
    if at_least > most + ROUNDING:
        wanted = (
            f"at most {most:.4f}: {baseline.metric.name} of {baseline.task.name} is {baseline.score:.4f} and cannot "
            "drop by more, so the check could not pass"
        )
        raise InvalidArgument("at_least", at_least, wanted)


def _measured(
    model: ModelUnderTest,
    property_task: Task,
    task: Task,
    layer: int,
    confidence: float | None,
    random_controls: int,
    seed: int,
    options: dict[str, Any],
) -> tuple[AmnesicReport, LayerAmnesia]:
    """The report, of a property that was there and is not any more; intervals with half of 1 − confidence below."""
    if confidence is not None:
        if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.75 <= confidence < 1.0:
            raise InvalidArgument("confidence", confidence, "a number from 0.75 to below 1, such as 0.95")
        options = {**options, "confidence": 2.0 * confidence - 1.0}
    report = amnesic_probe(
        model, property_task, task, layer, random_controls=random_controls, last=False, seed=seed, **options
    )
    found = report.layers[0]
    own = found.erasure.only
    where = f"at layer {layer} of {model.name}"
    if not own.was_there:
        raise NothingToJudge(*explain.not_there(report, found, where))
    if own.is_there:
        why = (
            f"a linear probe still gets {own.accuracy_after:.4f} {where} after it, more than the majority class "
            f"({own.majority:.4f}); take more training data, or method='leace'"
        )
        raise UndefinedScore(f"what erasing {report.erased} costs", why)
    return report, found


def _verdict(
    check: str, model: ModelUnderTest, report: AmnesicReport, found: LayerAmnesia, *, passed: bool, **told: Any
) -> Verdict:
    own = found.erasure.only
    return Verdict(
        check=check,
        passed=passed,
        model=model.name,
        task=report.task,
        metric=report.metric,
        baseline=report.baseline,
        score=found.score,
        examples=report.examples,
        details={
            "property": report.erased,
            "layer": found.layer,
            "method": report.method,
            "rank": found.rank,
            "drop": found.drop,
            "drop_interval": list(found.drop_interval),
            "random_drops": list(found.random_drops),
            "difference": found.difference,
            "difference_interval": list(found.interval),
            "probe": [own.accuracy_before, own.accuracy_after, own.majority],
            **force_details(model),
        },
        **told,
    )
