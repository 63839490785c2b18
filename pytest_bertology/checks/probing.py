"""A check on what a layer's hidden states tell a probe."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pytest_bertology.checks import explain_probing as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.probing import probe
from pytest_bertology.measures.probing_report import ProbeReport
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import check_labelled
from pytest_bertology.tasks.task import Task

BEST = "best"


def assert_probe_score(
    model: ModelUnderTest,
    task: Task,
    layer: int | str = BEST,
    *,
    at_least: float,
    min_selectivity: float | None = None,
    min_lead_over_random: float | None = None,
    confidence: float | None = None,
    layers: str | int | Collection[int] | None = None,
    kind: str = "linear",
    train: Task | None = None,
    held_out: Task | None = None,
    control: bool = True,
    random_model: bool = True,
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    backend: str | None = None,
    seed: int = 0,
    batching: Batching | None = None,
) -> ProbeReport:
    """Assert that a probe of a layer's hidden states scores `at_least` so much; return what all `layers` gave.

    `probe` says how probes are trained and judged, and what the other arguments mean. `layer` is a number from 0 (the
    embeddings), or "best": the layer that does best on the held-out part, which is judged on other texts. `layers` are
    those that are probed: by default the one asked for, or all for "best"; "all" has the report and the failure page
    show the others beside it. With `confidence`, such as 0.95, the lower bound of the score at that confidence must
    reach `at_least`.

    Whatever `at_least` says, a probe does not pass that is not surely better than the majority class (the 95 % interval
    of the difference on the same items is not above 0), or whose selectivity, the score less that of a control task of
    random labels for each type (Hewitt & Liang 2019), is below 0. `min_selectivity` requires more than that, and
    `min_lead_over_random` so much more than the same probe reaches on the model with random weights. With
    `control=False` or `random_model=False` that is not looked at, and the verdict says so.

    Raises CheckFailed (an AssertionError); InvalidArgument, for requirements that cannot be missed or met too; and what
    `probe` raises.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    check_labelled(task)
    _check_layer(layer, layers)
    _check_numbers(at_least, confidence, task.metric.name)
    _check_lead("min_selectivity", min_selectivity, "control", control)
    _check_lead("min_lead_over_random", min_lead_over_random, "random_model", random_model)
    probed: Any = layers if layers is not None else "all" if layer == BEST else [layer]
    report = probe(
        model,
        task,
        probed,
        kind,
        train=train,
        held_out=held_out,
        control=control,
        random_model=random_model,
        pooling=pooling,
        too_long=too_long,
        stack=stack,
        backend=backend,
        seed=seed,
        batching=batching,
    )
    chosen = report.best_layer if layer == BEST else int(layer)
    found = report.at(chosen)
    bound = upper = None
    if confidence is not None:  # the ends of a two-sided interval, each with half as much beyond it
        bound, upper = replace(report, confidence=2.0 * confidence - 1.0).interval(chosen)
    judged = found.score if bound is None else bound
    missed = {
        "score": judged < at_least - ROUNDING,
        "majority": not report.beats_majority(chosen),
        "selectivity": found.selectivity is not None and found.selectivity.value < (min_selectivity or 0.0) - ROUNDING,
        "random": (
            min_lead_over_random is not None
            and found.lead_over_random is not None
            and found.lead_over_random.value < min_lead_over_random - ROUNDING
        ),
    }
    failed = tuple(name for name, each in missed.items() if each)
    verdict = Verdict(
        check="assert_probe_score",
        passed=not failed,
        inconclusive=failed == ("score",) and upper is not None and upper >= at_least - ROUNDING,
        observed=judged,
        required=_required(at_least, min_selectivity, min_lead_over_random, control),
        judged=("lower bound of the " if bound is not None else "")
        + f"{report.metric.name} of a probe of layer {chosen}",
        model=model.name,
        task=report.data,
        examples=len(report),
        details=_details(report, chosen, failed),
    )
    required = explain.Required(at_least, min_selectivity, min_lead_over_random, confidence, bound)
    give(verdict, lambda: explain.probe_too_weak(model, report, chosen, layer == BEST, required, failed))
    return report


def _required(at_least: float, selectivity: float | None, lead: float | None, control: bool) -> str:
    said = [f">= {at_least:g}", "surely above the majority class"]
    if control:
        said.append(f"selectivity >= {selectivity or 0.0:g}")
    if lead is not None:
        said.append(f">= {lead:g} above random weights")
    return ", ".join(said)


def _details(report: ProbeReport, layer: int, failed: tuple[str, ...]) -> dict[str, Any]:
    found = report.at(layer)
    return {
        "layer": layer,
        "score": found.score,
        "interval": list(found.interval),
        "majority": found.majority,
        "control": found.control_score,
        "selectivity": None if found.selectivity is None else found.selectivity.value,
        "random": found.random_score,
        "missed": list(failed),
        "not looked at": [
            name for name, each in (("control", found.control_score), ("random", found.random_score)) if each is None
        ],
    }


def _check_layer(layer: object, layers: object) -> None:
    if layer == BEST:
        return
    if not is_whole(layer) or layer < 0:  # type: ignore[operator]
        raise InvalidArgument("layer", layer, "a number from 0 (the embeddings), or 'best'")
    several = [layers] if is_whole(layers) else layers
    if isinstance(several, Collection) and not isinstance(several, str) and layer not in several:
        raise InvalidArgument("layer", layer, f"one of layers={list(several)!r}, or 'best'")


def _check_numbers(at_least: object, confidence: object, metric: str) -> None:
    lowest = -1.0 if metric == "matthews" else 0.0
    if not _is_number(at_least) or not lowest <= at_least <= 1.0:  # type: ignore[operator]
        raise InvalidArgument("at_least", at_least, f"a score from {lowest:g} to 1")
    if confidence is not None and (not _is_number(confidence) or not 0.5 < confidence < 1.0):  # type: ignore[operator]
        raise InvalidArgument("confidence", confidence, "a number above 0.5 and below 1, such as 0.95, or None")


def _check_lead(name: str, least: object, switch: str, on: object) -> None:
    if least is None:
        return
    if not _is_number(least) or not 0.0 <= least <= 1.0:  # type: ignore[operator]
        raise InvalidArgument(name, least, "a difference of scores from 0 to 1, or None")
    if on is False:
        raise InvalidArgument(switch, on, f"True where {name} is given")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
