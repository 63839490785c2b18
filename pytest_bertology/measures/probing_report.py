"""What probes of layers found: scores beside those of the majority class, a control task and random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.items import LeftOut
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.probing_data import HELD_OUT, TESTED, TRAIN, ProbingData
from pytest_bertology.measures.probing_scores import Difference, Judge
from pytest_bertology.measures.relation_intervals import Interval

Array = npt.NDArray[Any]

PROBE, CONTROL, RANDOM = "probe", "control", "random"


@dataclass(frozen=True)
class Curve:
    """How a probe was trained: step by step, on the part it learned from and on the held-out one."""

    by: str
    """What the steps are: "penalty" of a linear probe, from the strongest, or "epoch" of another."""
    steps: tuple[float, ...]
    """Penalties, or epochs from 1."""
    train_losses: tuple[float, ...]
    held_out_losses: tuple[float, ...]
    """Mean cross entropy in nats."""
    train_right: tuple[float, ...]
    held_out_right: tuple[float, ...]
    """Shares of the items."""
    iterations: tuple[int, ...]
    """Steps of the optimiser."""
    chosen: int
    """Position of the step of least loss on the held-out part: its probe is the one judged."""


@dataclass(frozen=True)
class LayerProbe:
    """A probe of one layer; None where something was not asked for."""

    layer: int
    score: float
    interval: Interval
    held_out_score: float
    """By which the best layer is chosen."""
    majority: float
    """The score of saying always what is most frequent in training."""
    lead_over_majority: Difference
    control_score: float | None
    selectivity: Difference | None
    """Score less control score, on the same items (Hewitt & Liang 2019)."""
    random_score: float | None
    lead_over_random: Difference | None
    curve: Curve
    control_curve: Curve | None


@dataclass(frozen=True, eq=False, repr=False)
class ProbeReport:
    """What probes of some layers can tell of a task, on items of texts that they did not learn from.

    Scores are of the task's metric. Items whose label is not trained on count as wrong.
    """

    model: str
    data: str
    training: str
    """Names of the data that is judged on and that is learned from."""
    kind: str
    """"linear" or "mlp"."""
    layers: tuple[int, ...]
    """0 is the embeddings."""
    probing: ProbingData
    """The items, in three parts."""
    confidence: float
    """Of the intervals."""
    seed: int
    learning_shares: tuple[float, ...]
    """Of the training texts, for which `learning_curve` has scores."""
    _found: Mapping[str, tuple[Mapping[str, Array], ...]] = field(repr=False)
    """For each of "probe", "control", "random", what was found at each of `layers`."""
    _learned: tuple[tuple[Mapping[str, Array], ...], ...] = field(default=(), repr=False)
    """For each of `learning_shares`, what was found at each of `layers`."""

    def __repr__(self) -> str:
        best = self.at(self.best_layer)
        low, high = best.interval
        return (
            f"ProbeReport({self.kind}, {self.model} on {self.data}: {self.metric.name} {best.score:.4f} [{low:.4f}, "
            f"{high:.4f}] at layer {best.layer} of {len(self.layers)} probed; majority {self.majority_baseline:.4f})"
        )

    def __len__(self) -> int:
        """Items that are judged on."""
        return len(self.probing.parts[TESTED])

    @property
    def metric(self) -> Any:
        """The task's."""
        return self.probing.metric

    @property
    def trained_on(self) -> int:
        """Items that are learned from, the held-out part not counted."""
        return len(self.probing.parts[TRAIN])

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """One for each of `layers`."""
        return tuple(each.score for each in self._each)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Of `scores`, at `confidence`: texts are drawn, not items."""
        return tuple(each.interval for each in self._each)

    @property
    def control_scores(self) -> tuple[float, ...]:
        """Of the same probes trained on labels drawn at random for each type; UndefinedScore if not asked for."""
        return tuple(self._asked(each.control_score, CONTROL) for each in self._each)

    @property
    def selectivity(self) -> tuple[float, ...]:
        """`scores` less `control_scores`; UndefinedScore if no control was asked for."""
        return tuple(self._asked(each.selectivity, CONTROL).value for each in self._each)

    @property
    def random_scores(self) -> tuple[float, ...]:
        """Of the same probes of a model with random weights; UndefinedScore if not asked for."""
        return tuple(self._asked(each.random_score, RANDOM) for each in self._each)

    @cached_property
    def majority_baseline(self) -> float:
        """The score of saying always what is most frequent in training."""
        return self._judge.score(self._labels, self._majority)

    @cached_property
    def best_layer(self) -> int:
        """The layer of the best score on the held-out part, the first of equals.

        Chosen there, its `score`, which is of the judged part, is not the greatest of several: its interval holds.
        """
        return max(self._each, key=lambda each: each.held_out_score).layer

    def at(self, layer: int) -> LayerProbe:
        """All that was found at one layer; raises InvalidArgument for one that was not probed."""
        return self._each[self._position(layer)]

    def interval(self, layer: int) -> Interval:
        """Of the score at one layer."""
        return self._judge.interval(self._labels, self._of(PROBE, layer)["predictions"])

    def beats_majority(self, layer: int) -> bool:
        """Whether the score is surely above that of the majority class: the interval of the difference is above 0."""
        return self.at(layer).lead_over_majority.interval[0] > 0.0

    def learning_curve(self, layer: int) -> dict[int, float]:
        """The score by the number of items that are learned from: of each of `learning_shares`, and of all."""
        at = self._position(layer)
        found = {
            self.probing.first(share): self._judge.score(self._labels, each[at]["predictions"])
            for share, each in zip(self.learning_shares, self._learned, strict=True)
        }
        return {**found, self.trained_on: self.at(layer).score}

    def predictions(self, layer: int) -> tuple[Any, ...]:
        """The label that the probe of a layer gives to each judged item, in the order of `probing`'s judged part."""
        return tuple(self.probing.classes[index] for index in self._of(PROBE, layer)["predictions"])

    def right(self, layer: int) -> npt.NDArray[np.bool_]:
        """(items,) whether the probe of a layer is right."""
        found: npt.NDArray[np.bool_] = self._of(PROBE, layer)["predictions"] == self._labels
        return found

    def by_label(self, layer: int) -> dict[Any, float]:
        """The share of the judged items of each label that are found, the most frequent label first."""
        right, labels = self.right(layer), self.probing.parts[TESTED].items.labels
        where: dict[Any, list[int]] = {}
        for index, label in enumerate(labels):
            where.setdefault(label, []).append(index)
        ordered = sorted(where, key=lambda label: (-len(where[label]), str(label)))
        return {label: float(right[where[label]].mean()) for label in ordered}

    def table(self) -> str:
        """All layers with what they are compared with, and what could not be judged, as text."""
        asked = [way for way in (CONTROL, RANDOM) if way in self._found]
        names = [*(["control", "selectivity"] if CONTROL in asked else []), *(["random"] if RANDOM in asked else [])]
        head = ["layer", f"{'score':>7}", f"{f'{self.confidence:.0%} interval':>16}", f"{'held out':>8}"]
        lines = [self._title(), "  ".join([*head, *(f"{name:>{max(7, len(name))}}" for name in names), "chosen"])]
        for each in self._each:
            low, high = each.interval
            cells = [f"{each.layer:>5}", _number(each.score), f"{f'{low:.4f} to {high:.4f}':>16}"]
            cells.append(f" {_number(each.held_out_score)}")
            if each.selectivity is not None:
                cells += [_number(each.control_score), f"    {_number(each.selectivity.value, signed=True)}"]
            if each.random_score is not None:
                cells.append(_number(each.random_score))
            cells.append(f"{each.curve.by} {each.curve.steps[each.curve.chosen]:.2g}")
            lines.append("  ".join(cells) + (" *" if each.layer == self.best_layer else ""))
        return "\n".join(
            [*lines, f"* best on the held-out part; majority class: {self.majority_baseline:.4f}", *self.notes]
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be judged or learned from, in sentences."""
        data, found = self.probing, []
        if data.unseen:
            found.append(f"{data.unseen} judged items have a label that is not trained on, and count as wrong")
        if data.shared:
            found.append(f"{data.shared} training texts are judged on as well, and were left out of training")
        if data.left_out != LeftOut():
            found.append(f"left out: {data.left_out}")
        return tuple(found)

    def _title(self) -> str:
        data = self.probing
        return (
            f"{self.kind} probes of {self.model}: {self.metric.name} on {len(self)} {data.level}s of {self.data}; "
            f"{len(data.classes)} labels, trained on {self.trained_on} of {self.training}, "
            f"{len(data.parts[HELD_OUT])} held out"
        )

    @property
    def _labels(self) -> Array:
        return self.probing.parts[TESTED].labels

    @property
    def _majority(self) -> Array:
        return np.full(len(self), self.probing.majority)

    @cached_property
    def _judge(self) -> Judge:
        return judge_of(self.probing, self.confidence)

    @cached_property
    def _each(self) -> tuple[LayerProbe, ...]:
        return tuple(self._layer(layer) for layer in self.layers)

    def _layer(self, layer: int) -> LayerProbe:
        part, judge, found = self.probing.parts[TESTED], self._judge, self._of(PROBE, layer)
        own = found["predictions"]
        control, weights = (self._of(way, layer) if way in self._found else None for way in (CONTROL, RANDOM))
        return LayerProbe(
            layer=layer,
            score=judge.score(part.labels, own),
            interval=judge.interval(part.labels, own),
            held_out_score=judge.score(self.probing.parts[HELD_OUT].labels, found["held_out"]),
            majority=self.majority_baseline,
            lead_over_majority=judge.difference(part.labels, own, self._majority),
            control_score=judge.score(part.control, control["predictions"]) if control else None,
            selectivity=judge.difference(part.labels, own, control["predictions"], part.control) if control else None,
            random_score=judge.score(part.labels, weights["predictions"]) if weights else None,
            lead_over_random=judge.difference(part.labels, own, weights["predictions"]) if weights else None,
            curve=_curve(self.kind, found),
            control_curve=_curve(self.kind, control) if control else None,
        )

    def _of(self, way: str, layer: int) -> Mapping[str, Array]:
        return self._found[way][self._position(layer)]

    def _position(self, layer: int) -> int:
        if not is_whole(layer) or layer not in self.layers:
            raise InvalidArgument("layer", layer, f"one of {', '.join(map(str, self.layers))}")
        return self.layers.index(layer)

    def _asked(self, value: Any, way: str) -> Any:
        if value is None:
            argument = {CONTROL: "control", RANDOM: "random_model"}[way]
            raise UndefinedScore(f"the score of the {way} baseline", f"it was not measured: {argument} was False")
        return value


def judge_of(data: ProbingData, confidence: float) -> Judge:
    """Who scores the judged part."""
    classes = len(data.classes) + (1 if data.unseen else 0)
    return Judge(data.metric, classes, data.parts[TESTED].texts, confidence, data.seed)


def _curve(kind: str, found: Mapping[str, Array]) -> Curve:
    rows = found["curve"].T.tolist()
    return Curve(
        by="penalty" if kind == "linear" else "epoch",
        steps=tuple(rows[0]),
        train_losses=tuple(rows[1]),
        held_out_losses=tuple(rows[2]),
        train_right=tuple(rows[3]),
        held_out_right=tuple(rows[4]),
        iterations=tuple(map(int, rows[5])),
        chosen=int(found["chosen"]),
    )


def _number(value: float | None, signed: bool = False) -> str:
    """Of seven places."""
    return f"{'' if value is None else format(value, '+.4f' if signed else '.4f'):>7}"
