"""Checks that a score survives a change of attention, and that heads follow a pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_bertology.checks import explain_interventions as explain
from pytest_bertology.checks.drops import check_tolerance, drop_details, force_details, judge, warn_of_chance
from pytest_bertology.checks.evidence import changed_evidence, label_names
from pytest_bertology.checks.masked import refuse_masked
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads import HeadLike, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model, check_model_and_task
from pytest_bertology.measures.changed_retention import (
    ChangedRetention,
    constant_retention,
    least_important_heads,
    pattern_retention,
    top_k_retention,
)
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.pattern_mass import UNSEEN, pattern_mass
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.blocks import LayerLike
from pytest_bertology.models.changes import named
from pytest_bertology.models.constants import ConstantAttention
from pytest_bertology.models.patterns import PatternLike
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task


def assert_constant_attention_ok(
    model: ModelUnderTest,
    task: Task,
    constants: ConstantAttention | TextsLike,
    fraction: float,
    tolerance: float,
    *,
    by: str | Method | HeadScores = "gradient",
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    relative: bool = False,
    confidence: float | None = None,
    seed: int = 0,
) -> ChangedRetention:
    """Assert that the score drops by at most `tolerance` when a fraction of the heads has constant attention (PAPA).

    The least important heads by `by`, a method of `head_importance` or scores; of the heads that are not masked, of
    which fraction=1.0 takes all. `constants` are what `constant_attention` estimated, or texts to estimate them on:
    others than the task's, such as the train split, and one of them as long as the task's longest. The baseline is the
    model as trained; masks and other changes in force around the call count beside, for `by` too. `relative` and
    `confidence` are those of `assert_metric_retained`. Returns both results.

    Raises CheckFailed (an AssertionError); InvalidArgument, NoHeadSelected or NothingToJudge for arguments on which it
    could not fail; InvalidArgument for constants estimated on all judged texts, with a BertologyWarning for those of
    some; CannotChangeAttention, CannotMeasure where attention is not seen, or a text is longer than those of the
    constants.
    """
    __tracebackhide__ = True
    task = _ready(model, task, metric, tolerance, relative)
    heads, method = least_important_heads(model, task, fraction, by, seed)
    found = constant_retention(model, task, constants, heads, confidence=confidence)
    whole = "all heads" if len(heads) == len(model.heads) else "all heads that are not masked"
    why = whole if fraction == 1.0 else f"the least important by {method}"
    return _judged("assert_constant_attention_ok", model, found, tolerance, relative, why)


def assert_top_k_attention_ok(
    model: ModelUnderTest,
    task: Task,
    k: int,
    tolerance: float,
    *,
    layers: Iterable[LayerLike] | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    relative: bool = False,
    confidence: float | None = None,
) -> ChangedRetention:
    """Assert that the score drops by at most `tolerance` when each token attends to `k` keys alone (AxFormer).

    Its greatest ones, in all attention layers or in `layers` (see `ModelUnderTest.with_top_k_attention`). The rest is
    as in `assert_constant_attention_ok`. Raises NothingToJudge, too, where no text has more than `k` tokens.
    """
    __tracebackhide__ = True
    task = _ready(model, task, metric, tolerance, relative)
    found = top_k_retention(model, task, k, layers, confidence=confidence)
    why = "all layers" if len(found.changed) == len(model.heads) else "of some layers"
    return _judged("assert_top_k_attention_ok", model, found, tolerance, relative, why)


def assert_pattern_injectable(
    model: ModelUnderTest,
    task: Task,
    head: HeadLike | Iterable[HeadLike],
    pattern: PatternLike,
    tolerance: float,
    *,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
    relative: bool = False,
    confidence: float | None = None,
) -> ChangedRetention:
    """Assert that the score drops by at most `tolerance` when a head, or several at once, attends to a pattern alone.

    Li et al. 2022; `pattern` as in `ModelUnderTest.with_attention_pattern`: a token to which it leaves nothing keeps
    its attention, and `kept` of what is returned says which share does. The rest is as in
    `assert_constant_attention_ok`. Raises NothingToJudge, too, where the pattern leaves no token anything ("next" in a
    causal model), or a head is masked.
    """
    __tracebackhide__ = True
    task = _ready(model, task, metric, tolerance, relative)
    heads = named(model, head)
    refuse_masked(model, heads)
    found = pattern_retention(model, task, heads, pattern, confidence=confidence)
    return _judged("assert_pattern_injectable", model, found, tolerance, relative, "")


def assert_head_follows_pattern(
    model: ModelUnderTest,
    texts: TextsLike,
    head: HeadLike | Iterable[HeadLike],
    pattern: PatternLike,
    at_least: float,
) -> HeadScores:
    """Assert that a head, or each of several, puts at least this share of its attention on a pattern.

    Returns `pattern_mass` of all heads. Raises CheckFailed (an AssertionError) with the share of each head named and
    the heads that follow the pattern most; InvalidArgument for a share that is not above 0 and up to 1, UnknownHead,
    NoHeadSelected, NothingToJudge where one of them is masked, UndefinedScore where the pattern holds nothing for any
    token, or nothing that a causal model sees.
    """
    __tracebackhide__ = True
    check_model(model)
    check_has_heads(model)
    numeric = isinstance(at_least, int | float) and not isinstance(at_least, bool)
    if not numeric or not 0.0 < at_least <= 1.0:
        raise InvalidArgument("at_least", at_least, "a share of a head's attention above 0 and up to 1")
    heads = named(model, head)
    refuse_masked(model, heads)
    found = pattern_mass(model, texts, pattern)
    for stack in dict.fromkeys(head.stack for head in heads):
        if not found.details["behind"] and not any(found[head] for head in model.heads if head.stack == stack):
            raise UndefinedScore(f"{found.method} in the {stack or 'model'}", UNSEEN)
    worst = min(heads, key=lambda each: found[each])
    verdict = Verdict(
        check="assert_head_follows_pattern",
        passed=found[worst] >= at_least - ROUNDING,
        observed=found[worst],
        required=f">= {at_least:g}",
        judged=f"share of {found.method}",
        model=model.name,
        heads=tuple(map(str, heads)),
        details={"shares": {str(each): found[each] for each in heads}, "counted": found.details["counted"]},
    )
    give(verdict, lambda: explain.not_followed(model, found, heads, at_least))
    return found


def _ready(
    model: ModelUnderTest,
    task: Task,
    metric: str | Metric | Callable[[Any, Any], float] | None,
    tolerance: float,
    relative: bool,
) -> Task:
    __tracebackhide__ = True
    check_model_and_task(model, task)
    check_has_heads(model)
    task = task.with_metric(metric)
    check_tolerance(tolerance, task.metric, relative)
    check_above_noise(model, task, tolerance, relative)
    return task


def _judged(
    check: str, model: ModelUnderTest, found: ChangedRetention, tolerance: float, relative: bool, why: str
) -> ChangedRetention:
    """What was found, where it is within the tolerance; raises CheckFailed otherwise."""
    __tracebackhide__ = True
    warn_of_chance(found.baseline)
    verdict = Verdict(
        check=check,
        **judge(found, tolerance, relative).fields(),
        required=f"<= {tolerance:g}",
        judged=("bound on the " if found.bound else "") + ("relative " if relative else "") + "drop",
        model=model.name,
        task=found.baseline.task.name,
        metric=found.baseline.metric.name,
        baseline=found.baseline.score,
        score=found.masked.score,
        examples=len(found.baseline),
        heads=tuple(map(str, found.changed)),
        evidence=changed_evidence(found.baseline, found.masked, label_names(model)),
        details={
            **drop_details(found, tolerance, relative),
            "change": found.change,
            "kept": found.kept,
            **force_details(model),
        },
    )
    give(verdict, lambda: explain.not_retained(model, found, tolerance, relative, why))
    return found
