"""Checks on how many heads can go, and on one mask for several tasks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_bertology.checks import explain_search
from pytest_bertology.checks.drops import check_tolerance, drop_details, judge, together
from pytest_bertology.checks.evidence import changed_evidence, label_names
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument, NoHeadSelected
from pytest_bertology.heads import HeadLike, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model, check_model_and_task
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.retention import Retention, retention
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.search.finding import search_heads
from pytest_bertology.search.held_out import HeldOut
from pytest_bertology.search.plans import Plan
from pytest_bertology.search.result import PruningResult
from pytest_bertology.tasks.task import Task


def assert_prunable(
    model: ModelUnderTest,
    task: Task | Mapping[Task, float],
    fraction: float,
    floor: float | None = None,
    *,
    relative: bool = False,
    search: str = "greedy",
    held_out: HeldOut = None,
    budget: int | None = None,
    seconds: float | None = None,
    least_per_layer: int = 0,
    by: str | Method | HeadScores = "gradient",
    step: float = 0.1,
    beam: int = 4,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    batching: Batching | None = None,
) -> PruningResult:
    """Assert that at least `fraction` of all heads can be masked with the score at `floor` or better; return the set.

    The set is what `find_prunable_heads` finds with the same arguments; the search ends as soon as it is large enough.
    With `held_out` (a task, or a fraction of `task` to split off) the floor must be kept there as well, on data that
    the search did not look at: judged on the data searched alone, a set looks better than it is.

    Raises CheckFailed (an AssertionError) where no such set was found (which is not to say that there is none, unless
    the message says that it is proven) or where the floor is missed on held-out data; InvalidArgument for a fraction
    of no heads, and what `find_prunable_heads` raises.
    """
    __tracebackhide__ = True
    check_model(model)
    check_has_heads(model)
    numeric = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if not numeric or not 0.0 < fraction <= 1.0:
        raise InvalidArgument("fraction", fraction, "a fraction of the heads above 0 and up to 1, such as 0.3")
    needed = math.ceil(fraction * len(model.heads) - ROUNDING)
    path = None if resume is None else Path(resume)
    plan = Plan(relative, search, held_out, budget, seconds, least_per_layer, by, step, beam, seed, path, batching)
    found = search_heads(model, task, floor, plan, enough=needed)
    verdict = _verdict(model, found, fraction, needed)
    give(verdict, lambda: explain_search.not_prunable(model, found, needed))
    return found


def _verdict(model: ModelUnderTest, found: PruningResult, fraction: float, needed: int) -> Verdict:
    """Judged by the fraction reached or, where that is enough, by the held-out score."""
    first = next((task for task in found.tasks if task.held_out_holds is False), found.tasks[0])
    reached = found.holds and len(found.heads) >= needed
    held_out = first.held_out_score is not None
    missed = reached and found.held_out_holds is False
    sign = ">=" if first.metric.higher_is_better else "<="
    return Verdict(
        check="assert_prunable",
        passed=reached and not missed,
        observed=first.held_out_score if missed else found.fraction,
        required=f"{sign} {first.held_out_floor:g}" if missed else f">= {fraction:g}",
        judged="held-out score" if missed else "share of heads prunable at the floor",
        model=model.name,
        task=", ".join(task.task for task in found.tasks),
        metric=first.metric.name,
        baseline=first.held_out_baseline if held_out else first.baseline,
        score=first.held_out_score if held_out else first.score,
        examples=first.held_out_examples if held_out else first.examples,
        heads=tuple(map(str, found.heads)),
        details={
            "search": found.search,
            "evaluations": found.evaluations,
            "proven_optimal": found.proven_optimal,
            "bound": found.bound,
            "tasks": [
                {"task": t.task, "floor": t.floor, "score": t.score, "held_out_score": t.held_out_score}
                for t in found.tasks
            ],
        },
    )


def assert_shared_mask(
    model: ModelUnderTest,
    mask: HeadMask | Iterable[HeadLike],
    tolerances: Mapping[Task, float] | Iterable[tuple[Task, float]],
    *,
    relative: bool = False,
    confidence: float | None = None,
) -> tuple[Retention, ...]:
    """Assert that one mask keeps every task within its own tolerance; return each task's results.

    `tolerances` maps tasks to the drop allowed, in units of each task's metric (with `relative` as a share of its
    baseline). Baseline, masks in force and `confidence` are as in `assert_metric_retained`; the confidence is of each
    task by itself.

    Raises CheckFailed (an AssertionError) naming every task and its drop, InvalidArgument, NoHeadSelected for a mask
    that keeps all heads, MaskNotApplied where it changes nothing.
    """
    __tracebackhide__ = True
    check_model(model)
    pairs = _pairs(tolerances)
    for task, tolerance in pairs:
        check_model_and_task(model, task)
        check_tolerance(tolerance, task.metric, relative)
        check_above_noise(model, task, tolerance, relative)
    judged = model.together(mask)
    if not judged.touched:
        raise NoHeadSelected("the mask keeps all heads", "Say which heads to mask.")
    found = tuple(retention(model, task, judged, confidence=confidence) for task, _ in pairs)
    observed = [judge(one, tolerance, relative).observed for one, (_, tolerance) in zip(found, pairs, strict=True)]
    allowed = [(drop, tolerance) for drop, (_, tolerance) in zip(observed, pairs, strict=True)]
    unit = ("bound on the " if confidence is not None else "") + ("relative " if relative else "") + "drop"
    verdict = _shared_verdict(model, found, observed, [tolerance for _, tolerance in pairs], unit, relative)
    give(verdict, lambda: explain_search.not_shared(model, judged, found, allowed, unit))
    return found


def _pairs(tolerances: object) -> list[tuple[Task, float]]:
    """Tasks, or what should be tasks, and their tolerances; raises InvalidArgument for what is no pairs."""
    if isinstance(tolerances, Mapping):
        found: list[Any] = list(tolerances.items())
    else:
        found = list(tolerances) if isinstance(tolerances, Iterable) else []
    if not found or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in found):
        raise InvalidArgument("tolerances", tolerances, "at least one task and its tolerance: {task: 0.01}")
    return [(task, tolerance) for task, tolerance in found]


def _shared_verdict(
    model: ModelUnderTest,
    found: Sequence[Retention],
    observed: Sequence[float],
    tolerances: Sequence[float],
    unit: str,
    relative: bool,
) -> Verdict:
    """Judged by the task that is furthest above its tolerance, or nearest to it."""
    worst = max(range(len(found)), key=lambda at: observed[at] - tolerances[at])
    baseline = found[worst].baseline
    judged = [judge(one, tolerance, relative) for one, tolerance in zip(found, tolerances, strict=True)]
    return Verdict(
        check="assert_shared_mask",
        **together(judged, worst).fields(),
        evidence=changed_evidence(baseline, found[worst].masked, label_names(model)),
        required=f"<= {tolerances[worst]:g}",
        judged=f"{unit} of the worst of {len(found)} tasks" if len(found) > 1 else unit,
        model=model.name,
        task=baseline.task.name,
        metric=baseline.metric.name,
        baseline=baseline.score,
        score=found[worst].masked.score,
        examples=len(baseline),
        heads=tuple(map(str, found[worst].heads)),
        details={
            **drop_details(found[worst], tolerances[worst], relative),
            "tasks": [
                {"task": one.baseline.task.name, "drop": drop, "tolerance": tolerance}
                for one, drop, tolerance in zip(found, observed, tolerances, strict=True)
            ],
        },
    )
