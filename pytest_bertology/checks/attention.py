"""Checks on what heads look at."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pytest_bertology.checks import explain_attention as explain
from pytest_bertology.checks.masked import refuse_masked
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument, NoHeadSelected, NothingToJudge
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import as_head
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.attention import TARGETS, AttentionStatistics, attention_statistics
from pytest_bertology.models import ModelUnderTest


def assert_head_attends(
    model: ModelUnderTest,
    texts: TextsLike,
    head: HeadLike,
    to: str = "previous",
    at_least: float = 0.8,
    *,
    batching: Batching | None = None,
) -> AttentionStatistics:
    """Assert that a head gives at least this share of its attention to some tokens; return all statistics.

    `to` is "self", "next", "previous", "first", "cls", "sep", "punctuation" or "same_token": the mean over the tokens
    of `texts` (strings or a task) that have such a token, as `attention_statistics` defines it. Masks in force around
    the call act.

    Raises CheckFailed (an AssertionError) where it gives less; InvalidArgument or UnknownHead for arguments that are
    none; NothingToJudge for a masked head; UndefinedScore where no token has such a token that it can see; and what
    `attention_statistics` raises.
    """
    __tracebackhide__ = True
    check_model(model)
    target = to.removeprefix("to_") if isinstance(to, str) else to
    if target not in TARGETS:
        raise InvalidArgument("to", to, f"one of {', '.join(TARGETS)}")
    if isinstance(at_least, bool) or not isinstance(at_least, int | float) or not 0.0 < at_least <= 1.0:
        raise InvalidArgument("at_least", at_least, "a share of attention above 0 and up to 1, such as 0.8")
    chosen = model.heads[model.heads.index(head)]
    refuse_masked(model, [chosen])
    found = attention_statistics(model, texts, batching=batching)
    share = found.statistic(target)[chosen]
    verdict = Verdict(
        check="assert_head_attends",
        passed=share >= at_least,
        observed=share,
        required=f">= {at_least:g}",
        judged=f"attention to {target.replace('_', ' ')}",
        model=model.name,
        task=found.task,
        examples=found.texts,
        heads=(str(chosen),),
        details={"tokens": found.counts[f"to_{target}"]},
    )
    give(verdict, lambda: explain.does_not_attend(model, found, chosen, target, at_least))
    return found


def assert_entropy_between(
    model: ModelUnderTest,
    texts: TextsLike,
    heads: HeadLike | Iterable[HeadLike] | None = None,
    low: float = 0.0,
    high: float = math.inf,
    *,
    batching: Batching | None = None,
) -> AttentionStatistics:
    """Assert that the attention entropy of each of these heads (None: of every head) lies within [low, high] nats.

    0 is attention to one token alone, `uniform_entropy` of what is returned even attention to all that a head can see.
    Returns all statistics.

    Raises CheckFailed (an AssertionError) where one does not; InvalidArgument for bounds that are none or that no head
    could keep, NothingToJudge for bounds that every head keeps; and what `attention_statistics` raises.
    """
    __tracebackhide__ = True
    check_model(model)
    _check_bounds(low, high)
    chosen = _chosen(model, heads)
    if heads is not None:
        refuse_masked(model, chosen)
    found = attention_statistics(model, texts, batching=batching)
    most = max(found.uniform_entropy[head] for head in chosen)
    if low <= 0.0 and high >= most:
        what = f"entropy from {low:g} to {high:g}, where none is below 0 or above {most:.3f}, that of even attention"
        raise NothingToJudge(what, "Give a low or high within.")
    least = min(found.uniform_entropy[head] for head in chosen)
    if low > least:
        raise InvalidArgument("low", low, f"at most {least:.3f}, the entropy of even attention on these texts")
    outside = {head: found.entropy[head] for head in chosen if not low <= found.entropy[head] <= high}
    worst = max(chosen, key=lambda head: max(low - found.entropy[head], found.entropy[head] - high))
    verdict = Verdict(
        check="assert_entropy_between",
        passed=not outside,
        observed=found.entropy[worst],
        required=f"{low:g} to {high:g}",
        judged="attention entropy",
        model=model.name,
        task=found.task,
        examples=found.texts,
        heads=tuple(map(str, outside or [worst])),
        details={"judged": len(chosen), "uniform_entropy": found.uniform_entropy[worst]},
    )
    give(verdict, lambda: explain.entropy_outside(model, found, chosen, outside, (low, high)))
    return found


def _check_bounds(low: float, high: float) -> None:
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise InvalidArgument(name, value, "a number of nats")
    if high < low:
        raise InvalidArgument("high", high, f"at least low, {low:g}")
    if high < 0.0:
        raise InvalidArgument("high", high, "a number of nats from 0: no entropy is below")


def _chosen(model: ModelUnderTest, heads: HeadLike | Iterable[HeadLike] | None) -> tuple[Head, ...]:
    if heads is None:
        return tuple(model.heads)
    try:
        return (model.heads[model.heads.index(as_head(heads))],)  # type: ignore[arg-type]
    except TypeError:  # NotAHead: several of them
        chosen = model.heads.select(heads)  # type: ignore[arg-type]
    if not chosen:
        raise NoHeadSelected("heads=[] names no head", "Name some, or leave heads out for all.")
    return chosen
