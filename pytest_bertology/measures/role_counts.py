"""Where each head's greatest attention weight points, counted: at which relative position, how often at rare tokens."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.engine.texts import Marks, Texts, TextsLike, marks, read_texts
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.models import ModelUnderTest

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rarity:
    """Which tokens of a text are its rarest, by how often each token occurs in some data."""

    frequencies: Mapping[int, float]
    """Of token ids; 0 for those that are not there."""
    rarest: int
    """How many of a text's tokens count as its rarest."""
    frequent: int
    """Texts whose rarest token is among so many most frequent ones are not judged."""

    @cached_property
    def _below(self) -> float:
        """What a token's number must be below, not to be among the most frequent."""
        if not self.frequent:
            return float("inf")
        ordered = sorted(self.frequencies.values(), reverse=True)
        return ordered[self.frequent - 1] if len(ordered) >= self.frequent else 0.0

    def among(self, ids: Sequence[int], words: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which tokens of a text are its rarest, of `words` alone; none of a text that is not judged.

        Equally rare tokens count together, so that they may be more than `rarest`; a text of which they are more than
        half does not tell rare from common.
        """
        found = np.array([self.frequencies.get(token, 0.0) for token in ids])
        own = np.sort(found[words])
        if len(own) <= self.rarest or own[0] >= self._below:
            return np.zeros(len(ids), dtype=bool)
        rare: npt.NDArray[np.bool_] = words & (found <= own[self.rarest - 1])
        return rare if 2 * int(rare.sum()) <= len(own) else np.zeros(len(ids), dtype=bool)


@dataclass(frozen=True, eq=False)
class RoleCounts:
    """How often each head's greatest weight points where."""

    offsets: Array
    """(heads, offsets) the share of tokens with another at that offset whose greatest weight goes to it."""
    offset_cases: npt.NDArray[np.int64]
    """(offsets,) how many such tokens there are."""
    rare: Array
    """(heads,) the share of tokens, of texts judged, whose greatest weight goes to one of the text's rarest tokens."""
    chance: Array
    """(heads,) that share for a head that points anywhere it can with the same chance."""
    rare_texts: int
    """How many texts were judged."""
    confidence: Array
    """(heads,) the mean greatest weight; tokens that end a sentence left out."""
    tokens: int
    """Tokens that are the texts' own."""
    ahead: npt.NDArray[np.bool_]
    """(heads,) whether in the head's layer any token was seen to attend to a later one."""


def count_roles(
    model: ModelUnderTest, texts: Texts, offsets: Sequence[int], rarity: Rarity, batching: Batching
) -> RoleCounts:
    """Run the model over the texts, under the masks in force, and count where each head points.

    Tokens that the tokenizer has put there ([CLS], [SEP], beginning and end of text) neither point nor are pointed to:
    the greatest weight is that among the text's own tokens.
    """
    known = marks(model)
    found = computed_once(
        f"head roles 2, {_signature(texts, known, offsets, rarity)}",
        (model, texts.encoded, model.mask_in_force(), batching),
        lambda: _Counting(model, texts, known, offsets, rarity).run(batching),
    )
    return RoleCounts(
        offsets=found["offsets"],
        offset_cases=found["offset_cases"],
        rare=found["rare"],
        chance=found["chance"],
        rare_texts=int(found["rare_texts"]),
        confidence=found["confidence"],
        tokens=int(found["tokens"]),
        ahead=np.asarray(found["ahead"], dtype=bool),
    )


def token_frequencies(
    model: ModelUnderTest, texts: Texts, given: Mapping[str, float] | Mapping[int, float] | TextsLike | None
) -> dict[int, float]:
    """How often each token id occurs: in `texts`, in others, or as a mapping of tokens or ids says."""
    if isinstance(given, Mapping):
        return _given(model, given)
    counted = texts if given is None else read_texts(model, given, argument="frequencies")
    counts: Counter[int] = Counter()
    for index in range(len(counted)):
        counts.update(np.array(counted.ids(index))[own_tokens(counted, index)].tolist())
    return {token: float(count) for token, count in counts.items()}


def own_tokens(texts: Texts, index: int) -> npt.NDArray[np.bool_]:
    """Which tokens of a text are its own, and not put there by the tokenizer."""
    return ~np.array(texts.special[index], dtype=bool)


def _given(model: ModelUnderTest, given: Mapping[str, float] | Mapping[int, float]) -> dict[int, float]:
    tokenizer = model.needs_tokenizer()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    found: dict[int, float] = {}
    for token, count in given.items():
        number = isinstance(count, int | float | np.number) and not isinstance(count, bool)
        if not number or not 0.0 <= float(count) < float("inf"):
            raise InvalidArgument(f"frequencies[{token!r}]", count, "a number of occurrences, from 0")
        if is_whole(token):
            found[int(token)] = float(count)
        elif isinstance(token, str):
            if token in vocabulary:
                found[vocabulary[token]] = float(count)
        else:
            raise InvalidArgument("frequencies", token, "tokens as the tokenizer writes them, or their ids")
    if not found:
        known = ", ".join(map(repr, sorted(vocabulary, key=lambda each: vocabulary[each])[-3:]))
        raise InvalidArgument("frequencies", dict(given), f"tokens that the tokenizer has, such as {known}")
    return found


def _signature(texts: Texts, known: Marks, offsets: Sequence[int], rarity: Rarity) -> str:
    """What the counts depend on beside ids."""
    rare = [np.flatnonzero(rarity.among(texts.ids(i), own_tokens(texts, i))).tolist() for i in range(len(texts))]
    return hashlib.sha256(repr((texts.special, known.ends, tuple(offsets), rare)).encode()).hexdigest()


class _Counting:
    """Adds up what the layers show."""

    def __init__(
        self, model: ModelUnderTest, texts: Texts, known: Marks, offsets: Sequence[int], rarity: Rarity
    ) -> None:
        self._model, self._texts, self._known, self._offsets = model, texts, known, tuple(offsets)
        heads = len(model.heads)
        self._offset_hits = np.zeros((heads, len(self._offsets)))
        self._rare_hits, self._greatest = np.zeros(heads), np.zeros(heads)
        self._ahead = [False] * len(model.sites)
        self._words = [own_tokens(texts, index) for index in range(len(texts))]
        self._rare = [rarity.among(texts.ids(index), self._words[index]) for index in range(len(texts))]
        self._features: _Features | None = None

    def run(self, batching: Batching) -> Arrays:
        """All counts, as arrays."""
        attend(self._model, self._texts, self._visit, what="roles of heads", batching=batching)
        runs = np.concatenate([np.full(site.heads, len(site.taps)) for site in self._model.sites])
        ahead = np.concatenate(
            [np.full(site.heads, seen) for site, seen in zip(self._model.sites, self._ahead, strict=True)]
        )
        cases = self._offset_cases()
        rare = [self._rare_cases(causal) for causal in (False, True)]
        judged, chance = (np.where(ahead, rare[0][part], rare[1][part]) for part in (0, 1))
        ends = [~np.isin(self._texts.ids(index), self._known.ends) for index in range(len(self._texts))]
        return {
            "offsets": self._offset_hits / (np.maximum(cases, 1) * runs[:, None]),
            "offset_cases": cases,
            "rare": self._rare_hits / (np.maximum(judged, 1) * runs),
            "chance": chance / np.maximum(judged, 1),
            "rare_texts": np.array(sum(bool(rare.any()) for rare in self._rare)),
            "confidence": self._greatest / (max(1, sum(int(each.sum()) for each in ends)) * runs),
            "tokens": np.array(sum(int(words.sum()) for words in self._words)),
            "ahead": ahead,
        }

    def _visit(self, attended: Attended) -> None:
        weights = attended.weights
        features = self._features
        if features is None or features.positions != attended.positions:
            features = self._features = _Features(self, attended)
        pointed = weights.masked_fill(~features.words[:, None, None, :], -1.0).argmax(dim=-1)
        relative = pointed - torch.arange(pointed.shape[-1], device=pointed.device)
        for index, offset in enumerate(self._offsets):
            hits = (relative == offset) & features.has[offset][:, None, :]
            self._offset_hits[attended.heads, index] += _per_head(hits)
        rare = features.rare[:, None, :].expand(-1, pointed.shape[1], -1).gather(-1, pointed)
        self._rare_hits[attended.heads] += _per_head(rare & features.words[:, None, :])
        greatest = weights.masked_fill(features.ends[:, None, None, :], 0.0).amax(dim=-1)
        self._greatest[attended.heads] += _per_head(greatest * ~features.ends[:, None, :])
        if not self._ahead[attended.site]:
            self._ahead[attended.site] = bool((weights.triu(1) > 0.0).any())

    def _offset_cases(self) -> npt.NDArray[np.int64]:
        return np.array(
            [sum(int(_has(words, k).sum()) for words in self._words) for k in self._offsets], dtype=np.int64
        )

    def _rare_cases(self, causal: bool) -> tuple[int, float]:
        """How many tokens can point to a rare one, and how many would by chance.

        `causal`: of a layer in which no token attends to a later one.
        """
        cases, hits = 0, 0.0
        for words, rare in zip(self._words, self._rare, strict=True):
            if not rare.any():
                continue
            seen = np.cumsum(words) if causal else np.full(len(words), words.sum())
            good = np.cumsum(rare) if causal else np.full(len(words), rare.sum())
            able = words & (good > 0)
            cases += int(able.sum())
            hits += float((good[able] / seen[able]).sum())
        return cases, hits

    def features_of(self, position: int) -> tuple[npt.NDArray[np.bool_], ...]:
        """Which tokens of a text are its own, are rare, and end a sentence."""
        return (
            self._words[position],
            self._rare[position],
            np.isin(self._texts.ids(position), self._known.ends),
        )

    @property
    def offsets(self) -> tuple[int, ...]:
        """The relative positions asked for."""
        return self._offsets


class _Features:
    """What the tokens of some texts of a batch are."""

    def __init__(self, counting: _Counting, attended: Attended) -> None:
        self.positions = attended.positions
        real = attended.real.cpu()
        marked = torch.zeros((3, *real.shape), dtype=torch.bool)
        for row, position in enumerate(attended.positions):
            for index, values in enumerate(counting.features_of(position)):
                marked[index, row, real[row]] = torch.from_numpy(values)
        marked = marked.to(attended.weights.device)
        self.words, self.rare, self.ends = marked
        self.has = {offset: _shifted(self.words, offset) for offset in counting.offsets}
        """(texts, tokens), for each offset: whether a token of the text's own has another there."""


def _shifted(words: Tensor, offset: int) -> Tensor:
    found = torch.zeros_like(words)
    length = words.shape[1]
    if abs(offset) < length:
        here = slice(max(0, -offset), length - max(0, offset))
        there = slice(max(0, offset), length - max(0, -offset))
        found[:, here] = words[:, here] & words[:, there]
    return found


def _has(words: npt.NDArray[np.bool_], offset: int) -> npt.NDArray[np.bool_]:
    return np.asarray(_shifted(torch.from_numpy(words)[None], offset)[0].numpy())


def _per_head(values: Tensor) -> Array:
    """(texts, heads, tokens) summed over texts and tokens."""
    found: Array = values.double().sum(dim=(0, 2)).cpu().numpy()
    return found
