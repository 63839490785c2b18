"""What is searched for, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads import HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model, check_model_and_task
from pytest_bertology.measures.ordering import check_by, check_least, name_of
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.search.held_out import HeldOut
from pytest_bertology.tasks.metrics import METRICS, Metric
from pytest_bertology.tasks.task import Task

SEARCHES = ("greedy", "threshold", "beam", "astar")
_RANGES: dict[tuple[float, float | None], tuple[str, ...]] = {
    (0.0, 1.0): ("accuracy", "f1", "f1_macro", "f1_micro"),
    (-1.0, 1.0): ("matthews", "pearson", "spearman"),
    (0.0, None): ("loss",),
    (1.0, None): ("perplexity",),
}
"""The least and the greatest value of metrics that have them."""


@dataclass(frozen=True)
class Plan:
    """The arguments of a search, as `find_prunable_heads` describes them."""

    relative: bool = False
    search: str = "greedy"
    held_out: HeldOut = None
    budget: int | None = None
    seconds: float | None = None
    least_per_layer: int = 0
    by: str | Method | HeadScores = "gradient"
    step: float = 0.1
    beam: int = 4
    seed: int = 0
    resume: Path | None = None
    batching: Batching | None = None

    def check(self, model: ModelUnderTest) -> None:
        """Raise InvalidArgument for what is no valid value."""
        check_has_heads(model)
        check_by(model, self.by)
        check_least(model, self.least_per_layer)
        if self.search not in SEARCHES:
            raise InvalidArgument("search", self.search, f"one of {', '.join(SEARCHES)}")
        for name, value in (("budget", self.budget), ("beam", self.beam)):
            if value is not None and (not is_whole(value) or value < 1):
                raise InvalidArgument(name, value, "a whole number from 1")
        if not is_whole(self.seed) or self.seed < 0:
            raise InvalidArgument("seed", self.seed, "a whole number from 0")
        if self.seconds is not None and not (_is_number(self.seconds) and self.seconds > 0.0):
            raise InvalidArgument("seconds", self.seconds, "a number above 0")
        if not _is_number(self.step) or not 0.0 < self.step <= 1.0:
            raise InvalidArgument("step", self.step, "a share of the heads above 0 and up to 1, such as 0.1")

    def identity(self) -> dict[str, Any]:
        """All of it that decides which sets a search looks at, as far as this search goes by it. Budgets do not."""
        found: dict[str, Any] = {
            "search": self.search,
            "relative": self.relative,
            "least_per_layer": self.least_per_layer,
            "batching": repr(self.batching or Batching()),
        }
        if self.search in ("threshold", "astar"):
            found["by"] = self.by.values.tolist() if isinstance(self.by, HeadScores) else name_of(self.by)
            found["seed"], found["step"] = self.seed, self.step
        if self.search == "beam":
            found["beam"] = self.beam
        return found

    def limit(self, metric: Metric, floor: float, baseline: float) -> float:
        """The floor in units of the metric; raises UndefinedScore for a share of 0."""
        if not self.relative:
            return floor
        if baseline == 0.0:
            raise UndefinedScore("the relative floor", f"the baseline {metric.name} is 0")
        worse = (1.0 - floor) if metric.higher_is_better else (1.0 / floor - 1.0)
        return baseline - worse * abs(baseline) if metric.higher_is_better else baseline + worse * abs(baseline)


def floors_of(
    model: ModelUnderTest, task: Task | Mapping[Task, float], floor: float | None, relative: bool
) -> dict[Task, float]:
    """Each task's floor; raises InvalidArgument."""
    if isinstance(task, Mapping) and task:
        check_model(model)
        for one in task:
            check_model_and_task(model, one)
        if floor is not None:
            raise InvalidArgument("floor", floor, "nothing where `task` maps tasks to their floors")
        floors = dict(task)
    else:
        check_model_and_task(model, task)
        assert isinstance(task, Task)
        floors = {task: floor}  # type: ignore[dict-item]
    for value in floors.values():
        if not _is_number(value) or not np.isfinite(value):
            raise InvalidArgument("floor", value, "the worst score allowed, in units of the metric, such as 0.85")
        if relative and not 0.0 < value <= 1.0:
            share = "a share of the baseline above 0 and up to 1 (relative=True)"
            raise InvalidArgument("floor", value, share + _from_percent(value))
    if not relative:
        for one, value in floors.items():
            _check_range(one.metric, value)
    return {one: float(value) for one, value in floors.items()}


def _check_range(metric: Metric, floor: float) -> None:
    """Refuse a floor that no score keeps or that no score misses; of metrics of the user's own neither is known."""
    lowest, highest = next((ends for ends, names in _RANGES.items() if metric in map(METRICS.get, names)), (None, None))
    if metric.higher_is_better:
        if highest is not None and floor > highest:
            expected = f"at most {highest:g}: no {metric.name} is greater and nothing could keep it"
            raise InvalidArgument("floor", floor, expected + _from_percent(floor))
        if lowest is not None and floor <= lowest:
            expected = f"more than {lowest:g}: no {metric.name} is less and nothing could fail"
            raise InvalidArgument("floor", floor, expected)
    elif lowest is not None and (floor < lowest or floor == lowest == 0.0):
        limit = "more than 0" if lowest == 0.0 else f"at least {lowest:g}"
        raise InvalidArgument("floor", floor, f"{limit}, the greatest {metric.name} allowed: none is less")


def _from_percent(floor: float) -> str:
    return f"; did you mean {floor / 100:g}?" if 1.0 < floor <= 100.0 else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
