"""Why a check on what heads look at failed, for a tired engineer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_bertology.checks.explain import table
from pytest_bertology.heads import Head
from pytest_bertology.measures.attention import TARGETS, AttentionStatistics
from pytest_bertology.models import ModelUnderTest

_SHOWN = 12


def does_not_attend(model: ModelUnderTest, found: AttentionStatistics, head: Head, target: str, at_least: float) -> str:
    """The failure page of a check on one head's attention."""
    scores = found.statistic(target)
    own = sorted(
        ((found.statistic(name)[head], name) for name in TARGETS if f"to_{name}" in found.available), reverse=True
    )
    rows = {
        **_what(model, found),
        "observed": f"{scores[head]:.4f} of its attention, mean over {found.counts[f'to_{target}']} tokens",
        "required": f"at least {at_least:g}",
        "looks at": ", ".join(f"{_said(name)} {share:.3f}" for share, name in own),
        "entropy": f"{found.entropy[head]:.3f} nats; even attention has {found.uniform_entropy[head]:.3f}",
        f"to {_said(target)}": f"most: {', '.join(f'{other} {scores[other]:.3f}' for other in found.top(target))}",
    }
    title = f"{head} does not attend to {_said(target)}"
    return "\n".join([title, "", *table(rows)])


def entropy_outside(
    model: ModelUnderTest,
    found: AttentionStatistics,
    chosen: Sequence[Head],
    outside: Mapping[Head, float],
    bounds: tuple[float, float],
) -> str:
    """The failure page of a check on entropies."""
    low, high = bounds
    worst = sorted(outside, key=lambda head: -max(low - outside[head], outside[head] - high))
    more = f" … and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else ""
    rows = {
        **_what(model, found),
        "required": f"entropy from {low:g} to {high:g} nats; even attention has {found.even()}",
        "outside": ", ".join(f"{head} {outside[head]:.3f}" for head in worst[:_SHOWN]) + more,
    }
    count = f"{len(outside)} of {len(chosen)} heads attend" if len(chosen) > 1 else f"{worst[0]} attends"
    return "\n".join([f"{count} more sharply or more evenly than required", "", *table(rows)])


def _what(model: ModelUnderTest, found: AttentionStatistics) -> dict[str, str]:
    return {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "texts": f"{found.task} ({found.texts} texts, {found.counts['entropy']} tokens)",
    }


def _said(target: str) -> str:
    return {
        "self": "the token itself",
        "next": "the next token",
        "previous": "the previous token",
        "first": "the first token",
        "cls": "[CLS]",
        "sep": "[SEP]",
        "punctuation": "punctuation",
        "same_token": "the same token elsewhere",
    }[target]
