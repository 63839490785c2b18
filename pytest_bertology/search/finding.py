"""The largest set of heads that can be masked with the score at a floor."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import BertologyWarning, InvalidArgument, MaskNotApplied, describe_heads
from pytest_bertology.heads import HeadScores
from pytest_bertology.measures.evaluation import evaluate_exactly
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.retention import trained_outcomes
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.search import ways
from pytest_bertology.search.checkpoints import Checkpoint
from pytest_bertology.search.held_out import HeldOut, parts
from pytest_bertology.search.judging import Budget, Found, Goal, Judge, Stopped, measure
from pytest_bertology.search.plans import Plan, floors_of
from pytest_bertology.search.result import PruningResult, TaskScores, TraceStep
from pytest_bertology.search.space import Space, idle_heads
from pytest_bertology.tasks.task import Task

_PROVABLE = 16
"""Heads up to which a search of all sets needs no budget."""


def find_prunable_heads(
    model: ModelUnderTest,
    task: Task | Mapping[Task, float],
    *,
    floor: float | None = None,
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
    """Search for the largest set of heads that can be masked with the score at `floor` or better.

    `floor` is in units of the metric, an upper limit where less is better; with `relative` a share of the baseline
    (0.9: at least 90 % of it, or at most 1/0.9 of a perplexity). Several tasks are given as `{task: floor}`: one mask
    has to keep them all. Of sets of one size the one of the best score is taken (of several tasks, the one whose
    worst task has most of its margin left), then of the smallest mean loss, then of the heads that come first.

    - "greedy": try every head that is left, mask the one without which the score is best, and again. Up to half the
      square of the number of heads evaluations; a small budget is better spent by "threshold" or "astar".
    - "threshold": the bertology script's loop. Mask the least important `step` of all heads, compute importance `by`
      again, until the floor breaks.
    - "beam": greedy from the best `beam` sets of each size.
    - "astar": threshold and greedy first, then best-first, with a proof that no larger set keeps the floor where the
      budget is enough for it. Scores are not monotone in the heads masked, so that a proof takes all larger sets;
      more than 16 heads need a budget.

    `held_out` (a task, or the fraction of `task` to split off with `seed`) is not searched on; the result says whether
    the floor is kept there. `budget` counts evaluations of the tasks, `seconds` are of this call. With `resume`, a
    file, an interrupted search goes on where it was and repeats no evaluation; budgets may differ then. Each layer
    keeps `least_per_layer` heads. Masks in force around the call stay in force; the baseline is the model as trained.

    Raises InvalidArgument, UndefinedScore for a relative floor of a baseline of 0, CannotResume for a file of another
    search, MaskNotApplied where masking changes nothing; warns where the model as trained misses the floor, at once,
    and where it is missed on held-out data.
    """
    path = None if resume is None else Path(resume)
    plan = Plan(relative, search, held_out, budget, seconds, least_per_layer, by, step, beam, seed, path, batching)
    result = search_heads(model, task, floor, plan)
    if result.held_out_holds is False:
        warnings.warn(f"the floor is missed on held-out data ({_missed(result)})", BertologyWarning, stacklevel=3)
    return result


def _missed(result: PruningResult) -> str:
    return "; ".join(
        f"{one.task}: {one.metric.name} {one.held_out_score:.4f}, required {one.held_out_floor:.4f}"
        for one in result.tasks
        if one.held_out_holds is False
    )


def search_heads(
    model: ModelUnderTest,
    task: Task | Mapping[Task, float],
    floor: float | None,
    plan: Plan,
    *,
    enough: int | None = None,
) -> PruningResult:
    """`find_prunable_heads` without its warning; with `enough`, it ends once so many heads were found."""
    floors = floors_of(model, task, floor, plan.relative)
    plan.check(model)
    space = _space(model, plan)
    searched, held_out = zip(*parts(list(floors), plan.held_out, plan.seed), strict=True)
    limits = list(floors.values())
    identity = {
        "model": model.digest(),
        "tasks": [[task.digest, task.metric.name] for task in searched],
        "floors": limits,
        "masks in force": list(space.base.gates),
        **plan.identity(),
    }
    checkpoint = Checkpoint(plan.resume, identity)
    goals = _goals(model, searched, limits, plan, checkpoint)
    if enough is None:  # a check tells it where it fails
        _warn_of_baselines(goals)
    judge = Judge(model, goals, space, checkpoint, Budget(plan.budget, plan.seconds, enough), plan.batching)
    trace: list[TraceStep] = []
    stopped = None
    try:
        if plan.search == "threshold":
            ways.threshold(judge, plan.by, plan.step, plan.seed, trace.append)
        elif plan.search == "astar":
            ways.astar(judge, plan.by, plan.step, plan.seed, trace.append)
        else:
            ways.beam(judge, plan.beam if plan.search == "beam" else 1, trace.append)
    except Stopped as stop:
        stopped = str(stop)
    finally:
        checkpoint.save(now=True)
    return _result(judge, list(zip(goals, held_out, limits, strict=True)), plan, stopped, tuple(trace))


def _warn_of_baselines(goals: Sequence[Goal]) -> None:
    """Warn where the model as trained misses a floor; masking may still raise the score, and the search goes on."""
    for goal in goals:
        if not goal.holds(goal.baseline):
            side = "below" if goal.metric.higher_is_better else "above"
            text = f"{goal.metric.name} {goal.baseline:.4f}, {side} the floor {goal.floor:g}, on {goal.task.name}"
            warnings.warn(f"the model as trained has {text}", BertologyWarning, stacklevel=5)


def _space(model: ModelUnderTest, plan: Plan) -> Space:
    # The script's loop masks idle heads when their turn comes; the others begin with them.
    idle = () if plan.search == "threshold" else idle_heads(model)
    space = Space(model.mask_in_force(), plan.least_per_layer, idle)
    if space.largest == 0:
        raise InvalidArgument(
            "least_per_layer", plan.least_per_layer, "a number that leaves heads to mask: none can be"
        )
    limited = plan.budget is not None or plan.seconds is not None
    if plan.search == "astar" and not limited and len(space.free) > _PROVABLE:
        most = f"a number of evaluations, or seconds=: a proof may take all sets of {len(space.free)} heads"
        raise InvalidArgument("budget", plan.budget, most)
    return space


def _goals(
    model: ModelUnderTest, tasks: Sequence[Task], floors: Sequence[float], plan: Plan, checkpoint: Checkpoint
) -> list[Goal]:
    if checkpoint.baselines is None:
        outcomes = [trained_outcomes(model, task, plan.batching) for task in tasks]
        for found in outcomes:
            _ = found.score  # a baseline that has none is an error
        checkpoint.baselines = measure(outcomes)
    baselines = [score for score in checkpoint.baselines.scores if score is not None]
    return [
        Goal(task, baseline, plan.limit(task.metric, floor, baseline))
        for task, floor, baseline in zip(tasks, floors, baselines, strict=True)
    ]


def _result(
    judge: Judge,
    goals: Sequence[tuple[Goal, Task | None, float]],
    plan: Plan,
    stopped: str | None,
    trace: tuple[TraceStep, ...],
) -> PruningResult:
    """The best of all sets that were looked at, and what is known of the others."""
    space, best, bound = judge.space, judge.best(), judge.bound()
    chosen = judge.found[space.start] if best is None else best
    size = 0 if best is None else best.bits.bit_count()
    _refuse_no_op(judge, chosen)
    return PruningResult(
        mask=space.mask(0 if best is None else best.bits),
        heads=() if best is None else space.select(best.bits),
        tasks=tuple(
            _scores(judge, goal, chosen, index, held_out, floor, plan)
            for index, (goal, held_out, floor) in enumerate(goals)
        ),
        holds=best is not None,
        evaluations=judge.evaluations,
        proven_optimal=bound == size and (best is None or judge.asked[size] == space.counts[size]),
        bound=bound,
        search=plan.search,
        stopped=stopped,
        trace=trace,
    )


def _scores(
    judge: Judge, goal: Goal, chosen: Found, index: int, held_out: Task | None, floor: float, plan: Plan
) -> TaskScores:
    """The scores on the data searched, and on that held out."""
    score = chosen.measured.scores[index]
    found = TaskScores(
        goal.task.name,
        goal.metric,
        len(goal.task),
        goal.baseline,
        goal.floor,
        float("nan") if score is None else score,
        goal.holds(score),
    )
    if held_out is None:
        return found
    model, mask = judge.model, judge.space.mask(chosen.bits)
    baseline = trained_outcomes(model, held_out, plan.batching).score
    (other,) = measure([evaluate_exactly(model, held_out, mask, plan.batching)]).scores
    limit = plan.limit(goal.metric, floor, baseline)
    return replace(
        found,
        held_out_examples=len(held_out),
        held_out_baseline=baseline,
        held_out_floor=limit,
        held_out_score=float("nan") if other is None else other,
        held_out_holds=Goal(held_out, baseline, limit).holds(other),
    )


def _refuse_no_op(judge: Judge, chosen: Found) -> None:
    """Masked heads that move the output on the proof's sample move the losses, too, or the mask did not act."""
    model = judge.model
    live = [head for head in judge.space.select(chosen.bits) if head not in model.check.idle]
    before = judge.found[judge.space.start].measured
    if live and chosen.measured == before and all(before.losses):
        names = describe_heads(live, 8)
        raise MaskNotApplied(f"masking {names} changes no result of {model.name} on {judge.goals[0].task.name}")
