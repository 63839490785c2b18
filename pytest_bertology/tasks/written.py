"""Texts as they were written, and the characters of them that are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_bertology.errors import MalformedData
from pytest_bertology.tasks.conllu import Span


class Written(NamedTuple):
    """One text as it was written, and where what is judged stands in it."""

    text: str
    spans: tuple[tuple[Span, ...], ...]
    """For each judged item its span, or its two spans: characters of `text`, from and to (the end excluded)."""


def in_a_row(words: Sequence[str]) -> Written:
    """Words one after the other, a space between two."""
    spans, at = [], 0
    for word in words:
        spans.append(((at, at + len(word)),))
        at += len(word) + 1
    return Written(" ".join(words), tuple(spans))


def check_written(name: str, written: Sequence[Written], labels: Sequence[object], sizes: Sequence[int]) -> None:
    """Raise MalformedData where items and labels differ in number, or spans are not characters of their texts.

    `sizes` are the numbers of spans that an item may have; all items must have the same.
    """
    counts = set()
    for index, ((text, items), own) in enumerate(zip(written, labels, strict=True)):
        if not isinstance(own, tuple) or len(own) != len(items):
            found = len(own) if isinstance(own, tuple) else 1
            raise MalformedData(name, f"example {index} has {len(items)} items to judge and {found} labels")
        for spans in items:
            counts.add(len(spans))
            for start, end in spans:
                if not 0 <= start < end <= len(text):
                    problem = f"characters {start} to {end} are none of its {len(text)}, or no span"
                    raise MalformedData(name, f"example {index}: {problem}")
    if not counts:
        raise MalformedData(name, "no example has anything to judge")
    if len(counts) > 1 or not counts <= set(sizes):
        wanted = " or ".join(map(str, sizes))
        raise MalformedData(name, f"items have {sorted(counts)} spans, and all must have {wanted} of them")
