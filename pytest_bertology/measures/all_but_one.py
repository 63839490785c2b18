"""What one head can do alone: the score of a layer reduced to a single head."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import BertologyWarning, NothingToJudge, UnknownLayer
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadMask, HeadScores
from pytest_bertology.heads.maps import Layer, is_whole
from pytest_bertology.measures.ablation import score_without, under
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.no_ops import refuse_no_op
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.retention import Retention, beside_trained
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


class BestHead(NamedTuple):
    """The single head that serves a layer best."""

    head: Head
    score: float
    """Of the model with only this head left in its layer."""
    change: float
    """`score` − baseline."""
    of: int
    """How many heads the layer has open; 1: nothing was ablated, and the score is the baseline."""


@dataclass(frozen=True, eq=False, repr=False)
class AllButOneReport:
    """What a score becomes when a layer is reduced to one of its heads, for each head."""

    baseline: Outcomes
    """Results under the masks in force around the call, and no further head ablated."""
    scores: HeadScores
    """The score of the model with only that head left in its layer, all other layers whole."""
    score_change: HeadScores
    """`scores` − baseline, in units of the metric."""
    ablation: str
    best: tuple[BestHead, ...]
    """Per layer that has an open head, the head that alone costs least; of equals, that of the lowest mean loss.

    Chosen and scored on the same examples, so that its score is a little too good: Michel et al. choose on one set and
    report on another.
    """
    _outcomes: tuple[Outcomes, ...] = field(repr=False)

    def __repr__(self) -> str:
        found = f"{self.baseline.metric.name} {self.baseline.score:.4f}, {len(self.best)} layers"
        return f"AllButOneReport({found}, {self.ablation} ablation)"

    def outcomes(self, head: HeadLike) -> Outcomes:
        """The results, example by example, with only this head left in its layer."""
        return self._outcomes[self.scores.heads.index(head)]

    def table(self) -> str:
        """Per layer its best head, as text of a line each."""
        metric, width = self.baseline.metric.name, max([4, *(len(str(best.head)) for best in self.best)])
        lines = [
            f"each layer reduced to its best head: {metric} {self.baseline.score:.4f} on {len(self.baseline)} examples",
            f"{'best':<{width}}  {'score':>9}  {'change':>9}  of heads",
        ]
        for head, score, change, of in self.best:
            said = "1, nothing to ablate" if of == 1 else str(of)
            lines.append(f"{head!s:<{width}}  {score:>9.4f}  {change:>+9.4f}  {said}")
        return "\n".join(lines)


@remakeable
@announced("all-but-one")
def ablate_all_but_one(
    model: ModelUnderTest,
    task: Task,
    ablation: str = "zero",
    *,
    seed: int = 0,
    batching: Batching | None = None,
) -> AllButOneReport:
    """Reduce each layer in turn to each one of its heads, beside the masks in force (Michel et al. 2019, section 3.3).

    `ablation` and `seed` are those of `ablate_heads`. A layer of which only one head is open has nothing to ablate: its
    score is the baseline. Raises InvalidArgument, UndefinedScore.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    base = model.mask_in_force()
    masks = [base | alone_in_layer(head, base) for head in model.heads]
    baseline, outcomes = under(model, task, base, masks, ablation, seed, batching)
    scores = np.array(
        [score_without(found, head, "with only") for head, found in zip(model.heads, outcomes, strict=True)]
    )
    name = f"{ablation} ablation of all other heads of the layer"
    found = HeadScores(scores, model.heads, f"{name}: {task.metric.name}")
    return AllButOneReport(
        baseline=baseline,
        scores=found,
        score_change=HeadScores(scores - baseline.score, model.heads, f"{name}: change in {task.metric.name}"),
        ablation=ablation,
        best=tuple(
            _best({head: outcomes[model.heads.index(head)] for head in heads}, found, baseline)
            for layer in model.heads.layers
            if (heads := open_heads(layer, base))
        ),
        _outcomes=outcomes,
    )


