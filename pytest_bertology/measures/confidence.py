"""How sharply each head attends: the greatest of its attention weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching, batches
from pytest_bertology.engine.encoding import Encoded, encode, lengths
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.errors import CannotMeasure, NonFinite, UndefinedScore
from pytest_bertology.heads import HeadScores
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.attention import Call, Key
from pytest_bertology.models.attention_weights import AttentionCall, seeing_attention, softmax_weights
from pytest_bertology.models.sites import Site
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
    ends = _ends(model)
    stored = computed_once(
        f"confidence, without tokens {ends}",
        (model, encoded, model.mask_in_force(), batching),
        lambda: _measure(model, task, encoded, batching, ends),
    )
    return HeadScores(stored["scores"], model.heads, "confidence")


def _check(model: ModelUnderTest) -> None:
    for site in model.sites:
        if site.stack is not None:
            reason = "beside its encoder it has a decoder, whose tokens are not those of the text"
            raise CannotMeasure(_WHAT, type(model.model).__name__, reason)
        if not site.taps:
            reason = f"{site.attention} computes its weights where they are not seen"
            raise CannotMeasure(_WHAT, type(model.model).__name__, reason)


def _ends(model: ModelUnderTest) -> list[int]:
    """The ids of tokens that end a sentence."""
    tokenizer = model.needs_tokenizer()
    found = {getattr(tokenizer, name, None) for name in ("sep_token_id", "eos_token_id")}
    return sorted(token for token in found if isinstance(token, int))


def _measure(model: ModelUnderTest, task: Task, encoded: Encoded, batching: Batching, ends: list[int]) -> Arrays:
    totals = [np.zeros(site.heads) for site in model.sites]
    tokens = done = 0
    functions = any(key.via == "function" for site in model.sites for key in site.taps)
    with torch.inference_mode(), model.frozen(), tracked(f"{task.name}, confidence of heads", len(task)) as show:
        for batch in batches(model, encoded, batching):
            real = _real(encoded, batch, batching)
            counted = real & ~torch.isin(batch.inputs["input_ids"], torch.tensor(ends, device=real.device))
            seen = _Seen(model, task, batch, real, counted, totals)
            with seeing_attention(model.model, seen.interface, seen.function if functions else None):
                model.model(**batch.inputs)
            seen.check_complete()
            tokens += int(counted.sum())
            done += len(batch.positions)
            show(done)
    if not tokens:
        raise UndefinedScore(_WHAT, f"{task.name} has no token but those that end a sentence ({ends})")
    calls = np.concatenate([np.full(site.heads, len(site.taps)) for site in model.sites])
    return {"scores": np.concatenate(totals) / (tokens * calls)}


def _real(encoded: Encoded, batch: Batch, batching: Batching) -> Tensor:
    """(batch, tokens) which tokens are not padding."""
    count = torch.from_numpy(lengths(encoded)[list(batch.positions)]).unsqueeze(1)
    length = batch.inputs["input_ids"].shape[1]
    at = torch.arange(length) if batching.padding_side == "right" else torch.arange(length - 1, -1, -1)
    return (at < count).to(batch.inputs["input_ids"].device)


class _Seen:
    """Adds up what the attention calls of one forward pass show, site by site."""

    def __init__(
        self,
        model: ModelUnderTest,
        task: Task,
        batch: Batch,
        real: Tensor,
        counted: Tensor,
        totals: list[npt.NDArray[np.float64]],
    ) -> None:
        self._model, self._task, self._batch, self._totals = model, task, batch, totals
        self._real, self._counted = real, counted
        self._sites: dict[Key, int] = {key: index for index, site in enumerate(model.sites) for key in site.taps}

    def interface(self, call: AttentionCall) -> None:
        """Add a call of the attention interface."""
        index = self._sites.pop(Key("interface", call.number), None)
        if index is None:
            return  # attention that feeds no gated head
        site = self._model.sites[index]
        rows, length = self._real.shape
        if call.query.shape[0] != rows or call.query.shape[2] != length or call.key.shape[2] != length:
            raise self._cannot(site, "it attends to something else than the tokens of the text, each to all")
        self._refuse_non_finite(call.context.flatten(2))
        self._add(index, call.weights(self._real))

    def function(self, call: Call) -> None:
        """Add a softmax that the model calls itself."""
        index = self._sites.pop(call.key, None)
        if index is None:
            return
        site = self._model.sites[index]
        self._add(index, softmax_weights(call, site.taps[call.key], site.computed or site.heads, self._real))

    def _add(self, index: int, weights: Tensor | str) -> None:
        site = self._model.sites[index]
        if isinstance(weights, str):
            raise self._cannot(site, weights)
        if weights.shape[1] != (site.computed or site.heads) or weights.shape[3] != self._real.shape[1]:
            raise self._cannot(site, f"its weights are of the shape {tuple(weights.shape)}, and not as when loaded")
        best = weights.masked_fill(~self._counted[:, None, None, :], 0.0).amax(dim=-1)
        best = best.masked_fill(~self._counted[:, None, :], 0.0)
        self._refuse_non_finite(best.transpose(1, 2))
        found = best.double().sum(dim=(0, 2)).cpu().numpy()
        self._totals[index] += found[list(site.slots)] if site.slots else found

    def check_complete(self) -> None:
        """Raise CannotMeasure where a site's attention was not seen."""
        for index in self._sites.values():
            raise self._cannot(self._model.sites[index], "it was not called as when the model was loaded")

    def _refuse_non_finite(self, values: Tensor) -> None:
        """Raise NonFinite for (batch, tokens, numbers) with one that is not, on a real token."""
        wrong = ~torch.isfinite(values).all(dim=-1) & self._real
        if bool(wrong.any()):
            at = self._batch.positions[int(wrong.nonzero()[0, 0])]
            raise NonFinite("what attention gives", f"example {at} of {self._task.name}")

    def _cannot(self, site: Site, reason: str) -> CannotMeasure:
        return CannotMeasure(_WHAT, type(self._model.model).__name__, f"at {site.attention}: {reason}")
