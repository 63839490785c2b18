"""How much of each head's attention lies on a pattern."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.texts import Texts, TextsLike, read_texts
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.heads import HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.patterns import Pattern, PatternLike, as_pattern

UNSEEN = "none of it can be seen: all of it lies ahead, and the model never looks ahead"


def pattern_mass(
    model: ModelUnderTest, texts: TextsLike, pattern: PatternLike, *, batching: Batching | None = None
) -> HeadScores:
    """The share of each head's attention that lies on a pattern: from 0 to 1, mean over tokens of all texts.

    Li et al. 2022 (the global relevance of a pattern to a head). Tokens for which the pattern holds nothing (the first
    has no previous one) are left out; `details` says which share of all `tokens` is `counted`, and how many pairs of
    tokens of the pattern lie not ahead (`behind`). Patterns are those of `ModelUnderTest.with_attention_pattern`; an
    encoder-decoder model reads each text on both sides. Masks, and changes of attention in force, count.

    Raises UndefinedScore where the pattern holds nothing for any token, or nothing that a causal model sees;
    CannotMeasure (see `attend`), InvalidArgument.
    """
    check_model(model)
    check_has_heads(model)
    found = as_pattern(pattern, model.needs_tokenizer)
    read = read_texts(model, texts)
    what = f"attention on {found.name}"

    def summed() -> _Sums:
        sums = _Sums(model, read, found)
        attend(model, read, sums.add, what=what, batching=batching)
        return sums

    sums = within_memory(what, model, summed)
    if not sums.counted:
        raise UndefinedScore(what, f"no token of {read.name} has anything to attend to by that pattern")
    if not sums.totals.any() and sums.behind == 0:
        raise UndefinedScore(what, UNSEEN)
    tokens = sum(len(read.ids(at)) for at in range(len(read)))
    runs = np.concatenate([np.full(site.heads, max(1, len(site.taps))) for site in model.sites])
    values = np.minimum(sums.totals.numpy() / (sums.counted * runs), 1.0)  # one and a rounding
    return HeadScores(
        values,
        model.heads,
        what,
        {"counted": sums.counted / tokens, "tokens": float(tokens), "behind": float(sums.behind)},
    )


class _Sums:
    """Adds up what lies on the pattern."""

    def __init__(self, model: ModelUnderTest, read: Texts, pattern: Pattern) -> None:
        self.totals = torch.zeros(len(model.heads), dtype=torch.float64)
        self._allowed = [torch.from_numpy(pattern.allowed(read.ids(at)).copy()) for at in range(len(read))]
        self.counted = sum(int(allowed.any(dim=1).sum()) for allowed in self._allowed)
        """Tokens for which the pattern holds something."""
        self.behind = sum(int(allowed.tril().sum()) for allowed in self._allowed)
        """Pairs of it that do not lie ahead."""

    def add(self, shown: Attended) -> None:
        """Add some texts of a batch."""
        total = torch.zeros(shown.weights.shape[1], dtype=torch.float64, device=shown.weights.device)
        for position, weights in shown.each():
            total += self._on(position, weights)
        self.totals[shown.heads] += total.cpu()

    def _on(self, position: int, weights: Tensor) -> Tensor:
        """(heads,) what lies on the pattern in one text."""
        allowed = self._allowed[position].to(weights.device)
        return (weights.double() * allowed).sum(dim=(1, 2))
