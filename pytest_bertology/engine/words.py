"""From tokens to words: which words of a text each token stands for, and attention between words.

By the characters of the original text, not by splitting words beforehand: byte-level tokenizers read a word at the
start of a text and one after a space as different tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import Texts, read_texts
from pytest_bertology.errors import CannotMeasure
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import Sentence, Span

Array = npt.NDArray[Any]
T = TypeVar("T")
Weights = TypeVar("Weights", Tensor, Array)

NO_OFFSETS = (
    "its tokenizer does not tell which characters a token stands for; load a fast one, such as "
    "AutoTokenizer.from_pretrained(..., use_fast=True)"
)


def word_weights(offsets: Sequence[Span], spans: Sequence[Span]) -> npt.NDArray[np.float64]:
    """(tokens, words) the share of each token's characters that lie in each word.

    `offsets` and `spans` are the characters, from and to, of tokens and of words. Characters of no word (spaces, that
    some tokenizers count to the token behind them) do not count; a token of none but such, or of none at all as [CLS],
    has a row of zeros, and every other row sums to 1. Characters that words share count for each in equal parts.
    """
    size = max([1, *(end for _, end in offsets), *(end for _, end in spans)])
    owned = np.zeros((size, len(spans)))
    for word, (start, end) in enumerate(spans):
        owned[start:end, word] = 1.0
    owned /= np.maximum(owned.sum(axis=1, keepdims=True), 1.0)
    before = np.zeros((size + 1, len(spans)))
    np.cumsum(owned, axis=0, out=before[1:])
    at = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    inside = before[np.maximum(at[:, 0], at[:, 1])] - before[at[:, 0]]
    inside[inside < 1e-9] = 0.0  # differences of sums of shares
    shares: npt.NDArray[np.float64] = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1e-300)
    return shares


def words_attention(weights: Weights, shares: Array) -> Weights:
    """(…, words, words) attention between words: to a word the sum over its tokens, from a word the mean.

    Clark et al. 2019, section 4.1, where a token of two words counts for each by its share of characters. `weights`
    are (…, tokens, tokens), `shares` (tokens, words) as `word_weights` gives them. Rows and columns of words without
    tokens are 0; the sum of a row is the attention that goes to words at all.
    """
    own = shares / np.maximum(shares.sum(axis=0, keepdims=True), 1e-300)
    if isinstance(weights, Tensor):
        to = torch.as_tensor(shares, dtype=weights.dtype, device=weights.device)
        whole: Tensor = torch.as_tensor(own, dtype=weights.dtype, device=weights.device).T @ (weights @ to)
        return whole
    return np.asarray(own.T @ (weights @ shares))


@dataclass(frozen=True, eq=False, repr=False)
class Words:
    """Sentences as one model reads them, and which words each token stands for."""

    sentences: tuple[Sentence, ...]
    texts: Texts
    shares: tuple[npt.NDArray[np.float64], ...]
    """For each sentence (tokens, words)."""

    def __len__(self) -> int:
        return len(self.sentences)

    @cached_property
    def present(self) -> tuple[npt.NDArray[np.bool_], ...]:
        """For each sentence, which of its words have a token: not those cut off, or dropped by the tokenizer."""
        return tuple(shares.sum(axis=0) > 0.0 for shares in self.shares)

    @property
    def missing(self) -> int:
        """How many words have no token."""
        return sum(int((~present).sum()) for present in self.present)

    def subset(self, positions: Sequence[int]) -> Words:
        """Some of the sentences, in this order."""

        def some(values: Sequence[T]) -> tuple[T, ...]:
            return tuple(values[position] for position in positions)

        texts, encoded = self.texts, self.texts.encoded
        chosen = replace(
            texts,
            texts=some(texts.texts),
            encoded=replace(encoded, examples=some(encoded.examples), truncated=()),
            offsets=None if texts.offsets is None else some(texts.offsets),
            special=some(texts.special),
        )
        return Words(some(self.sentences), chosen, some(self.shares))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of trees and of which tokens are which words, as hexadecimal."""
        sha = hashlib.sha256()
        for sentence, shares in zip(self.sentences, self.shares, strict=True):
            sha.update(repr((sentence.heads, sentence.relations, shares.shape)).encode())
            sha.update(shares.tobytes())
        return sha.hexdigest()


def read_words(model: ModelUnderTest, sentences: Sequence[Sentence], *, what: str, name: str | None = None) -> Words:
    """Tokenize sentences for a model, and find the words of each token.

    `what` is measured and `name` names the data, for messages. Raises CannotMeasure where the tokenizer does not tell
    which characters a token stands for, and what `read_texts` raises.
    """
    texts = read_texts(model, [sentence.text for sentence in sentences], argument="conllu")
    if texts.offsets is None:
        raise CannotMeasure(what, type(model.model).__name__, NO_OFFSETS)
    texts = texts if name is None else replace(texts, name=name)
    assert texts.offsets is not None
    shares = tuple(
        word_weights(offsets, sentence.spans) for offsets, sentence in zip(texts.offsets, sentences, strict=True)
    )
    return Words(tuple(sentences), texts, shares)


VisitWords = Callable[[int, slice, int, Tensor], None]
"""Called with a sentence's position, which heads by position in `model.heads`, which run of a layer that runs several
times in a pass (0 for the first), and (heads, words, words) attention between words."""


def attend_words(
    model: ModelUnderTest,
    words: Words,
    visit: VisitWords,
    *,
    what: str,
    batching: Batching | None = None,
    sites: Sequence[int] | None = None,
) -> None:
    """Run the model over sentences and show `visit` what each head attends to, word by word, as `attend` does."""

    def seen(attended: Attended) -> None:
        for position, weights in attended.each():
            visit(position, attended.heads, attended.run, words_attention(weights, words.shares[position]))

    attend(model, words.texts, seen, what=what, batching=batching, sites=sites)
