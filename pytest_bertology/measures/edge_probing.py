"""Edge probing: at which layers a model holds what a task asks for (Tenney, Das, Pavlick 2019)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.edge_data import EdgeData, edge_data
from pytest_bertology.measures.edge_model import Judged, trained
from pytest_bertology.measures.edge_report import F1, METRICS, EdgeProbeReport
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.probing_data import TESTED, TRAIN, ProbingData, probing_data
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

_WHAT = "an edge probe"


@remakeable
@announced("edge_probe")
def edge_probe(
    model: ModelUnderTest,
    task: Task,
    *,
    train: Task | None = None,
    held_out: Task | None = None,
    layers: Collection[int] | str | None = "all",
    seeds: Sequence[int] = (0, 1, 2),
    cumulative: bool = True,
    metric: str = F1,
    projection: int = 64,
    steps: int = 500,
    confidence: float = 0.95,
    stack: str | None = None,
    too_long: str = "split",
    seed: int = 0,
    batching: Batching | None = None,
) -> EdgeProbeReport:
    """Train edge probes on all layers of the frozen model at once, and on layers 0..ℓ for each ℓ.

    Tenney et al. 2019, sections 2 and 3. A probe sees h = γ Σ_ℓ softmax(a)_ℓ h^ℓ, with h^0 the embeddings; the tokens
    of each span are projected to `projection` dimensions and pooled by self-attention; one span, or two one after the
    other, go through a hidden layer of as many tanh units to a sigmoid for each label (binary cross entropy). A word is
    a span, and a whole text is the span of all its tokens that are not special. The centre of gravity Σ ℓ s_ℓ is of the
    mixing weights s = softmax(a); the expected layer Σ ℓ Δ_ℓ / Σ Δ_ℓ of the gains Δ_ℓ = S_ℓ − S_{ℓ−1} of the cumulative
    probes, over ℓ ≥ 1, and undefined where layers add nothing for sure (`EdgeProbeReport.undefined`).

    Published with 256 dimensions; 64 keep the time low. Adam takes up to `steps` steps of 256 items with
    a falling rate; the parameters of the lowest loss on the part held out are kept. States are divided by one number
    for all layers, which γ makes up for. Each of `seeds` draws parameters and the order of items; `seed` says which
    texts are judged on and held out where `train` and `held_out` do not (see `probing_data`). The order of the data
    does not matter. With `cumulative=False` there is one probe of each seed and no expected layer, at a fraction of the
    time. `layers` may be a selection: Δ is then what each adds to those before it. `metric` of the scores is "f1"
    (micro-averaged over labels above 0.5, as published) or "accuracy" (of the likeliest label).

    Raises InvalidArgument; SingleClass; NonFinite for a loss that is not finite; and what `probing_data` and `record`
    raise.
    """
    _check(seeds, cumulative, metric, projection, steps, confidence)
    batching = batching or Batching()
    data = probing_data(model, task, train=train, held_out=held_out, too_long=too_long, seed=seed, what=_WHAT)
    states = edge_data(model, data, layers, what=_WHAT, stack=stack, batching=batching)
    judged: list[Judged] = []
    with tracked(f"{data.name}, {_WHAT}", len(seeds) * steps) as show:
        for own in seeds:
            before = len(judged) * steps
            judged.append(
                trained(
                    states,
                    len(data.classes),
                    int(own),
                    cumulative=cumulative,
                    projection=projection,
                    steps=steps,
                    device=model.device,
                    show=lambda done, before=before: show(before + done),  # type: ignore[misc]
                )
            )
            show(before + steps)
    return _report(model, data, states, judged, tuple(map(int, seeds)), cumulative, metric, projection, confidence)


def _report(
    model: ModelUnderTest,
    data: ProbingData,
    states: EdgeData,
    judged: Sequence[Judged],
    seeds: tuple[int, ...],
    cumulative: bool,
    metric: str,
    projection: int,
    confidence: float,
) -> EdgeProbeReport:
    part = states.parts[TESTED]
    majority = (part.labels == data.majority).astype(np.float64)
    return EdgeProbeReport(
        model=model.name,
        data=data.name,
        training=data.source,
        level=data.level,
        classes=data.classes,
        items=len(part),
        texts=len(np.unique(part.texts)),
        trained_on=len(states.parts[TRAIN]),
        layers=states.layers,
        seeds=seeds,
        metric=metric,
        confidence=confidence,
        majority_baseline=float(majority.mean()),
        unseen=data.unseen,
        left_out=data.left_out,
        projection=projection,
        cumulative=cumulative,
        _judged=tuple(judged),
        _text_of=part.texts,
        _majority=majority,
    )


def _check(
    seeds: object, cumulative: object, metric: object, projection: object, steps: object, confidence: object
) -> None:
    expected = "different whole numbers from 0, such as (0, 1, 2)"
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise InvalidArgument("seeds", seeds, expected)
    if not all(is_whole(each) and each >= 0 for each in seeds) or len(set(seeds)) < len(seeds):
        raise InvalidArgument("seeds", seeds, expected)
    if not isinstance(cumulative, bool):
        raise InvalidArgument("cumulative", cumulative, "True or False")
    if metric not in METRICS:
        raise InvalidArgument("metric", metric, " or ".join(map(repr, METRICS)))
    for name, value, least in (("projection", projection, 1), ("steps", steps, 20)):
        if not is_whole(value) or value < least:  # type: ignore[operator]
            raise InvalidArgument(name, value, f"a whole number from {least}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.0 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
