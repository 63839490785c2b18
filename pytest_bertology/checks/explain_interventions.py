"""Why a check on changed attention failed, for a tired engineer."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bertology.checks.explain import (
    _bound,
    _drop,
    _right,
    amount,
    beside,
    flipped,
    idle,
    retained,
    table,
    were,
)
from pytest_bertology.errors import describe_heads
from pytest_bertology.heads import Head, HeadScores
from pytest_bertology.measures.changed_retention import ChangedRetention
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.models import ModelUnderTest

_SHOWN = 12


def not_retained(model: ModelUnderTest, found: ChangedRetention, tolerance: float, relative: bool, why: str) -> str:
    """The failure page of a check on a score under changed attention."""
    heads, total = found.changed, len(model.heads)
    which = f"{len(heads)} of {total} heads ({len(heads) / total:.0%}{f', {why}' if why else ''})"
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{found.baseline.task.name} ({len(found.baseline)} examples)",
        "baseline": f"{found.baseline.score:.4f}{_right(found, masked=False)}",
        "changed": f"{found.masked.score:.4f}{_right(found, masked=True)}",
        "drop": f"{_drop(found, relative)}; required: at most {amount(tolerance, relative)}",
        **_bound(found, tolerance, relative),
        "heads": describe_heads(heads),
        **were(model.heads, heads),
        **idle(model, heads),
        **({"unchanged": f"{found.kept:.1%} of tokens: the pattern left them nothing"} if found.kept else {}),
        **({"masked too": describe_heads(found.heads)} if found.heads else {}),
        **beside(model),
    }
    title = f"{retained(found, tolerance, relative)} with {found.change} in {which}"
    return "\n".join([title, "", *table(rows), *flipped(model, found)])


def not_followed(model: ModelUnderTest, found: HeadScores, heads: Sequence[Head], at_least: float) -> str:
    """The failure page of a check that heads follow a pattern."""
    worst = sorted(heads, key=lambda head: found[head])
    short = [head for head in worst if found[head] < at_least - ROUNDING]
    several = len(short) > 1
    title = f"{f'{len(short)} of {len(heads)} heads do' if several else f'{short[0]} does'} not follow the pattern"
    pattern = found.method.removeprefix("attention on ")
    counted, tokens = found.details["counted"], found.details["tokens"]
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "pattern": f"{pattern}; required: at least {at_least:g} of a head's attention",
        **{str(head): f"{found[head]:.4f}" for head in worst[:_SHOWN]},
        **({"…": f"and {len(worst) - _SHOWN} more heads"} if len(worst) > _SHOWN else {}),
        "counted": f"{counted:.1%} of {tokens:.0f} tokens, those for which it holds something",
        "most on it": ", ".join(f"{head} {found[head]:.4f}" for head in found.top(min(5, len(found)))),
    }
    return "\n".join([title, "", *table(rows)])
