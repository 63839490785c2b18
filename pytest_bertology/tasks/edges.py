"""Tasks of labelled spans and pairs of spans: edge-probing targets, and columns of characters from and to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from pytest_bertology.errors import EmptyTask, InvalidArgument, MalformedData
from pytest_bertology.tasks.conllu import Span
from pytest_bertology.tasks.metrics import SPANS, Metric, find_metric
from pytest_bertology.tasks.readers import Table
from pytest_bertology.tasks.task import Task
from pytest_bertology.tasks.written import Written

TARGETS = "targets"
_ENDS = ("start1", "end1", "start2", "end2")
_OTHER_END = {"start1": "end1", "end1": "start1", "start2": "end2", "end2": "start2"}


class _Row(NamedTuple):
    """One row: where it is, its text, its items and their labels."""

    where: str
    text: str
    items: tuple[tuple[Span, ...], ...]
    labels: tuple[Any, ...]


def has_targets(table: Table, label: object) -> bool:
    """Whether these are texts with edge-probing targets: a column of lists of {"span1", "label"}."""
    if label not in (None, TARGETS) or TARGETS not in table.columns:
        return False
    lists = [each for each in table.columns[TARGETS] if _is_list(each)]
    first = next((each[0] for each in lists if len(each)), {"span1": None})
    return bool(lists) and isinstance(first, Mapping) and "span1" in first


def has_ends(table: Table) -> bool:
    """Whether these are texts with the first and last character of a span in columns."""
    return {"start1", "end1"} <= set(table.columns)


def check_ends(table: Table) -> None:
    """Raise MalformedData for columns that say where spans begin and not where they end, or only the second ones."""
    half = [name for name in _ENDS if name in table.columns and _OTHER_END[name] not in table.columns]
    if half:
        wanted = " and ".join(_ENDS[:2] if half[0] in _ENDS[:2] else _ENDS[2:])
        raise MalformedData(table.name, f"it has a column {half[0]!r}, and a span has both, {wanted}")
    if {"start2", "end2"} <= set(table.columns) and not has_ends(table):
        raise MalformedData(table.name, "it has the columns start2 and end2, and no start1 and end1 of a first span")


def targets_task(
    table: Table,
    *,
    text: object = None,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
) -> Task:
    """The targets of texts, labelled: in the format of edge probing (Tenney et al. 2019b; jiant).

    A row is {"text": ..., "targets": [{"span1": [a, b], "span2": [c, d], "label": "x"}, ...]}. Spans are tokens of the
    text, which white space separates, from and to, the end excluded; all targets have one span, or all two. A text
    without targets is left out. A label is text or a whole number, or a list of just one: of several labels to one
    target a probe that names one class cannot be trained.

    Raises MalformedData with the line, EmptyTask, SingleClass, InvalidArgument.
    """
    column = "text" if text is None else text
    if not isinstance(column, str) or column not in table.columns:
        raise InvalidArgument("text", text, f"one column, of {', '.join(map(repr, table.columns))}")
    rows = [
        _with_targets(table, index, *values)
        for index, values in enumerate(zip(table.columns[column], table.columns[TARGETS], strict=True))
    ]
    return _task(table, rows, metric)


def ends_task(
    table: Table,
    text: str,
    label: str,
    metric: str | Metric | Callable[[Any, Any], float] | None = None,
) -> Task:
    """A labelled span, or two, in each row: columns `start1`, `end1` and, of relations, `start2`, `end2`.

    They are characters of the row's text, from and to, the end excluded. Rows of equal texts become one text with
    several items.

    Raises MalformedData with the line, EmptyTask, SingleClass.
    """
    ends = _ENDS if {"start2", "end2"} <= set(table.columns) else _ENDS[:2]
    check_ends(table)
    found: dict[str, list[_Row]] = {}
    for index, value in enumerate(table.columns[text]):
        where = table.where(index)
        if not isinstance(value, str):
            raise MalformedData(table.name, f"{where}: {text!r} is {value!r}, and no text")
        numbers = [_whole(table, where, name, table.columns[name][index]) for name in ends]
        spans = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        for start, end in spans:
            if not 0 <= start < end <= len(value):
                raise MalformedData(table.name, f"{where}: characters {start} to {end} of {len(value)} are no span")
        own = _label(table, where, table.columns[label][index])
        found.setdefault(value, []).append(_Row(where, value, (spans,), (own,)))
    rows = [
        _Row(same[0].where, value, tuple(row.items[0] for row in same), tuple(row.labels[0] for row in same))
        for value, same in found.items()
    ]
    return _task(table, rows, metric)


def _task(table: Table, rows: Sequence[_Row], metric: Any) -> Task:
    rows = [row for row in rows if row.items]
    if not rows:
        raise EmptyTask(table.name, "No text has a target.")
    first = rows[0]
    for row in rows:
        for item, label in zip(row.items, row.labels, strict=True):
            if len(item) != len(first.items[0]):
                problem = f"{len(item)} spans to a label, and {first.where} has {len(first.items[0])}"
                raise MalformedData(table.name, f"{row.where}: {problem}: a task asks about one, or about two")
            if isinstance(label, str) != isinstance(first.labels[0], str):
                problem = f"the label {label!r}, and {first.where} has {first.labels[0]!r}"
                raise MalformedData(table.name, f"{row.where}: {problem}: labels are all text, or all numbers")
    return Task(
        table.name,
        SPANS,
        tuple(row.text for row in rows),
        tuple(row.labels for row in rows),
        metric=find_metric(metric, SPANS),
        written=tuple(Written(row.text, row.items) for row in rows),
    )


def _with_targets(table: Table, index: int, text: object, targets: object) -> _Row:
    where = table.where(index)
    if not isinstance(text, str):
        raise MalformedData(table.name, f"{where}: the text is {text!r}, and no text")
    if not _is_list(targets):
        raise MalformedData(table.name, f"{where}: its targets are {targets!r}, and no list")
    tokens = [match.span() for match in re.finditer(r"\S+", text)]
    read = list(_read_targets(table, where, tokens, targets))
    return _Row(where, text, tuple(item for item, _ in read), tuple(label for _, label in read))


def _read_targets(
    table: Table, where: str, tokens: Sequence[Span], targets: Any
) -> Iterator[tuple[tuple[Span, ...], Any]]:
    for number, target in enumerate(targets):
        here = f"{where}, target {number}"
        if not isinstance(target, Mapping) or target.get("span1") is None or "label" not in target:
            raise MalformedData(table.name, f"{here} has no 'span1' or no 'label': {target!r}")
        names = ["span1", *(["span2"] if target.get("span2") is not None else [])]
        spans = tuple(_characters(table, f"{here}, {name}", tokens, target[name]) for name in names)
        yield spans, _label(table, here, target["label"])


def _characters(table: Table, where: str, tokens: Sequence[Span], span: Any) -> Span:
    numbers = list(span) if _is_list(span) else []
    if len(numbers) != 2 or not all(_is_whole(each) for each in numbers):
        raise MalformedData(table.name, f"{where} is {span!r}, and no pair of whole numbers, from and to")
    start, end = map(int, numbers)
    if not 0 <= start < end <= len(tokens):
        problem = f"is tokens {start} to {end} (the end excluded) of {len(tokens)} that white space separates"
        raise MalformedData(table.name, f"{where} {problem}: no span")
    return tokens[start][0], tokens[end - 1][1]


def _label(table: Table, where: str, value: Any) -> Any:
    labels = list(value) if _is_list(value) else [value]
    if len(labels) != 1:
        problem = f"has {len(labels)} labels, and a probe names one class: give each target one label"
        raise MalformedData(table.name, f"{where} {problem} (of {labels!r})" if labels else f"{where} {problem}")
    (label,) = labels
    if isinstance(label, str) and label.strip():
        return label.strip()
    if _is_whole(label):
        return int(label)
    raise MalformedData(table.name, f"{where}: {label!r} is not a label: text, or a whole number")


def _whole(table: Table, where: str, name: str, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]+\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)  # as data frames have them where another row lacks a number
    if not _is_whole(value):
        raise MalformedData(table.name, f"{where}: {name} is {value!r}, and no whole number of a character")
    return int(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
