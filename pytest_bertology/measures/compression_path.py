"""Probes along a path of compression, beside the score of the model itself: does what it knows go with its loss?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from scipy import stats

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads import HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model, check_model_and_task
from pytest_bertology.measures.evaluation import evaluate
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.probe_retention import BEST, check_layer, check_options, ordering_of
from pytest_bertology.measures.probing import probe
from pytest_bertology.measures.relation_intervals import Interval
from pytest_bertology.measures.retention import least_important
from pytest_bertology.measures.sparsity import linear_weights
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.trained import as_trained
from pytest_bertology.tasks.items import check_labelled
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task

HEADS, MAGNITUDE = "heads", "magnitude"
FRACTIONS = (0.0, 0.1, 0.3, 0.5, 0.7)
_EXACT = 8
"""Points up to which the p-value goes through all orders."""


@dataclass(frozen=True)
class PathPoint:
    """One model on the path."""

    name: str
    """What was done to it: "30% of heads masked", or the model's own name."""
    probe: float
    """The score of a probe trained on its states."""
    interval: Interval
    """Of `probe`."""
    score: float
    """Of the model itself, in units of its own metric."""


@dataclass(frozen=True, repr=False)
class CompressionPath:
    """Probing scores along a path of compression, and the scores of the models themselves."""

    model: str
    points: tuple[PathPoint, ...]
    """The model as trained first, where it is on the path."""
    layer: int
    """The layer that is probed."""
    probed: str
    """The probing task."""
    metric: Metric
    """Of the probes."""
    judged: str
    """The task of the models themselves."""
    model_metric: Metric
    majority_baseline: float
    """What the most frequent class gets on the probing task."""
    examples: int
    """How many items the probes are judged on."""
    by: str
    """How the path was made."""

    def __repr__(self) -> str:
        return f"CompressionPath({self.model}: {len(self)} points, rank correlation {self.rank_correlation:+.3f})"

    def __len__(self) -> int:
        return len(self.points)

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of probing scores with how good the models are: +1 where the probe falls as the model does.

        A loss is turned round: a higher one is worse. Raises UndefinedScore where either never changes.
        """
        probes, scores = self._sides()
        for what, values in (("the probing score", probes), (f"the models' {self.model_metric.name}", scores)):
            if np.ptp(values) == 0.0:
                raise UndefinedScore("the rank correlation", f"{what} is {values[0]:.4g} at every point of the path")
        return float(stats.spearmanr(probes, scores)[0])

    @property
    def p_value(self) -> float:
        """One-sided, of no relation: how often a random order correlates as much; exact up to 8 points."""
        probes, scores = self._sides()
        observed = self.rank_correlation
        if len(self) > _EXACT:
            return float(stats.spearmanr(probes, scores, alternative="greater").pvalue)
        ranks, others = stats.rankdata(probes), stats.rankdata(scores)
        orders = np.array(list(permutations(others)))
        found = np.corrcoef(np.vstack([ranks, orders]))[0, 1:]
        return float((found >= observed - 1e-9).mean())

    def table(self) -> str:
        """One line for each point, as text."""
        width = max(4, *(len(point.name) for point in self.points))
        probed, judged = f"probe's {self.metric.name}", f"model's {self.model_metric.name}"
        lines = [
            f"{self.model} along {self.by}: probes of layer {self.layer} for {self.probed} (most frequent class "
            f"{self.majority_baseline:.3f}), and the model itself on {self.judged}",
            f"{'':<{width}}  {probed:>17}  {'interval':>16}  {judged:>17}",
        ]
        for point in self.points:
            low, high = point.interval
            interval = f"{low:.3f} to {high:.3f}"
            lines.append(f"{point.name:<{width}}  {point.probe:>17.4f}  {interval:>16}  {point.score:>17.4f}")
        try:
            lines.append(f"rank correlation {self.rank_correlation:+.3f} (p {self.p_value:.3f}, one-sided)")
        except UndefinedScore as error:
            lines.append(f"rank correlation: {error}")
        return "\n".join(lines)

    def _sides(self) -> tuple[Any, Any]:
        """How good probes and models are at each point, greater being better."""
        probes = np.array([point.probe for point in self.points])
        scores = np.array([point.score for point in self.points])
        return (
            probes if self.metric.higher_is_better else -probes,
            scores if self.model_metric.higher_is_better else -scores,
        )


@announced("compression_path")
def compression_path(
    model: ModelUnderTest,
    task: Task,
    model_task: Task,
    *,
    path: str | Sequence[ModelUnderTest] = HEADS,
    fractions: Sequence[float] = FRACTIONS,
    by: str | Method | HeadScores | None = None,
    layer: int | str = BEST,
    seed: int = 0,
    **options: Any,
) -> CompressionPath:
    """Probe the states of a model ever more compressed, and judge the model itself by `model_task` at each step.

    Nikoulina et al. 2021, "The Rediscovery Hypothesis": whether probing scores fall with the language model's loss.
    `path` is "heads" (these fractions of all heads masked, the least important first; `by` as in
    `assert_probe_retained`), "magnitude" (these fractions of each weight matrix of `linear_weights` set to zero, the
    smallest first, in a copy: one shot, nothing is trained again), or models that are compressed already, such as
    checkpoints, which must read texts alike. Each probe is trained on its own model's states; `layer` is one layer, or
    "best": the best of the model as trained, by the held-out part. `options` are those of `probe`; neither control task
    nor random weights are looked at unless asked for.

    Raises InvalidArgument for fractions or a path of fewer than three points, or options that `probe` has not; and what
    `probe` and `evaluate` raise.
    """
    check_model_and_task(model, task)
    check_labelled(task)
    check_model_and_task(model, model_task)
    check_layer(layer)
    check_options(options)
    named = _path(path)
    wanted = () if named is None else _fractions(fractions)
    options = {"control": False, "random_model": False, "seed": seed} | options
    reference = None
    if layer == BEST:
        with model.exactly(None), as_trained(model):
            reference = probe(model, task, "all", **options)
    chosen = int(layer) if reference is None else reference.best_layer
    points, report, outcomes = [], None, None
    count = len(wanted) if named is not None else len(path)
    with tracked(f"{task.name}, along the path of compression", count) as show:
        for name, each, mask in _steps(model, task, model_task, path, wanted, by, seed):
            with each.masked(()) if mask is None else each.masked(mask):
                report = probe(each, task, [chosen], **options)
                outcomes = evaluate(each, model_task, batching=options.get("batching"))
            found = report.at(chosen)
            points.append(PathPoint(name, found.score, found.interval, outcomes.score))
            show(len(points))
    assert report is not None
    assert outcomes is not None
    return CompressionPath(
        model.name,
        tuple(points),
        chosen,
        report.data,
        report.metric,
        model_task.name,
        outcomes.metric,
        report.majority_baseline,
        len(report),
        "models given" if named is None else _by_name(named, model, task, by, model_task),
    )


def _steps(
    model: ModelUnderTest,
    task: Task,
    model_task: Task,
    path: str | Sequence[ModelUnderTest],
    fractions: Sequence[float],
    by: str | Method | HeadScores | None,
    seed: int,
) -> Iterator[tuple[str, ModelUnderTest, HeadMask | None]]:
    """Each model of the path: its name, itself, and a mask to look at it under."""
    if not isinstance(path, str):
        for each in path:
            yield each.name, each, None
        return
    if path == MAGNITUDE:
        for fraction in fractions:
            thinned = model if fraction == 0.0 else without_smallest(model, fraction)
            yield f"{fraction:.0%} of weights 0", thinned, None
        return
    check_has_heads(model)
    ordering, on, _ = ordering_of(model, task, by, model_task)
    scores: HeadScores | None = None
    for fraction in fractions:
        mask = None
        if int(fraction * len(model.heads) + 0.5):
            mask, scores = least_important(model, on, fraction, scores or ordering, seed)
        yield f"{fraction:.0%} of heads masked", model, mask


def without_smallest(model: ModelUnderTest, fraction: float) -> ModelUnderTest:
    """A copy with this fraction of each weight matrix of `linear_weights` set to zero, the smallest numbers first."""
    thinned = copy.deepcopy(model)
    with torch.no_grad():
        for weight in linear_weights(thinned).values():
            count = int(fraction * weight.numel() + 0.5)
            if count:
                smallest = weight.abs().flatten().topk(count, largest=False, sorted=False).indices
                # Of a matrix that is kept transposed this is a view, which no flattened copy may stand in for.
                rows, columns = smallest // weight.shape[1], smallest % weight.shape[1]
                weight[rows, columns] = 0.0
        for name, weight in linear_weights(thinned).items():
            if int((weight == 0.0).sum()) < int(fraction * weight.numel() + 0.5):
                expected = "weights that can be set: this one is computed anew, or kept elsewhere"
                raise InvalidArgument("model", f"{name} of {model.name}", expected)
    return thinned


def _by_name(path: str, model: ModelUnderTest, task: Task, by: Any, model_task: Task) -> str:
    if path == MAGNITUDE:
        return "magnitude pruning"
    return f"head pruning by {by.method if isinstance(by, HeadScores) else by or f'gradient on {model_task.name}'}"


def _path(path: object) -> str | None:
    """The path's name; None for models."""
    if path in (HEADS, MAGNITUDE):
        return str(path)
    if isinstance(path, str) or not isinstance(path, Sequence) or len(path) < 3:
        expected = "'heads', 'magnitude', or three models or more that load_model(...) returned"
        raise InvalidArgument("path", path if isinstance(path, str) else type(path).__name__, expected)
    for index, each in enumerate(path):
        check_model(each, f"path[{index}]")
    return None


def _fractions(fractions: object) -> tuple[float, ...]:
    expected = "three or more different fractions from 0 to below 1, such as (0.0, 0.1, 0.3, 0.5)"
    if isinstance(fractions, str) or not isinstance(fractions, Sequence):
        raise InvalidArgument("fractions", fractions, expected)
    for each in fractions:
        if isinstance(each, bool) or not isinstance(each, int | float) or not 0.0 <= each < 1.0:
            raise InvalidArgument("fractions", fractions, expected)
    found = tuple(sorted({float(each) for each in fractions}))
    if len(found) < 3:
        raise InvalidArgument("fractions", fractions, expected)
    return found
