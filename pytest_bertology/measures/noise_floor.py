"""How far a model's score on a task moves for no reason but the machine, and checks that ask for less than that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_bertology.engine.encoding import Encoded, encode
from pytest_bertology.errors import InvalidArgument, ToleranceBelowNoise, UndefinedScore
from pytest_bertology.heads import HeadMask
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.noise_passes import FINER, Measured, Pass, Variant, measured
from pytest_bertology.measures.noise_report import DTYPE, FACTORS, NoiseFloor, NoiseSetting
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.trained import as_trained
from pytest_bertology.tasks.metrics import REGRESSION, Array, Metric, Results
from pytest_bertology.tasks.task import Task

_ROUNDING = 1e-12
"""A floor of 2 in 872 is one of 0.0022935…, whatever binary fractions make of it."""


def noise_floor(model: ModelUnderTest, task: Task, *, seed: int = 0, factors: Iterable[str] = FACTORS) -> NoiseFloor:
    """Measure what batch size, padding, attention backend, threads and dtype do to the score on this machine.

    The model is run over all of the data the usual way, and once more for each setting of each of `factors`: "batch"
    (one example at a time, a quarter and four times of the usual tokens, unlike lengths brought together by an order
    drawn with `seed`), "padding" (8 columns more on the right; on the left, where the model gives the same results
    there), "attention" (eager for SDPA, or the other way), "threads" (1, 2 and all, on a CPU) and "dtype" (copies in a
    more and a less precise one). Masks in force around the call are in force. That are about a dozen evaluations, of
    which one example at a time and float64 take the longest; copies take the memory of the model again, once or twice.

    Per setting: how far the score, the predictions, logits and losses change. Beside the change that was seen there is
    one that is `implied`: where the two greatest logits of a prediction are closer than twice the greatest change of
    any logit, as much noise could turn it. The score is computed with all of these turned from right to wrong (and, of
    the wrong ones, to right), and losses moved by their greatest change, whichever moves it more. Where such a score is
    not defined, it counts as 0. Nothing is stored; the model, its attention implementation and the number of threads
    are as before afterwards.

    Raises InvalidArgument for factors that are none, NonFinite, UndefinedScore, and what `evaluate` raises.
    """
    check_model_and_task(model, task)
    chosen = _chosen(factors)
    if not is_whole(seed) or seed < 0:
        raise InvalidArgument("seed", seed, "a whole number from 0")
    encoded = encode(model, task)
    found = measured(model, encoded, model.mask_in_force(), task.name, chosen, seed)
    return _judged(model, task, encoded, found)


def _chosen(factors: Any) -> list[str]:
    asked = [factors] if isinstance(factors, str) else list(factors)
    for each in asked:
        if each not in FACTORS:
            raise InvalidArgument("factors", each, "some of " + ", ".join(FACTORS))
    if not asked:
        raise InvalidArgument("factors", asked, "some of " + ", ".join(FACTORS))
    return [factor for factor in FACTORS if factor in asked]


def _judged(model: ModelUnderTest, task: Task, encoded: Encoded, found: Measured) -> NoiseFloor:
    """The passes judged by the task's metric."""
    usual, metric = found.usual, task.metric
    score = metric(_results(usual, encoded))
    settings = tuple(
        _setting(variant, usual, score, metric, encoded, finer=variant.setting == FINER.get(model.dtype))
        for variant in found.variants
    )
    return NoiseFloor(
        model.name,
        task.name,
        metric.name,
        model.dtype,
        str(model.device),
        len(usual.losses),
        len(usual.labels),
        score,
        settings,
        found.left_out,
    )


def _setting(
    variant: Variant, usual: Pass, score: float, metric: Metric, encoded: Encoded, *, finer: bool
) -> NoiseSetting:
    """One pass beside the usual one."""
    other = variant.found
    logits = float(np.abs(other.logits - usual.logits).max())
    losses = float(np.abs(other.losses - usual.losses).max())
    classes = encoded.objective != REGRESSION
    near = usual.margins <= 2 * logits if logits else np.zeros(len(usual.margins), dtype=bool)
    return NoiseSetting(
        factor=variant.factor,
        setting=variant.setting,
        change=_score(metric, _results(other, encoded)) - score,
        changed=int((other.predictions != usual.predictions).sum()) if classes else None,
        logits=logits,
        losses=losses,
        near=int(near.sum()),
        implied=max(
            abs(_score(metric, _moved(usual, encoded, near, logits, losses, worse=worse)) - score)
            for worse in (True, False)
        ),
        finer=variant.factor == DTYPE and finer,
    )


