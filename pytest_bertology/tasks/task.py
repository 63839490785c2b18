"""A task: examples, their labels, and the metric that judges a model on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

from pytest_bertology.errors import EmptyTask, InvalidArgument, LabelMismatch, MalformedData, SingleClass
from pytest_bertology.tasks.metrics import (
    CLASSIFICATION,
    LANGUAGE,
    REGRESSION,
    SPANS,
    TOKENS,
    Array,
    Metric,
    find_metric,
)
from pytest_bertology.tasks.written import Written, check_written

Text: TypeAlias = "str | tuple[str, ...]"


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Examples and their labels, in order. Made by `load_task`.

    Raises EmptyTask without examples, SingleClass where all labels of a classification are the same.
    """

    name: str
    """For messages: the source it was loaded from."""
    kind: str
    """"sequence-classification", "regression", "token-classification", "span-labelling" or "language-modelling"."""
    texts: tuple[Text, ...]
    """A string each; a pair of strings; or, for token classification, its words."""
    labels: tuple[Any, ...] | None
    """A label each (int id, str name or float), or a tuple of labels for its words or spans; None without any."""
    pairs: bool = False
    """Whether `texts` are pairs."""
    label_names: tuple[str, ...] | None = None
    """All label names in the data set's own order, where it has one."""
    metric: Metric = field(default=None)  # type: ignore[assignment]
    """Judges the results; by default the kind's."""
    written: tuple[Written, ...] | None = None
    """The texts as they were written, and where in them the words are, or the spans (or pairs of spans) to label.

    None for words that are known by themselves only, and for tasks of whole texts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", find_metric(self.metric, self.kind))
        if not self.texts:
            raise EmptyTask(self.name)
        if self.labels is not None and len(self.labels) != len(self.texts):
            raise MalformedData(self.name, f"{len(self.texts)} texts and {len(self.labels)} labels")
        if self.kind == TOKENS:
            self._check_words()
        if self.kind == SPANS or self.written is not None:
            self._check_written()
        distinct = set(self.flat_labels)
        if self.kind in (CLASSIFICATION, TOKENS, SPANS, REGRESSION) and len(distinct) < 2:
            raise SingleClass(self.name, next(iter(distinct), None), len(self.flat_labels))

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Task({self.name}: {len(self)} examples, {self.kind}, {self.metric.name})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis prints a failing test's arguments field by field where it is not told otherwise.
        printer.text(repr(self))

    @property
    def flat_labels(self) -> tuple[Any, ...]:
        """One label per judged item: example, word, or span."""
        if self.labels is None:
            return ()
        return tuple(x for words in self.labels for x in words) if self.kind in (TOKENS, SPANS) else self.labels

    @cached_property
    def digest(self) -> str:
        """SHA-256 of kind, texts and labels, as hexadecimal; the metric is not part of it."""
        parts = [self.kind, self.pairs, self.texts, self.labels, *([] if self.written is None else [self.written])]
        content = json.dumps(parts, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def with_metric(self, metric: str | Metric | Callable[[Any, Any], float] | None) -> Task:
        """The same task judged by another metric; None keeps this one. Raises UnknownMetric."""
        return self if metric is None else replace(self, metric=find_metric(metric, self.kind))

    def subset(self, positions: Sequence[int]) -> Task:
        """The examples at these positions, in the order given; its name tells which.

        Positions below 0 count from the end. Raises InvalidArgument for what is no position, or for none at all.
        """
        chosen = _positions(positions, self)
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        written = None if self.written is None else tuple(self.written[i] for i in chosen)
        name = self.name + _which(chosen, len(self))
        return replace(self, name=name, texts=tuple(self.texts[i] for i in chosen), labels=labels, written=written)

    def label_ids(self, id2label: Mapping[int, str], model: str) -> tuple[Any, ...]:
        """The labels as the model's ids; raises LabelMismatch, which shows both sides.

        Names are matched exactly, else regardless of case. A model without names of its own (LABEL_0, LABEL_1 …)
        takes the data set's order; ids must be ids the model has.
        """
        assert self.labels is not None
        wanted = sorted(set(self.flat_labels), key=str)
        translation = _translation(wanted, self.label_names, id2label)
        if translation is None:
            raise LabelMismatch(self.name, self.label_names or wanted, model, [id2label[i] for i in sorted(id2label)])
        if self.kind in (TOKENS, SPANS):
            return tuple(tuple(translation[label] for label in words) for words in self.labels)
        return tuple(translation[label] for label in self.labels)

    def _check_written(self) -> None:
        if self.kind not in (TOKENS, SPANS) or self.written is None or self.labels is None:
            needed = "has no texts with spans, or no labels" if self.kind == SPANS else "is no task of words or spans"
            raise MalformedData(self.name, f"it {needed}")
        if len(self.written) != len(self.texts):
            raise MalformedData(self.name, f"{len(self.texts)} texts and {len(self.written)} written ones")
        check_written(self.name, self.written, self.labels, (1,) if self.kind == TOKENS else (1, 2))

    def _check_words(self) -> None:
        if self.labels is None:
            raise MalformedData(self.name, "texts are lists of words, and there are no labels for them")
        for index, (words, labels) in enumerate(zip(self.texts, self.labels, strict=True)):
            if not isinstance(labels, tuple) or len(words) != len(labels):
                count = len(labels) if isinstance(labels, tuple) else 1
                raise MalformedData(self.name, f"example {index} has {len(words)} words and {count} labels")
            if not words:
                raise MalformedData(self.name, f"example {index} has no words")


def _positions(positions: object, task: Task) -> tuple[int, ...]:
    """Positions from 0 in a task; raises InvalidArgument."""
    size = len(task)
    span = f"{task.name} has {size} examples, 0 to {size - 1}"
    if not isinstance(positions, Iterable):
        raise InvalidArgument("positions", positions, f"positions of examples, such as range({min(size, 100)}): {span}")
    found: list[int] = []
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, Integral):
            raise InvalidArgument("positions", position, f"whole numbers: {span}")
        index = int(position)
        if not -size <= index < size:
            raise InvalidArgument("positions", index, f"positions of examples: {span}")
        found.append(index % size)
    if not found:
        raise InvalidArgument("positions", positions, f"at least one position: {span}")
    return tuple(found)


def _which(positions: Sequence[int], size: int) -> str:
    """Tells one subset from another: a slice where it is one, else how many and a hash of the positions."""
    first, last, count = positions[0], positions[-1], len(positions)
    if list(positions) == [*range(first, last + 1)]:
        return f"[{first}:{last + 1}]"
    step = positions[1] - first if count > 2 else 0
    if step > 0 and list(positions) == [*range(first, last + 1, step)]:
        return f"[{first}:{min(last + step, size)}:{step}]"
    digest = hashlib.sha256(json.dumps(positions).encode()).hexdigest()[:4]
    return f" ({count} of {size}, #{digest})"


def _translation(
    wanted: Sequence[Any], names: Sequence[str] | None, id2label: Mapping[int, str]
) -> dict[Any, int] | None:
    """Task label → model id; None where some label has no counterpart."""
    if all(isinstance(label, int) for label in wanted):
        return {label: label for label in wanted} if set(wanted) <= set(id2label) else None
    exact = {label: i for i, label in id2label.items()}
    if set(wanted) <= set(exact):
        return {label: exact[label] for label in wanted}
    folded = {str(label).casefold(): i for i, label in id2label.items()}
    if len(folded) == len(id2label) and {str(label).casefold() for label in wanted} <= set(folded):
        return {label: folded[str(label).casefold()] for label in wanted}
    generic = all(label == f"LABEL_{i}" for i, label in id2label.items())
    if generic and names is not None and len(names) == len(id2label):
        return {label: names.index(label) for label in wanted}
    return None


def as_array(labels: Sequence[Any]) -> Array:
    """Flat labels as an array."""
    return np.asarray(labels)


__all__ = ["CLASSIFICATION", "LANGUAGE", "REGRESSION", "SPANS", "TOKENS", "Task", "Text", "as_array"]
