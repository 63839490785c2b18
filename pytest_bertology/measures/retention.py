"""How much of a score is left when heads are masked, and how sure that is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import BertologyWarning, InvalidArgument, MaskNotApplied, NoHeadSelected, UndefinedScore
from pytest_bertology.heads import Head, HeadLike, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_has_heads
from pytest_bertology.measures.bounds import drop_bound
from pytest_bertology.measures.evaluation import Outcomes, evaluate_exactly
from pytest_bertology.measures.importance import head_importance
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.names import IMPORTANCE_METHODS
from pytest_bertology.statistics import Bound
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, repr=False)
class Retention:
    """A model's results with all heads as trained, and with some of them masked."""

    baseline: Outcomes
    masked: Outcomes
    bound: Bound | None
    """How large the true drop may be; None where no confidence was asked for."""

    def __repr__(self) -> str:
        return (
            f"Retention({self.baseline.metric.name} {self.baseline.score:.4f} → {self.masked.score:.4f}, "
            f"{len(self.masked.mask.masked)} of {len(self.masked.mask.heads)} heads masked)"
        )

    @property
    def drop(self) -> float:
        """How much worse the score is; negative where it is better."""
        return self.baseline.metric.drop(self.baseline.score, self.masked.score)

    @property
    def relative_drop(self) -> float:
        """The drop as a share of the baseline; raises UndefinedScore for a baseline of 0."""
        return self.drop / self.scale()

    def scale(self) -> float:
        """The size of the baseline, which relative drops are shares of."""
        if self.baseline.score == 0.0:
            raise UndefinedScore("the relative drop", f"the baseline {self.baseline.metric.name} is 0")
        return abs(self.baseline.score)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads whose gates are not open."""
        return self.masked.mask.touched


def retention(
    model: ModelUnderTest,
    task: Task,
    mask: HeadMask,
    *,
    confidence: float | None = None,
    structural: bool = False,
    batching: Batching | None = None,
) -> Retention:
    """Compare the model under exactly `mask` with the model as trained, example by example.

    `confidence` adds an upper bound on the true drop (see `drop_bound`). With `structural` it is the model without the
    masked heads that is run (`model.pruned`), and not the masked one; raises CannotPrune where they cannot be cut.

    Raises MaskNotApplied where masked heads that are not idle change no result at all, bit for bit; warns where all
    masked heads are idle.
    """
    numeric = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if confidence is not None and not (numeric and 0.5 <= confidence < 1.0):
        raise InvalidArgument("confidence", confidence, "a number from 0.5 to below 1, such as 0.95")
    baseline = evaluate_exactly(model, task, HeadMask.keep_all(model.heads), batching)
    masked = _cut(model, task, mask, batching) if structural else evaluate_exactly(model, task, mask, batching)
    live = [head for head in mask.touched if head not in model.check.idle]
    if live and _same(baseline, masked):
        names = " ".join(map(str, live[:8]))
        raise MaskNotApplied(f"masking {names} changes no result of {model.name} on {task.name}, bit for bit")
    if not live:
        warnings.warn(
            f"all {len(mask.touched)} masked heads of {model.name} are idle: masking them cannot move its output",
            BertologyWarning,
            stacklevel=4,
        )
    bound = None if confidence is None else drop_bound(baseline, masked, confidence)
    return Retention(baseline, masked, bound)


def _cut(model: ModelUnderTest, task: Task, mask: HeadMask, batching: Batching | None) -> Outcomes:
    """The cut model's results, under the name of the mask it was cut by."""
    cut = model.pruned(mask)
    return replace(evaluate_exactly(cut, task, HeadMask.keep_all(cut.heads), batching), mask=mask)


def _same(one: Outcomes, other: Outcomes) -> bool:
    return bool(np.array_equal(one.raw.losses, other.raw.losses) and np.array_equal(one.raw.logits, other.raw.logits))


def least_important(
    model: ModelUnderTest, task: Task, fraction: float, by: str | HeadScores = "gradient", seed: int = 0
) -> tuple[HeadMask, HeadScores]:
    """The mask of the least important `fraction` of all heads, rounded to whole heads, and the scores it goes by.

    Heads that a mask in force masks already are not chosen: the fraction comes on top of them. `by` names an importance
    method, whose scores are divided by each layer's L2 norm (Michel et al. 2019), or holds scores, which are used as
    they are. Raises InvalidArgument for a fraction outside 0 to 1, NoHeadSelected for one that rounds to no head.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0.0 <= fraction <= 1.0:
        raise InvalidArgument("prune", fraction, "a fraction of the heads, from 0 to 1")
    check_has_heads(model)
    total = len(model.heads)
    count = int(fraction * total + 0.5)
    if count == 0:
        raise NoHeadSelected(
            f"prune={fraction} of {total} heads rounds to no head",
            f"One head is {1 / total:.4g} of them; from {0.5 / total:.4g} on, a head is masked.",
        )
    if isinstance(by, HeadScores):
        scores = by
        model.as_mask(HeadMask.keep_all(by.heads))
    elif by not in IMPORTANCE_METHODS:
        raise InvalidArgument("by", by, f"head scores, or one of {', '.join(IMPORTANCE_METHODS)}")
    elif by == "random":
        scores = head_importance(model, task, by, seed=seed)
    else:
        scores = head_importance(model, task, by).normalized(per_layer=True, min_max=False)
    masked = set(model.mask_in_force().masked)
    open_heads = [head for head in scores.bottom(total) if head not in masked]
    if count > len(open_heads):
        raise InvalidArgument("prune", fraction, f"at most the {len(open_heads)} of {total} heads not masked already")
    return HeadMask.without(model.heads, open_heads[:count]), scores


def mask_of(model: ModelUnderTest, heads: Iterable[HeadLike]) -> HeadMask:
    """The mask of these heads; raises NoHeadSelected for none."""
    mask = HeadMask.without(model.heads, heads)
    if not mask.masked:
        raise NoHeadSelected("heads=[] names no head", "Name the heads to mask.")
    return mask
