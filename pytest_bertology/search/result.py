"""What a search found, and how far it got."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_bertology.errors import describe_heads
from pytest_bertology.heads import Head, HeadMask
from pytest_bertology.tasks.metrics import Metric

ROUNDING = 1e-9
"""A score of 0.9 times 0.7 reaches 0.63, whatever binary fractions make of it."""


@dataclass(frozen=True)
class TaskScores:
    """One task's scores under the mask that was found, in units of its metric."""

    task: str
    metric: Metric
    examples: int
    baseline: float
    """Of the model as trained."""
    floor: float
    """The worst score allowed: a lower limit, or an upper one where less is better."""
    score: float
    """On the data that the search looked at; NaN where the metric has no value."""
    holds: bool
    held_out_examples: int | None = None
    held_out_baseline: float | None = None
    held_out_floor: float | None = None
    held_out_score: float | None = None
    """On data that it did not look at; None where none was given."""
    held_out_holds: bool | None = None

    def missed_as_trained(self) -> str:
        """Says so where the model as trained misses the floor already; else empty."""
        if self.metric.drop(self.floor, self.baseline) <= ROUNDING:
            return ""
        side = "below" if self.metric.higher_is_better else "above"
        return f"as trained {self.baseline:.4f}: {side} the floor already"


@dataclass(frozen=True)
class TraceStep:
    """What a search saw at one size."""

    phase: str
    """"threshold", "greedy", "beam of 4" or "all sets" (of a size)."""
    masked: int
    """Heads in the sets, beyond masks in force."""
    tried: int
    """Sets looked at."""
    held: int
    """Sets that keep every floor."""
    scores: tuple[float | None, ...]
    """Of the best set, one per task."""
    heads: tuple[Head, ...]
    """The best set."""
    evaluations: int
    """Evaluations so far."""


@dataclass(frozen=True, repr=False)
class PruningResult:
    """The largest set of heads found that can be masked with every score at its floor or better."""

    mask: HeadMask
    """All that is masked: the heads found, and masks in force around the search."""
    heads: tuple[Head, ...]
    """The heads found, in the map's order; none where no set was found to keep the floor."""
    tasks: tuple[TaskScores, ...]
    holds: bool
    """Whether the floor is kept on the data searched; False where not even the model as it came keeps it."""
    evaluations: int
    """Sets of heads evaluated beside the baseline, those of an interrupted run and those from a store included."""
    proven_optimal: bool
    """No larger set keeps the floor and none of this size scores better: all of them were evaluated, or give the
    results of one that was, bit for bit."""
    bound: int
    """The size of the largest set not shown to miss the floor: no set larger than this keeps it."""
    search: str
    stopped: str | None
    """Why the search ended early, or None."""
    trace: tuple[TraceStep, ...]

    @property
    def score(self) -> float:
        """The score on the data searched; of several tasks, the first's (see `tasks`)."""
        return self.tasks[0].score

    @property
    def baseline(self) -> float:
        """The score of the model as trained; of several tasks, the first's."""
        return self.tasks[0].baseline

    @property
    def held_out_score(self) -> float | None:
        """The score on held-out data, or None; of several tasks, the first's."""
        return self.tasks[0].held_out_score

    @property
    def held_out_baseline(self) -> float | None:
        """The score of the model as trained on held-out data, or None; of several tasks, the first's."""
        return self.tasks[0].held_out_baseline

    @property
    def held_out_holds(self) -> bool | None:
        """Whether every task keeps its floor on held-out data; None where there is none."""
        judged = [task.held_out_holds for task in self.tasks if task.held_out_holds is not None]
        return all(judged) if judged else None

    @property
    def fraction(self) -> float:
        """The heads found as a share of all heads."""
        return len(self.heads) / len(self.mask.heads)

    @property
    def distance(self) -> int:
        """How many heads more a set could have that keeps the floor, for all that is known."""
        return self.bound - len(self.heads)

    def __repr__(self) -> str:
        count, total = len(self.heads), len(self.mask.heads)
        each = "; ".join(
            f"{t.metric.name} {t.score:.4f} of " + (t.missed_as_trained() or f"{t.baseline:.4f}") for t in self.tasks
        )
        kept = "" if self.holds else ", floor not kept"
        return (
            f"PruningResult({count} of {total} heads{kept}, {each}, {self._held_out()}, {self.proof()}, "
            f"{evaluations_told(self.evaluations)} by {self.search})"
        )

    def summary(self) -> str:
        """A text page: what was found, on which data, and how far from the optimum it may be."""
        count, total = len(self.heads), len(self.mask.heads)
        lines = [f"{count} of {total} heads ({self.fraction:.0%}) can be masked, by {self.search} search"]
        if not self.holds:
            lines = [f"no set of heads was found that keeps the floor, by {self.search} search"]
        for task in self.tasks:
            sign = "at least" if task.metric.higher_is_better else "at most"
            lines.append(f"  {task.task}: {task.metric.name} {task.score:.4f} of {task.baseline:.4f} as trained")
            lines.append(f"    required {sign} {task.floor:.4f}, on {task.examples} examples")
            lines += [f"    {missed}"] if (missed := task.missed_as_trained()) else []
            if task.held_out_score is not None and task.held_out_floor is not None:
                verdict = "holds" if task.held_out_holds else "MISSED"
                lines.append(
                    f"    held out: {task.held_out_score:.4f} of {task.held_out_baseline:.4f}, required {sign} "
                    f"{task.held_out_floor:.4f}, on {task.held_out_examples} examples: {verdict}"
                )
        if self.held_out_holds is None:
            lines.append("  not judged on held-out data: give held_out=")
        lines.append(f"  {self.proof()}; {evaluations_told(self.evaluations)}{self._ended()}")
        lines += [f"  heads: {describe_heads(self.heads)}"] if self.heads else []
        return "\n".join(lines)

    def _held_out(self) -> str:
        if self.held_out_holds is None:
            return "not judged on held-out data"
        scores = "; ".join("-" if t.held_out_score is None else f"{t.held_out_score:.4f}" for t in self.tasks)
        return f"held out {scores}" + ("" if self.held_out_holds else " (floor missed)")

    def proof(self) -> str:
        """How far from the largest set this one may be, in words."""
        if self.proven_optimal:
            return "proven optimal"
        if self.distance == 0:
            return "no larger set can do, another of this size may be better" if self.holds else "not proven"
        return f"not proven: sets of up to {self.bound} heads are not excluded"

    def _ended(self) -> str:
        return f"; ended early: {self.stopped}" if self.stopped else ""


def evaluations_told(count: int) -> str:
    """So many evaluations, in words."""
    return f"{count} evaluation{'' if count == 1 else 's'}"
