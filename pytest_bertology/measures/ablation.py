"""What each head is worth: the score without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadMask, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.no_ops import refuse_no_op
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.resampling import closed_form, scores_on
from pytest_bertology.measures.sweeping import evaluate_masks
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.names import CORRECTIONS
from pytest_bertology.significance import adjusted_p_values, bootstrap_p_values
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, eq=False, repr=False)
class AblationReport:
    """What a score becomes when each head, and no other, is ablated."""

    baseline: Outcomes
    """Results under the masks in force around the call, and no further head ablated."""
    score_change: HeadScores
    """Score without the head − baseline, in units of the metric: negative is worse where more is better."""
    loss_change: HeadScores
    """Mean loss without the head − baseline, in nats (squared error for regression)."""
    p_values: HeadScores
    """Two-sided, of no change in score; uncorrected; from a paired bootstrap over examples."""
    ablation: str
    correction: str | None
    """How `adjusted_p_values` allow for the number of heads: "holm", "bonferroni", "fdr" or None."""
    resamples: int
    tested: tuple[Head, ...]
    """The heads that were ablated: all but those masked already."""
    _outcomes: tuple[Outcomes, ...] = field(repr=False)

    def __repr__(self) -> str:
        found = f"{self.baseline.metric.name} {self.baseline.score:.4f}, {len(self.tested)} heads"
        worst = self.drop.top(1)[0]
        return f"AblationReport({found}, {self.ablation} ablation; most costs {worst}: {self.score_change[worst]:+.4f})"

    def outcomes(self, head: HeadLike) -> Outcomes:
        """The results, example by example, without this head."""
        return self._outcomes[self.score_change.heads.index(head)]

    @cached_property
    def drop(self) -> HeadScores:
        """How much worse the score is without each head: `score_change` with the sign by which more is worse.

        The head that costs most has rank 0, so that rankings can be checked, compared and pruned by.
        """
        values = self.score_change.values
        worse = -values if self.baseline.metric.higher_is_better else values
        return HeadScores(worse + 0.0, self.score_change.heads, f"{self.ablation} ablation")  # no -0.0

    @cached_property
    def adjusted_p_values(self) -> HeadScores:
        """The p-values corrected for the number of heads tested."""
        heads, values = self.p_values.heads, np.ones(len(self.p_values))
        at = [heads.index(head) for head in self.tested]
        values[at] = adjusted_p_values(self.p_values.values[at], self.correction)
        return HeadScores(values, heads, f"{self.p_values.method}, corrected: {self.correction}")

    def significant(self, alpha: float = 0.05) -> tuple[Head, ...]:
        """The heads whose ablation changes the score, by corrected p-values up to `alpha`.

        Raises NothingToJudge where the resamples are so few that no head could be found: the smallest p-value is
        1 / (resamples + 1), and the correction multiplies it.
        """
        if not self.can_find(alpha):
            tests = self._multiplier()
            what = f"{self.resamples} resamples give no corrected p-value up to {alpha:g} for {tests} heads"
            raise NothingToJudge(what, f"Give resamples={int(np.ceil(10 * tests / alpha))} or more.")
        return tuple(head for head in self.tested if self.adjusted_p_values[head] <= alpha)

    def can_find(self, alpha: float = 0.05) -> bool:
        """Whether there are resamples enough for some head to be significant."""
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0.0 < alpha < 1.0:
            raise InvalidArgument("alpha", alpha, "a number between 0 and 1, such as 0.05")
        return self._multiplier() / (self.resamples + 1) <= alpha

    def _multiplier(self) -> int:
        """What the correction multiplies the smallest p-value by."""
        return len(self.tested) if self.correction in ("holm", "bonferroni") else 1

    def table(self, k: int | None = None) -> str:
        """The `k` heads that cost most (default: all), as text of a line each; of equals, what raises the loss most."""
        metric = self.baseline.metric.name
        count = len(self.drop.top(len(self.drop) if k is None else k))
        chosen = sorted(self.drop.heads, key=lambda head: (-self.drop[head], -self.loss_change[head]))[:count]
        width = max([4, *(len(str(head)) for head in chosen)])
        lines = [
            f"{self.ablation} ablation of single heads: {metric} {self.baseline.score:.4f} on {len(self.baseline)} "
            f"examples; p: paired bootstrap, {self.resamples} resamples, corrected: {self.correction or 'not'}",
            f"{'head':<{width}}  {'score':>9}  {'change':>9}  {'loss':>9}  {'p':>8}  {'corrected':>9}",
        ]
        for head in chosen:
            numbers = (self.outcomes(head).score, self.score_change[head], self.loss_change[head])
            shown = "  ".join(f"{number:>{sign}9.4f}" for number, sign in zip(numbers, ("", "+", "+"), strict=True))
            p, adjusted = self.p_values[head], self.adjusted_p_values[head]
            lines.append(f"{head!s:<{width}}  {shown}  {p:>8.2g}  {adjusted:>9.2g}")
        return "\n".join(lines)


@remakeable
@announced("ablation")
def ablate_heads(
    model: ModelUnderTest,
    task: Task,
    ablation: str = "zero",
    *,
    seed: int = 0,
    resamples: int | None = None,
    correction: str | None = "holm",
    batching: Batching | None = None,
) -> AblationReport:
    """Ablate each head by itself, beside the masks in force around the call, and judge the change (Michel et al. 2019).

    `ablation` replaces a head's output by "zero", its "mean" over the data, or that of another example ("resample",
    drawn with `seed`). Each change comes with a two-sided p-value of a paired bootstrap over examples (section 3; see
    `bootstrap_p_values`), drawn with `seed`, and `adjusted_p_values` correct them for the number of heads by Holm's
    method, "bonferroni", "fdr" (Benjamini-Hochberg) or, with None, not at all. p-values are no smaller than
    1 / (resamples + 1), which 144 corrected tests of the paper's 1,000 resamples can never bring to 0.05: the default
    is 100 resamples per head, 1,000 at least; and 1,000 for metrics that take long (spearman, functions of your own).

    A head that is masked already is not ablated: its change is 0 and its p-value 1. Heads that do the same work each
    cost nothing alone: judge them together with `evaluate(model, task, mask=[a, b])` or `assert_heads_prunable`.

    Raises InvalidArgument; UndefinedScore where there is no score without some head; MaskNotApplied where zeroing a
    head that is not idle changes no result, bit for bit.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    if correction not in (None, *CORRECTIONS):
        raise InvalidArgument("correction", correction, f"{', '.join(CORRECTIONS)}, or None")
    if resamples is not None and not (is_whole(resamples) and resamples >= 1):
        raise InvalidArgument("resamples", resamples, "a whole number from 1, or None")
    base = model.mask_in_force()
    masks = [base | HeadMask.without(model.heads, [head]) for head in model.heads]
    baseline, outcomes = under(model, task, base, masks, ablation, seed, batching)
    if ablation == "zero" and not base.touched:
        for head, found in zip(model.heads, outcomes, strict=True):
            refuse_no_op(model, baseline, found, [head])
    tested = tuple(head for head in model.heads if base.gate(head) > 0.0)
    drawn = resamples or (max(1000, 100 * len(tested)) if closed_form(baseline) else 1000)
    changes, losses = _changes(baseline, outcomes, model.heads)
    p_values = _p_values(baseline, outcomes, changes, int(drawn), seed)

    def scores(values: Any, what: str) -> HeadScores:
        return HeadScores(values, model.heads, f"{ablation} ablation: {what}")

    return AblationReport(
        baseline=baseline,
        score_change=scores(changes, f"change in {task.metric.name}"),
        loss_change=scores(losses, "change in loss"),
        p_values=scores(p_values, f"p of no change in {task.metric.name}"),
        ablation=ablation,
        correction=correction,
        resamples=int(drawn),
        tested=tested,
        _outcomes=outcomes,
    )


