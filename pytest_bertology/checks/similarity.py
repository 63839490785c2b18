"""Checks on how alike heads attend."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pytest_bertology.checks import explain_similarity as explain
from pytest_bertology.checks.masked import refuse_masked
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import HeadLike
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.divergence import HeadDivergence, HeadPair, head_divergence
from pytest_bertology.models import ModelUnderTest

_ROUNDING = 1e-6
"""By how much divergences of the same attention, in float32, may be above zero."""


def assert_heads_similar(
    model: ModelUnderTest,
    texts: TextsLike,
    heads: Iterable[HeadLike],
    at_most: float,
    *,
    batching: Batching | None = None,
) -> HeadDivergence:
    """Assert that every two of these heads attend alike: their mean divergence is at most `at_most` nats.

    The Jensen-Shannon divergence of what they attend to, mean over the tokens of `texts` (strings or a task): from 0,
    the same attention, to ln 2 = 0.693, never to the same token; see `head_divergence`. Masks in force around the call
    act. Returns the divergences of these heads.

    Raises CheckFailed (an AssertionError), the pairs farthest apart first; InvalidArgument for a bound on which it
    could not fail, NothingToJudge for fewer than two heads or a masked one, UnknownHead; and what `head_divergence`
    raises.
    """
    __tracebackhide__ = True
    check_model(model)
    if not _number(at_most) or not 0.0 <= at_most < math.log(2):
        raise InvalidArgument("at_most", at_most, "nats from 0 and below ln 2 = 0.693, which no divergence exceeds")
    chosen = model.heads.select(heads)
    refuse_masked(model, chosen)
    found = head_divergence(model, texts, heads=chosen, batching=batching)
    pairs = found.pairs()[::-1]
    wrong = [pair for pair in pairs if pair.divergence > at_most + _ROUNDING]
    verdict = _verdict("assert_heads_similar", model, found, pairs[0], f"<= {at_most:g}", wrong)
    give(verdict, lambda: explain.not_similar(model, found, wrong, at_most))
    return found


def assert_heads_distinct(
    model: ModelUnderTest,
    texts: TextsLike,
    heads: Iterable[HeadLike],
    at_least: float,
    *,
    batching: Batching | None = None,
) -> HeadDivergence:
    """Assert that every two of these heads attend to other tokens: their mean divergence is at least `at_least` nats.

    See `assert_heads_similar`. Returns the divergences of these heads.

    Raises CheckFailed (an AssertionError), the closest pairs first; InvalidArgument for a bound that all heads keep or
    none can, NothingToJudge for fewer than two heads or a masked one, UnknownHead; and what `head_divergence` raises.
    """
    __tracebackhide__ = True
    check_model(model)
    if not _number(at_least) or not 0.0 < at_least <= math.log(2):
        raise InvalidArgument("at_least", at_least, "nats above 0 and up to ln 2 = 0.693, the greatest divergence")
    chosen = model.heads.select(heads)
    refuse_masked(model, chosen)
    found = head_divergence(model, texts, heads=chosen, batching=batching)
    pairs = found.pairs()
    wrong = [pair for pair in pairs if pair.divergence < at_least]
    verdict = _verdict("assert_heads_distinct", model, found, pairs[0], f">= {at_least:g}", wrong)
    give(verdict, lambda: explain.not_distinct(model, found, wrong, at_least))
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _verdict(
    check: str, model: ModelUnderTest, found: HeadDivergence, worst: HeadPair, required: str, wrong: list[HeadPair]
) -> Verdict:
    return Verdict(
        check=check,
        passed=not wrong,
        observed=worst.divergence,
        required=required,
        judged=f"mean divergence of {worst.a} and {worst.b}",
        model=model.name,
        task=found.task,
        examples=found.texts,
        heads=tuple(map(str, found.heads)),
        details={"pairs": len(found.heads) * (len(found.heads) - 1) // 2, "wrong": len(wrong), "tokens": found.tokens},
    )
