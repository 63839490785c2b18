"""How much of a score is left when heads are masked, and how sure that is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.partial import in_parts, run_in_parts, taken
from pytest_bertology.engine.results import RawResults, noise
from pytest_bertology.engine.store import computed_once, stored
from pytest_bertology.errors import (
    BertologyWarning,
    CannotPrune,
    InvalidArgument,
    MaskNotApplied,
    NoHeadSelected,
    UndefinedScore,
)
from pytest_bertology.heads import Head, HeadLike, HeadMask, HeadScores
from pytest_bertology.heads.scores import refuse_equal
from pytest_bertology.measures.ablation import under
from pytest_bertology.measures.arguments import check_has_heads
from pytest_bertology.measures.bounds import drop_bound
from pytest_bertology.measures.early import EarlyVerdict, Requirement
from pytest_bertology.measures.evaluation import Outcomes, evaluate_exactly
from pytest_bertology.measures.importance import chosen_method, pruning_scores
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.skipping import skipped
from pytest_bertology.models.trained import as_trained, departs
from pytest_bertology.statistics import Bound
from pytest_bertology.tasks.metrics import Array
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


@dataclass(frozen=True, repr=False)
class Refutation:
    """A drop that is too large for certain, whatever the examples not run would give."""

    baseline: Outcomes
    """On all examples."""
    part: Retention
    """On the examples that were run, in the order of `positions`; no bound."""
    positions: tuple[int, ...]
    """Where the examples that were run stand in the task."""
    least: float
    """What the judged number (drop or bound, relative or not) is at least."""
    p_value: float | None = None
    """What the p-value of H0, that the true drop is the tolerance or more, is at least; None without confidence."""

    def __repr__(self) -> str:
        return f"Refutation(at least {self.least:.4f} after {len(self.positions)} of {len(self.baseline)} examples)"

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads whose gates are not open."""
        return self.part.heads


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

    Changes of attention and skipped layers in force around the call stay in force under `mask`, and are no part of the
    baseline. `confidence` adds an upper bound on the true drop (see `drop_bound`). With `structural` it is the model
    without the masked heads that is run (`model.pruned`), and not the masked one; raises CannotPrune where they cannot
    be cut.

    Raises MaskNotApplied where masked heads that are not idle change no result at all, bit for bit; warns where all
    masked heads are idle.
    """
    _check_confidence(confidence)
    baseline = trained_outcomes(model, task, batching)
    judged, gates = _side(model, mask, structural)
    masked = replace(evaluate_exactly(judged, task, gates, batching), mask=mask)
    return _compared(model, baseline, masked, confidence)


def retentions(
    model: ModelUnderTest, task: Task, masks: Iterable[HeadMask], *, confidence: float | None = None
) -> tuple[Retention, ...]:
    """`retention` under each of `masks`, in one sweep: that of `ablate_heads` where each masks one head of the map."""
    _check_confidence(confidence)
    baseline, outcomes = beside_trained(model, task, masks)
    return tuple(_compared(model, baseline, masked, confidence) for masked in outcomes)


def retention_or_refutation(
    model: ModelUnderTest,
    task: Task,
    mask: HeadMask,
    requirement: Requirement,
    *,
    structural: bool = False,
    batching: Batching | None = None,
) -> Retention | Refutation:
    """`retention`, or why the requirement cannot be met, as soon as that is certain from a part of the examples.

    The masked results are made a part at a time (see `EarlyVerdict`), where the metric lets a part prove a failure and
    the mask is seen to move the first part; otherwise, under a change of attention, and wherever another batching could
    decide, all at once.
    """
    _check_confidence(requirement.confidence)
    batching = batching or Batching()
    baseline = trained_outcomes(model, task, batching)
    judged, gates = _side(model, mask, structural)
    encoded = encode(judged, task)
    inputs = (judged, encoded, gates, batching)
    live = any(head not in model.check.idle for head in mask.touched)
    # Of nearly equal keys, which are the greatest is up to rounding, of which the noise of batching knows nothing.
    live = live and not judged.attention_changed()
    if live and requirement.provable(baseline.n_labels):
        verdict = EarlyVerdict(requirement, baseline.results(), _margins(baseline), noise(judged.dtype))
        rules = verdict.next_part, lambda at, part: _learned(verdict, at, part)
        known = stored("evaluation", inputs)
        # Known or not, a failure is told the same way: what a test says must not hang on what ran before it, and where.
        if known is None:
            positions, raw = run_in_parts(inputs, task.name, *rules)
        else:
            positions, raw = in_parts(partial(taken, RawResults(**known)), *rules)
        if verdict.failed and verdict.moved:
            before = replace(baseline, raw=taken(baseline.raw, positions))
            part = Retention(before, replace(before, mask=mask, raw=raw), None)
            return Refutation(baseline, part, positions, verdict.least, verdict.p_value)
        if known is None and verdict.moved and not verdict.close:
            computed_once("evaluation", inputs, lambda: vars(raw))
            return _compared(model, baseline, replace(baseline, mask=mask, raw=raw), requirement.confidence)
    masked = replace(evaluate_exactly(judged, task, gates, batching), mask=mask)
    return _compared(model, baseline, masked, requirement.confidence)


def _learned(verdict: EarlyVerdict, positions: Array, part: RawResults) -> bool:
    """Whether that is enough: the failure is certain, or there is nothing to see this way."""
    verdict.learn(positions, part.predictions, part.losses)
    return verdict.failed or not verdict.moved


def _check_confidence(confidence: float | None) -> None:
    numeric = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if confidence is not None and not (numeric and 0.5 <= confidence < 1.0):
        raise InvalidArgument("confidence", confidence, "a number from 0.5 to below 1, such as 0.95")


def trained_outcomes(model: ModelUnderTest, task: Task, batching: Batching | None = None) -> Outcomes:
    """The results of the model as trained, whatever is in force around the call."""
    with as_trained(model):
        return evaluate_exactly(model, task, HeadMask.keep_all(model.heads), batching)


def beside_trained(
    model: ModelUnderTest, task: Task, masks: Iterable[HeadMask], batching: Batching | None = None
) -> tuple[Outcomes, tuple[Outcomes, ...]]:
    """The results of the model as trained, and under exactly each of `masks` with what else is in force."""
    trained = HeadMask.keep_all(model.heads)
    if not departs(model):
        return under(model, task, trained, masks, batching=batching)
    baseline = trained_outcomes(model, task, batching)
    return baseline, under(model, task, trained, masks, batching=batching)[1]


def _side(model: ModelUnderTest, mask: HeadMask, structural: bool) -> tuple[ModelUnderTest, HeadMask]:
    """What is run, and under which mask: the model itself, or with `structural` the cut one as it is."""
    if not structural:
        return model, mask
    if skipped(model):
        reason = "layers are skipped (model.skipping(…)), and would not be in the cut model: leave the context first"
        raise CannotPrune(type(model.model).__name__, "its layers", reason, "Masks act beside it.")
    cut = model.pruned(mask)
    return cut, HeadMask.keep_all(cut.heads)


def _margins(outcomes: Outcomes) -> Array | None:
    """(examples,) the least distance of the two greatest logits over an example's items; None without logits."""
    raw = outcomes.raw
    if raw.logits.ndim != 2 or raw.logits.shape[1] < 2:
        return None
    best = np.partition(raw.logits, -2, axis=-1)[:, -2:]
    return np.asarray(np.minimum.reduceat(best[:, 1] - best[:, 0], np.cumsum(raw.counts) - raw.counts))


