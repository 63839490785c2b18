"""Why a check on a prompt failed, for a tired engineer."""

from __future__ import annotations

import numpy as np

from pytest_bertology.checks.explain import beside, table
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.prompt_report import PromptReport
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import items_of
from pytest_bertology.tasks.task import Task

AT_LEAST, MAJORITY, SELECTIVITY = "at least", "majority", "selectivity"
_LOPSIDED = 0.95
_EXAMPLES = 3
_LONGEST = 90


def missed(report: PromptReport, at_least: float, min_selectivity: float | None) -> dict[str, str]:
    """Which of what was required does not hold, and how to say it."""
    reasons, name = {}, report.metric.name
    if report.score < at_least - ROUNDING:
        reasons[AT_LEAST] = f"{name} is below {at_least:g}"
    if not report.beats_majority:
        surely = "surely " if report.score > report.majority_baseline else ""
        reasons[MAJORITY] = f"{name} is not {surely}better than the most frequent label's"
    if report.selectivity < max(0.0, min_selectivity or 0.0) - ROUNDING:
        reasons[SELECTIVITY] = f"selectivity is below {max(0.0, min_selectivity or 0.0):g}"
    return reasons


def not_prompted(
    model: ModelUnderTest,
    task: Task,
    report: PromptReport,
    at_least: float,
    min_selectivity: float | None,
    reasons: dict[str, str],
) -> str:
    """The failure page of a check on a prompt."""
    low, high = report.interval
    lead = report.lead_over_majority
    required = max(0.0, min_selectivity or 0.0)
    words = "; ".join(
        f"{label!r}: {', '.join(map(repr, own))} ({report.shares[label]:.0%} of the answers)"
        for label, own in report.label_words.items()
    )
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{report.data}: {len(report)} {report.level}s" + _left(report),
        "prompt": repr(report.prompt),
        "words": words,
        "score": f"{report.score:.4f} [{low:.4f}, {high:.4f}]; required: at least {at_least:g}, "
        f"{_kept(AT_LEAST, reasons)}",
        "majority": f"{report.majority_baseline:.4f}, a difference of {lead.value:+.4f} [{lead.interval[0]:+.4f}, "
        f"{lead.interval[1]:+.4f}]; required: above 0, {_kept(MAJORITY, reasons)}",
        "control": f"{report.control_score:.4f} against random labels, selectivity {report.selectivity:+.4f}; "
        f"required: at least {required:g}, {_kept(SELECTIVITY, reasons)}",
        **_hint(report),
        **beside(model),
    }
    title = f"the prompt does not get the labels out: {'; '.join(reasons.values())}"
    return "\n".join([title, "", *table(rows), *_wrong(task, report)])


def _left(report: PromptReport) -> str:
    return f"; {report.left_out} more make prompts longer than the model can read" if report.left_out else ""


def _hint(report: PromptReport) -> dict[str, str]:
    most, share = max(report.shares.items(), key=lambda each: each[1])
    if share < _LOPSIDED or report.calibration:
        return {}
    return {"mind": f"nearly all answers are {most!r}: calibrate='content-free' takes out what the words alone prefer"}


def _wrong(task: Task, report: PromptReport) -> list[str]:
    """Some items that were answered wrongly, those first of which it was surest."""
    if report.left_out:
        return []
    chosen = report.log_probabilities[np.arange(len(report)), report.predictions]
    right = report.log_probabilities[np.arange(len(report)), report.labels]
    wrong = np.flatnonzero(report.predictions != report.labels)
    worst = wrong[np.argsort(right[wrong] - chosen[wrong], kind="stable")][:_EXAMPLES].tolist()
    if not worst:
        return []
    items = items_of(task)
    lines = ["", f"  wrong on {len(wrong)} of {len(report)}, such as"]
    for index in worst:
        text = items.texts[int(items.text_of[index])]
        spans = [str(text)[a:b] for a, b in items.spans[index]]
        shown = repr(text if len(repr(text)) <= _LONGEST else repr(text)[1:_LONGEST] + "…")
        said = f"{', '.join(map(repr, spans))} in {shown}" if spans else shown
        answer, label = (report.classes[int(of[index])] for of in (report.predictions, report.labels))
        lines.append(f"    {said}: {answer!r}, {chosen[index] - right[index]:.2f} nats above {label!r}")
    return lines


def _kept(what: str, reasons: dict[str, str]) -> str:
    return "missed" if what in reasons else "kept"
