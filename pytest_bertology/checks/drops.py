"""What the checks on drops of a score share: which tolerances can fail, and how a drop is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bertology.checks.explain_power import power_rows
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.retention import Retention
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.skipping import skipped
from pytest_bertology.tasks.metrics import CLASSIFICATION, METRICS, TOKENS, Metric

_FROM_0_TO_1 = tuple(METRICS[name] for name in ("accuracy", "f1", "f1_macro", "f1_micro"))
_FROM_MINUS_1_TO_1 = tuple(METRICS[name] for name in ("matthews", "pearson", "spearman"))


@dataclass(frozen=True)
class Judgement:
    """What a tolerance makes of a drop."""

    observed: float
    """The drop or, with confidence, the upper bound on the true drop; in units of the tolerance."""
    passed: bool
    inconclusive: bool
    """Neither is the true drop surely within the tolerance, nor surely above it."""
    p_value: float | None
    """Of H0: the true drop is the tolerance or more; None without confidence."""

    def fields(self) -> dict[str, Any]:
        """For a Verdict."""
        return vars(self)


def judge(found: Retention, tolerance: float, relative: bool) -> Judgement:
    """Passed where the upper bound on the true drop is within the tolerance, failed where the lower one is above it.

    Each bound alone is at the confidence that was asked for, and what is neither is inconclusive. The p-value agrees
    with them: it is at most 1 − confidence just where the check passes. Without confidence the drop itself is judged,
    and nothing is inconclusive.
    """
    scale = found.scale() if relative else 1.0
    if found.bound is None:
        observed = found.drop / scale
        return Judgement(observed, observed <= tolerance + ROUNDING, False, None)
    limit = (tolerance + ROUNDING) * scale
    upper = found.bound.upper
    passed = upper <= limit
    refuted = not passed and found.bound.lower > limit
    return Judgement(upper / scale, passed, not passed and not refuted, found.bound.p_value(limit))


def together(each: Sequence[Judgement], worst: int) -> Judgement:
    """Several drops of which all must be within their tolerances: told by the worst; refuted where any is.

    No correction is needed where all must pass; the greatest p-value is that of all.
    """
    passed = all(one.passed for one in each)
    refuted = any(not one.passed and not one.inconclusive for one in each)
    p_values = [one.p_value for one in each if one.p_value is not None]
    p_value = max(p_values) if len(p_values) == len(each) else None
    return Judgement(each[worst].observed, passed, not passed and not refuted, p_value)


def check_tolerance(tolerance: float, metric: Metric, relative: bool) -> None:
    """Raise InvalidArgument for a tolerance that is no number from 0, or that no drop can exceed.

    A score from 0 to 1 drops by less than 1 unless from the best to the worst of all, and so does its share of the
    baseline. Losses, perplexities and metrics of the user's own have no such limit.
    """
    numeric = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not numeric or not 0.0 <= tolerance < float("inf"):
        raise InvalidArgument("tolerance", tolerance, "a number from 0, in units of the metric (0.01 is one point)")
    unit = metric in _FROM_0_TO_1
    span = 1.0 if unit else 2.0 if metric in _FROM_MINUS_1_TO_1 and not relative else float("inf")
    if tolerance >= span:
        share = "a share of the baseline" if relative else f"in units of {metric.name}"
        raise InvalidArgument(
            "tolerance",
            tolerance,
            f"less than {span:g}, {share}: no drop is greater and the check could not fail; did you mean 0.01?",
        )


def most_to_lose(baseline: Outcomes) -> tuple[float, str]:
    """How far a score from 0 or −1 to 1 can drop to that of a model that knows nothing, and what that is, in words.

    Of accuracy on labels the share of the most frequent one, where the model is better than that; else 0. Infinite for
    losses, perplexities and metrics of the user's own.
    """
    if baseline.metric not in (*_FROM_0_TO_1, *_FROM_MINUS_1_TO_1):
        return float("inf"), "nothing"
    share = majority_share(baseline)
    if share is not None and baseline.score > share:
        return baseline.score - share, f"the most frequent label of all gets {share:.4f}"
    return baseline.score, "a model that knows nothing gets 0"


def largest_drop(baseline: Outcomes) -> float:
    """How far a score can drop at all; infinite for losses, perplexities and metrics of the user's own."""
    known = {0.0: _FROM_0_TO_1, -1.0: _FROM_MINUS_1_TO_1}
    lowest = next((low for low, metrics in known.items() if baseline.metric in metrics), float("-inf"))
    return baseline.score - lowest


def majority_share(baseline: Outcomes) -> float | None:
    """The accuracy of always saying the most frequent label; None where the metric or the task is another."""
    if baseline.metric != METRICS["accuracy"] or baseline.task.kind not in (CLASSIFICATION, TOKENS):
        return None
    _, counts = np.unique(baseline.raw.labels, return_counts=True)
    return float(counts.max() / counts.sum())


def warn_of_chance(baseline: Outcomes) -> None:
    """Warn where the model as trained is no more often right than one that always says the most frequent label."""
    share = majority_share(baseline)
    if share is not None and baseline.score <= share:
        warnings.warn(
            f"the baseline accuracy on {baseline.task.name}, {baseline.score:.4f}, is no better than saying the most "
            f"frequent label of all ({share:.4f}): that it is retained says little",
            BertologyWarning,
            stacklevel=4,
        )


def force_details(model: ModelUnderTest) -> dict[str, Any]:
    """What was in force beside masks, for a verdict; nothing where there was nothing."""
    changes, layers = model.attention_changes(), skipped(model)
    found = {"attention": list(changes), "skipped": list(layers), "erased": list(model.erased())}
    return {name: value for name, value in found.items() if value}


def drop_details(found: Retention, tolerance: float, relative: bool = False) -> dict[str, Any]:
    """The drop, its bounds and what they could establish, for a verdict."""
    details: dict[str, Any] = {"drop": found.drop}
    if found.bound is not None:
        bound = found.bound
        details |= {"confidence": bound.confidence, "bound": bound.upper, "lower": bound.lower, "method": bound.method}
        judged = judge(found, tolerance, relative)
        if judged.passed or judged.inconclusive:
            details["power"] = power_rows(found, tolerance, relative)
    return details
