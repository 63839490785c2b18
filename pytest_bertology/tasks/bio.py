"""Tasks from columns of words: one word and its tags on a line (CoNLL-2003, WNUT), or the entities that tags mark."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pytest_bertology.errors import EmptyTask, InvalidArgument, MalformedData, MissingColumn, TaskNotFound
from pytest_bertology.tasks.entities import Entity, Tags, entities, is_mark, is_marking
from pytest_bertology.tasks.metrics import SPANS, TOKENS, Metric, find_metric
from pytest_bertology.tasks.task import Task
from pytest_bertology.tasks.written import Written, in_a_row

ENDINGS = (".conll", ".bio", ".iob2")
ENTITY = "entity"
_DOCUMENT = "-DOCSTART-"
_BLANK = " \t\r\n"  # and no other: a word may be a no-break space


class Line(NamedTuple):
    """One word's line."""

    number: int
    """From 1, in the file."""
    fields: tuple[str, ...]


def is_columns(source: str | os.PathLike[str]) -> bool:
    """Whether this is, by its name, a file of one word a line."""
    return Path(os.fspath(source)).suffix.lower() in ENDINGS


def columns_task(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    text: object = None,
    label: str | int | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
) -> Task:
    """A task of tagged words; with `label="entity"`, of the spans that B-, I- and O tags mark.

    Columns are separated by tabs, or in a file whose first words are not, by spaces; all words have as many. They are
    counted from 0: `text` is that of the words, by default 0, and `label` that of the tags, by default the last.
    Sentences are separated by blank lines; -DOCSTART- lines and comments (# before a sentence's first word) are left
    out. Words stand in a row, a space between two.

    `label="entity"` (or "entity:2", of another column than the last) makes each entity one item, labelled with its
    type: "person" for B-person I-person. There are no other items, so that nothing is asked of spans that are no entity
    (Tenney et al. 2019b, section 3: the spans are given), and sentences without entities are left out. Tags are B-I-O;
    I-O (I- begins an entity, B- only one directly after another of its type: CoNLL-2003 as published) where all of a
    .conll file is; or B-I-E-S-O. Tags that break their scheme are an error with either label: nothing is repaired.

    Raises TaskNotFound, MalformedData with the line, MissingColumn, EmptyTask, SingleClass, InvalidArgument.
    """
    path = Path(source)
    if split is not None:
        raise InvalidArgument("split", split, "None: a file has one part")
    sentences = tuple(_sentences(path))
    if not sentences:
        raise EmptyTask(path.name)
    width = len(sentences[0][0].fields)
    if width < 2:
        problem = "has one column, and a word's tag stands on its line, after a tab or spaces"
        raise MalformedData(str(path), f"line {sentences[0][0].number} {problem}")
    words_at, tags_at, spans = _chosen(path.name, width, text, label)
    words = tuple(tuple(line.fields[words_at] for line in lines) for lines in sentences)
    tags = tuple(tuple(line.fields[tags_at] for line in lines) for lines in sentences)
    for column in (words_at, tags_at):
        _check_filled(path, sentences, column)
    name = f"{path.name}:{label}" if label is not None else path.name
    if not spans and not is_marking(tags):
        return Task(name, TOKENS, words, tags, metric=find_metric(metric, TOKENS))
    lines = [[line.number for line in each] for each in sentences]
    found = entities(Tags(str(path), tags, lines, strict=path.suffix.lower() != ".conll"))
    if not spans:
        return Task(name, TOKENS, words, tags, metric=find_metric(metric, TOKENS))
    return _of_entities(name, words, found, metric)


def _of_entities(name: str, words: Sequence[Sequence[str]], found: Sequence[Sequence[Entity]], metric: Any) -> Task:
    written, labels = [], []
    for row, own in zip(words, found, strict=True):
        if own:
            text, spans = in_a_row(row)
            written.append(Written(text, tuple(((spans[a][0][0], spans[b - 1][0][1]),) for a, b, _ in own)))
            labels.append(tuple(kind for _, _, kind in own))
    texts = tuple(each.text for each in written)
    return Task(name, SPANS, texts, tuple(labels), metric=find_metric(metric, SPANS), written=tuple(written))


def _chosen(name: str, width: int, text: object, label: object) -> tuple[int, int, bool]:
    """The column of the words, that of the tags, and whether entities are wanted."""
    spans = isinstance(label, str) and label.partition(":")[0] == ENTITY
    wanted: Any = (str(label).partition(":")[2] or None) if spans else label
    words_at = _column(name, width, 0 if text is None else text, "text")
    tags_at = width - 1 if wanted is None else _column(name, width, wanted, "label")
    if words_at == tags_at:
        raise InvalidArgument("label", label, f"another column than that of the words, {words_at}")
    return words_at, tags_at, spans


def _column(name: str, width: int, wanted: object, argument: str) -> int:
    number = int(wanted) if isinstance(wanted, str) and re.fullmatch(r"[0-9]{1,4}", wanted) else wanted
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < width:
        return number
    what = f"{argument} column {wanted!r}"
    known = [*map(str, range(width)), *([ENTITY] if argument == "label" else [])]
    raise MissingColumn(name, what, known, f"{argument}= (columns are counted from 0)")


def _check_filled(path: Path, sentences: Sequence[Sequence[Line]], column: int) -> None:
    for lines in sentences:
        for line in lines:
            if not line.fields[column].strip(_BLANK):
                raise MalformedData(str(path), f"line {line.number}: column {column} is empty")


def _sentences(path: Path) -> Iterator[list[Line]]:
    lines = _read(path)
    first = next((line for _, line in lines if line and not line.startswith(("#", _DOCUMENT))), "")
    tabs = "\t" in first
    width = len(_fields(first, tabs))
    inside = [now for (_, before), (_, now) in pairwise([(0, ""), *lines]) if before and before[0] != "#"]
    known = {_fields(line, tabs)[-1] for line in [*inside, *(each for _, each in lines if each[:1] != "#")]}
    sentence: list[Line] = []
    for number, line in lines:
        fields = _fields(line, tabs)
        if not line or fields[0] == _DOCUMENT:
            if sentence:
                yield sentence
            sentence = []
        elif len(fields) == width and not (not sentence and _is_comment(fields, known)):
            sentence.append(Line(number, fields))
        elif sentence or not line.startswith("#"):
            by = "tabs" if tabs else "spaces"
            problem = f"line {number} has {len(fields)} columns separated by {by}, and the first word has {width}"
            raise MalformedData(str(path), problem)
    if sentence:
        yield sentence


def _is_comment(fields: Sequence[str], known: set[str]) -> bool:
    """Whether a line with as many fields as there are columns has no word: "# id 7" has none, "# O" has."""
    begins = fields[0] == "#" or fields[0].startswith("# ")
    return begins and fields[-1] not in known and not is_mark(fields[-1])


def _fields(line: str, tabs: bool) -> tuple[str, ...]:
    return tuple(line.split("\t") if tabs else re.split("[ \t]+", line))


def _read(path: Path) -> list[tuple[int, str]]:
    """Numbers and lines, without blanks at the end; blank lines are empty."""
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else f"there is no such file (looked from {Path.cwd()})"
        raise TaskNotFound(str(path), found)
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [(number, line.rstrip("\n")) for number, line in enumerate(file, start=1)]
    except UnicodeDecodeError as error:
        raise MalformedData(str(path), f"it is not UTF-8 ({error})") from None
    # A tab at the end is an empty column; only a line of nothing else is blank.
    return [(number, line.rstrip(" \r") if line.strip(_BLANK) else "") for number, line in lines]
