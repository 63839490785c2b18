"""What a prompt got out of a language model: its score beside those of answers that know nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.probing_scores import Difference, Judge
from pytest_bertology.measures.relation_intervals import Interval
from pytest_bertology.tasks.items import Ints
from pytest_bertology.tasks.metrics import Metric

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class PromptReport:
    """The answers of a language model to a prompt for each item, in the task's order."""

    model: str
    data: str
    level: str
    """"word", "span", "pair" or "text"."""
    metric: Metric
    prompt: str
    label_words: Mapping[Any, tuple[str, ...]]
    """Of each label, labels ascending by their text."""
    calibration: str | None
    per_token: bool
    confidence: float
    """Of the interval; texts are drawn, not items."""
    seed: int
    log_probabilities: Array
    """(items, labels) of a label's words after the prompt, in nats; per token where that was asked for."""
    labels: Ints
    """(items,) positions in `classes`."""
    left_out: int
    """Items whose prompts are longer than the model can read."""
    _prior: Array = field(repr=False)
    """(labels,) what is subtracted of them."""
    _texts: Ints = field(repr=False)
    _control: tuple[Ints, ...] = field(repr=False)

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"PromptReport({self.model} on {self.data}: {self.metric.name} {self.score:.4f} [{low:.4f}, {high:.4f}]; "
            f"majority {self.majority_baseline:.4f})"
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels, ascending by their text."""
        return tuple(self.label_words)

    @cached_property
    def predictions(self) -> Ints:
        """(items,) positions in `classes`: the greatest score, calibrated where that was asked for."""
        found: Ints = (self.log_probabilities - self._prior).argmax(axis=1)
        return found

    @cached_property
    def score(self) -> float:
        """The task's metric."""
        return self._judge.score(self.labels, self.predictions)

    @cached_property
    def interval(self) -> Interval:
        """Of `score`."""
        return self._judge.interval(self.labels, self.predictions)

    @cached_property
    def majority_baseline(self) -> float:
        """The score of saying always what is most frequent."""
        return self._judge.score(self.labels, self._majority)

    @cached_property
    def lead_over_majority(self) -> Difference:
        """Score less `majority_baseline`, on the same items, with its interval."""
        return self._judge.difference(self.labels, self.predictions, self._majority)

    @property
    def beats_majority(self) -> bool:
        """Whether the score is surely above that of the majority class: the interval of the difference is above 0."""
        return self.lead_over_majority.interval[0] > 0.0

    @cached_property
    def control_scores(self) -> tuple[float, ...]:
        """Of the same answers, against labels drawn at random for each type, time and again."""
        if not self._control:
            raise UndefinedScore("the score of the control labels", "it was not measured: control was False")
        return tuple(self._judge.score(each, self.predictions) for each in self._control)

    @property
    def control_score(self) -> float:
        """Their mean."""
        return float(np.mean(self.control_scores))

    @property
    def selectivity(self) -> float:
        """`score` less `control_score`."""
        return self.score - self.control_score

    @property
    def shares(self) -> dict[Any, float]:
        """How often each label is the answer: a prompt that gets the same answer always says nothing."""
        counts = np.bincount(self.predictions, minlength=len(self.classes)) / len(self)
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def table(self) -> str:
        """Scores, and each label's words, frequency and answers, as text."""
        low, high = self.interval
        lines = [
            f"{self.model} prompted with {self.prompt!r}: {self.metric.name} on {len(self)} "
            f"{self.level}s of {self.data}",
            f"score     {self.score:.4f}  {self.confidence:.0%} interval {low:.4f} to {high:.4f}",
            f"majority  {self.majority_baseline:.4f}",
        ]
        if self._control:
            lines.append(f"control   {self.control_score:.4f}  selectivity {self.selectivity:+.4f}")
        if self.calibration or self.per_token:
            ways = [f"{self.calibration} calibration"] * bool(self.calibration) + ["per token"] * self.per_token
            lines.append(f"by        {', '.join(ways)}")
        if self.left_out:
            lines.append(f"left out  {self.left_out} prompts longer than the model can read")
        names = [repr(label) for label in self.classes]
        width = max(5, *map(len, names))
        lines += ["", f"{'label':<{width}}  {'items':>6}  {'answers':>7}  {'right':>6}  words"]
        for number, (name, words) in enumerate(zip(names, self.label_words.values(), strict=True)):
            own = self.labels == number
            right = f"{(self.predictions[own] == number).mean():.4f}" if own.any() else "-"
            answers = int((self.predictions == number).sum())
            said = ", ".join(map(repr, words)) + ("" if own.any() else "  (no item has this label)")
            lines.append(f"{name:<{width}}  {int(own.sum()):>6}  {answers:>7}  {right:>6}  {said}")
        return "\n".join(lines)

    @property
    def _majority(self) -> Ints:
        return np.full(len(self), np.bincount(self.labels).argmax())

    @property
    def _judge(self) -> Judge:
        return Judge(self.metric, len(self.classes), self._texts, self.confidence, self.seed)
