"""What probes learn from and are judged on: items in three parts, their labels as numbers, their states by layer."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.items import TOO_LONG, LeftOut, ReadItems, read_items
from pytest_bertology.engine.recording import Recording, record
from pytest_bertology.errors import BertologyWarning, InvalidArgument, LabelsNotLearned, SingleClass
from pytest_bertology.errors.base import some
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.control_task import control_labels
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import TEXT, WORD, Ints, Items, items_of
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task

Vectors = npt.NDArray[np.floating[Any]]

FIRST, LAST, MEAN = "first", "last", "mean"
POOLING = (FIRST, LAST, MEAN)
TRAIN, HELD_OUT, TESTED = "train", "held_out", "tested"
PARTS = (TRAIN, HELD_OUT, TESTED)
_HELD_OUT = 0.1
_TESTED = 0.25
_FEW = 10
"""Texts: of fewer no probe learns much."""


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """One part of the items, as a model reads them."""

    read: ReadItems
    labels: Ints
    """(items,) positions in `ProbingData.classes`; len(classes) for a label that is not trained on: always wrong."""
    control: Ints
    """(items,) labels of the control task, of the same numbers."""
    at: tuple[Ints, ...]
    """For each span of an item, (items,) which of the recording's units it is."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def items(self) -> Items:
        """The items themselves."""
        return self.read.items

    @property
    def texts(self) -> Ints:
        """(items,) which text of this part each item is of: items of one text are not independent of each other."""
        return self.items.text_of


@dataclass(frozen=True, eq=False, repr=False)
class ProbingData:
    """Items to learn from, to choose by, and to be judged on, that share no text; and how to get their states."""

    name: str
    """Of the data that is judged on."""
    source: str
    """Of the data that is learned from."""
    level: str
    """"word", "span", "pair" or "text"."""
    classes: tuple[Any, ...]
    """The labels that are trained on, ascending by their text."""
    parts: dict[str, Part]
    """By `TRAIN`, `HELD_OUT`, `TESTED`; each in an order that seed and contents decide, not the data's."""
    metric: Metric
    shared: int
    """Texts left out of those learned from, since they, or texts `alike`, are judged on as well."""
    pooling: str
    seed: int
    _units: tuple[tuple[tuple[Ints, ...], ...], ...] = field(repr=False)
    """For each part, and each of its texts, the units that are recorded."""

    @cached_property
    def left_out(self) -> LeftOut:
        """What no part could ask the model about."""
        return sum((part.read.left_out for part in self.parts.values()), LeftOut())

    @property
    def counts(self) -> Ints:
        """(classes,) how often each is trained on."""
        return np.bincount(self.parts[TRAIN].labels, minlength=len(self.classes)).astype(np.int64)

    @property
    def majority(self) -> int:
        """The class that is trained on most often, the first of equals."""
        return int(self.counts.argmax())

    @property
    def unseen(self) -> int:
        """Items judged on whose label is not trained on."""
        return int((self.parts[TESTED].labels == len(self.classes)).sum())

    def first(self, share: float) -> int:
        """How many items the first texts of the training part have, of which this is the share; at least one text."""
        starts = self.parts[TRAIN].items.starts
        return int(starts[max(1, int(share * (len(starts) - 1) + 0.5))])

    def units(self, part: str) -> tuple[tuple[Ints, ...], ...]:
        """For each text of a part, the tokens of each unit that is recorded."""
        return self._units[PARTS.index(part)]

    def record(
        self, model: ModelUnderTest, *, what: str, stack: str | None = None, batching: Batching | None = None
    ) -> States:
        """The states of all parts, all layers: of this model, which must read texts as the one that the data is for."""
        recordings = {
            part: record(model, self.parts[part].read.texts, units, what=what, stack=stack, batching=batching)
            for part, units in zip(PARTS, self._units, strict=True)
        }
        return States(self, recordings)


@dataclass(frozen=True, eq=False, repr=False)
class States:
    """A model's states of probing data."""

    data: ProbingData
    recordings: dict[str, Recording]

    @property
    def layers(self) -> int:
        """L; layers are 0 (the embeddings) to L."""
        return self.recordings[TESTED].layers

    def vectors(self, part: str, layer: int) -> Vectors:
        """(items, width), or (items, 2 · width) of pairs: one after the other; a copy in memory."""
        units = self.recordings[part].vectors(layer)
        return np.concatenate([units[at] for at in self.data.parts[part].at], axis=1)


