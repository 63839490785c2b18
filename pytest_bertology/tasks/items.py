"""What a probe is asked: the label of a word, of a span, of a pair of spans, or of a whole text."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.tasks.conllu import Span
from pytest_bertology.tasks.metrics import CLASSIFICATION, SPANS, TOKENS, Metric
from pytest_bertology.tasks.task import Task, Text
from pytest_bertology.tasks.written import Written, in_a_row

Ints = npt.NDArray[np.int64]

WORD, SPAN, PAIR, TEXT = "word", "span", "pair", "text"
LEVELS = (WORD, SPAN, PAIR, TEXT)
_CLASSES = "a task whose words, spans or texts have classes as labels: probes classify"


@dataclass(frozen=True, eq=False, repr=False)
class Items:
    """Judged items of some texts, text by text."""

    name: str
    """Of the data, for messages."""
    level: str
    """"word", "span", "pair" (of spans) or "text"."""
    texts: tuple[Text, ...]
    """Strings; or, for items that are whole texts, pairs of them."""
    text_of: Ints
    """(items,) which text each item is of, ascending."""
    spans: tuple[tuple[Span, ...], ...]
    """For each item its span, its two spans, or none: characters of its text, from and to."""
    labels: tuple[Any, ...]
    """One for each item."""
    metric: Metric
    """The task's."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Items({self.name}: {len(self)} {self.level}s of {len(self.texts)} texts)"

    @cached_property
    def types(self) -> tuple[str, ...]:
        """What each item is, whatever stands around it: its word, its spans' characters, or its text.

        Control tasks label types at random (Hewitt & Liang 2019, section 2).
        """
        found = []
        for text, spans in zip(self.text_of.tolist(), self.spans, strict=True):
            whole = self.texts[text]
            parts = [whole[a:b] for a, b in spans] if spans else [whole] if isinstance(whole, str) else list(whole)
            found.append("\x00".join(map(str, parts)))
        return tuple(found)

    @cached_property
    def starts(self) -> Ints:
        """(texts + 1,) where each text's items begin."""
        return np.searchsorted(self.text_of, np.arange(len(self.texts) + 1)).astype(np.int64)

    def of_texts(self, texts: Sequence[int]) -> Items:
        """The items of these texts, in this order."""
        at = [np.arange(self.starts[text], self.starts[text + 1]) for text in texts]
        chosen = np.concatenate(at).astype(np.int64) if at else np.zeros(0, dtype=np.int64)
        return replace(
            self,
            texts=tuple(self.texts[text] for text in texts),
            text_of=np.repeat(np.arange(len(texts), dtype=np.int64), [len(each) for each in at]),
            spans=tuple(self.spans[item] for item in chosen.tolist()),
            labels=tuple(self.labels[item] for item in chosen.tolist()),
        )

    def in_order(self, seed: int) -> Items:
        """The same, its texts in an order that seed and contents decide alone: that of the data does not matter."""
        keys = [
            (_hashed(seed, text), repr(self.spans[a:b]), repr(self.labels[a:b]))
            for text, a, b in zip(self.texts, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        ]
        return self.of_texts(sorted(range(len(keys)), key=keys.__getitem__))

    @cached_property
    def different(self) -> int:
        """How many different texts there are: of those that are `alike` one."""
        return len({alike(text) for text in self.texts})

    def split(self, share: float, seed: int) -> tuple[Items, Items]:
        """This share of the texts, drawn by seed and contents, and the others; texts that are `alike` go together.

        Both are in `in_order`; at least one text stays on either side. Raises InvalidArgument with fewer than two
        different texts.
        """
        ordered = self.in_order(seed)
        groups: dict[Text, list[int]] = {}
        for index, text in enumerate(ordered.texts):
            groups.setdefault(alike(text), []).append(index)
        if len(groups) < 2:
            raise InvalidArgument("task", f"{self.name} ({len(groups)} text)", "two different texts, or more")
        several = list(groups.values())
        count = min(max(1, int(share * len(several) + 0.5)), len(several) - 1)
        first, second = ([index for group in part for index in group] for part in (several[:count], several[count:]))
        return ordered.of_texts(first), ordered.of_texts(second)

    def without_texts_of(self, other: Items) -> Items:
        """Those of which the text is none of the other's, nor `alike` one of them."""
        known = {alike(text) for text in other.texts}
        return self.of_texts([index for index, text in enumerate(self.texts) if alike(text) not in known])

    def with_labels(self, labels: Sequence[Any]) -> Items:
        """The same items with other labels."""
        return replace(self, labels=tuple(labels))


def items_of(task: Task) -> Items:
    """The items of a task of words, spans or classified texts, in its order.

    Words of a task that does not say how they were written stand in a row, with a space between two. Raises
    InvalidArgument for other tasks.
    """
    if task.kind == TOKENS:
        written = task.written or tuple(in_a_row([str(word) for word in words]) for words in task.texts)
        return _from_written(task, written, WORD)
    if task.kind == SPANS:
        assert task.written is not None
        pairs = any(len(spans) == 2 for each in task.written for spans in each.spans)
        return _from_written(task, task.written, PAIR if pairs else SPAN)
    if task.kind == CLASSIFICATION:
        count = len(task.texts)
        labels = task.labels or ()
        return Items(task.name, TEXT, task.texts, np.arange(count), ((),) * count, labels, task.metric)
    check_labelled(task)
    raise InvalidArgument("task", f"{task.name} ({task.kind})", _CLASSES)


def check_labelled(task: Task) -> None:
    """Raise InvalidArgument for a task of texts without labels."""
    if task.labels is None:
        expected = f"{_CLASSES}; it has texts and no labels: load_task(..., label=) names a column of them"
        raise InvalidArgument("task", f"{task.name} ({task.kind})", expected)


def alike(text: Text) -> Text:
    """What is left of a text without case, white space and punctuation: texts of which it is equal tell the same.

    Symbols (+, €, an emoji) and accents count. Of a text that is nothing but punctuation all but white space is left.
    """
    if not isinstance(text, str):
        return tuple(str(alike(part)) for part in text)
    folded = unicodedata.normalize("NFC", text).casefold()
    return folded.translate(_LETTERS) or "".join(folded.split())


class _Letters(dict[int, int | None]):
    """Characters to keep or, as None, to drop; each is looked up when it is first met."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        dropped = character.isspace() or unicodedata.category(character).startswith("P")
        self[code] = found = None if dropped else code
        return found


_LETTERS = _Letters()


def _from_written(task: Task, written: Sequence[Written], level: str) -> Items:
    counts = [len(each.spans) for each in written]
    return Items(
        task.name,
        level,
        tuple(each.text for each in written),
        np.repeat(np.arange(len(written), dtype=np.int64), counts),
        tuple(spans for each in written for spans in each.spans),
        task.flat_labels,
        task.metric,
    )


def _hashed(seed: int, text: Text) -> bytes:
    return hashlib.blake2b(repr((seed, text)).encode(), digest_size=16).digest()
