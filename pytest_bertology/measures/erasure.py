"""Taking a property out of hidden states, linearly: LEACE and iterative null-space projection."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.erasure_report import Erasure, LayerErasure
from pytest_bertology.measures.inlp import Labelled, inlp
from pytest_bertology.measures.leace import Array, leace
from pytest_bertology.measures.probe_linear import Split, linear_probe, standardised
from pytest_bertology.measures.probing_data import HELD_OUT, PARTS, TESTED, TRAIN, ProbingData, States, probing_data
from pytest_bertology.measures.probing_data import chosen_layers as _chosen
from pytest_bertology.measures.relation_intervals import PairedDifference, paired_difference
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.conditions import in_words
from pytest_bertology.models.projection import FoundOn, Projection
from pytest_bertology.tasks.items import PAIR, items_of
from pytest_bertology.tasks.task import Task

LEACE, INLP = "leace", "inlp"
METHODS = (LEACE, INLP)
WHAT = "an erasure"


@dataclass(frozen=True)
class How:
    """How a property is taken out."""

    method: str = LEACE
    most: int = 50
    """Classifiers of INLP at most, each of up to one direction less than there are classes."""
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidArgument("method", self.method, "'leace' or 'inlp'")
        if not is_whole(self.most) or self.most < 1:
            raise InvalidArgument("most", self.most, "a whole number of classifiers from 1")
        confidence: object = self.confidence
        if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 <= confidence < 1.0:
            raise InvalidArgument("confidence", confidence, "a number from 0.5 to below 1, such as 0.95")


def erase(
    model: ModelUnderTest,
    task: Task,
    layers: int | Collection[int] | str,
    *,
    method: str = LEACE,
    train: Task | None = None,
    held_out: Task | None = None,
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    most: int = 50,
    confidence: float = 0.95,
    seed: int = 0,
    batching: Batching | None = None,
) -> Erasure:
    """Find what has to be taken out of hidden states so that no linear probe finds the labels of `task` in them.

    "leace" (Belrose et al. 2023) is the affine map of least change after which states and labels do not covary: at most
    one direction less than there are classes, closed form. "inlp" (Ravfogel et al. 2020) takes out the directions of
    linear classifiers, one after the other, until one is no better than the majority class on the held-out part:
    at most `most` classifiers, each of up to one direction less than there are classes (one of 16 tags takes out up to
    15). Fitted are the vectors of the training part: see `probing_data` for `train`, `held_out`,
    `pooling`, `too_long` and `seed`. A word's states are those of its first token by default; put in force, by
    `with model.erasing(found):`, the map acts on all tokens.

    `layers` is 0 (the embeddings), up to the last, "all", or several: these are fitted in order, each with those before
    in force, since what was taken out of one layer is made anew by the next from what is left. A linear probe is
    trained and judged before and after at each: on other texts, for what the method guarantees is of those fitted on.
    What the model is otherwise under (masks, other erasures) counts.

    Warns (BertologyWarning) where INLP stopped at `most`, or a probe still beats the majority class afterwards.

    Raises InvalidArgument, also for pairs of spans, which are of two states; UndefinedScore where a fit does not
    converge; CannotErase where several layers are asked for and the states are not found; and what `probing_data` and
    `stream_states` raise.
    """
    how = How(method, most, confidence)
    data = property_data(model, task, train, held_out, pooling, too_long, seed)
    states = data.record(model, what=WHAT, stack=stack, batching=batching)
    found: list[LayerErasure] = []
    for layer in layers_of(layers, states.layers):
        if found:
            with model.erasing(*(each.projection for each in found)):
                states = data.record(model, what=WHAT, stack=stack, batching=batching)
        found.append(erased_layer(data, states, layer, stack, how))
    erasure = erasure_of(model, data, tuple(found), how)
    warn_of_rest(erasure)
    return erasure


def property_data(
    model: ModelUnderTest,
    task: Task,
    train: Task | None,
    held_out: Task | None,
    pooling: str | None,
    too_long: str,
    seed: int,
) -> ProbingData:
    """What the property is learned from and judged on; raises InvalidArgument for pairs of spans."""
    data = probing_data(
        model, task, train=train, held_out=held_out, pooling=pooling, too_long=too_long, seed=seed, what=WHAT
    )
    if data.level == PAIR:
        wanted = "labels of words, spans or texts: those of pairs are of two states, and nothing is projected in both"
        raise InvalidArgument("task", f"{task.name} ({len(items_of(task))} pairs)", wanted)
    return data


def layers_of(layers: int | Collection[int] | str, last: int) -> tuple[int, ...]:
    """One layer, several, or "all", in order; raises InvalidArgument."""
    return _chosen([layers] if is_whole(layers) else layers, last)


def erasure_of(model: ModelUnderTest, data: ProbingData, layers: tuple[LayerErasure, ...], how: How) -> Erasure:
    """What was found, with what it was found on."""
    return Erasure(
        model=model.name,
        found_on=FoundOn(model.name, model.weights_digest(), in_words(model)),
        task=data.name,
        source=data.source,
        method=how.method,
        classes=tuple(map(str, data.classes)),
        level=data.level,
        pooling=data.pooling,
        trained_on=len(data.parts[TRAIN]),
        judged_on=len(data.parts[TESTED]),
        confidence=how.confidence,
        seed=data.seed,
        layers=layers,
    )


def warn_of_rest(erasure: Erasure) -> None:
    """Warn of layers at which INLP did not come to an end, or a linear probe still finds the property."""
    left = [f"layer {each.layer}: {each.rest()}" for each in erasure.layers if each.rest()]
    if left:
        told = f"{erasure.task} is not all erased by {erasure.method}: {'; '.join(left)}"
        advice = (
            "more training data, a greater most=, or method='leace'" if erasure.method == INLP else "more of train="
        )
        warnings.warn(f"{told}. Take {advice}.", BertologyWarning, stacklevel=4)


def erased_layer(data: ProbingData, states: States, layer: int, stack: str | None, how: How) -> LayerErasure:
    """What has to be taken out of one layer, and what a linear probe gets there before and after."""
    vectors = {part: states.vectors(part, layer) for part in PARTS}
    train, held_out = (
        Labelled(vectors[part], data.parts[part].labels, data.parts[part].texts) for part in (TRAIN, HELD_OUT)
    )
    iterations, converged = 1, True
    if how.method == LEACE:
        directions = leace(train.vectors, train.labels, len(data.classes))
    else:
        found = inlp(train, held_out, how.most, f"{data.name}, layer {layer}")
        directions, iterations, converged = found.directions, found.iterations, found.converged
    projection = Projection(layer, directions.mean, directions.left, directions.right, stack)
    before = gain(data, vectors, how.confidence)
    after = gain(data, {part: projection(each) for part, each in vectors.items()}, how.confidence)
    return LayerErasure(projection, iterations, converged, majority_share(data), before, after)


def gain(data: ProbingData, vectors: Mapping[str, Array], confidence: float) -> PairedDifference:
    """How much more often than the majority class a linear probe of these vectors is right, on the judged part."""
    tested = data.parts[TESTED]
    parts = standardised(vectors[TRAIN], vectors[HELD_OUT], vectors[TESTED])
    split = Split(parts[0], data.parts[TRAIN].labels, parts[1], data.parts[HELD_OUT].labels, parts[2])
    said = linear_probe(split, f"a linear probe of {data.name}")["predictions"]
    right, majority = (np.equal(each, tested.labels).astype(float) for each in (said, data.majority))
    return paired_difference(right, majority, tested.texts, confidence)


def majority_share(data: ProbingData) -> float:
    """How often the majority class is right, on the judged part."""
    return float((data.parts[TESTED].labels == data.majority).mean())
