"""Texts as a model reads them: token ids, and which characters of a text each token stands for."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching
from pytest_bertology.engine.encoding import READ, Encoded, Example, lengths, max_length
from pytest_bertology.errors import BertologyWarning, CannotMeasure, EmptyTask, InvalidArgument, MalformedData
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.sampling import accepts
from pytest_bertology.tasks.metrics import TOKENS
from pytest_bertology.tasks.task import Task, Text

TextsLike: TypeAlias = "Task | Iterable[str] | Iterable[tuple[str, str]]"
"""Texts that a model can read: strings, pairs of strings, or the texts of a task."""


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """Texts as one model reads them."""

    name: str
    """For messages."""
    texts: tuple[Text, ...]
    encoded: Encoded
    """Token ids (and token types); its labels mean nothing."""
    offsets: tuple[tuple[tuple[int, int], ...], ...] | None
    """For each token the characters of its text that it stands for, from and to; (0, 0) for tokens of no text.

    None where the tokenizer cannot tell, or texts are no single strings.
    """
    special: tuple[tuple[bool, ...], ...]
    """Which tokens the tokenizer has put there, such as [CLS] and [SEP]."""

    def __len__(self) -> int:
        return len(self.texts)

    def ids(self, index: int) -> tuple[int, ...]:
        """The token ids of one text."""
        return self.encoded.examples[index].ids


def read_texts(model: ModelUnderTest, texts: TextsLike, *, argument: str = "texts") -> Texts:
    """Tokenize texts for a model, cut to the longest it can read (with a BertologyWarning).

    Raises NoTokenizer; EmptyTask without texts; InvalidArgument for what is none; MalformedData for a text of no tokens
    of its own; CannotMeasure for a model that reads no texts.
    """
    name, chosen, split, paired = _texts(texts, argument)
    if not accepts(model.model, "input_ids"):
        reads = f"it reads {model.model.main_input_name}, and no texts"
        raise CannotMeasure("what it makes of texts", type(model.model).__name__, reads)
    tokenizer = model.needs_tokenizer()
    limit = max_length(model)
    arguments: tuple[Any, ...] = ([list(text) if split else text for text in chosen],)
    if paired:
        arguments = tuple(list(side) for side in zip(*chosen, strict=True))
    options = {"is_split_into_words": split, "return_attention_mask": False, "verbose": False}
    options["return_special_tokens_mask"] = True
    options["return_offsets_mapping"] = bool(tokenizer.is_fast)
    whole = tokenizer(*arguments, truncation=False, **options)
    too_long = tuple(index for index, ids in enumerate(whole["input_ids"]) if len(ids) > limit)
    if too_long:
        warnings.warn(
            f"{len(too_long)} of {len(chosen)} texts are longer than the {limit} tokens that {model.name} can read, "
            f"and were cut: {', '.join(map(str, too_long[:8]))}",
            BertologyWarning,
            stacklevel=3,
        )
        whole = tokenizer(*arguments, truncation=True, max_length=limit, **options)
    types = whole.get("token_type_ids") if accepts(model.model, "token_type_ids") else None
    examples = []
    for index, ids in enumerate(whole["input_ids"]):
        if not ids or all(whole["special_tokens_mask"][index]):
            raise MalformedData(name, f"text {index} has no tokens of its own: {chosen[index]!r}")
        examples.append(Example(tuple(ids), tuple(types[index]) if types else None, 0))
    single = not split and not paired and tokenizer.is_fast
    offsets = tuple(tuple((a, b) for a, b in row) for row in whole["offset_mapping"]) if single else None
    special = tuple(tuple(map(bool, row)) for row in whole["special_tokens_mask"])
    return Texts(name, chosen, Encoded(READ, tuple(examples), 0, too_long), offsets, special)


def _texts(texts: Any, argument: str) -> tuple[str, tuple[Any, ...], bool, bool]:
    """Their name, themselves, whether they are lists of words, and whether they are pairs."""
    if isinstance(texts, Task):
        return texts.name, texts.texts, texts.kind == TOKENS, texts.pairs
    wanted = "a list of texts, such as ['A sentence.'], or a task"
    if isinstance(texts, str) and texts.endswith(".conllu"):
        wanted += "; for a file of trees, [sentence.text for sentence in read_conllu(file)]"
    if isinstance(texts, Mapping) and texts:
        column = next(iter(texts))
        wanted += f"; for a mapping of columns, one of them: {argument}[{column!r}]"
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        shown = f"a {type(texts).__name__}" if isinstance(texts, Mapping) else texts
        raise InvalidArgument(argument, shown, wanted)
    chosen = tuple(texts)
    if not chosen:
        raise EmptyTask(f"{argument}=[]", f"Give {wanted}.")
    pairs = [isinstance(text, tuple) and len(text) == 2 and all(isinstance(s, str) for s in text) for text in chosen]
    for index, text in enumerate(chosen):
        if not isinstance(text, str) and not pairs[index]:
            expected = "a string, or a tuple of two strings"
            if hasattr(text, "spans"):
                expected += "; of a Sentence of read_conllu, its .text"
            shown = text if isinstance(text, tuple | list | int | float) else type(text).__name__
            raise InvalidArgument(f"{argument}[{index}]", shown, expected)
    if any(pairs) and not all(pairs):
        raise InvalidArgument(argument, "strings and pairs of strings", "all strings, or all pairs")
    digest = hashlib.sha256(repr(chosen).encode()).hexdigest()[:4]
    return f"{len(chosen)} texts (#{digest})", chosen, False, all(pairs)


def real_tokens(texts: Encoded, batch: Batch, batching: Batching) -> Tensor:
    """(batch, tokens) which tokens are not padding."""
    count = torch.from_numpy(lengths(texts)[list(batch.positions)]).unsqueeze(1)
    length = batch.inputs["input_ids"].shape[1]
    at = torch.arange(length) if batching.padding_side == "right" else torch.arange(length - 1, -1, -1)
    return (at < count).to(batch.inputs["input_ids"].device)


@dataclass(frozen=True)
class Marks:
    """What a tokenizer's ids are, for statistics of tokens."""

    cls: int | None
    """[CLS], or None."""
    separators: tuple[int, ...]
    """[SEP]; for a tokenizer without one, the token that ends a text."""
    ends: tuple[int, ...]
    """Tokens that end a sentence: [SEP], and the end of text."""
    _tokenizer: Any

    @cached_property
    def _known(self) -> dict[int, bool]:
        return {}

    def is_punctuation(self, token: int) -> bool:
        """Whether a token is of punctuation alone (Unicode categories P), special tokens never."""
        known = self._known
        if token not in known:
            text = "" if token in self._tokenizer.all_special_ids else self._tokenizer.decode([token]).strip()
            known[token] = bool(text) and all(unicodedata.category(c).startswith("P") for c in text)
        return known[token]

    def punctuation(self, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of these tokens are punctuation."""
        return np.array([self.is_punctuation(token) for token in ids], dtype=bool)


def marks(model: ModelUnderTest) -> Marks:
    """What the ids of a model's tokenizer are; raises NoTokenizer."""
    tokenizer = model.needs_tokenizer()
    cls, sep, eos = (getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "eos"))
    separators = (sep,) if isinstance(sep, int) else (eos,) if isinstance(eos, int) else ()
    ends = tuple(sorted({token for token in (sep, eos) if isinstance(token, int)}))
    return Marks(cls if isinstance(cls, int) else None, separators, ends, tokenizer)
