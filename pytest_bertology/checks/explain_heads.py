"""Why a check on single heads failed, for a tired engineer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_bertology.checks.explain import beside, table
from pytest_bertology.errors import describe_heads
from pytest_bertology.heads import Head, HeadMask
from pytest_bertology.measures.all_but_one import ReducedLayer
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.retention import Retention
from pytest_bertology.measures.transfer import Transfer
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

_SHOWN = 12


def not_redundant(
    model: ModelUnderTest,
    found: Mapping[Head, Retention],
    costs: Mapping[Head, float],
    tolerance: float,
    relative: bool,
    inconclusive: bool = False,
) -> str:
    """The failure page of a check on redundant heads."""
    worst = sorted(costs, key=lambda head: -costs[head])
    over = [head for head in worst if costs[head] > tolerance + ROUNDING]
    first = found[worst[0]]
    if inconclusive:
        count = f"{len(over)} of {len(found)} heads are" if len(found) > 1 else f"{over[0]} is"
        title = f"it cannot be told whether {count} redundant: {len(first.baseline)} examples are too few"
    elif len(over) == 1:
        title = f"{over[0]} is not redundant: masking it alone costs more {first.baseline.metric.name} than tolerated"
    else:
        what = f"each costs more {first.baseline.metric.name} than tolerated when it is masked alone"
        title = f"{len(over)} of {len(found)} heads are not redundant: {what}"
    rows = {
        **_what(model, first.baseline.task, len(first.baseline)),
        "baseline": f"{first.baseline.score:.4f}",
        "required": f"a drop of at most {_amount(tolerance, relative)}",
        **{str(head): _without(found[head], costs[head], relative) for head in worst[:_SHOWN]},
        **_more(len(worst)),
        **_beside(first, worst[0]),
        **beside(model),
    }
    return "\n".join([title, "", *table(rows)])


def layer_needs_more(model: ModelUnderTest, found: ReducedLayer, tolerance: float, relative: bool) -> str:
    """The failure page of a check on a layer reduced to one head."""
    ranked = found.ranked
    best = found.retained[ranked[0]]
    layer = f"{ranked[0].stack} layer {ranked[0].layer}" if ranked[0].stack else f"layer {ranked[0].layer}"
    cost = best.relative_drop if relative else best.drop
    rows = {
        **_what(model, best.baseline.task, len(best.baseline)),
        "baseline": f"{best.baseline.score:.4f}",
        "best head": f"{ranked[0]}, alone {best.masked.score:.4f}: a drop of {_amount(cost, relative)}; "
        f"required: at most {_amount(tolerance, relative)}",
        "all heads": ", ".join(f"{head} {found.retained[head].masked.score:.4f}" for head in ranked),
        **beside(model),
    }
    title = f"{layer} does not survive with one head: {best.baseline.metric.name} is not retained with any"
    return "\n".join([title, "", *table(rows)])


def does_not_transfer(model: ModelUnderTest, task_a: Task, task_b: Task, found: Transfer, required: float) -> str:
    """The failure page of a comparison of importance over two tasks."""
    ours, theirs = found.scores, found.other
    moved = sorted(ours.heads, key=lambda head: -abs(ours.rank(head) - theirs.rank(head)))[:5]
    rows = {
        "model": f"{model.name} ({model.heads.describe()})",
        "correlation": f"{found.correlation:.4f} ({found.kind}, {len(ours)} heads, {ours.method}); required: at least "
        f"{required:g}",
        "tasks": f"{task_a.name} ({len(task_a)} examples) and {task_b.name} ({len(task_b)} examples)",
        f"top of {task_a.name}": ", ".join(map(str, ours.top(min(5, len(ours))))),
        f"top of {task_b.name}": ", ".join(map(str, theirs.top(min(5, len(theirs))))),
        "most moved": ", ".join(f"{head} rank {ours.rank(head)} → {theirs.rank(head)}" for head in moved),
    }
    title = f"the importance of heads to {task_a.name} does not transfer to {task_b.name}"
    return "\n".join([title, "", *table(rows)])


def specialised_heads_gone(mask: HeadMask, named: Sequence[Head], gone: Sequence[Head]) -> str:
    """The failure page of a check that some heads are spared."""
    rows = {
        "masked": f"{describe_heads(gone)}; required: none of them",
        "spared": describe_heads([head for head in named if head not in gone]) or "none",
        "mask": f"{len(mask.masked)} of {len(mask.heads)} heads ({mask.fraction_masked:.0%})",
    }
    return "\n".join([f"{len(gone)} of {len(named)} specialised heads are masked", "", *table(rows)])


def _what(model: ModelUnderTest, task: Task, examples: int) -> dict[str, str]:
    return {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{task.name} ({examples} examples)",
    }


def _without(found: Retention, cost: float, relative: bool) -> str:
    drop = found.relative_drop if relative else found.drop
    said = f"{found.masked.score:.4f} without it, a drop of {_amount(drop, relative)}"
    if found.bound is None:
        return said
    return f"{said}, below {_amount(cost, relative)} with {found.bound.confidence:.0%} confidence"


def _beside(found: Retention, head: Head) -> dict[str, str]:
    others = [other for other in found.heads if other != head]
    return {"masked too": describe_heads(others)} if others else {}


def _more(count: int) -> dict[str, str]:
    return {"…": f"and {count - _SHOWN} more heads"} if count > _SHOWN else {}


def _amount(value: float, relative: bool) -> str:
    return f"{value:.2%} of the baseline" if relative else f"{value:.4g}"
