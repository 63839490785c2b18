"""Sentences with their dependency trees, from CoNLL-U (Universal Dependencies)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pytest_bertology.errors import EmptyTask, InvalidArgument, MalformedData, TaskNotFound

Span: TypeAlias = tuple[int, int]
TreesLike: TypeAlias = "str | os.PathLike[str] | Iterable[Sentence] | Iterable[Sequence[Mapping[str, Any]]]"
"""A CoNLL-U file, or sentences: of this module, or as the package `conllu` parses them."""

_COLUMNS = 10
_SOURCE = "a path of a CoNLL-U file, or an iterable of sentences"


@dataclass(frozen=True)
class Sentence:
    """One sentence and its basic dependency tree; words are counted from 0."""

    words: tuple[str, ...]
    """The syntactic words: `don't` is `do` and `n't`."""
    heads: tuple[int, ...]
    """For each word the word it depends on; -1 for the root."""
    relations: tuple[str, ...]
    """For each word its relation to its head, with subtypes: `nsubj:pass`."""
    upos: tuple[str, ...]
    text: str
    """As it was written; where that is not given, the words with spaces where `SpaceAfter` puts them."""
    spans: tuple[Span, ...]
    """For each word its characters in `text`, from and to. Words written as one (`du` for `de le`) share them."""
    sent_id: str | None = None
    xpos: tuple[str, ...] = ()
    """Language-specific tags; empty where the sentence was made without."""

    def __len__(self) -> int:
        return len(self.words)

    @property
    def base_relations(self) -> tuple[str, ...]:
        """The relations without subtypes: `nsubj` for `nsubj:pass`."""
        return tuple(map(base_relation, self.relations))


def base_relation(relation: str) -> str:
    """A relation without its subtype: `nsubj` for `nsubj:pass`."""
    return relation.split(":", 1)[0]


def read_conllu(source: TreesLike) -> tuple[Sentence, ...]:
    """The sentences of a CoNLL-U file, or of an iterable of `Sentence`s or of lists of tokens.

    Lists of tokens are as the package `conllu` gives them: mappings with `id`, `form`, `upos`, `head`, `deprel` and
    `misc`, and where the list has a `metadata`, its `text` and `sent_id`. Empty nodes (`8.1`) are left out; words that
    are written as one (`1-2`) divide its characters where their forms, one after the other, are what is written, and
    share them otherwise.

    Raises TaskNotFound where there is no such file, EmptyTask without sentences, InvalidArgument, and MalformedData
    with the line and what is wrong there: fields, numbering, heads that are no words, heads that go round in a circle,
    and words that are not in the text.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        sentences = tuple(_sentences(path))
    elif isinstance(source, bytes | Mapping | Sentence) or not isinstance(source, Iterable):
        raise InvalidArgument("conllu", type(source).__name__, _SOURCE)
    else:
        sentences = tuple(_given(each, f"sentence {index}") for index, each in enumerate(source))
    if not sentences:
        raise EmptyTask(str(source) if isinstance(source, str | os.PathLike) else "the list of sentences")
    return sentences


@dataclass(frozen=True)
class _Row:
    """One line, read."""

    where: str
    first: int
    last: int
    """The word's number, twice; or the numbers of the first and last word that are written as one."""
    form: str
    upos: str
    xpos: str
    head: int
    relation: str
    space_after: bool


@dataclass
class _Block:
    """The lines of one sentence."""

    source: str
    where: str
    rows: list[_Row] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


def _sentences(path: Path) -> Iterator[Sentence]:
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else f"there is no such file (looked from {Path.cwd()})"
        raise TaskNotFound(str(path), f"{found}. Give the path of one .conllu file", "the trees of")
    block: _Block | None = None
    with path.open(encoding="utf-8-sig") as file:
        lines = enumerate(file, start=1)
        try:
            for number, line in lines:
                line, where = line.rstrip("\n"), f"line {number}"
                if not line.strip():
                    if block is not None and block.rows:
                        yield _sentence(block)
                        block = None
                    continue
                block = block or _Block(str(path), where)
                if line.startswith("#"):
                    key, _, value = line[1:].partition("=")
                    block.facts.setdefault(key.strip(), value.strip())
                else:
                    _put(block, _fields(line, str(path), where))
        except UnicodeDecodeError as error:
            raise MalformedData(str(path), f"it is not UTF-8 ({error})") from None
    if block is not None and block.rows:
        yield _sentence(block)


def _given(value: Any, where: str) -> Sentence:
    """A sentence that is parsed already."""
    if isinstance(value, Sentence):
        if len({len(value.words), len(value.heads), len(value.relations), len(value.upos), len(value.spans)}) != 1:
            raise MalformedData(
                "the sentences given", f"{where}: its words, heads, relations and spans differ in number"
            )
        return value
    tokens = isinstance(value, Sequence) and all(isinstance(token, Mapping) for token in value)
    if not tokens or not value:
        raise InvalidArgument(f"conllu[{where.split()[-1]}]", type(value).__name__, "a Sentence, or a list of tokens")
    metadata = getattr(value, "metadata", None) or {}
    facts = {str(key): str(fact) for key, fact in metadata.items() if fact is not None}
    block = _Block("the sentences given", where, facts=facts)
    for index, token in enumerate(value):
        _put(block, _token(token, block.source, f"{where}, token {index}"))
    return _sentence(block)


def _fields(line: str, source: str, where: str) -> _Row | None:
    """A line's fields; None for an empty node."""
    fields = line.split("\t")
    if len(fields) != _COLUMNS:
        raise MalformedData(source, f"{where} has {len(fields)} fields, and CoNLL-U {_COLUMNS} separated by tabs")
    number, form, _, upos, xpos, _, head, relation, _, misc = fields
    spaced = "SpaceAfter=No" not in misc.split("|")
    return _row((number, form, upos, xpos, head, relation), spaced, source, where)


