"""Log probabilities of words after prompts, by a causal language model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import IGNORED, Encoded, Example
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import computed_once
from pytest_bertology.errors import NonFinite
from pytest_bertology.measures.prompt_reading import read
from pytest_bertology.measures.prompt_texts import Asked, Ids
from pytest_bertology.models import ModelUnderTest

Array = npt.NDArray[Any]


def word_scores(model: ModelUnderTest, name: str, asked: Sequence[Asked], batching: Batching) -> Array:
    """(prompts, words) the summed log probability, in nats, of all tokens of each word after each prompt.

    Under the masks in force. The same texts are run once per model, mask and batching; `name` is theirs, for messages.
    Raises NonFinite.
    """
    plan = _planned(asked)
    encoded = Encoded("causal-lm", plan.examples, 0, ())
    digest = hashlib.sha256(plan.picks.tobytes()).hexdigest()
    inputs = (model, encoded, model.mask_in_force(), batching)
    found = computed_once(
        f"prompts 2, {digest}", inputs, lambda: {"values": _run(model, name, encoded, plan.picks, batching)}
    )
    count = len(asked[0].words)
    at = plan.picks[:, 3] * count + plan.picks[:, 4]
    return np.bincount(at, weights=found["values"], minlength=len(asked) * count).reshape(len(asked), count)


@dataclass(frozen=True)
class _Plan:
    """What the model has to read, each text once, and which tokens' probabilities are asked for."""

    examples: tuple[Example, ...]
    """Labels are 0 at the tokens after which one is asked for."""
    picks: Array
    """(asked for, 5) example, after which of its judged tokens, which token, of which prompt, of which word.

    By example, ascending."""


def _planned(asked: Sequence[Asked]) -> _Plan:
    """A text that others begin with is read with the longest of them: what follows moves no causal model's states."""
    rows: dict[Ids, int] = {}
    starts: list[int] = []
    picks = []
    for number, each in enumerate(asked):
        start = len(each.prompt) - 1
        longest: list[Ids] = []
        for ids in sorted({each.prompt + word[:-1] for word in each.words}, key=lambda ids: (-len(ids), ids)):
            if not any(longer[: len(ids)] == ids for longer in longest):
                longest.append(ids)
        for word, tokens in enumerate(each.words):
            ids = each.prompt + tokens[:-1]
            row = rows.setdefault(next(longer for longer in longest if longer[: len(ids)] == ids), len(rows))
            if row == len(starts):
                starts.append(start)
            starts[row] = min(starts[row], start)  # one text may be of prompts of two lengths
            picks += [(row, start + at, token, number, word) for at, token in enumerate(tokens)]
    found = np.array(sorted(picks), dtype=np.int64)
    found[:, 1] -= np.array(starts)[found[:, 0]]
    examples = tuple(
        Example(ids, None, (IGNORED,) * starts[row] + (0,) * (len(ids) - starts[row])) for ids, row in rows.items()
    )
    return _Plan(examples, found)


def _run(model: ModelUnderTest, name: str, encoded: Encoded, picks: Array, batching: Batching) -> Array:
    """(asked for,) log probabilities."""
    found = np.zeros(len(picks))
    places = np.searchsorted(picks[:, 0], np.arange(len(encoded.examples) + 1)).tolist()
    done = 0
    with torch.inference_mode(), model.frozen(), tracked(f"{name}, prompts", len(encoded.examples)) as show:
        for some in read(model, encoded, batching):
            for position, said in some:
                own = slice(places[position], places[position + 1])
                after, tokens = (torch.as_tensor(picks[own, at], device=said.device) for at in (1, 2))
                values = said[after, tokens].double().cpu().numpy()
                if not np.isfinite(values).all():
                    raise NonFinite("the log probability of a label word", f"item {picks[own.start, 3]} of {name}")
                found[own] = values
            done += len(some)
            show(done)
    return found
