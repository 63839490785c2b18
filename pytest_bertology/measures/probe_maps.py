"""The attention maps of whole sentences, all heads together, word by word, shown one sentence at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.words import Words, attend_words
from pytest_bertology.models import ModelUnderTest


def each_sentence(
    model: ModelUnderTest, words: Words, visit: Callable[[int, Tensor], None], *, what: str, batching: Batching
) -> None:
    """Show `visit` each sentence's position and the attention between its words, all heads', (heads, words, words).

    Where a layer runs several times in one pass, the mean of its runs. In the order in which sentences are run.
    """
    runs = torch.tensor([len(site.taps) for site in model.sites for _ in range(site.heads)], dtype=torch.float64)
    held: dict[int, tuple[Tensor, int]] = {}

    def seen(position: int, heads: slice, run: int, weights: Tensor) -> None:
        maps, left = held.get(position) or (_zeros(len(runs), weights), int(runs.sum()))
        maps[heads] += weights.double().cpu() / runs[heads, None, None]
        left -= heads.stop - heads.start
        if left:
            held[position] = (maps, left)
        else:
            held.pop(position, None)
            visit(position, maps)

    attend_words(model, words, seen, what=what, batching=batching)


def _zeros(heads: int, weights: Tensor) -> Tensor:
    return torch.zeros((heads, *weights.shape[1:]), dtype=torch.float64)