def under(
    model: ModelUnderTest,
    task: Task,
    base: HeadMask,
    masks: Iterable[HeadMask],
    ablation: str = "zero",
    seed: int = 0,
    batching: Batching | None = None,
) -> tuple[Outcomes, tuple[Outcomes, ...]]:
    """Results under exactly `base`, and under each of `masks`; equal masks, and `base` itself, are run once."""
    masks = list(masks)
    distinct = list(dict.fromkeys(mask for mask in masks if mask != base))
    swept = evaluate_masks(model, task, distinct, base=base, ablation=ablation, seed=seed, batching=batching)
    known = {base: swept.baseline, **dict(zip(distinct, swept.variants, strict=True))}
    return swept.baseline, tuple(known[mask] for mask in masks)


def _changes(baseline: Outcomes, outcomes: Sequence[Outcomes], heads: HeadMap) -> tuple[Any, Any]:
    """Of the score, and of the loss; one per head."""
    score, loss = baseline.score, baseline.rescored("loss").score
    changes = [score_without(found, head) - score for head, found in zip(heads, outcomes, strict=True)]
    return np.array(changes), np.array([found.rescored("loss").score - loss for found in outcomes])


def score_without(found: Outcomes, head: Head, what: str = "without") -> float:
    """The score; where there is none, the error says for which head."""
    try:
        return found.score
    except UndefinedScore as error:
        raise UndefinedScore(f"{found.metric.name} {what} {head}", error.reason) from error


def _p_values(baseline: Outcomes, outcomes: Sequence[Outcomes], changes: Any, resamples: int, seed: int) -> Any:
    """One per head; only scores that changed need resampling."""
    values = np.ones(len(changes))
    moved = [int(i) for i in np.flatnonzero(changes)]
    if moved:
        scores = scores_on([baseline, *(outcomes[i] for i in moved)])

        def drawn(counts: Any) -> Any:
            found = scores(counts)
            return found[:, 1:] - found[:, :1]

        observed = changes[moved]
        values[moved] = bootstrap_p_values(drawn, observed, len(baseline), resamples=resamples, seed=seed)
    return values
