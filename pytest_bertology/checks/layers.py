"""Checks that a score survives the dropping of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_bertology.checks import explain
from pytest_bertology.checks.drops import check_tolerance, drop_details, judge
from pytest_bertology.checks.evidence import changed_evidence, label_names
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.layer_choice import choose_layers
from pytest_bertology.measures.layer_retention import LayerRetention, layer_retention
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.blocks import LayerLike
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task


def assert_layers_droppable(
    model: ModelUnderTest,
    task: Task,
    strategy: str | Iterable[LayerLike],
    count: int | None = None,
    tolerance: float | None = None,
    *,
    fraction: float | None = None,
    stack: str | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    relative: bool = False,
    confidence: float | None = None,
) -> LayerRetention:
    """Assert that the score drops by at most `tolerance` when layers are skipped; return both results.

    `strategy` is one of those of `choose_layers` ("top", "bottom", "alternate_even", "alternate_odd", "symmetric",
    "contribution"), with a `count` of layers or a `fraction` of them; or it names the layers: [3, 4], or
    [(3, "decoder")] where the model has several stacks. The baseline is the model as trained, whatever masks are in
    force around the call; they count as masked beside the layers. `relative` takes the tolerance as a share of the
    baseline, and with `confidence` the upper bound on the true drop is what is judged, as `assert_metric_retained`
    does. Layers are skipped and not cut: what `model.without_layers(found.layers)` saves is proven to be the same.

    Raises CheckFailed (an AssertionError) where the check does not hold, InvalidArgument or UnknownLayer for
    layers on which it could not fail, CannotDropLayers where layers cannot be passed by.
    """
    check_model_and_task(model, task)
    __tracebackhide__ = True
    if tolerance is None:
        raise InvalidArgument("tolerance", None, "a number from 0, in units of the metric (0.01 is one point)")
    task = task.with_metric(metric)
    check_tolerance(tolerance, task.metric, relative)
    check_above_noise(model, task, tolerance, relative)
    layers, why = _layers(model, task, strategy, count, fraction, stack)
    found = layer_retention(model, task, layers, confidence=confidence)
    verdict = Verdict(
        check="assert_layers_droppable",
        **judge(found, tolerance, relative).fields(),
        required=f"<= {tolerance:g}",
        judged=("bound on the " if found.bound else "") + ("relative " if relative else "") + "drop",
        model=model.name,
        task=task.name,
        metric=found.baseline.metric.name,
        baseline=found.baseline.score,
        score=found.masked.score,
        examples=len(found.baseline),
        heads=tuple(map(str, found.heads)),
        evidence=changed_evidence(found.baseline, found.masked, label_names(model)),
        details={
            **drop_details(found, tolerance, relative),
            "layers": [list(x) if isinstance(x, tuple) else x for x in found.layers],
        },
    )
    give(verdict, lambda: explain.layers_not_droppable(model, found, tolerance, relative, why))
    return found


def _layers(
    model: ModelUnderTest,
    task: Task,
    strategy: str | Iterable[LayerLike],
    count: int | None,
    fraction: float | None,
    stack: str | None,
) -> tuple[Iterable[LayerLike], str]:
    """Which layers are skipped, and how they were chosen."""
    if isinstance(strategy, str):
        return choose_layers(model, strategy, count, fraction=fraction, task=task, stack=stack), f" by {strategy!r}"
    given = {"count": count, "fraction": fraction, "stack": stack}
    for name, value in given.items():
        if value is not None:
            raise InvalidArgument(name, value, "nothing where the layers are named")
    return strategy, ""
