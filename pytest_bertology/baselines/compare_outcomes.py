"""Outcomes beside a baseline's: the same examples judged twice, so that a paired test decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_bertology.baselines.comparison import Comparison, Limits
from pytest_bertology.baselines.records import outcomes_of
from pytest_bertology.checks.explain import shown
from pytest_bertology.checks.explain_power import examples_for
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.paired import Comparison as Paired
from pytest_bertology.measures.paired import compare, paired_p_value
from pytest_bertology.measures.resampling import closed_form_of
from pytest_bertology.rounding import rounded_up
from pytest_bertology.tasks.metrics import CLASSIFICATION, METRICS, REGRESSION

_WORST = 8
"""Examples that a report shows."""
_SHOWN = 5
"""Of these, on the terminal."""
_ROUNDING = 1e-9
_DIGITS = 1e-5
"""Losses are kept to six digits."""
_SMALLEST, _OF_FEW = 1.5e-4, 6e-4
"""The least levels at which bootstraps of 10,000 and of 2,000 resamples can refuse (`measures.paired`)."""


def compare_outcomes(
    kept: Mapping[str, Any], now: Outcomes, limits: Limits, labels: Mapping[int, str] | None, noise: float
) -> Comparison:
    """Judge outcomes of the same task by what was kept of others.

    Without limits: failed where the candidate is significantly worse, by a one-sided paired test at `limits.level`.
    With a tolerance: passed where the upper confidence bound on the drop is within it (non-inferiority), failed where
    the lower one is beyond it, inconclusive between, with the p-value of a true drop of the tolerance or more.
    `max_changed` comes beside either. `noise` is what re-batching may move a loss by: less counts as no change.
    """
    limits.only("outcomes", "tolerance", "relative", "confidence", "max_changed")
    before = outcomes_of(kept, now)
    now = _without_noise(before, now, noise)
    paired = compare(before, now, confidence=limits.confidence)
    level = _level(paired, now, limits)
    found = _significance(paired, level) if limits.tolerance is None else _non_inferior(paired, limits)
    changed = int((before.raw.predictions != now.raw.predictions).sum())
    found = {"metric": now.metric.name} | found
    found = _few_changed(found, changed, len(now.raw.predictions), limits)
    evidence = _evidence(before, now, labels)
    rows = {
        "baseline": f"{kept['score']:.4f}{_right(before)}",
        "candidate": f"{now.score:.4f}{_right(now)}",
        "drop": f"{paired.drop:.4f}; p {paired.p_worse:.2g} of no drop ({paired.method})",
        **found.pop("rows", {}),
        "required": found["required"],
        "changed": f"{changed} of {len(now.raw.predictions)} predictions",
        "mean loss": f"{kept['loss']:.4f} → {_loss(now):.4f}",
    }
    refuted = not found["passed"] and not found.get("inconclusive", False)
    power = [] if refuted else _power(now, paired.changed, limits)
    if power:
        rows["power"] = "; ".join(power)
    improved = paired.drop < 0.0 and paired_p_value(now, before, alternative="worse") < level
    return Comparison(
        **{"p_value": paired.p_worse, **found},
        rows=rows,
        lines=tuple(_lines(evidence)),
        evidence=evidence,
        baseline=kept["score"],
        score=now.score,
        examples=len(now),
        better=improved,
        power=tuple(power),
    )


def _significance(paired: Paired, level: float) -> dict[str, Any]:
    return {
        "passed": paired.p_worse > level,
        "tests": "change",
        "observed": paired.drop,
        "judged": "drop from the baseline",
        "required": f"not significant (p > {level:.2g})",
        "title": f"{paired.metric} is significantly worse than its baseline",
    }


def _level(paired: Paired, now: Outcomes, limits: Limits) -> float:
    """No p-value of a bootstrap is smaller than its resamples allow, however many comparisons a run has."""
    if "bootstrap" not in paired.method:
        return limits.level
    return max(limits.level, _SMALLEST if closed_form_of(now.metric) else _OF_FEW)


def _non_inferior(paired: Paired, limits: Limits) -> dict[str, Any]:
    tolerance = limits.tolerance
    assert tolerance is not None
    if limits.relative and paired.before == 0.0:
        raise UndefinedScore("the relative drop", f"the baseline {paired.metric} is 0")
    scale = abs(paired.before) if limits.relative else 1.0
    upper, relative = paired.bound.upper / scale, "relative " if limits.relative else ""
    passed = upper <= tolerance + _ROUNDING
    within = paired.bound.lower / scale <= tolerance + _ROUNDING
    may = "may be" if within else "is"
    title = f"{paired.metric} {may} worse than its baseline by more than the tolerance"
    needed = None
    said = f"below {rounded_up(upper)} with {limits.confidence:.0%} confidence ({paired.bound.method})"
    if not passed and within:
        needed = examples_for(paired.bound.test, paired.examples, tolerance * scale, limits.confidence)
        said += _advice(paired, upper, needed, itself=paired.drop <= tolerance * scale)
    return {
        "passed": passed,
        "inconclusive": not passed and within,
        "p_value": paired.bound.p_value((tolerance + _ROUNDING) * scale),
        "confidence": limits.confidence,
        "observed": upper,
        "judged": f"bound on the {relative}drop from the baseline",
        "required": f"<= {tolerance:g}",
        "title": f"{title}: the examples are too few to tell" if within else title,
        "needed": needed,
        "rows": {"true drop": said},
    }


def _advice(paired: Paired, upper: float, needed: int | None, *, itself: bool) -> str:
    """What to do where the examples are too few, in the words of `assert_metric_retained`."""
    about = "" if needed is None else f"; about {needed:,} examples"
    within = "The drop itself is within the tolerance, but " if itself else ""
    return (
        f". {within}{paired.examples} examples cannot establish that: the smallest tolerance that they could is "
        f"{rounded_up(upper)}. Use more examples or that tolerance{about}."
    )


def _few_changed(found: dict[str, Any], changed: int, total: int, limits: Limits) -> dict[str, Any]:
    """The same, or failed where more predictions changed than may."""
    most = limits.max_changed
    if most is None or not found["passed"] or changed / total <= most + _ROUNDING:
        return found
    return found | {
        "passed": False,
        "inconclusive": False,
        "tests": "",  # no p-value refused it
        "needed": None,
        "observed": changed / total,
        "metric": None,
        "judged": "share of predictions that changed since the baseline",
        "required": f"<= {most:g}",
        "title": f"more predictions changed than may: {changed} of {total}",
    }


def _without_noise(before: Outcomes, now: Outcomes, noise: float) -> Outcomes:
    """What differs by less than batching may move counts as unchanged: a test would find the least shift of all."""
    raw = now.raw
    if not np.isnan(before.losses).any():
        close = np.abs(raw.losses - before.losses) <= noise + _DIGITS * np.abs(before.losses)
        raw = replace(raw, losses=np.where(close, before.losses, raw.losses))
    if now.task.kind == REGRESSION:
        old = before.raw.predictions
        close = np.abs(raw.predictions - old) <= noise + _DIGITS * np.abs(old)
        raw = replace(raw, predictions=np.where(close, old, raw.predictions))
    return replace(now, raw=raw)


def _evidence(before: Outcomes, now: Outcomes, labels: Mapping[int, str] | None) -> dict[str, Any]:
    """What changed: how many items became wrong and right, and those that the candidate is surest of, though wrong."""
    if now.task.kind == REGRESSION:
        return {}
    raw = now.raw
    lost, gained = np.flatnonzero(before.right & ~now.right), np.flatnonzero(~before.right & now.right)
    example = np.repeat(np.arange(len(now)), raw.counts) if len(raw.labels) != len(now) else np.arange(len(now))
    margins = np.zeros(len(lost))
    if raw.logits.ndim == 2 and raw.logits.shape[1] > 1:
        two = np.sort(raw.logits[lost], axis=1)[:, -2:]
        margins = two[:, 1] - two[:, 0]

    def named(label: Any) -> str:
        return str(label if labels is None else labels.get(int(label), label))

    worst = [
        {
            "example": int(example[lost[i]]),
            "text": shown(now.task, int(example[lost[i]])),
            "label": named(raw.labels[lost[i]]),
            "before": named(before.raw.predictions[lost[i]]),
            "after": named(raw.predictions[lost[i]]),
            "margin": round(float(margins[i]), 4),
        }
        for i in np.argsort(-margins, kind="stable")[:_WORST]
    ]
    return {"changed": {"lost": len(lost), "gained": len(gained), "worst": worst}}


def _lines(evidence: Mapping[str, Any]) -> list[str]:
    changed = evidence.get("changed")
    if not changed or not changed["lost"]:
        return []
    lines = [f"  {changed['lost']} became wrong and {changed['gained']} right; the worst of them:"]
    for each in changed["worst"][:_SHOWN]:
        lines.append(
            f"    #{each['example']} {each['text']}: {each['label']}, now {each['after']} (margin {each['margin']:.2f})"
        )
    return lines


def _power(now: Outcomes, changed: float, limits: Limits) -> list[str]:
    """The smallest drop that is seen, or tolerance that is established, with so many examples, 4 times of 5."""
    if now.metric != METRICS["accuracy"] or now.task.kind != CLASSIFICATION:
        return []
    from pytest_bertology import power

    n = len(now)
    if limits.tolerance is None:
        least = power.smallest_detectable_drop(n, changed, min(2.0 * limits.level, 0.5))  # that test has two sides
        return [f"with {n} examples this comparison sees a drop of {least:.4f} or more 4 times of 5"]
    least = power.smallest_tolerance(n, changed, limits.confidence)
    same = f"a model that loses nothing but changes as many answers ({changed:.2%})" if changed else "the same model"
    return [f"with {n} examples the smallest tolerance that {same} passes 4 times of 5 is {rounded_up(least)}"]


def _right(found: Outcomes) -> str:
    if found.task.kind != CLASSIFICATION:
        return ""
    return f" ({int(found.right.sum())} of {len(found)} right)"


def _loss(found: Outcomes) -> float:
    return float(np.average(found.losses, weights=found.raw.counts))