def probing_data(
    model: ModelUnderTest,
    task: Task,
    *,
    train: Task | None = None,
    held_out: Task | None = None,
    pooling: str | None = None,
    too_long: str = "split",
    seed: int = 0,
    what: str = "a probe",
) -> ProbingData:
    """Items of `task` to be judged on, and others, of other texts, to learn from.

    Without `train` a quarter of the task's texts is judged on and the rest learned from. Without `held_out`, by which
    probes choose what they do not learn, a tenth of the texts that are learned from is held out. Which they are depends
    on `seed` and on the texts, not on their order; texts that are equal but for case, white space and punctuation go
    together, and training texts that are judged on too are left out. `pooling` says what stands for an item of several
    tokens: the "first", the "last" or their "mean"; by default the first of a word's, and the mean of others'. (Of
    whole texts the first token is [CLS], where there is one, and the last [SEP] or the end of the text; special tokens
    do not count for the mean.)

    Warns (BertologyWarning) of fewer than 10 texts to learn from, and where most judged items have a label
    that is not learned from. Raises InvalidArgument, for too few texts, tasks of different kinds or a pooling that
    there is not; LabelsNotLearned where no judged item has a label that is learned from; SingleClass where all labels
    that are learned from, or judged on, are the same; and what `items_of` and `read_items` raise.
    """
    check_model_and_task(model, task)
    _check(train, held_out, pooling, too_long, seed)
    items, shared = _three_parts(task, train, held_out, seed)
    source, level = f"the other texts of {task.name}" if train is None else train.name, items[TESTED].level
    _check_labels(items, source, held_out)
    pooling = pooling or (FIRST if level == WORD else MEAN)
    reads = {name: read_items(model, each.in_order(seed), what=what, too_long=too_long) for name, each in items.items()}
    classes = tuple(sorted(set(reads[TRAIN].items.labels), key=_by_text))
    _check_classes(task.name, reads, classes)
    _warn_of_few(reads[TRAIN], source)
    number = {label: index for index, label in enumerate(classes)}
    labels = {
        name: np.array([number.get(label, len(classes)) for label in read.items.labels], dtype=np.int64)
        for name, read in reads.items()
    }
    counts = np.bincount(labels[TRAIN], minlength=len(classes))
    parts, units = {}, []
    for name, read in reads.items():
        recorded, at = _units(read, pooling)
        units.append(recorded)
        control = control_labels(read.items.types, counts, seed)
        parts[name] = Part(read, labels[name], control, at)
    return ProbingData(
        name=task.name if train is not None else f"a quarter of {task.name}",
        source=source,
        level=level,
        classes=classes,
        parts=parts,
        metric=task.metric,
        shared=shared,
        pooling=pooling,
        seed=seed,
        _units=tuple(units),
    )


def chosen_layers(layers: object, last: int) -> tuple[int, ...]:
    """The layers that are meant by "all", by one number from 0 to `last`, or by several; raises InvalidArgument."""
    if isinstance(layers, str) and layers == "all":
        return tuple(range(last + 1))
    expected = f"'all', or numbers from 0 (the embeddings) to {last} (the last layer), such as [0, {last}]"
    if is_whole(layers):
        layers = (layers,)
    if isinstance(layers, str) or not isinstance(layers, Collection) or not layers:
        raise InvalidArgument("layers", layers, expected)
    for layer in layers:
        if not is_whole(layer) or not 0 <= layer <= last:
            raise InvalidArgument("layers", layer, expected)
    return tuple(sorted({int(layer) for layer in layers}))


def _units(read: ReadItems, pooling: str) -> tuple[tuple[tuple[Ints, ...], ...], tuple[Ints, ...]]:
    """For each text the units to record, each once; and for each span of an item, which of all units it is."""
    whole = read.items.level == TEXT
    spans = max(len(each) for each in read.tokens)
    found: list[tuple[Ints, ...]] = []
    at: list[list[int]] = [[] for _ in range(spans)]
    before = 0
    for text in range(len(read.texts)):
        own: dict[tuple[int, ...], int] = {}
        for item in range(int(read.items.starts[text]), int(read.items.starts[text + 1])):
            for place, tokens in enumerate(read.tokens[item]):
                chosen = _pooled(tokens, pooling, len(read.texts.ids(text)) if whole else None)
                at[place].append(before + own.setdefault(chosen, len(own)))
        before += len(own)
        found.append(tuple(np.array(tokens, dtype=np.int64) for tokens in own))
    return tuple(found), tuple(np.array(each, dtype=np.int64) for each in at)


def _pooled(tokens: Ints, pooling: str, whole: int | None) -> tuple[int, ...]:
    """The tokens whose mean stands for an item; `whole` is how many its text has, where it is the whole text."""
    if pooling == MEAN:
        return tuple(tokens.tolist())
    if whole is not None:
        return (0,) if pooling == FIRST else (whole - 1,)
    return (int(tokens[0] if pooling == FIRST else tokens[-1]),)


