"""How much of a score is left when heads are masked, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument, MaskNotApplied, NoHeadSelected, UndefinedScore
from pytest_bertology.heads import Head, HeadLike, HeadMask, HeadScores
from pytest_bertology.measures.evaluation import Outcomes, evaluate_exactly
from pytest_bertology.measures.importance import check_method, head_importance
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.statistics import Bound, bootstrap_upper_bound, mean_upper_bound, tango_upper_bound
from pytest_bertology.tasks.metrics import CLASSIFICATION, REGRESSION
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
    batching: Batching | None = None,
) -> Retention:
    """Compare the model under exactly `mask` with the model as trained, example by example.

    `confidence` adds an upper bound on the true drop: Tango's score interval for the accuracy of classifications,
    Student's t for mean losses, a paired bootstrap over examples for all else.

    Raises MaskNotApplied where masked heads that are not idle change no result at all, bit for bit.
    """
    if confidence is not None and not 0.5 <= confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number from 0.5 to below 1, such as 0.95")
    baseline = evaluate_exactly(model, task, HeadMask.keep_all(model.heads), batching)
    masked = evaluate_exactly(model, task, mask, batching)
    live = [head for head in mask.touched if head not in model.check.idle]
    if live and _same(baseline, masked):
        names = " ".join(map(str, live[:8]))
        raise MaskNotApplied(f"masking {names} changes no result of {model.name} on {task.name}, bit for bit")
    bound = None if confidence is None else drop_bound(baseline, masked, confidence)
    return Retention(baseline, masked, bound)


def drop_bound(baseline: Outcomes, masked: Outcomes, confidence: float) -> Bound:
    """An upper confidence bound on the drop from `baseline` to `masked`, results of the same examples."""
    metric, kind = baseline.metric, baseline.task.kind
    n = len(baseline)
    unchanged = bool(np.array_equal(baseline.raw.predictions, masked.raw.predictions))
    if kind == CLASSIFICATION and (metric.name == "accuracy" or (unchanged and metric.name != "loss")):
        # No resample can show a change that no example shows; where no prediction changed, the bound on accuracy
        # stands in for that of F1 or Matthews.
        worse = int((baseline.right & ~masked.right).sum())
        better = int((~baseline.right & masked.right).sum())
        return tango_upper_bound(worse, better, n, confidence)
    if kind in (CLASSIFICATION, REGRESSION) and metric.name == "loss":
        return mean_upper_bound(masked.losses - baseline.losses, confidence)
    return bootstrap_upper_bound(lambda chosen: _resampled_drop(baseline, masked, chosen), n, confidence)


def _resampled_drop(
    baseline: Outcomes, masked: Outcomes, chosen: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> float:
    try:
        return baseline.metric.drop(baseline.resampled(chosen), masked.resampled(chosen))
    except UndefinedScore:
        return float("nan")


def _same(one: Outcomes, other: Outcomes) -> bool:
    return bool(np.array_equal(one.raw.losses, other.raw.losses) and np.array_equal(one.raw.logits, other.raw.logits))


def least_important(
    model: ModelUnderTest, task: Task, fraction: float, by: str | HeadScores = "gradient", seed: int = 0
) -> tuple[HeadMask, HeadScores]:
    """The mask of the least important `fraction` of the heads, rounded to whole heads, and the scores it goes by.

    `by` names an importance method, whose scores are divided by each layer's L2 norm (Michel et al. 2019), or holds
    scores, which are used as they are. Raises InvalidArgument for a fraction outside 0 to 1, NoHeadSelected for one
    that rounds to no head.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0.0 <= fraction <= 1.0:
        raise InvalidArgument("prune", fraction, "a fraction of the heads, from 0 to 1")
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
    elif check_method(by) == "random":
        scores = head_importance(model, task, "random", seed=seed)
    else:
        scores = head_importance(model, task, by).normalized(per_layer=True, min_max=False)
    return HeadMask.without(model.heads, scores.bottom(count)), scores


def mask_of(model: ModelUnderTest, heads: Iterable[HeadLike]) -> HeadMask:
    """The mask of these heads; raises NoHeadSelected for none."""
    mask = HeadMask.without(model.heads, heads)
    if not mask.masked:
        raise NoHeadSelected("heads=[] names no head", "Name the heads to mask.")
    return mask