def _token(token: Mapping[str, Any], source: str, where: str) -> _Row | None:
    """A token of the package `conllu`; None for an empty node."""
    number = token.get("id")
    if isinstance(number, tuple | list):
        number = "".join(map(str, number))
    misc = token.get("misc") or {}
    parts = [f"{key}={value}" for key, value in misc.items()] if isinstance(misc, Mapping) else str(misc).split("|")
    fields = (
        number,
        token.get("form"),
        token.get("upos", token.get("upostag")),
        token.get("xpos", token.get("xpostag")),
        token.get("head"),
        token.get("deprel"),
    )
    number, form, upos, xpos, head, relation = (str("_" if value is None else value) for value in fields)
    return _row((number, form, upos, xpos, head, relation), "SpaceAfter=No" not in parts, source, where)


def _row(fields: tuple[str, str, str, str, str, str], spaced: bool, source: str, where: str) -> _Row | None:
    number, form, upos, xpos, head, relation = fields
    if not form:
        raise MalformedData(source, f"{where}: the word's form is empty")
    if _is_number(number):
        if not _is_number(head):
            raise MalformedData(source, f"{where}: the head of {form!r} is {head!r}, and no word's number")
        if relation in ("", "_"):
            raise MalformedData(source, f"{where}: {form!r} has no relation to its head")
        return _Row(where, int(number), int(number), form, upos, xpos, int(head), relation, spaced)
    first, dash, last = number.partition("-")
    if dash and _is_number(first) and _is_number(last) and int(first) <= int(last):
        return _Row(where, int(first), int(last), form, upos, xpos, -1, "", spaced)
    before, dot, after = number.partition(".")
    if dot and _is_number(before) and _is_number(after):
        return None
    raise MalformedData(source, f"{where}: {number!r} is no number of a word (1), words (1-2) or empty node (1.1)")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _put(block: _Block, row: _Row | None) -> None:
    if row is not None:
        block.rows.append(row)


def _sentence(block: _Block) -> Sentence:
    words, written = _words(block)
    heads = tuple(row.head - 1 for row in words)
    _check_tree(block, words, heads)
    text, places = _placed(block, written)
    spans: list[Span] = []
    for row, place in zip(written, places, strict=True):
        spans += _divided(text, place, [word.form for word in words[row.first - 1 : row.last]])
    return Sentence(
        words=tuple(row.form for row in words),
        heads=heads,
        relations=tuple(row.relation for row in words),
        upos=tuple(row.upos for row in words),
        text=text,
        spans=tuple(spans),
        sent_id=block.facts.get("sent_id"),
        xpos=tuple(row.xpos for row in words) if any(row.xpos not in ("", "_") for row in words) else (),
    )


def _words(block: _Block) -> tuple[list[_Row], list[_Row]]:
    """The words, and what is written: words, or several as one."""
    words: list[_Row] = []
    written: list[_Row] = []
    inside = 0
    for row in block.rows:
        is_word = bool(row.relation)
        if row.first != len(words) + 1 or (not is_word and row.first <= inside):
            raise MalformedData(block.source, f"{row.where}: number {row.first} follows {len(words)}: a gap, or twice")
        if is_word:
            words.append(row)
        if not is_word or row.first > inside:
            written.append(row)
        inside = inside if is_word else row.last
    if not words or inside > len(words):
        missing = f"word {inside} is missing, though {written[-1].form!r} ends with it" if words else "it has no words"
        raise MalformedData(block.source, f"the sentence at {block.where}: {missing}")
    return words, written


def _check_tree(block: _Block, words: Sequence[_Row], heads: Sequence[int]) -> None:
    """Raise MalformedData for a head that is no word, and for heads that never lead to a root."""
    for row, head in zip(words, heads, strict=True):
        if head >= len(words):
            problem = f"the head of {row.form!r} is {head + 1}, of {len(words)} words"
            raise MalformedData(block.source, f"{row.where}: {problem}")
    rooted = [head < 0 for head in heads]
    for start, row in enumerate(words):
        path, at = [], start
        while not rooted[at]:
            path.append(at)
            at = heads[at]
            if at in path:
                raise MalformedData(block.source, f"{row.where}: the heads from {row.form!r} on go round in a circle")
        for each in path:
            rooted[each] = True


def _placed(block: _Block, written: Sequence[_Row]) -> tuple[str, list[Span]]:
    """The text, and the characters of it that each written word is."""
    text = block.facts.get("text")
    if not text:
        pieces = [row.form + " " * row.space_after for row in written]
        text = "".join(pieces).rstrip(" ")
        ends = [sum(map(len, pieces[: index + 1])) for index in range(len(pieces))]
        return text, [
            (end - len(piece), end - len(piece) + len(row.form))
            for end, piece, row in zip(ends, pieces, written, strict=True)
        ]
    places, at = [], 0
    for row in written:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith(row.form, at):
            found = text[at : at + max(12, len(row.form))]
            raise MalformedData(block.source, f"{row.where}: {row.form!r} is not what the text goes on with: {found!r}")
        places.append((at, at + len(row.form)))
        at += len(row.form)
    return text, places


def _divided(text: str, place: Span, forms: Sequence[str]) -> list[Span]:
    """The characters of each of the words that are written as one."""
    start, end = place
    if "".join(forms).casefold() != text[start:end].casefold() or sum(map(len, forms)) != end - start:
        return [place] * len(forms)
    spans = []
    for form in forms:
        spans.append((start, start + len(form)))
        start += len(form)
    return spans