def _three_parts(task: Task, train: Task | None, held_out: Task | None, seed: int) -> tuple[dict[str, Items], int]:
    """The items of each part, and how many texts were given to learn from that are judged on as well."""
    judged, shared = items_of(task), 0
    if train is None:
        _check_enough(judged, 3 if held_out is None else 2, "task", held_out)
        judged, learned = judged.split(_TESTED, seed)
    else:
        given = items_of(train)
        learned = _others(given, judged, "train")
        shared = len(given.texts) - len(learned.texts)
    if held_out is None:
        _check_enough(learned, 2, "train", held_out)
        chosen_by, learned = learned.split(_HELD_OUT, seed)
    else:
        chosen_by = _others(items_of(held_out), judged, "held_out")
        rest = learned.without_texts_of(chosen_by)
        if not len(rest):
            expected = f"other texts than those that are learned from: it has all {len(learned.texts)} of them"
            raise InvalidArgument("held_out", held_out.name, expected)
        learned = rest
    items = {TRAIN: learned, HELD_OUT: chosen_by, TESTED: judged}
    if len({each.level for each in items.values()}) > 1:
        levels = ", ".join(f"{name} of {each.level}s" for name, each in items.items())
        raise InvalidArgument("train", levels, "tasks of one kind")
    return items, shared


def _others(items: Items, reported: Items, argument: str) -> Items:
    found = items.without_texts_of(reported)
    if not len(found):
        raise InvalidArgument(argument, items.name, f"texts that are not all among those of {reported.name}")
    return found


def _check_enough(items: Items, needed: int, argument: str, held_out: Task | None) -> None:
    """Refuse fewer texts than there are parts to make of them."""
    if items.different >= needed:
        return
    parts = ["one to learn from", *(["one to choose by"] if held_out is None else [])]
    parts += ["one to be judged on"] if argument == "task" else []
    other = {"task": "train=", "train": "held_out="}[argument]
    expected = (
        f"at least {needed} texts that differ in more than case, white space and punctuation: {', '.join(parts)}; "
        f"or others as {other}"
    )
    found = f"{items.different} different text{'' if items.different == 1 else 's'}"
    found += "" if argument == "task" else " not judged on"
    raise InvalidArgument(argument, f"{items.name} ({found})", expected)


def _check_labels(items: dict[str, Items], source: str, held_out: Task | None) -> None:
    """Refuse, or warn of, labels that are judged and not learned from: each such item counts as wrong."""
    learned = set(items[TRAIN].labels)
    for part in (TESTED, *([] if held_out is None else [HELD_OUT])):
        labels, name = items[part].labels, items[part].name
        unseen = [label for label in labels if label not in learned]
        if len(unseen) == len(labels):
            raise LabelsNotLearned(name, _sorted(labels), source, _sorted(learned))
        if part == TESTED and 2 * len(unseen) > len(labels):
            text = (
                f"{len(unseen)} of the {len(labels)} items of {name} have a label that is not learned from, and count "
                f"as wrong: {some([repr(label) for label in _sorted(unseen)])}. {source} has "
                f"{some([repr(label) for label in _sorted(learned)])}."
            )
            warnings.warn(text, BertologyWarning, stacklevel=4)


def _warn_of_few(learned: ReadItems, source: str) -> None:
    texts = len(learned.texts)
    if texts < _FEW:
        text = (
            f"probes learn from only {len(learned)} items of {texts} text{'s' if texts > 1 else ''} of {source}: what "
            "they do not find the model may know all the same"
        )
        warnings.warn(text, BertologyWarning, stacklevel=4)


def _sorted(labels: Collection[Any]) -> list[Any]:
    return sorted(set(labels), key=_by_text)


def _check_classes(name: str, reads: dict[str, ReadItems], classes: Sequence[Any]) -> None:
    if len(classes) < 2:
        raise SingleClass(f"the part of {name} that is learned from", classes[0], len(reads[TRAIN]))
    judged = set(reads[TESTED].items.labels)
    if len(judged) < 2:
        raise SingleClass(f"the part of {name} that is judged on", next(iter(judged)), len(reads[TESTED]))


def _by_text(label: Any) -> tuple[bool, Any]:
    return (isinstance(label, str), label)


def _check(train: object, held_out: object, pooling: object, too_long: object, seed: object) -> None:
    for argument, value in (("train", train), ("held_out", held_out)):
        if value is not None and not isinstance(value, Task):
            raise InvalidArgument(argument, type(value).__name__, "what load_task(...) returns, or None")
    if pooling is not None and pooling not in POOLING:
        raise InvalidArgument("pooling", pooling, f"one of {', '.join(map(repr, POOLING))}, or None")
    if too_long not in TOO_LONG:
        raise InvalidArgument("too_long", too_long, "'split' or 'drop'")
    if not is_whole(seed) or seed < 0:  # type: ignore[operator]
        raise InvalidArgument("seed", seed, "a whole number from 0")
