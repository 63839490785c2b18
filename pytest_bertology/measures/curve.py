"""How a score falls as more and more heads are masked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument, MissingExtra, UndefinedScore
from pytest_bertology.heads import Head, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.evaluation import Outcomes, evaluate_exactly
from pytest_bertology.measures.ordering import (
    check_by,
    check_least,
    name_of,
    next_heads,
    ordering_scores,
    room_per_layer,
)
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.retention import trained_outcomes
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task

_ROUNDING = 1e-9
"""A drop of 0.90 - 0.89 is a drop of 0.01, whatever binary fractions make of it."""


class CurvePoint(NamedTuple):
    """One measured point of a pruning curve."""

    fraction: float
    """The share of all heads that was asked for; whole heads are masked."""
    mask: HeadMask
    score: float
    drop: float
    """How much worse than the model as trained; negative where it is better."""


@dataclass(frozen=True, repr=False)
class PruningCurve:
    """A model's scores with ever more heads masked, the least important first; every mask holds those before it."""

    fractions: tuple[float, ...]
    """Shares of all heads, ascending; masks in force around the call are not counted."""
    scores: tuple[float, ...]
    """In units of the metric, one per fraction."""
    masks: tuple[HeadMask, ...]
    metric: Metric
    baseline: float
    """The score of the model as trained."""
    by: str
    """What heads were ordered by."""
    task: str
    model: str = ""
    """Its name."""

    def __repr__(self) -> str:
        ends = f"{self.fractions[0]:.0%}: {self.scores[0]:.4f} … {self.fractions[-1]:.0%}: {self.scores[-1]:.4f}"
        return f"PruningCurve({self.metric.name} {self.baseline:.4f}, masked by {self.by} {ends})"

    def __len__(self) -> int:
        return len(self.fractions)

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """All measured points, in order."""
        rows = zip(self.fractions, self.masks, self.scores, strict=True)
        return tuple(CurvePoint(*row, self.metric.drop(self.baseline, row[2])) for row in rows)

    def at(self, fraction: float) -> CurvePoint:
        """The point measured at this fraction; raises InvalidArgument, naming the fractions, where there is none."""
        for point in self.points:
            if abs(point.fraction - fraction) <= _ROUNDING:
                return point
        measured = ", ".join(f"{known:g}" for known in self.fractions)
        raise InvalidArgument("fraction", fraction, f"a measured one: {measured}")

    def largest_within(self, tolerance: float, relative: bool = False) -> float:
        """The largest measured fraction whose drop is at most `tolerance`; 0 where none is.

        Smaller fractions may have dropped by more: curves of trained models are not monotone. With `relative` the
        tolerance is a share of the baseline; raises UndefinedScore for a baseline of 0 then.
        """
        numeric = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
        if not numeric or not 0.0 <= tolerance < float("inf"):
            raise InvalidArgument("tolerance", tolerance, "a number from 0, in units of the metric")
        if relative and self.baseline == 0.0:
            raise UndefinedScore("the relative drop", f"the baseline {self.metric.name} is 0")
        allowed = tolerance * (abs(self.baseline) if relative else 1.0) + _ROUNDING
        return max((point.fraction for point in self.points if point.drop <= allowed), default=0.0)

    def table(self) -> str:
        """A text table: fraction, heads masked, score, drop."""
        width = max(10, len(self.metric.name))
        lines = [f"fraction  heads  {self.metric.name:>{width}}  {'drop':>8}"]
        for point in self.points:
            heads = len(point.mask.masked)
            lines.append(f"{point.fraction:>8.2%}  {heads:>5}  {point.score:>{width}.4f}  {point.drop:>8.4f}")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the curve on a matplotlib axes, by default a new one; return the axes. `save_figure` makes a file.

        Raises MissingExtra without matplotlib.
        """
        if ax is None:
            ax = _figure().add_subplot()
        shares = [100 * fraction for fraction in self.fractions]
        ax.plot(shares, self.scores, marker="o", label=f"masked by {self.by}")
        ax.axhline(self.baseline, color="grey", linestyle="--", linewidth=1, label="as trained")
        ax.set(xlabel="heads masked (%)", ylabel=self.metric.name, title=self.task)
        ax.legend()
        return ax


@remakeable
@announced("curve")
def pruning_curve(
    model: ModelUnderTest,
    task: Task,
    by: str | Method | HeadScores = "gradient",
    fractions: Sequence[float] | None = None,
    *,
    rerank: bool = False,
    step: float | None = None,
    least_per_layer: int = 0,
    seed: int = 0,
    batching: Batching | None = None,
) -> PruningCurve:
    """The scores with growing fractions of all heads masked, the least important first.

    `fractions` are 0, 0.1, … 1 by default, as far as there are heads to mask; each is rounded to whole heads. `by`
    names an importance method (sizes of gradients are divided by each layer's L2 norm), is one of your own, or holds
    scores that are used as they are. With `rerank` importance is computed again, under the mask so far, after each
    fraction, or after every `step` (a share of all heads; Michel et al. 2019 take 0.05 to 0.1). Each layer keeps
    `least_per_layer` heads. Masks in force around the call stay in force and do not count; the baseline is the model as
    trained.

    Raises InvalidArgument for fractions that cannot be masked, and for `rerank` with scores that are given.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    check_by(model, by)
    check_least(model, least_per_layer)
    _check_rerank(by, rerank, step)
    start, total = model.mask_in_force(), len(model.heads)
    wanted = _fractions(fractions, total, sum(room_per_layer(start, least_per_layer).values()))
    counts = [_heads(fraction, total) for fraction in wanted]
    stops = _stops(counts, total, rerank, step)
    masks = {0: start}
    mask, done, name = start, 0, name_of(by)
    order: list[Head] = []
    for stop in stops:
        if rerank or not order:
            scores = ordering_scores(model, task, by, mask, seed=seed, batching=batching)
            order, name = scores.bottom(total), scores.method
        mask |= HeadMask.without(model.heads, next_heads(order, mask, stop - done, least_per_layer))
        done, masks[stop] = stop, mask
    chosen = tuple(masks[count] for count in counts)
    return _measured(model, task, wanted, chosen, name + (", ranked anew" if rerank else ""), batching)


def _measured(
    model: ModelUnderTest,
    task: Task,
    fractions: tuple[float, ...],
    masks: tuple[HeadMask, ...],
    by: str,
    batching: Batching | None,
) -> PruningCurve:
    def judged(mask: HeadMask) -> Outcomes:
        return evaluate_exactly(model, task, mask, batching)

    baseline = trained_outcomes(model, task, batching)
    scores = {mask: judged(mask).score for mask in dict.fromkeys(masks)}
    found = tuple(scores[mask] for mask in masks)
    return PruningCurve(fractions, found, masks, baseline.metric, baseline.score, by, task.name, model.name)


def _check_rerank(by: str | Method | HeadScores, rerank: bool, step: float | None) -> None:
    if rerank and isinstance(by, HeadScores):
        raise InvalidArgument("rerank", rerank, "False where `by` holds scores: they cannot be computed again")
    if step is None:
        return
    if not rerank:
        raise InvalidArgument("step", step, "nothing without rerank=True: heads are ranked once")
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0.0 < step <= 1.0:
        raise InvalidArgument("step", step, "a share of the heads above 0 and up to 1, such as 0.1")


def _fractions(fractions: Sequence[float] | None, total: int, room: int) -> tuple[float, ...]:
    """The fractions to measure, each once, ascending."""
    if fractions is None:
        return tuple(tenth / 10 for tenth in range(11) if _heads(tenth / 10, total) <= room)
    expected = "fractions of the heads, from 0 to 1, such as [0.1, 0.3, 0.5]"
    if not isinstance(fractions, Iterable):
        raise InvalidArgument("fractions", fractions, expected)
    values: list[float] = list(fractions)
    numbers = all(isinstance(x, int | float | np.floating) and not isinstance(x, bool) for x in values)
    if not values or not numbers or not all(0.0 <= x <= 1.0 for x in values):
        raise InvalidArgument("fractions", fractions, expected)
    if _heads(max(values), total) > room:
        most = f"fractions up to {room / total:g}: {room} of {total} heads can be masked here"
        raise InvalidArgument("fractions", fractions, most)
    return tuple(sorted({float(x) for x in values}))


def _heads(fraction: float, total: int) -> int:
    return int(fraction * total + 0.5)


def _stops(counts: Sequence[int], total: int, rerank: bool, step: float | None) -> list[int]:
    """The numbers of masked heads at which a mask is needed: those measured, and those ranked anew between them."""
    between = range(0, max(counts), max(1, int(step * total))) if rerank and step is not None else ()
    return sorted({*counts, *between} - {0})


def _figure() -> Any:
    """A figure of its own, which no global state of pyplot keeps."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("drawing a curve", "matplotlib", "figures") from None
    return Figure(figsize=(6.4, 4.0), layout="constrained")
