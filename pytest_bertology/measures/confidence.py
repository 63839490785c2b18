"""How sharply each head attends: the greatest of its attention weights."""

from __future__ import annotations

import numpy as np
import torch

from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.engine.texts import Texts, marks
from pytest_bertology.errors import CannotMeasure, UndefinedScore
from pytest_bertology.heads import HeadScores
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

_WHAT = "the confidence of heads"


def head_confidence(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """The greatest attention weight of each head, mean over tokens: from 1 / tokens (even) to 1 (one token alone).

    Voita et al. 2019, section 4: the average, over all tokens of all texts, of a head's greatest attention weight, the
    end-of-sentence token excluded; it is counted neither among the tokens that attend nor among those attended to,
    and weights are not made to add up to one without it. Which token that is, the tokenizer says (`sep_token_id` and
    `eos_token_id`). Padding plays no part, nor do labels; masked language models read the texts with their masks.

    Weights are computed again from query and key, and compared by what they give with what the model's attention
    returned; a model that calls softmax itself shows them. Raises CannotMeasure where they are not the same or not
    seen, are not of the text's own tokens, or the model has a decoder beside its encoder; UndefinedScore where no text
    has a token but the end's.
    """
    _check(model)
    batching = batching or Batching()
    encoded = encode(model, task)
    ends = marks(model).ends
    stored = computed_once(
        f"confidence, without tokens {list(ends)}",
        (model, encoded, model.mask_in_force(), batching),
        lambda: _measure(model, Texts(task.name, task.texts, encoded, None, ()), batching, ends),
    )
    return HeadScores(stored["scores"], model.heads, "confidence")


def _check(model: ModelUnderTest) -> None:
    if any(site.stack is not None for site in model.sites):
        reason = "beside its encoder it has a decoder, whose tokens are not those of the text"
        raise CannotMeasure(_WHAT, type(model.model).__name__, reason)


def _measure(model: ModelUnderTest, texts: Texts, batching: Batching, ends: tuple[int, ...]) -> Arrays:
    counted = [~np.isin(example.ids, ends) for example in texts.encoded.examples]
    tokens = sum(int(real.sum()) for real in counted)
    if not tokens:
        raise UndefinedScore(_WHAT, f"{texts.name} has no token but those that end a sentence ({list(ends)})")
    totals = np.zeros(len(model.heads))

    def add(attended: Attended) -> None:
        own = torch.zeros_like(attended.real)
        for row, position in enumerate(attended.positions):
            real = torch.from_numpy(counted[position]).to(own.device)
            own[row].masked_scatter_(attended.real[row], real)
        best = attended.weights.masked_fill(~own[:, None, None, :], 0.0).amax(dim=-1)
        best = best.masked_fill(~own[:, None, :], 0.0)
        totals[attended.heads] += best.double().sum(dim=(0, 2)).cpu().numpy()

    attend(model, texts, add, what=_WHAT, batching=batching)
    runs = np.concatenate([np.full(site.heads, len(site.taps)) for site in model.sites])
    return {"scores": totals / (tokens * runs)}
