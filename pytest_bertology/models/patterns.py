"""Attention patterns that people can name: which tokens of a text a token may attend to."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole

Allowed: TypeAlias = "npt.NDArray[np.bool_]"
"""(tokens, tokens) whether the token of a row may attend to that of a column."""
PatternLike: TypeAlias = "str | int | Pattern | Callable[[Sequence[int]], Any]"
"""A name of `PATTERNS`; a number of places, -1 for the token before; or a function of a text's token ids that gives
(tokens, tokens) bools."""

_FULL_STOPS = frozenset(".!?…。！？｡؟۔।")
"""Those of other scripts among them."""


@dataclass(frozen=True)
class Pattern:
    """A pattern of attention."""

    name: str
    of: Callable[[Sequence[int]], Any] = field(repr=False)
    """Given the token ids of a text without padding, (tokens, tokens) bools."""
    reads_ids: bool = True
    """Whether it looks at more than how many tokens there are."""

    def allowed(self, ids: Sequence[int]) -> Allowed:
        """(tokens, tokens) for a text; raises InvalidArgument for what is no such array."""
        found = np.asarray(self.of(ids))
        if found.shape != (len(ids), len(ids)) or found.dtype != np.bool_:
            given = f"{self.name}, which gives {found.dtype} of the shape {found.shape} for {len(ids)} tokens"
            raise InvalidArgument("pattern", given, "a function that gives bools, (tokens, tokens)")
        return found


def offset(k: int) -> Pattern:
    """The token `k` places on: offset(-1) is the one before, offset(0) the token itself."""
    if not is_whole(k):
        raise InvalidArgument("k", k, "a whole number of places, such as -1 for the token before")
    return Pattern(f"offset {int(k):+d}", lambda ids: np.eye(len(ids), k=int(k), dtype=bool), reads_ids=False)


def _matching(ids: Sequence[int]) -> Allowed:
    each = np.asarray(ids)
    return np.asarray(each[:, None] == each[None, :])


def _first(ids: Sequence[int]) -> Allowed:
    found = np.zeros((len(ids), len(ids)), dtype=bool)
    found[:, :1] = True
    return found


_NAMED = {
    "matching_token": Pattern("matching_token", _matching),
    "previous": Pattern("previous", offset(-1).of, reads_ids=False),
    "next": Pattern("next", offset(1).of, reads_ids=False),
    "self": Pattern("self", offset(0).of, reads_ids=False),
    "first": Pattern("first", _first, reads_ids=False),
}
PATTERNS = (*_NAMED, "within_sentence")
"""The patterns that have names."""


def as_pattern(pattern: PatternLike, tokenizer: Callable[[], Any]) -> Pattern:
    """A pattern by its name, itself, or of a function; `tokenizer` gives the tokenizer to one that needs it.

    Raises InvalidArgument for anything else.
    """
    if isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, str) and pattern in _NAMED:
        return _NAMED[pattern]
    if is_whole(pattern):
        return offset(pattern)  # type: ignore[arg-type]
    if pattern == "within_sentence":
        return within_sentence(tokenizer())
    if not callable(pattern):
        names = ", ".join(map(repr, PATTERNS))
        expected = f"one of {names}; a number of places, such as -1; or a function of token ids"
        raise InvalidArgument("pattern", pattern, expected)
    return Pattern(getattr(pattern, "__name__", type(pattern).__name__), pattern)


def within_sentence(tokenizer: Any) -> Pattern:
    """The tokens of the same sentence, the token itself among them.

    A sentence ends with a run of tokens each of which is a separator of the tokenizer's ([SEP]; the end of a text) or
    full stops alone (. ! ? … and those of other scripts), as "." or "?!" are: that of "Good . [SEP]" is one run. What
    stands before the first such run, [CLS] among it, and what follows the last, is a sentence too. An abbreviation's
    full stop, where it is a token by itself, ends one as well.
    """
    ends = _Ends(tokenizer)

    def of(ids: Sequence[int]) -> Allowed:
        closes = np.array([ends(token) for token in ids], dtype=bool)
        starts = np.r_[False, closes[:-1] & ~closes[1:]]  # the token behind a run
        sentence = np.cumsum(starts)
        return np.asarray(sentence[:, None] == sentence[None, :])

    return Pattern("within_sentence", of)


class _Ends:
    """Which token ids end a sentence; what was found is remembered."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        names = ("sep_token_id", "eos_token_id")
        self._known: dict[int, bool] = {
            found: True for found in (getattr(tokenizer, name, None) for name in names) if isinstance(found, int)
        }

    def __call__(self, token: int) -> bool:
        if token not in self._known:
            text = "" if token in self._tokenizer.all_special_ids else self._tokenizer.decode([token])
            text = unicodedata.normalize("NFC", text).strip()
            self._known[token] = bool(text) and set(text) <= _FULL_STOPS
        return self._known[token]
