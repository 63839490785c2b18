"""Why a check on how alike heads attend failed, for a tired engineer."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bertology.checks.explain import table, were
from pytest_bertology.errors import describe_heads
from pytest_bertology.measures.divergence import HeadDivergence, HeadPair
from pytest_bertology.models import ModelUnderTest

_SHOWN = 10


def not_similar(model: ModelUnderTest, found: HeadDivergence, wrong: Sequence[HeadPair], at_most: float) -> str:
    """The failure page of heads that attend differently; `wrong` are farthest first."""
    return _page(model, found, wrong, "do not attend alike", f"at most {at_most:g} for every two")


def not_distinct(model: ModelUnderTest, found: HeadDivergence, wrong: Sequence[HeadPair], at_least: float) -> str:
    """The failure page of heads that attend alike; `wrong` are closest first."""
    return _page(model, found, wrong, "attend too much alike", f"at least {at_least:g} for every two")


def _page(model: ModelUnderTest, found: HeadDivergence, wrong: Sequence[HeadPair], what: str, required: str) -> str:
    count = len(found.heads) * (len(found.heads) - 1) // 2
    title = f"{wrong[0].a} and {wrong[0].b} {what}"
    if len(wrong) > 1:
        title = f"{len(wrong)} of {count} pairs of heads {what}"
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "texts": f"{found.task} ({found.texts} texts, {found.tokens} tokens)",
        "required": f"a mean Jensen-Shannon divergence of {required}, in nats (0: the same; ln 2 = 0.6931: never the "
        "same token)",
        **{f"{pair.a} and {pair.b}": f"{pair.divergence:.4f}" for pair in wrong[:_SHOWN]},
        **({"…": f"and {len(wrong) - _SHOWN} more pairs"} if len(wrong) > _SHOWN else {}),
        "heads": describe_heads(found.heads),
        **were(model.heads, found.heads),
    }
    return "\n".join([title, "", *table(rows)])
