"""Amnesic probing: what a task loses when a property is taken out of hidden states (Elazar et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.amnesic_report import AmnesicReport, LayerAmnesia
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.erasure import (
    LEACE,
    WHAT,
    How,
    erased_layer,
    erasure_of,
    gain,
    layers_of,
    property_data,
    warn_of_rest,
)
from pytest_bertology.measures.evaluation import Outcomes, evaluate
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.probing_data import PARTS, ProbingData, States
from pytest_bertology.measures.relation_intervals import Interval, PairedDifference, paired_difference
from pytest_bertology.measures.resampling import scores_on
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import METRICS, Array, Metric
from pytest_bertology.tasks.task import Task

_RESAMPLES = 2000
_HELD = 2**22
"""Numbers of resamples that are held at a time."""


@remakeable
@announced("amnesic")
def amnesic_probe(
    model: ModelUnderTest,
    property_task: Task,
    task: Task,
    layers: int | Collection[int] | str = "all",
    *,
    method: str = LEACE,
    train: Task | None = None,
    held_out: Task | None = None,
    random_controls: int = 5,
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    last: bool = True,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    most: int = 50,
    confidence: float = 0.95,
    seed: int = 0,
    batching: Batching | None = None,
) -> AmnesicReport:
    """Score `task` with a property taken out of one layer after the other, and with random directions taken out.

    Elazar et al. 2021: a property that a probe decodes need not be used; what its removal costs says whether it is. The
    labels of `property_task` are erased from each of `layers` by itself (see `erase`, also for `train`, `held_out`,
    `pooling`, `too_long`, `stack` and `most`), and the model runs on `task`: a labelled one, or texts for a language
    model, judged by its metric or another (`metric="loss"`). The control takes as many directions out at the same
    layer, drawn at random `random_controls` times; the difference of the drops has an interval over the task's examples
    (Tango's for accuracy, else a bootstrap of them). With `last` a linear probe is trained on the last layer's states,
    too, while the property is erased below: what the layers above make of what is left, not linear in it. The baseline
    is the model as it is in the call.

    It costs 1 + random_controls passes over `task` for each layer, one over the property's texts (and with `last`
    another for each layer), and the fits. Raises what `erase` and `evaluate` raise, CannotErase where the states are
    not found, InvalidArgument for fewer than 2 controls.
    """
    check_model_and_task(model, task)
    task = task.with_metric(metric)
    if not is_whole(random_controls) or random_controls < 2:
        raise InvalidArgument("random_controls", random_controls, "a whole number from 2")
    how = How(method, most, confidence)
    data = property_data(model, property_task, train, held_out, pooling, too_long, seed)
    states = data.record(model, what=WHAT, stack=stack, batching=batching)
    chosen = layers_of(layers, states.layers)
    baseline = evaluate(model, task, batching=batching)
    top = _gain_at(data, states, states.layers, confidence) if last else None
    found = []
    for layer in chosen:
        erasure = erasure_of(model, data, (erased_layer(data, states, layer, stack, how),), how)
        above = erasure.only.after if last else None
        warn_of_rest(erasure)
        with model.erasing(*erasure.projections):
            outcomes = evaluate(model, task, batching=batching)
            if last and layer < states.layers:
                left = data.record(model, what=WHAT, stack=stack, batching=batching)
                above = _gain_at(data, left, states.layers, confidence)
        controls = []
        for control in range(random_controls):
            with model.erasing(*erasure.at_random(seed + control)):
                controls.append(evaluate(model, task, batching=batching))
        found.append(
            LayerAmnesia(
                erasure=erasure,
                score=outcomes.score,
                drop=_drop(baseline, outcomes),
                random_scores=tuple(each.score for each in controls),
                random_drops=tuple(_drop(baseline, each) for each in controls),
                interval=_interval(outcomes, controls, confidence, seed),
                drop_interval=_interval(outcomes, [baseline], confidence, seed),
                last=above,
            )
        )
    return AmnesicReport(
        model=model.name,
        erased=data.name,
        task=task.name,
        metric=baseline.metric.name,
        higher_is_better=baseline.metric.higher_is_better,
        baseline=baseline.score,
        examples=len(baseline),
        method=method,
        last_layer=states.layers,
        last_before=top,
        confidence=confidence,
        seed=seed,
        layers=tuple(found),
    )


def _gain_at(data: ProbingData, states: States, layer: int, confidence: float) -> PairedDifference:
    return gain(data, {part: states.vectors(part, layer) for part in PARTS}, confidence)


def _drop(baseline: Outcomes, outcomes: Outcomes) -> float:
    return baseline.metric.drop(baseline.score, outcomes.score)


def _interval(outcomes: Outcomes, others: Sequence[Outcomes], confidence: float, seed: int) -> Interval:
    """Of how much worse the score is than the mean of the others', over samples of examples; NaN where there is none.

    For accuracy the interval for paired shares, examples as clusters; else percentiles of a paired bootstrap.
    """
    metric, count = outcomes.metric, len(outcomes)
    if metric == METRICS["accuracy"]:
        theirs = np.mean([each.right for each in others], axis=0)
        clusters = np.repeat(np.arange(count), len(outcomes.right) // count)
        if len(clusters) != len(outcomes.right):
            clusters = np.repeat(np.arange(count), outcomes.raw.counts)
        return paired_difference(theirs, outcomes.right.astype(float), clusters, confidence).interval
    scores = scores_on([outcomes, *others])
    drawing = np.random.default_rng(seed)
    rows = max(1, min(_RESAMPLES, _HELD // count))
    drops: list[Array] = []
    for start in range(0, _RESAMPLES, rows):
        counts = drawing.multinomial(count, np.full(count, 1.0 / count), size=min(rows, _RESAMPLES - start))
        drawn = scores(counts.astype(np.float64))
        worse = drawn[:, 1:].mean(axis=1) - drawn[:, 0]
        drops.append(worse if metric.higher_is_better else -worse)
    low, high = np.nanquantile(np.concatenate(drops), [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return float(low), float(high)