@dataclass(frozen=True, eq=False, repr=False)
class ReducedLayer:
    """What is left of a score when one layer is reduced to one of its heads, for each of them."""

    retained: Mapping[Head, Retention]
    """For each open head of the layer, results with all heads as trained, and with only that head left in its layer."""

    def __repr__(self) -> str:
        return f"ReducedLayer(best {self.best}: {self.retained[self.best]!r})"

    @property
    def best(self) -> Head:
        """The head that alone costs least; of equals, that of the lowest mean loss."""
        return self.ranked[0]

    @cached_property
    def ranked(self) -> tuple[Head, ...]:
        """The heads of the layer, that which alone costs least first; of equals, that of the lowest mean loss."""
        by_cost = {head: (each.drop, mean_loss(each.masked)) for head, each in self.retained.items()}
        return tuple(sorted(by_cost, key=by_cost.__getitem__))


def reduced_layer(
    model: ModelUnderTest, task: Task, layer: int, stack: str | None = None, batching: Batching | None = None
) -> ReducedLayer:
    """Compare the model with only one head left in a layer with the model as trained, for each head of the layer.

    Masks in force around the call count as masked beside the layer's other heads. Raises UnknownLayer, NothingToJudge
    for a layer of which nothing can be ablated, MaskNotApplied where the mask of live heads changes no result; warns
    where the whole layer is idle.
    """
    known = {(found.layer, found.stack): found for found in model.heads.layers}
    if not is_whole(layer) or (layer, stack or None) not in known:
        raise UnknownLayer(layer if stack is None else (layer, stack), _numbers(model.heads))
    base = model.mask_in_force()
    left = open_heads(known[layer, stack or None], base)
    if not left or known[layer, stack or None].heads == 1:
        what = f"layer {layer} has {'one head' if left else 'no head that is open'}"
        raise NothingToJudge(what, "Name a layer of two heads or more.")
    masks = [base | alone_in_layer(head, base) for head in left]
    baseline, outcomes = beside_trained(model, task, masks, batching)
    for found in outcomes:
        refuse_no_op(model, baseline, found, found.mask.touched)
    if all(head in model.check.idle for found in outcomes for head in found.mask.touched):
        text = f"all heads of layer {layer} of {model.name} are idle: masking them cannot move its output"
        warnings.warn(text, BertologyWarning, stacklevel=4)
    return ReducedLayer({head: Retention(baseline, found, None) for head, found in zip(left, outcomes, strict=True)})


def open_heads(layer: Layer, base: HeadMask) -> list[Head]:
    """The heads of a layer that `base` does not mask."""
    heads = (Head(layer.layer, head, layer.stack) for head in range(layer.heads))
    return [head for head in heads if base.gate(head) > 0.0]


def alone_in_layer(head: Head, base: HeadMask) -> HeadMask:
    """The mask of all other heads of the layer."""
    others = [other for other in base.heads if (other.layer, other.stack) == (head.layer, head.stack) and other != head]
    return HeadMask.without(base.heads, others)


def mean_loss(outcomes: Outcomes) -> float:
    """By which heads of equal scores are told apart."""
    return outcomes.rescored("loss").score


def _numbers(heads: HeadMap) -> str:
    """What layers there are, and how they are counted."""
    last = {stack: len(counts) - 1 for stack, counts in heads.to_stacks().items()}
    named = (f"{stack + ' ' if stack else ''}layers 0 to {number}" for stack, number in last.items())
    return f"{heads.describe()} ({', '.join(named)})"


def _best(heads: Mapping[Head, Outcomes], scores: HeadScores, baseline: Outcomes) -> BestHead:
    def cost(head: Head) -> tuple[float, float]:
        return baseline.metric.drop(baseline.score, scores[head]), mean_loss(heads[head])

    best = min(heads, key=cost)
    return BestHead(best, scores[best], scores[best] - baseline.score, len(heads))
