"""A check on what a prompt gets out of a causal language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_bertology.checks import explain_prompting as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.prompt_report import PromptReport
from pytest_bertology.measures.prompting import prompt_probe
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def assert_prompt_score(
    model: ModelUnderTest,
    task: Task,
    prompt: str,
    label_words: Mapping[Any, str | Sequence[str]],
    at_least: float,
    *,
    min_selectivity: float | None = None,
    calibrate: str | None = None,
    per_token: bool = False,
    seed: int = 0,
    confidence: float = 0.95,
    batching: Batching | None = None,
) -> PromptReport:
    """Assert that a language model, asked by a prompt, scores `at_least` this on a task; return what it answered.

    `prompt_probe` says how it is asked (after Li, Cotterell & Sachan 2022, without training). With `min_selectivity`
    the score must be so much above that of the same answers against random labels. Whatever is required, the check
    fails where the score is not surely better than the most frequent label's (the `confidence` interval of their
    difference, texts drawn, reaches 0), or selectivity is below 0.

    Raises CheckFailed (an AssertionError); InvalidArgument; and what `prompt_probe` raises.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    _check_number("at_least", at_least, "a score, such as 0.7")
    if min_selectivity is not None:
        _check_number("min_selectivity", min_selectivity, "a difference of scores, such as 0.1, or None")
    report = prompt_probe(
        model,
        task,
        prompt,
        label_words,
        calibrate=calibrate,
        per_token=per_token,
        seed=seed,
        confidence=confidence,
        batching=batching,
    )
    missed = explain.missed(report, at_least, min_selectivity)
    more = "" if min_selectivity is None else f", selectivity >= {min_selectivity:g}"
    verdict = Verdict(
        check="assert_prompt_score",
        passed=not missed,
        observed=report.score,
        required=f">= {at_least:g}{more}, and better than the majority",
        judged=f"{report.metric.name} by a prompt",
        model=model.name,
        task=task.name,
        examples=len(report),
        details={
            "prompt": prompt,
            "interval": list(report.interval),
            "majority": report.majority_baseline,
            "control_score": report.control_score,
            "selectivity": report.selectivity,
        },
    )
    give(verdict, lambda: explain.not_prompted(model, task, report, at_least, min_selectivity, missed))
    return report


def _check_number(name: str, value: object, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1.0 <= value <= 1.0:
        raise InvalidArgument(name, value, expected)
