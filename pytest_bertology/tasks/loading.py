"""Data in: which columns hold the texts and labels, and what kind of task they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_bertology.errors import EmptyTask, InvalidArgument, MalformedData, MissingColumn
from pytest_bertology.tasks.bio import columns_task, is_columns
from pytest_bertology.tasks.edges import check_ends, ends_task, has_ends, has_targets, targets_task
from pytest_bertology.tasks.metrics import (
    CLASSIFICATION,
    LANGUAGE,
    METRICS,
    REGRESSION,
    TOKENS,
    Metric,
    find_metric,
)
from pytest_bertology.tasks.readers import Table, read
from pytest_bertology.tasks.task import Task
from pytest_bertology.tasks.trees import is_trees, trees_task

_PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"))
_TEXTS = ("sentence", "text", "tokens", "words", "content", "review")
_LABELS = ("label", "labels", "ner_tags", "pos_tags", "tags", "score")
_GLUE_METRICS = {"cola": "matthews", "stsb": "pearson"}


def load_task(
    source: str | os.PathLike[str] | Mapping[str, Any] | Any,
    *,
    split: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | int | None = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
) -> Task:
    """Load labelled examples from a file, a folder, the hub, columns, a data frame or a live `datasets.Dataset`.

    `source` is `"glue/sst2"` or another hub name, a .csv, .tsv, .jsonl or .parquet file, a folder that `datasets`
    can read, a mapping or data frame of columns, or a data set. `split` is by default the validation split, or the only
    one. `text` names a column, or two for pairs of texts; `label` names a column; both default to the usual names. A
    text column of word lists makes a token-classification task, numeric labels with decimals (or a correlation as
    metric) a regression, and no label column a language-modelling task. `metric` is a name or a function of labels and
    predictions; by default the kind's.

    For probes, words, spans and pairs of spans are labelled by these:

    - A .conllu file (or the sentences of `read_conllu`): `label` is "upos", "xpos" or "deprel", which label words, or
      "arc", which labels pairs of words, a word and its head, with their relation; see `tasks.trees`.
    - A .conll, .bio or .iob2 file, one word and its tags on a line: `label` is the number of the tags' column from 0,
      by default the last, or "entity" for the spans that B-I-O tags mark, each labelled with its type, and no others;
      see `tasks.bio.columns_task`.
    - A column `targets` of lists of {"span1": [a, b], "span2": [c, d], "label": "x"}, `span2` or not, as edge probing
      has them in JSON lines: spans are tokens of the text between white space, from and to, the end excluded; see
      `tasks.edges.targets_task`.
    - Columns `start1`, `end1` and, of relations, `start2`, `end2`: characters of the text, from and to, the end
      excluded, a row for each item; see `tasks.edges.ends_task`.

    Raises TaskNotFound, MalformedData, MissingColumn, EmptyTask, SingleClass or UnknownMetric.
    """
    if is_trees(source):
        named = None if label is None else str(label)
        return trees_task(source, split=split, text=text, label=named, metric=metric)
    if isinstance(source, str | os.PathLike) and is_columns(source):
        return columns_task(source, split=split, text=text, label=label, metric=metric)
    table = read(source, split)
    if table.rows == 0:
        raise EmptyTask(table.name)
    if has_targets(table, label):
        return targets_task(table, text=text, metric=metric)
    names = _text_columns(table, text)
    check_ends(table)
    label_name = _label_column(table, label, names)
    if has_ends(table) and len(names) == 1 and label_name is not None:
        return ends_task(table, names[0], label_name, metric)
    texts = _texts(table, names)
    wordwise = len(names) == 1 and isinstance(texts[0], tuple)
    if label_name is None:
        if wordwise:
            raise MissingColumn(table.name, "label column for its words", list(table.columns), "label=")
        if has_ends(table):
            raise MissingColumn(table.name, "label column for its spans", list(table.columns), "label=")
        return Task(table.name, LANGUAGE, texts, None, metric=find_metric(metric, LANGUAGE))
    labels, label_names = _labels(table, label_name)
    kind = TOKENS if wordwise else _kind(labels, metric)
    if kind == REGRESSION:
        labels = tuple(_float(table, label_name, value) for value in labels)
    else:
        _refuse_hidden(table, label_name, labels)
        _refuse_mixed(table, label_name, labels)
    return Task(
        name=table.name,
        kind=kind,
        texts=texts,
        labels=labels,
        pairs=len(names) == 2,
        label_names=label_names,
        metric=find_metric(_default(source, kind) if metric is None else metric, kind),
    )


def _default(source: Any, kind: str) -> str | None:
    """GLUE's own metric, where its name says which task it is and it fits the kind."""
    if isinstance(source, str) and source.split("/")[-2:-1] == ["glue"]:
        metric = _GLUE_METRICS.get(source.split("/")[-1])
        return metric if metric and kind in METRICS[metric].kinds else None
    return None


