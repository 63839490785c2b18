"""Whether heads that matter to one task matter to another."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import BertologyWarning, InvalidArgument, MaskOfAnotherModel, UndefinedScore
from pytest_bertology.heads import HeadScores
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.importance import head_importance
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.overlap import shared_texts
from pytest_bertology.tasks.task import Task

CORRELATIONS = ("pearson", "spearman")


@dataclass(frozen=True, eq=False)
class Transfer:
    """How the importance of a model's heads to two tasks correlates."""

    correlation: float
    kind: str
    """"pearson" or "spearman"."""
    scores: HeadScores
    """To the first task, divided by each layer's L2 norm."""
    other: HeadScores
    """To the second, likewise."""


def importance_transfer(
    model: ModelUnderTest,
    task_a: Task,
    task_b: Task,
    *,
    method: str = "gradient",
    correlation: str = "pearson",
    batching: Batching | None = None,
) -> Transfer:
    """Correlate the importance of all heads to two tasks (Michel et al. 2019, section 4.2, report Pearson's r).

    Scores are by `method` (see `head_importance`), divided by each layer's L2 norm as that paper does, so that no layer
    outweighs the others. Raises InvalidArgument where the tasks hold the same examples, or for the method "random",
    whose scores ask no task; UndefinedScore where all scores of one task are equal. Warns where texts of one task are
    in the other, too.
    """
    check_model_and_task(model, task_a)
    check_model_and_task(model, task_b)
    if correlation not in CORRELATIONS:
        raise InvalidArgument("correlation", correlation, "one of " + ", ".join(CORRELATIONS))
    if method == "random":
        raise InvalidArgument("method", method, "a method that asks the task: random scores are the same for any")
    if task_a.digest == task_b.digest:
        raise InvalidArgument("task_b", task_b.name, f"other examples than those of {task_a.name}")
    if shared := shared_texts(task_a, task_b):
        text = f"{shared}: importance to the one is measured on examples of the other"
        warnings.warn(text, BertologyWarning, stacklevel=4)
    both = [
        head_importance(model, task, method, batching=batching).normalized(per_layer=True, min_max=False)
        for task in (task_a, task_b)
    ]
    found = both[0].rank_correlation(both[1]) if correlation == "spearman" else pearson(*both)
    return Transfer(found, correlation, *both)


def pearson(scores: HeadScores, other: HeadScores) -> float:
    """Pearson's correlation of scores of the same heads; raises MaskOfAnotherModel, UndefinedScore."""
    if scores.heads != other.heads:
        raise MaskOfAnotherModel(other.heads.describe(), scores.heads.describe())
    for each in (scores, other):
        if len(each) < 2 or np.ptp(each.values) == 0.0:
            raise UndefinedScore("the correlation", f"all {each.method} scores are equal")
    return float(np.clip(np.corrcoef(scores.values, other.values)[0, 1], -1.0, 1.0))
