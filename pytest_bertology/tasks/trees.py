"""Tasks from dependency trees: a column of CoNLL-U to label words with, or its arcs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_bertology.errors import InvalidArgument, MalformedData, MissingColumn
from pytest_bertology.tasks.conllu import Sentence, read_conllu
from pytest_bertology.tasks.metrics import SPANS, TOKENS, Metric, find_metric
from pytest_bertology.tasks.task import Task
from pytest_bertology.tasks.written import Written

ARC = "arc"
COLUMNS = ("upos", "xpos", "deprel", ARC)


def is_trees(source: object) -> bool:
    """Whether this is a .conllu file, or sentences of `read_conllu`."""
    if isinstance(source, str | os.PathLike):
        return Path(os.fspath(source)).suffix.lower() == ".conllu"
    return isinstance(source, Sequence) and bool(source) and isinstance(source[0], Sentence)


def trees_task(
    source: Any,
    *,
    split: str | None = None,
    text: object = None,
    label: str | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
) -> Task:
    """A task of words labelled "upos", "xpos" or "deprel"; or of pairs of words, "arc".

    Each arc is a pair, the word and the word it depends on, labelled with its relation; roots have none and sentences
    without arcs are left out. Words stand where they stand in the text as it was written.

    Raises MissingColumn for another label or a column that is not filled in, InvalidArgument for `split` or `text`, and
    what `read_conllu` raises.
    """
    for argument, value in (("split", split), ("text", text)):
        if value is not None:
            raise InvalidArgument(argument, value, "None: a CoNLL-U file has one part, and its own texts")
    sentences = read_conllu(source)
    name = Path(source).name if isinstance(source, str | os.PathLike) else _name(sentences)
    if label not in COLUMNS:
        wanted = f"label column {label!r}" if label is not None else "single label column"
        raise MissingColumn(name, wanted, list(COLUMNS), "label=")
    if label == ARC:
        return _arcs(f"{name}:{label}", sentences, metric)
    rows = tuple(_column(sentence, label) for sentence in sentences)
    if all(value in ("_", "") for row in rows for value in row):
        filled = [each for each in COLUMNS if each == ARC or any(v not in ("_", "") for v in _values(sentences, each))]
        raise MissingColumn(name, f"label column {label!r} that is filled in", filled, "label=")
    for sentence, row in zip(sentences, rows, strict=True):
        if "_" in row or "" in row:
            word = sentence.words[next(index for index, value in enumerate(row) if value in ("_", ""))]
            raise MalformedData(name, f"{word!r} in {sentence.text!r} has no {label}")
    written = tuple(Written(each.text, tuple((span,) for span in each.spans)) for each in sentences)
    words = tuple(each.words for each in sentences)
    return Task(f"{name}:{label}", TOKENS, words, rows, metric=find_metric(metric, TOKENS), written=written)


def _column(sentence: Sentence, label: str) -> tuple[str, ...]:
    if label == "xpos":
        return sentence.xpos or ("_",) * len(sentence)
    return sentence.upos if label == "upos" else sentence.relations


def _values(sentences: Sequence[Sentence], label: str) -> Iterator[str]:
    return (value for sentence in sentences for value in _column(sentence, label))


def _arcs(name: str, sentences: Sequence[Sentence], metric: Any) -> Task:
    texts, labels = [], []
    for sentence in sentences:
        arcs = [(word, head) for word, head in enumerate(sentence.heads) if head >= 0]
        if arcs:
            texts.append(Written(sentence.text, tuple((sentence.spans[a], sentence.spans[b]) for a, b in arcs)))
            labels.append(tuple(sentence.relations[word] for word, _ in arcs))
    if not texts:
        raise MalformedData(name, "no word depends on another: there are no arcs")
    return Task(
        name,
        SPANS,
        tuple(each.text for each in texts),
        tuple(labels),
        metric=find_metric(metric, SPANS),
        written=tuple(texts),
    )


def _name(sentences: Sequence[Sentence]) -> str:
    digest = hashlib.sha256(repr([sentence.text for sentence in sentences]).encode()).hexdigest()[:4]
    return f"{len(sentences)} sentences (#{digest})"
