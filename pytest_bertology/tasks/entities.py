"""Entities that tags mark: B- begins one, I- is inside, O outside; in the schemes IOB2, IOB1 and BIOES."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from pytest_bertology.errors import MalformedData

_MARK = re.compile(r"O|[BIESLU]-.+", re.DOTALL)
_ENDS = {"E": "E", "L": "E", "S": "S", "U": "S"}
_ADVICE = "Correct the file: nothing is repaired here"


class Entity(NamedTuple):
    """Words of a sentence, from and to (the end excluded), and their type."""

    start: int
    end: int
    kind: str


class Tags(NamedTuple):
    """The tags of all words of a file, and where they stand."""

    source: str
    sentences: Sequence[Sequence[str]]
    lines: Sequence[Sequence[int]]
    strict: bool
    """Whether the file's name says that entities begin with B-."""

    def wrong(self, sentence: int, word: int, problem: str) -> MalformedData:
        """The error of one tag."""
        tag = self.sentences[sentence][word]
        return MalformedData(self.source, f"line {self.lines[sentence][word]}: {tag} {problem}. {_ADVICE}")


def is_marking(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether these are tags that mark entities, all of them, and at least one of another kind than O."""
    flat = {tag for tags in sentences for tag in tags}
    return flat != {"O"} and all(map(is_mark, flat))


def is_mark(tag: str) -> bool:
    """Whether this is such a tag: "O", "B-person"."""
    return _MARK.fullmatch(tag) is not None


def entities(tags: Tags) -> list[list[Entity]]:
    """The entities of each sentence.

    Tags with E- or S- (L- or U-) are BIOES; others are IOB2, unless `strict` is false and all of them are IOB1: no B-
    but directly after a word of the same type. Raises MalformedData, with the line, for tags that are none of these or
    break their scheme.
    """
    for index, sentence in enumerate(tags.sentences):
        for word, tag in enumerate(sentence):
            if not is_mark(tag):
                raise tags.wrong(index, word, "is no tag of entities: they are O, or B- or I- and a type")
    marks = {tag[0] for sentence in tags.sentences for tag in sentence}
    if marks & set(_ENDS):
        read = _bioes
    elif not tags.strict and _is_iob1(tags.sentences):
        read = _runs
    else:
        read = _iob2
    return [list(read(tags, index)) for index in range(len(tags.sentences))]


def _is_iob1(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether B- stands nowhere but where IOB1 has it."""
    for sentence in sentences:
        for before, tag in pairwise(["O", *sentence]):
            if tag[0] == "B" and before[2:] != tag[2:]:
                return False
    return True


def _iob2(tags: Tags, index: int) -> Iterator[Entity]:
    sentence = tags.sentences[index]
    for word, (before, tag) in enumerate(pairwise(["", *sentence])):
        if tag[0] == "I" and before[2:] != tag[2:]:
            after = f"follows {before}" if before else "is its sentence's first"
            raise tags.wrong(index, word, f"{after}, and no B-{tag[2:]} or I-{tag[2:]}")
    yield from _runs(tags, index)


def _runs(tags: Tags, index: int) -> Iterator[Entity]:
    """Entities that end where another type, O or a B- follows: IOB1, and IOB2 that is well formed."""
    sentence = tags.sentences[index]
    start = 0
    for word in range(len(sentence)):
        before = sentence[word - 1][2:] if word else ""
        if sentence[word][0] == "B" or before != sentence[word][2:]:
            start = word
        last = word + 1 == len(sentence) or sentence[word + 1][0] == "B"
        if sentence[word] != "O" and (last or sentence[word + 1][2:] != sentence[word][2:]):
            yield Entity(start, word + 1, sentence[word][2:])


def _bioes(tags: Tags, index: int) -> Iterator[Entity]:
    sentence = tags.sentences[index]
    start: int | None = None
    for word, tag in enumerate(sentence):
        mark = _ENDS.get(tag[0], tag[0])
        before = sentence[word - 1] if word else "nothing"
        goes_on = mark in "IE" and tag != "O"
        if goes_on and (start is None or before[2:] != tag[2:]):
            raise tags.wrong(index, word, f"follows {before}, and no B-{tag[2:]} or I-{tag[2:]}")
        if not goes_on and start is not None:
            raise tags.wrong(index, word, f"follows {before}, whose entity has not ended with E- or L-")
        start = word if mark in "BS" else start
        if mark in "ES":
            assert start is not None
            yield Entity(start, word + 1, tag[2:])
            start = None
    if start is not None:
        raise tags.wrong(index, len(sentence) - 1, "is its sentence's last, and its entity has not ended with E- or L-")