def _moved(usual: Pass, encoded: Encoded, near: Array, logits: float, losses: float, *, worse: bool) -> Results:
    """The usual results with all predictions near a tie turned for the worse, or the better, and losses moved."""
    right = usual.predictions == usual.labels
    if encoded.objective == REGRESSION:
        away = np.where(usual.predictions >= usual.labels, 1.0, -1.0) * (logits if worse else -logits)
        predictions = usual.predictions + away
    else:
        turned = near & (right if worse else ~right & (usual.seconds == usual.labels))
        predictions = np.where(turned, usual.seconds, usual.predictions)
    moved = usual.losses + losses if worse else np.maximum(usual.losses - losses, 0.0)
    return Results(usual.labels, predictions, moved, usual.counts, encoded.n_labels)


def _results(found: Pass, encoded: Encoded) -> Results:
    return Results(found.labels, found.predictions, found.losses, found.counts, encoded.n_labels)


def _score(metric: Metric, results: Results) -> float:
    try:
        return metric(results)
    except UndefinedScore:
        return 0.0


@dataclass
class NoiseFloors:
    """The floors of a session, each measured when a check first needs it."""

    seed: int = 0
    heard: Callable[[NoiseFloor], None] | None = None
    """Told of each floor when it is known."""
    passes: dict[tuple[str, str], Measured] = field(default_factory=dict)
    """By the digests of model and data."""
    floors: dict[tuple[tuple[str, str], Metric], NoiseFloor] = field(default_factory=dict)

    def of(self, model: ModelUnderTest, task: Task) -> NoiseFloor:
        """The floor of the model as it was trained, whatever is in force around the call but hooks of others."""
        encoded, mask = encode(model, task), HeadMask.keep_all(model.heads)
        with model.exactly(None), as_trained(model):
            with model.frozen():
                key = model.digest(), encoded.digest
            if model.in_force() is None:  # by which a digest knows no model
                self.passes.pop(key, None)
                self.floors.pop((key, task.metric), None)
            if (known := self.floors.get((key, task.metric))) is not None:
                return known
            if key not in self.passes:
                self.passes[key] = measured(model, encoded, mask, task.name, FACTORS, self.seed)
            found = self.floors[key, task.metric] = _judged(model, task, encoded, self.passes[key])
        if self.heard is not None:
            self.heard(found)
        return found


_refusing: NoiseFloors | None = None


@contextmanager
def refusing_below_noise(floors: NoiseFloors | None = None) -> Iterator[NoiseFloors]:
    """Within the context, checks refuse tolerances below the noise floor of their model and task.

    It is measured when a check first needs it, and kept in `floors`, which may be handed from one context to the next.
    """
    global _refusing
    before, _refusing = _refusing, floors or NoiseFloors()
    try:
        yield _refusing
    finally:
        _refusing = before


def check_above_noise(model: ModelUnderTest, task: Task, tolerance: float, relative: bool = False) -> None:
    """Raise ToleranceBelowNoise for a tolerance that the machine alone can use up; only in `refusing_below_noise`.

    `tolerance` is in units of the task's metric or, with `relative`, a share of the score of the model as trained. It
    is compared with `NoiseFloor.least_tolerance`.
    """
    if _refusing is None:
        return
    found = _refusing.of(model, task)
    least, worst = found.least_tolerance, found.worst
    scale = abs(found.score) if relative else 1.0
    if worst is None or tolerance * scale >= least - _ROUNDING:
        return
    share = f" (relative, {tolerance * scale:.3g} in units of the metric)" if relative else ""
    needed = least / scale if scale else float("inf")
    advice = f"Allow at least {needed:.3g}, or judge by more examples"
    half = model.dtype in ("bfloat16", "float16")
    advice += ", or load the model in float32 (dtype='float32', --bertology-dtype=float32)." if half else "."
    where = f"{found.model} on {found.task} in {found.metric}"
    raise ToleranceBelowNoise(tolerance, least, worst.describe() + share, where, advice)
