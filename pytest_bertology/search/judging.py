"""Sets of heads judged by floors, each evaluated once, within a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bertology.engine.announcing import unannounced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.heads import HeadMask, HeadScores
from pytest_bertology.measures.evaluation import Outcomes, evaluate_exactly
from pytest_bertology.measures.ordering import ordering_scores
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.sweeping import evaluate_masks
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.search.checkpoints import Checkpoint, Measured
from pytest_bertology.search.result import ROUNDING, evaluations_told
from pytest_bertology.search.space import Space
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task

_CHUNK = 24
"""Sets evaluated, and saved, at a time."""


class Stopped(Exception):
    """A search ends before its end; says why."""


@dataclass(frozen=True)
class Goal:
    """A task and the worst score allowed on it."""

    task: Task
    baseline: float
    """The score of the model as trained."""
    floor: float
    """In units of the metric; an upper limit where less is better."""

    @property
    def metric(self) -> Metric:
        """What judges."""
        return self.task.metric

    def holds(self, score: float | None) -> bool:
        """Whether a score keeps the floor."""
        return score is not None and self.metric.drop(self.floor, score) <= ROUNDING

    def margin(self, score: float | None) -> float:
        """How far above the floor, as a share of the baseline's own margin, so that tasks can be compared."""
        if score is None:
            return -np.inf
        scale = abs(self.baseline - self.floor)
        return -self.metric.drop(self.floor, score) / (scale if scale > ROUNDING else abs(self.baseline) or 1.0)


@dataclass(frozen=True)
class Found:
    """A set of heads, and what masking it gives."""

    bits: int
    measured: Measured
    holds: bool
    """Whether every task keeps its floor."""
    quality: tuple[float, float]
    """The smallest margin of all tasks, then the summed mean losses; smaller is better. Compared between sets of one
    size, the heads that come first in the map deciding ties."""


@dataclass(frozen=True)
class Budget:
    """How much a search may use."""

    evaluations: int | None = None
    seconds: float | None = None
    enough: int | None = None
    """Heads that need not be exceeded."""