def _compared(model: ModelUnderTest, baseline: Outcomes, masked: Outcomes, confidence: float | None) -> Retention:
    touched = masked.mask.touched
    live = [head for head in touched if head not in model.check.idle]
    if live and _same(baseline, masked):
        names = " ".join(map(str, live[:8]))
        where = f"{model.name} on {baseline.task.name}"
        raise MaskNotApplied(f"masking {names} changes no result of {where}, bit for bit")
    if not live:
        warnings.warn(
            f"all {len(touched)} masked heads of {model.name} are idle: masking them cannot move its output",
            BertologyWarning,
            stacklevel=5,
        )
    bound = None if confidence is None else drop_bound(baseline, masked, confidence)
    return Retention(baseline, masked, bound)


def _same(one: Outcomes, other: Outcomes) -> bool:
    return bool(np.array_equal(one.raw.losses, other.raw.losses) and np.array_equal(one.raw.logits, other.raw.logits))


def least_important(
    model: ModelUnderTest, task: Task, fraction: float, by: str | Method | HeadScores = "gradient", seed: int = 0
) -> tuple[HeadMask, HeadScores]:
    """The mask of the least important `fraction` of all heads, rounded to whole heads, and the scores it goes by.

    Heads that a mask in force masks already are not chosen: the fraction comes on top of them. Scores of a method are
    of the model as it is in the call: masks, skipped layers and changes of attention in force count. `by` names a
    method of `head_importance` or is one of your own (see `pruning_scores` for what is normalised), or holds scores,
    which are used as they are. Raises InvalidArgument for a fraction outside 0 to 1, NoHeadSelected for one that rounds
    to no head, UndefinedScore where all heads score the same and not all are chosen.
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
    else:
        chosen_method(by, "by")
        scores = pruning_scores(model, task, by, seed=seed)
    masked = set(model.mask_in_force().masked)
    open_heads = [head for head in scores.bottom(total) if head not in masked]
    if count > len(open_heads):
        raise InvalidArgument("prune", fraction, f"at most the {len(open_heads)} of {total} heads not masked already")
    if count < len(open_heads):
        refuse_equal(scores)
    return HeadMask.without(model.heads, open_heads[:count]), scores


def mask_of(model: ModelUnderTest, heads: Iterable[HeadLike]) -> HeadMask:
    """The mask of these heads; raises NoHeadSelected for none."""
    mask = HeadMask.without(model.heads, heads)
    if not mask.masked:
        raise NoHeadSelected("heads=[] names no head", "Name the heads to mask.")
    return mask


def judged_mask(
    model: ModelUnderTest,
    mask: HeadMask | None,
    heads: Iterable[HeadLike] | None,
    prune: float | None,
    least: Callable[[float], tuple[HeadMask, str]],
) -> tuple[HeadMask, str]:
    """What is masked in all, by one of `mask`, `heads` and `prune` or by what is in force, and how it was chosen.

    `least` gives the least important fraction of the heads, and by what. Nothing may be masked in the end. Raises
    InvalidArgument for several of the three.
    """
    given = {"mask": mask, "heads": heads, "prune": prune}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InvalidArgument(named[1], given[named[1]], f"only one of mask, heads and prune; {named[0]} is given too")
    if prune is not None:
        chosen, by = least(prune)
        return model.together(chosen), f", the least important by {by}"
    if heads is not None:
        return model.together(mask_of(model, heads)), ""
    return model.together(() if mask is None else mask), ""
