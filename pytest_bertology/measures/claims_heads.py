"""Claims about heads: that many can go, and that single ones are for single relations."""

from __future__ import annotations

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.bounds import drop_bound
from pytest_bertology.measures.claims_catalogue import CASES, COST, SHARE, TRACKED
from pytest_bertology.measures.claims_finding import FAILS, HOLDS, UNDECIDED, ClaimFinding, Examined
from pytest_bertology.measures.curve import pruning_curve
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.relation_intervals import share_interval
from pytest_bertology.measures.relations import head_relations
from pytest_bertology.measures.retention import least_important, retention
from pytest_bertology.tasks.metrics import CLASSIFICATION, METRICS

_ROUNDING = 1e-9


def redundant_heads(given: Examined) -> ClaimFinding:
    """See the catalogue."""
    model, judged, ranked = given.model, given.task, given.train
    if ranked is None:
        if len(judged) < 4:
            raise InvalidArgument("task", judged.name, "four examples or more, of which every second ranks the heads")
        judged, ranked = judged.subset(range(1, len(judged), 2)), judged.subset(range(0, len(judged), 2))
    mask, scores = least_important(model, ranked, SHARE, seed=given.seed)
    curve = pruning_curve(model, judged, scores, [0.0, 0.1, 0.2, 0.3, SHARE], batching=given.batching)
    one_sided = 0.5 + given.confidence / 2.0
    found = retention(model, judged, mask, confidence=one_sided, batching=given.batching)
    assert found.bound is not None
    scale = found.scale()
    lower = -drop_bound(found.masked, found.baseline, one_sided).upper / scale
    upper, cost = found.bound.upper / scale, found.relative_drop
    outcome, reason = UNDECIDED, f"the cost may be above or below {COST:.0%}: more examples may decide"
    if upper <= COST + _ROUNDING:
        outcome, reason = HOLDS, f"the cost is surely at most {COST:.0%} of the score"
    elif lower > COST + _ROUNDING:
        outcome, reason = FAILS, f"the cost is surely above {COST:.0%} of the score"
    if outcome == HOLDS and _is_guessing(found.baseline, given.confidence):
        outcome, reason = UNDECIDED, "as trained the model is not surely better than always the most frequent label"
    metric, count = found.baseline.metric.name, len(mask.masked)
    return ClaimFinding(
        claim=given.claim,
        model=model.name,
        data=judged.name,
        outcome=outcome,
        reason=reason,
        value=cost,
        interval=(lower, upper),
        required=f"surely at most {COST:g}",
        judged=f"share of the {metric} lost with {count} of {len(model.heads)} heads masked",
        examples=len(judged),
        confidence=given.confidence,
        evidence=curve,
        rows={
            metric: f"{found.baseline.score:.4f} as trained, {found.masked.score:.4f} masked ({len(judged)} examples)",
            "curve": "  ".join(f"{point.fraction:.0%}: {point.score:.4f}" for point in curve.points),
            "ranked on": f"{ranked.name} ({len(ranked)} examples), by {scores.method}",
        },
    )


def _is_guessing(outcomes: Outcomes, confidence: float) -> bool:
    """Whether a classifier's accuracy is not surely above the share of its most frequent label."""
    if outcomes.metric != METRICS["accuracy"] or outcomes.task.kind != CLASSIFICATION:
        return False
    majority = float(np.bincount(outcomes.raw.labels).max() / len(outcomes))
    right = outcomes.right.astype(np.float64)
    return share_interval(right, np.arange(len(outcomes)), confidence)[0] <= majority


def single_relations(given: Examined) -> ClaimFinding:
    """See the catalogue."""
    report = head_relations(
        given.model,
        given.conllu,
        select=given.train,
        min_cases=CASES,
        confidence=given.confidence,
        batching=given.batching,
    )
    total = len(report.relations)
    surely = [each for each in report.bests if each.beats_offset]
    not_so = [each for each in report.bests if not each.beats_offset and each.difference_interval[1] <= 0.0]
    share, most = len(surely) / total, (total - len(not_so)) / total
    outcome, reason = UNDECIDED, f"{total - len(surely) - len(not_so)} of {total} relations cannot be told"
    if share >= TRACKED - _ROUNDING:
        outcome, reason = HOLDS, f"{len(surely)} of {total} relations have a head that is surely better than an offset"
    elif most < TRACKED - _ROUNDING:
        outcome, reason = (
            FAILS,
            f"of {len(not_so)} of {total} relations the best head is surely no better than an offset",
        )
    shown = [f"{each.relation}: {each.head} {each.accuracy:.3f} ({each.offset_accuracy:.3f})" for each in report.bests]
    heads = len({each.head for each in surely})
    return ClaimFinding(
        claim=given.claim,
        model=given.model.name,
        data=report.data,
        outcome=outcome,
        reason=reason,
        value=share,
        interval=(share, most),
        required=f"surely at least {TRACKED:g}",
        judged=f"share of {total} relations with a head that is surely better than the best offset",
        examples=int(np.sum([each.cases for each in report.bests])),
        confidence=given.confidence,
        evidence=report,
        rows={"best heads": f"{'  '.join(shown)} (in brackets: best offset)", "different": f"{heads} heads"},
    )
