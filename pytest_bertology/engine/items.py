"""Judged items as a model reads them: which of its tokens each word, span or text is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_bertology.engine.encoding import max_length
from pytest_bertology.engine.texts import Texts, read_texts
from pytest_bertology.engine.words import NO_OFFSETS, word_weights
from pytest_bertology.errors import CannotMeasure, EmptyTask, InvalidArgument
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import TEXT, Ints, Items

TOO_LONG = ("split", "drop")


@dataclass(frozen=True)
class LeftOut:
    """What a model could not be asked about, and what was done about texts longer than it can read."""

    long_texts: int = 0
    """Texts longer than the model can read."""
    pieces: int = 0
    """Into how many they were split; 0 where they were dropped or, whole texts being labelled, cut."""
    long_items: int = 0
    """Items of long texts that are gone: their text was dropped, or their spans lie in two pieces."""
    without_tokens: int = 0
    """Items of which the tokenizer leaves nothing."""

    @property
    def items(self) -> int:
        """All items that are not judged."""
        return self.long_items + self.without_tokens

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut(
            self.long_texts + other.long_texts,
            self.pieces + other.pieces,
            self.long_items + other.long_items,
            self.without_tokens + other.without_tokens,
        )

    def __str__(self) -> str:
        parts = []
        if self.long_texts and not self.pieces:
            done = "dropped" if self.long_items else "cut"
            were = "was" if self.long_texts == 1 else "were"
            parts.append(f"{_many(self.long_texts, 'text')} longer than the model can read {were} {done}")
            parts += [f"{_many(self.long_items, 'item')} went with them"] if self.long_items else []
        elif self.long_items:
            parts.append(f"{_many(self.long_items, 'item')} that no piece of a split text holds")
        if self.without_tokens:
            parts.append(
                f"{_many(self.without_tokens, 'item')} {'has' if self.without_tokens == 1 else 'have'} no token"
            )
        if self.pieces:  # texts that were split are not left out
            were = "was" if self.long_texts == 1 else "were"
            long = f"{_many(self.long_texts, 'text')} longer than the model can read"
            parts = [*(parts or ["nothing"]), f"{long} {were} split into {_many(self.pieces, 'piece')}"]
        return "; ".join(parts) or "nothing"


@dataclass(frozen=True, eq=False, repr=False)
class ReadItems:
    """Items, the texts that they are of, and the tokens that they are."""

    items: Items
    """Those that the model can be asked about; texts that were split are several texts here."""
    texts: Texts
    tokens: tuple[tuple[Ints, ...], ...]
    """For each item, and each of its spans, positions of tokens in its text, ascending and at least one.

    An item that is a whole text has one span here: all tokens that are not special."""
    left_out: LeftOut

    def __len__(self) -> int:
        return len(self.items)


def read_items(model: ModelUnderTest, items: Items, *, what: str, too_long: str = "split") -> ReadItems:
    """Tokenize the texts of items, and find the tokens of each item by the characters that they stand for.

    Texts longer than the model can read are, with `too_long`, "split" between words into pieces that fit, or "drop"ped;
    texts that are labelled as wholes are cut, with a warning. Both is counted. `what` is measured, for messages.

    Raises InvalidArgument; EmptyTask where nothing is left; CannotMeasure where the tokenizer does not tell which
    characters a token stands for; and what `read_texts` raises.
    """
    if too_long not in TOO_LONG:
        raise InvalidArgument("too_long", too_long, "'split' or 'drop'")
    left_out = LeftOut()
    if items.level != TEXT:
        if not model.needs_tokenizer().is_fast:
            raise CannotMeasure(what, type(model.model).__name__, NO_OFFSETS)
        items, left_out = _fitted(model, items, too_long == "split")
    texts = replace(read_texts(model, items.texts, argument="task"), name=items.name)  # type: ignore[arg-type]
    if items.level == TEXT:
        long = LeftOut(long_texts=len(texts.encoded.truncated))
        own = [np.flatnonzero(~np.array(texts.special[text], dtype=bool)) for text in items.text_of.tolist()]
        return ReadItems(items, texts, tuple((tokens,) for tokens in own), long)
    tokens = _tokens(items, texts)
    kept = [index for index, spans in enumerate(tokens) if all(len(each) for each in spans)]
    if not kept:
        raise EmptyTask(items.name, f"The tokenizer of {model.name} leaves nothing of any of its {len(items)} items.")
    left_out += LeftOut(without_tokens=len(items) - len(kept))
    items = replace(
        items,
        text_of=items.text_of[kept],
        spans=tuple(items.spans[index] for index in kept),
        labels=tuple(items.labels[index] for index in kept),
    )
    return ReadItems(items, texts, tuple(tokens[index] for index in kept), left_out)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _tokens(items: Items, texts: Texts) -> list[tuple[Ints, ...]]:
    assert texts.offsets is not None
    found: list[tuple[Ints, ...]] = []
    for text, (start, end) in enumerate(zip(items.starts[:-1].tolist(), items.starts[1:].tolist(), strict=True)):
        spans = list(dict.fromkeys(span for item in items.spans[start:end] for span in item))
        shares = word_weights(texts.offsets[text], spans)
        at = {span: np.flatnonzero(shares[:, column] > 0.0) for column, span in enumerate(spans)}
        found += [tuple(at[span] for span in item) for item in items.spans[start:end]]
    return found


def _fitted(model: ModelUnderTest, items: Items, split: bool) -> tuple[Items, LeftOut]:
    """Items in texts that are no longer than the model can read."""
    limit = max_length(model)
    tokenizer = model.needs_tokenizer()
    encoded = tokenizer(list(items.texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    sizes = [len(ids) for ids in encoded["input_ids"]]
    if max(sizes) <= limit:
        return items, LeftOut()
    capacity = limit - int(tokenizer.num_special_tokens_to_add()) - 1  # a piece's first token may become two
    texts: list[Any] = []
    text_of, spans, labels, pieces = [], [], [], 0
    for index, text in enumerate(items.texts):
        own = range(int(items.starts[index]), int(items.starts[index + 1]))
        whole = [(0, len(text))]
        if sizes[index] > limit:
            inside = [span for item in own for span in items.spans[item]]
            whole = _pieces(str(text), encoded["offset_mapping"][index], inside, capacity) if split else []
            pieces += len(whole)
        for start, end in whole:
            texts.append(text[start:end])
            for item in own:
                if all(start <= a and b <= end for a, b in items.spans[item]):
                    text_of.append(len(texts) - 1)
                    spans.append(tuple((a - start, b - start) for a, b in items.spans[item]))
                    labels.append(items.labels[item])
    if not labels:
        raise EmptyTask(items.name, f"All of its texts are longer than the {limit} tokens that {model.name} can read.")
    long = sum(size > limit for size in sizes)
    fitted = replace(
        items, texts=tuple(texts), text_of=np.array(text_of, np.int64), spans=tuple(spans), labels=tuple(labels)
    )
    return fitted, LeftOut(long_texts=long, pieces=pieces, long_items=len(items) - len(labels))


def _pieces(
    text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], capacity: int
) -> list[tuple[int, int]]:
    """From and to of pieces of at most so many tokens, cut where no span and no word is cut; none where one must be."""
    tokens = [(a, b) for a, b in offsets if b > a]
    cuts = {a for a, _ in tokens if a == 0 or text[a].isspace() or text[a - 1].isspace()} | {a for a, _ in spans}
    for a, b in spans:
        cuts -= set(range(a + 1, b))
    found: list[tuple[int, int]] = []
    last: tuple[int, int] | None = None
    start = count = index = 0
    while index < len(tokens):
        at = tokens[index][0]
        if at in cuts and at > start:
            last = (at, index)
        if count == capacity:
            if last is None:
                return found  # one word or span that is longer than all the model can read
            found.append((start, last[0]))
            start, index, count, last = last[0], last[1], 0, None
            continue
        count, index = count + 1, index + 1
    return [*found, (start, len(text))]
