"""Why a check on a search, or on a mask of several tasks, failed: the wording of the failures."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bertology.checks.explain import table
from pytest_bertology.errors import describe_heads
from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.retention import Retention
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.search.result import PruningResult, TaskScores, evaluations_told


def not_prunable(model: ModelUnderTest, found: PruningResult, needed: int) -> str:
    """The failure page of a check on how many heads can go."""
    total, count = len(found.mask.heads), len(found.heads)
    reached = found.holds and count >= needed
    floors = " and ".join(f"{task.metric.name} {_sign(task)} {task.floor:.4g}" for task in found.tasks)
    if reached:
        missed = [task for task in found.tasks if task.held_out_holds is False]
        names = ", ".join(f"{task.metric.name} of {task.task}" for task in missed)
        title = f"{names} misses the floor on held-out data with {count} of {total} heads masked"
    else:
        title = f"{count} of {total} heads can be masked with {floors}; required: {needed} ({needed / total:.0%})"
    rows = {"model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})"}
    for task in found.tasks:
        rows |= {_own(name, rows): text for name, text in _task(task).items()}
    rows["search"] = f"{found.search}, {evaluations_told(found.evaluations)}; {found.proof()}"
    if found.stopped and not reached:
        rows["ended early"] = f"{found.stopped}; a larger budget may find more"
    rows |= {} if reached else _next(found)
    rows["heads"] = describe_heads(found.heads) or "none"
    return "\n".join([title, "", *table(rows)])


def not_shared(
    model: ModelUnderTest, mask: HeadMask, found: Sequence[Retention], allowed: Sequence[tuple[float, float]], unit: str
) -> str:
    """The failure page of a mask for several tasks; `allowed` holds what was judged of each, and its tolerance."""
    failed = sum(observed > tolerance + ROUNDING for observed, tolerance in allowed)
    heads = mask.touched
    title = (
        f"{failed} of {len(found)} tasks {'is' if failed == 1 else 'are'} not retained with "
        f"{len(heads)} of {len(mask.heads)} heads masked"
    )
    rows = {"model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})"}
    for one, (observed, tolerance) in zip(found, allowed, strict=True):
        verdict = "FAILED" if observed > tolerance + ROUNDING else "ok"
        base = one.baseline
        text = f"{base.metric.name} {base.score:.4f} → {one.masked.score:.4f} on {len(base)} examples"
        rows[_own(base.task.name, rows)] = f"{text}, {unit} {observed:.4f}; required: at most {tolerance:g}: {verdict}"
    return "\n".join([title, "", *table({**rows, "heads": describe_heads(heads)})])


def _task(task: TaskScores) -> dict[str, str]:
    rows = {
        "searched": f"{task.task}: {task.metric.name} {task.score:.4f} of {task.baseline:.4f} as trained on "
        f"{task.examples} examples; required: {_sign(task)} {task.floor:.4f}"
    }
    if missed := task.missed_as_trained():
        rows["floor"] = missed
    if task.held_out_score is not None:
        rows["held out"] = (
            f"{task.metric.name} {task.held_out_score:.4f} of {task.held_out_baseline:.4f} as trained on "
            f"{task.held_out_examples} examples; required: {_sign(task)} {task.held_out_floor:.4f}"
        )
    return rows


def _next(found: PruningResult) -> dict[str, str]:
    """How near the best set of one head more came."""
    steps = [step for step in found.trace if step.masked > len(found.heads) and not step.held]
    if not steps:
        return {}
    step = min(steps, key=lambda step: step.masked)
    scores = ", ".join(
        f"{task.metric.name} " + ("undefined" if score is None else f"{score:.4f}")
        for task, score in zip(found.tasks, step.scores, strict=True)
    )
    sets = "the only set tried" if step.tried == 1 else f"the best of {step.tried} sets tried"
    return {f"with {step.masked}": f"{sets} reaches {scores}"}


def _sign(task: TaskScores) -> str:
    return "at least" if task.metric.higher_is_better else "at most"


def _own(name: str, rows: dict[str, str]) -> str:
    """A name that no row has yet: two tasks may be called the same."""
    number = 2
    unique = name
    while unique in rows:
        unique = f"{name} ({number})"
        number += 1
    return unique
