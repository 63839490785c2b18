"""What edge probes found: which layers a task draws on, and up to which layer it is solved (Tenney et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from pytest_bertology.engine.items import LeftOut
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.measures.edge_model import Judged
from pytest_bertology.measures.relation_intervals import Interval, PairedDifference, paired_difference
from pytest_bertology.tasks.items import Ints

Array = npt.NDArray[Any]

F1, ACCURACY = "f1", "accuracy"
METRICS = (F1, ACCURACY)
EXPECTED, CENTRE = "expected_layer", "centre_of_gravity"
WAYS = (EXPECTED, CENTRE)
_NAMES = {F1: "micro-F1", ACCURACY: "accuracy"}


@dataclass(frozen=True, eq=False, repr=False)
class EdgeProbeReport:
    """Mixing weights and scores of edge probes of several seeds; what stands for them all is the mean over seeds.

    Layers are those of hidden states: 0 the embeddings, L the last. Intervals are Student's t over seeds, at
    `confidence`: what another seed would give of the same data. With one seed there are none (None).
    """

    model: str
    data: str
    training: str
    """Names of what is judged on and what is learned from."""
    level: str
    """Items are each a "word", "span", "pair" or "text"."""
    classes: tuple[Any, ...]
    items: int
    texts: int
    """How many are judged on."""
    trained_on: int
    """How many items are learned from."""
    layers: tuple[int, ...]
    """Those that are mixed, ascending."""
    seeds: tuple[int, ...]
    metric: str
    """Of scores: "f1" (micro-averaged; labels whose sigmoid is above 0.5) or "accuracy" (of the likeliest label)."""
    confidence: float
    majority_baseline: float
    """The score of always saying the label that is trained on most often."""
    unseen: int
    """Items judged on whose label is not trained on: never right."""
    left_out: LeftOut
    projection: int
    cumulative: bool
    """Whether there are probes of layers up to each."""
    _judged: tuple[Judged, ...] = field(repr=False)
    """Of each seed."""
    _text_of: Ints = field(repr=False)
    _majority: Array = field(repr=False)
    """(items,) 1.0 where the label is the one trained on most often."""

    def __repr__(self) -> str:
        layer = "" if not self.cumulative else f", expected layer {_said(self._expected)}"
        return (
            f"EdgeProbeReport({self.model} on {self.data}: {_NAMES[self.metric]} {self.score:.3f}, centre of gravity "
            f"{self.centre_of_gravity:.2f}{layer})"
        )

    @property
    def score(self) -> float:
        """Of the probe that sees all layers."""
        return float(self._scores[:, -1].mean())

    @property
    def score_interval(self) -> Interval | None:
        """Of `score`, over seeds."""
        return self._interval(self._scores[:, -1])

    @property
    def mixing_weights(self) -> tuple[float, ...]:
        """s of each of `layers`, of the probe that sees all: softmax weights, which add up to 1."""
        return _floats(self._weights.mean(axis=0))

    @property
    def mixing_intervals(self) -> tuple[Interval | None, ...]:
        """Of each mixing weight, over seeds."""
        return tuple(self._interval(each) for each in self._weights.T)

    @property
    def centre_of_gravity(self) -> float:
        """Σ ℓ s_ℓ: the mean layer by mixing weight."""
        return float(self._centres.mean())

    @property
    def centre_interval(self) -> Interval | None:
        """Of the centre of gravity, over seeds."""
        return self._interval(self._centres)

    @property
    def cumulative_scores(self) -> tuple[float, ...]:
        """S_ℓ, of the probe that sees `layers` up to each; UndefinedScore if not asked for."""
        return _floats(self._cumulative.mean(axis=0))

    @property
    def cumulative_intervals(self) -> tuple[Interval | None, ...]:
        """Of each cumulative score, over seeds."""
        return tuple(self._interval(each) for each in self._cumulative.T)

    @property
    def gains(self) -> tuple[float, ...]:
        """Δ_ℓ = S_ℓ − S of the layer before, for each of `layers` but the first."""
        return _floats(np.diff(self._cumulative.mean(axis=0)))

    @property
    def expected_layer(self) -> float:
        """Σ ℓ Δ_ℓ / Σ Δ_ℓ, ℓ from the second layer on: the mean layer by what it adds to the score.

        Raises UndefinedScore where it is `undefined`, or cumulative probes were not asked for.
        """
        return float(self._expected_by_seed.mean())

    @property
    def expected_interval(self) -> Interval | None:
        """Of the expected layer, over seeds; raises UndefinedScore as that does."""
        return self._interval(self._expected_by_seed)

    @cached_property
    def undefined(self) -> str | None:
        """Why there is no expected layer; None where there is one.

        Σ Δ_ℓ = S_L − S_0 is what all layers add to the first. The expected layer, a ratio to it, says nothing where it
        is not surely above 0: where its interval at `confidence` reaches 0, over seeds or over texts judged on
        (linearised, as texts are drawn and items of one text are alike), or where one seed's own is not above 0.
        """
        gains = self._cumulative[:, -1] - self._cumulative[:, 0]
        gain = float(gains.mean())
        said = f"all layers together gain {gain:+.4f} {_NAMES[self.metric]} over layer {self.layers[0]}"
        error = self._gain_error()
        if gain - error <= 0.0:
            return f"{said}, ± {error:.4f} by the choice of {self.texts} texts: that may be nothing"
        over_seeds = self._interval(gains)
        if over_seeds is not None and over_seeds[0] <= 0.0:
            return f"{said}, ± {gain - over_seeds[0]:.4f} over {len(self.seeds)} seeds: that may be nothing"
        if float(gains.min()) <= 0.0:
            return f"{said}, but {gains.min():+.4f} with seed {self.seeds[int(gains.argmin())]}"
        return None

    def layer(self, by: str) -> float:
        """The expected layer or the centre of gravity."""
        return float(np.mean(self.by_seed(by)))

    def by_seed(self, by: str) -> tuple[float, ...]:
        """The "expected_layer" or "centre_of_gravity" of each seed; raises InvalidArgument, UndefinedScore."""
        if by not in WAYS:
            raise InvalidArgument("by", by, " or ".join(map(repr, WAYS)))
        return _floats(self._expected_by_seed if by == EXPECTED else self._centres)

    @cached_property
    def lead(self) -> PairedDifference:
        """The accuracy of the probe that sees all layers, mean over seeds, less that of the majority label."""
        right = np.stack([each.right[-1] for each in self._judged]).mean(axis=0)
        return paired_difference(right, self._majority, self._text_of, self.confidence)

    @property
    def beats_majority(self) -> bool:
        """Whether the interval of `lead`, over texts, lies above 0: else its weights say nothing of the task."""
        return self.lead.interval[0] > 0.0

    def scores_of(self, metric: str) -> Array:
        """(seeds, layers) scores of the cumulative probes by "f1" or "accuracy"; of (seeds, 1) the whole probe's."""
        if metric not in METRICS:
            raise InvalidArgument("metric", metric, " or ".join(map(repr, METRICS)))
        counted = [_counted(each, metric) for each in self._judged]
        return np.stack([hits.sum(axis=1) / said.sum(axis=1) for hits, said in counted])

    def table(self) -> str:
        """Layer by layer: mixing weight, score of the layers up to it, and what it adds; as text."""
        unit, size = _NAMES[self.metric], f"{self.confidence:.0%}"
        lines = [
            f"edge probe of {self.model} on {self.data}: {self.items} items (each a {self.level}) of {self.texts} "
            f"texts, {len(self.classes)} labels; trained on {self.trained_on} of {self.training}",
            f"{unit} {self.score:.4f}{self._around(self.score_interval, 4)}, always the commonest label "
            f"{self.majority_baseline:.4f}; {self._seeds_said()}",
        ]
        if not self.beats_majority:
            lines.append(f"the probe is not surely better than always saying the commonest label ({size})")
        lines.append(f"centre of gravity {self.centre_of_gravity:.2f}{self._around(self.centre_interval, 2)}")
        if self.cumulative:
            around = "" if self.undefined else self._around(self.expected_interval, 2)
            lines.append(f"expected layer {_said(self._expected)}{around}")
            if self.undefined:
                lines.append(f"  {self.undefined}")
        if self.left_out.items or self.left_out.long_texts:
            lines.append(f"left out: {self.left_out}")
        if self.unseen:
            lines.append(f"{self.unseen} items have a label that is not trained on, and count as wrong")
        return "\n".join([*lines, "", *self._rows()])

    def _rows(self) -> list[str]:
        wide = 28 if len(self.seeds) > 1 else 13
        header = f"{'layer':>5}  {'mixing weight':>{wide}}"
        if self.cumulative:
            header += f"  {f'{_NAMES[self.metric]} of layers to it':>{wide}}  {'gain':>8}"
        lines = [header]
        for index, layer in enumerate(self.layers):
            weight = f"{self.mixing_weights[index]:.4f}{self._around(self.mixing_intervals[index], 4)}"
            line = f"{layer:>5}  {weight:>{wide}}"
            if self.cumulative:
                score = f"{self.cumulative_scores[index]:.4f}{self._around(self.cumulative_intervals[index], 4)}"
                gain = f"{self.gains[index - 1]:+.4f}" if index else ""
                line += f"  {score:>{wide if wide > 20 else 24}}  {gain:>8}"
            lines.append(line.rstrip())
        return lines

    def _seeds_said(self) -> str:
        if len(self.seeds) == 1:
            return f"seed {self.seeds[0]} alone, so that there are no intervals"
        return f"{self.confidence:.0%} intervals over seeds {', '.join(map(str, self.seeds))}"

    @staticmethod
    def _around(interval: Interval | None, digits: int) -> str:
        return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"

    @property
    def _weights(self) -> Array:
        """(seeds, layers)"""
        return np.stack([each.weights[-1] for each in self._judged])

    @property
    def _centres(self) -> Array:
        return self._weights @ np.array(self.layers, dtype=np.float64)

    @cached_property
    def _scores(self) -> Array:
        return self.scores_of(self.metric)

    @property
    def _cumulative(self) -> Array:
        """(seeds, layers)"""
        if not self.cumulative:
            raise UndefinedScore("cumulative scores", "they were not asked for: cumulative was False")
        return self._scores

    @property
    def _expected_by_seed(self) -> Array:
        if self._expected is None:
            raise UndefinedScore(f"the expected layer of {self.data}", self.undefined or "")
        gains = np.diff(self._cumulative, axis=1)
        found: Array = gains @ np.array(self.layers[1:], dtype=np.float64) / gains.sum(axis=1)
        return found

    @property
    def _expected(self) -> float | None:
        if self.undefined is not None:
            return None
        gains = np.diff(self._cumulative, axis=1)
        return float((gains @ np.array(self.layers[1:], dtype=np.float64) / gains.sum(axis=1)).mean())

    def _interval(self, values: Array) -> Interval | None:
        return seed_interval(values, self.confidence)

    def _gain_error(self) -> float:
        """Half the interval of S_L − S_0 over texts: the delta method for a difference of two ratios of sums."""
        _, member = np.unique(self._text_of, return_inverse=True)
        count = int(member.max()) + 1
        if count < 2:
            return float("inf")
        moved = np.zeros(len(member))
        for judged in self._judged:
            hits, said = _counted(judged, self.metric)
            score = hits.sum(axis=1, keepdims=True) / said.sum(axis=1, keepdims=True)
            residuals = (hits - score * said) / said.sum(axis=1, keepdims=True)
            moved += (residuals[-1] - residuals[0]) / len(self._judged)
        sums = np.bincount(member, weights=moved)
        error = np.sqrt(count / (count - 1) * np.square(sums - sums.mean()).sum())
        return float(stats.t.ppf(0.5 + self.confidence / 2.0, count - 1) * error)


def seed_interval(values: Sequence[float] | Array, confidence: float) -> Interval | None:
    """Student's t interval of the mean, values of several seeds being independent; None for a single one."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return None
    half = stats.t.ppf(0.5 + confidence / 2.0, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean() - half), float(found.mean() + half)


def _counted(judged: Judged, metric: str) -> tuple[Array, Array]:
    """(probes, items) each: the score is the sum of the first over that of the second.

    F1 = 2 TP / (2 TP + FP + FN); an item has one label, so that its TP + FN is 1, and its TP + FP is what is predicted.
    """
    if metric == ACCURACY:
        return judged.right.astype(np.float64), np.ones(judged.right.shape)
    return 2.0 * judged.hits, judged.predicted + 1.0


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(map(float, values))


def _said(layer: float | None) -> str:
    return "undefined" if layer is None else f"{layer:.2f}"