def _text_columns(table: Table, text: str | Sequence[str] | None) -> tuple[str, ...]:
    """One column, or two for pairs."""
    if text is not None:
        names = (text,) if isinstance(text, str) else tuple(text)
        if len(names) not in (1, 2):
            raise InvalidArgument("text", text, "one column, or two for pairs of texts")
        for name in names:
            if name not in table.columns:
                raise MissingColumn(table.name, f"text column {name!r}", list(table.columns), "text=")
        return names
    for pair in _PAIRS:
        if set(pair) <= set(table.columns):
            return pair
    found = [name for name in _TEXTS if name in table.columns]
    if len(found) == 1:
        return (found[0],)
    wanted = (
        "text column that is known by name" if not found else f"single text column ({' and '.join(found)} could be)"
    )
    raise MissingColumn(table.name, wanted, list(table.columns), "text=")


def _label_column(table: Table, label: str | int | None, texts: Sequence[str]) -> str | None:
    if label is not None:
        if label not in table.columns:
            raise MissingColumn(table.name, f"label column {label!r}", list(table.columns), "label=")
        return label
    found = [name for name in _LABELS if name in table.columns and name not in texts]
    if len(found) > 1:
        raise MissingColumn(
            table.name, f"single label column ({' and '.join(found)} could be)", list(table.columns), "label="
        )
    return found[0] if found else None


def _texts(table: Table, names: Sequence[str]) -> tuple[Any, ...]:
    """Strings, pairs of strings, or tuples of words."""
    for name in names:
        words = isinstance(table.columns[name][0], list | tuple | np.ndarray) and len(names) == 1
        for row, value in enumerate(table.columns[name]):
            fits = (
                isinstance(value, list | tuple | np.ndarray) and all(isinstance(word, str) for word in value)
                if words
                else isinstance(value, str)
            )
            if not fits:
                raise MalformedData(
                    table.name,
                    f"column {name!r}, example {row}: {value!r} is not {'a list of words' if words else 'text'}",
                )
    if len(names) == 2:
        return tuple(zip(*(table.columns[name] for name in names), strict=True))
    return tuple(value if isinstance(value, str) else tuple(value) for value in table.columns[names[0]])


def _labels(table: Table, name: str) -> tuple[tuple[Any, ...], tuple[str, ...] | None]:
    """Labels as names where the source knows them, else as ids or numbers."""
    names = table.class_names.get(name)
    values = [_label(table, name, row, value, names) for row, value in enumerate(table.columns[name])]
    flat = [value for value in values if not isinstance(value, tuple)]
    if flat and all(isinstance(value, str) for value in flat) and names is None:
        values = _numbers(flat) or values
    return tuple(values), names


def _label(table: Table, column: str, row: int, value: Any, names: tuple[str, ...] | None) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_label(table, column, row, item, names) for item in value)
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, int | np.integer):
        if names is not None and 0 <= value < len(names):
            return names[value]
        if names is not None:
            raise _hidden(table, column, row, int(value))
        return int(value)
    if isinstance(value, float | np.floating) and np.isfinite(value):
        return float(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise MalformedData(table.name, f"column {column!r}, example {row}: {value!r} is not a label")


def _refuse_hidden(table: Table, column: str, labels: Sequence[Any]) -> None:
    """A class id below 0 stands for no label; a number to be predicted may well be negative."""
    for row, label in enumerate(labels):
        for value in label if isinstance(label, tuple) else (label,):
            if isinstance(value, int) and value < 0:
                raise _hidden(table, column, row, int(value))


def _refuse_mixed(table: Table, column: str, labels: Sequence[Any]) -> None:
    """The numbers 1 and "1" would be two classes."""
    first: tuple[int, Any] | None = None
    for row, label in enumerate(labels):
        for value in label if isinstance(label, tuple) else (label,):
            first = first or (row, value)
            if isinstance(value, str) != isinstance(first[1], str):
                problem = f"the label {value!r}, and {table.where(first[0])} has {first[1]!r}"
                problem = f"column {column!r}, {table.where(row)}: {problem}: labels are all text, or all numbers"
                raise MalformedData(table.name, problem)


def _hidden(table: Table, column: str, row: int, value: int) -> MalformedData:
    problem = f"column {column!r}, example {row}: label {value} stands for none (a split without labels?)"
    return MalformedData(table.name, problem)


def _numbers(values: Sequence[str]) -> list[Any] | None:
    """Text that is all whole numbers as ids, all numbers as floats."""
    for convert in (int, float):
        try:
            numbers = [convert(value) for value in values]
        except ValueError:
            continue
        return numbers if all(np.isfinite(numbers)) and (convert is float or min(numbers) >= 0) else None
    return None


def _kind(labels: Sequence[Any], metric: Any) -> str:
    name = metric.name if isinstance(metric, Metric) else metric
    known = METRICS.get(name) if isinstance(name, str) else None
    if known is not None and known.kinds == (REGRESSION,):
        return REGRESSION
    if all(isinstance(value, int | float) for value in labels) and any(isinstance(value, float) for value in labels):
        return REGRESSION
    return CLASSIFICATION


def _float(table: Table, column: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MalformedData(table.name, f"column {column!r}: {value!r} is not a number") from None