class Judge:
    """Evaluates sets of heads, keeps what was found, and stops where the budget ends."""

    def __init__(
        self,
        model: ModelUnderTest,
        goals: Sequence[Goal],
        space: Space,
        checkpoint: Checkpoint,
        budget: Budget,
        batching: Batching | None,
    ) -> None:
        self.model, self.goals, self.space, self.budget = model, tuple(goals), space, budget
        self._checkpoint, self._batching = checkpoint, batching
        self._began = time.monotonic()
        self._fresh, self._busy = 0, 0.0
        self._counted: set[int] = set()
        self.found: dict[int, Found] = {}
        """Every set asked for, in order."""
        self.asked: Counter[int] = Counter()
        """How many sets of each size were asked for."""
        if 0 not in checkpoint.evaluated:
            self._evaluate([0], 0)
        self._keep(space.start)

    @property
    def evaluations(self) -> int:
        """Sets of heads evaluated so far, before an interruption included; the start is not counted."""
        return len(self._counted)

    def judge(self, sets: Sequence[int], near: int) -> list[Found]:
        """What masking each of these sets gives, cheapest where they are like the set `near`. Raises Stopped."""
        examples = sum(len(goal.task) for goal in self.goals)
        title = f"{self.goals[0].task.name}, sets of {sets[0].bit_count() if sets else 0} heads"
        with tracked(title, len(sets) * examples) as show:
            done = 0
            while done < len(sets):
                done = self._some(sets, done, near)
                show(done * examples)
        return [self.found[bits] for bits in sets]

    def ranking(self, bits: int, by: str | Method | HeadScores, seed: int) -> list[float]:
        """A number per head to order heads by under this set: the mean over tasks of their normalised importance."""
        if bits not in self._checkpoint.rankings:
            mask = self.space.mask(bits)
            with unannounced():  # steps on the way, not results
                each = [
                    ordering_scores(self.model, goal.task, by, mask, seed=seed, batching=self._batching).values
                    for goal in self.goals
                ]
            self._checkpoint.rankings[bits] = np.mean(each, axis=0).tolist()
            self._checkpoint.save()
        return self._checkpoint.rankings[bits]

    def best(self) -> Found | None:
        """Of the sets that keep every floor, the largest; of those the one of the best quality."""
        holding = [found for found in self.found.values() if found.holds]
        return min(holding, key=lambda f: (-f.bits.bit_count(), *self.rank(f)), default=None)

    def stop_at_enough(self) -> None:
        """Raise Stopped where so many heads were found that no more are asked for."""
        best = self.best() if self.budget.enough is not None else None
        if best is not None and best.bits.bit_count() >= (self.budget.enough or 0):
            raise Stopped(f"the {self.budget.enough} heads asked for were found")

    def rank(self, found: Found) -> tuple[float, float, tuple[int, ...]]:
        """Orders sets of one size, the best first."""
        return (*found.quality, self.space.positions(found.bits))

    def bound(self) -> int:
        """The size of the largest set that is not known to miss a floor."""
        kept = {bits.bit_count() for bits, found in self.found.items() if found.holds}
        for size in range(self.space.largest, 0, -1):
            if size in kept or self.asked[size] < self.space.counts[size]:
                return size
        return 0

    def affords(self, sets: int) -> bool:
        """Whether so many more evaluations are within the budget, going by the pace so far."""
        left = self._evaluations_left()
        seconds = self._seconds_left()
        enough = left is None or sets <= left
        return enough and (seconds is None or sets * self._pace() <= seconds)

    def _some(self, sets: Sequence[int], done: int, near: int) -> int:
        """Evaluate a part of the sets from number `done` on; the number of those then done."""
        stop, new = done, dict[int, None]()
        left, most = self._evaluations_left(), self._at_a_time()
        out = False
        for bits in sets[done : done + _CHUNK]:
            key = self.space.live(bits)
            if key != 0 and key not in self._counted and key not in new:
                if left is not None and len(new) >= left:
                    out = True
                    break
                if len(new) >= most:
                    break
                new[key] = None
            stop += 1
        seconds = self._seconds_left()
        if seconds is not None and seconds <= 0.0:
            raise Stopped(f"its {self.budget.seconds:g} seconds were over")
        missing = [key for key in new if key not in self._checkpoint.evaluated]
        if missing:
            self._evaluate(missing, near)
        self._counted.update(new)
        for bits in sets[done:stop]:
            self._keep(bits)
        if out:
            raise Stopped(f"its budget of {evaluations_told(self.budget.evaluations or 0)} was used up")
        return stop

    def _evaluate(self, keys: Sequence[int], near: int) -> None:
        began = time.monotonic()
        masks = [self.space.mask(key) for key in keys]
        each = [self._outcomes(goal.task, masks, self.space.mask(near)) for goal in self.goals]
        for key, outcomes in zip(keys, zip(*each, strict=True), strict=True):
            self._checkpoint.evaluated[key] = measure(outcomes)
        self._checkpoint.save()
        if keys != [0]:  # which a store may have had
            self._fresh += len(keys)
            self._busy += time.monotonic() - began

    def _outcomes(self, task: Task, masks: Sequence[HeadMask], near: HeadMask) -> Sequence[Outcomes]:
        if len(masks) == 1:  # a sweep would run the mask it is near to as well
            return [evaluate_exactly(self.model, task, masks[0], self._batching)]
        return evaluate_masks(self.model, task, masks, base=near, batching=self._batching).variants

    def _keep(self, bits: int) -> None:
        if bits in self.found:
            return
        measured = self._checkpoint.evaluated[self.space.live(bits)]
        pairs = list(zip(self.goals, measured.scores, strict=True))
        margin = min(goal.margin(score) for goal, score in pairs)
        # Losses are rounded to what batching cannot move: ties must not be decided by float noise.
        quality = (-round(margin, 9), round(sum(measured.losses), 5))
        self.found[bits] = Found(bits, measured, all(goal.holds(score) for goal, score in pairs), quality)
        self.asked[bits.bit_count()] += 1

    def _evaluations_left(self) -> int | None:
        return None if self.budget.evaluations is None else self.budget.evaluations - len(self._counted)

    def _seconds_left(self) -> float | None:
        return None if self.budget.seconds is None else self.budget.seconds - (time.monotonic() - self._began)

    def _pace(self) -> float:
        """Seconds per evaluation; 0 where there was none yet."""
        return self._busy / max(1, self._fresh)

    def _at_a_time(self) -> int:
        seconds = self._seconds_left()
        if seconds is None:
            return _CHUNK
        return max(1, min(_CHUNK, int(seconds / self._pace()))) if self._fresh else 2


def measure(outcomes: Sequence[Outcomes]) -> Measured:
    """Scores and mean losses, one of each task."""
    return Measured(tuple(map(_score, outcomes)), tuple(float(np.mean(found.losses)) for found in outcomes))


def _score(outcomes: Outcomes) -> float | None:
    try:
        return outcomes.score
    except UndefinedScore:
        return None
