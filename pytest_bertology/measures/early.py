"""Failures that are certain before all data is run: what a drop must at least be, known a part of the results.

Pure logic on arrays; nothing here runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.statistics import ProportionDrop, tango_upper_bound
from pytest_bertology.tasks.metrics import CLASSIFICATION, METRICS, TOKENS, Array, Metric, Results

ROUNDING = 1e-9
"""A drop of 0.90 - 0.89 is a drop of 0.01, whatever binary fractions make of it."""
_FLOAT = 1e-12
"""How far two ways to compute one score may be apart in float64."""
_SHARE, _FEWEST = 0.05, 8
"""Examples of a part: a share of all of them, and no fewer than so many."""

_BY_LOSS = (METRICS["loss"], METRICS["perplexity"])
_BY_HITS = tuple(METRICS[name] for name in ("accuracy", "f1", "f1_macro", "f1_micro"))
"""Never worse for a prediction that is right instead of wrong, however many labels there are."""
_MATTHEWS = METRICS["matthews"]
"""The same with two labels only: with three, a right prediction can lower it."""


@dataclass(frozen=True)
class Requirement:
    """What a retention check demands of a task's masked results."""

    metric: Metric
    kind: str
    """Of the task."""
    tolerance: float
    relative: bool = False
    confidence: float | None = None

    @property
    def limit(self) -> float:
        """The check fails beyond it."""
        return self.tolerance + ROUNDING

    def by_loss(self) -> bool:
        """Whether losses are judged, and not predictions."""
        return self.metric in _BY_LOSS

    def provable(self, n_labels: int) -> bool:
        """Whether a part of the results can prove a failure.

        The metrics named here are never worse for a right prediction instead of a wrong one, or for a smaller loss. A
        function of the user's own may be anything. Predictions of language models are not decided apart from their
        batch where they are nearly even, and a correlation has no best completion. With confidence a part has to prove
        that the check is not merely inconclusive, a lower bound on the true drop: only that of accuracy is known to
        rise with every example that is lost, and to fall with every one that is won.
        """
        if self.confidence is not None:
            return self.metric == METRICS["accuracy"] and self.kind == CLASSIFICATION
        if self.by_loss():
            return True
        if self.kind not in (CLASSIFICATION, TOKENS):
            return False
        return n_labels == 2 if self.metric == _MATTHEWS else self.metric in _BY_HITS

    def least(self, baseline: Results, best: Results) -> float:
        """The least that the judged number can be where `best` is the best that the masked results can still be.

        The drop, or the upper confidence bound on it.
        """
        if self.confidence is None:
            return self.metric.drop(self.metric(baseline), self.metric(best)) / self._scale(baseline)
        return _changed(baseline, best).upper(self.confidence) / self._scale(baseline)

    def p_value(self, baseline: Results, best: Results) -> float | None:
        """The least that the p-value of H0 (the true drop is the tolerance or more) can be; None without confidence."""
        if self.confidence is None:
            return None
        return _changed(baseline, best).p_value(self.limit * self._scale(baseline), self.confidence)

    def refuted(self, baseline: Results, best: Results) -> tuple[bool, float]:
        """Whether the check fails, and is not merely inconclusive, even then; and a number that says how near it is.

        The number is compared with the limit: the drop, or about the lower confidence bound on it.
        """
        scale = self._scale(baseline)
        if self.confidence is None:
            least = self.least(baseline, best)
            return bool(least > self.limit + _FLOAT * max(1.0, abs(least))), least
        found = _changed(baseline, best)
        near = -tango_upper_bound(found.better, found.worse, found.n, self.confidence).upper
        if near < self.limit * scale - 2.0 / found.n:  # the exact bound is hardly ever above Tango's, and takes longer
            return False, near / scale
        reversed_ = ProportionDrop(found.better, found.worse, found.n)
        certain = reversed_.p_value(-self.limit * scale, self.confidence) <= 1.0 - self.confidence
        return certain, near / scale

    def _scale(self, baseline: Results) -> float:
        scale = abs(self.metric(baseline)) if self.relative else 1.0
        if scale == 0.0:
            raise UndefinedScore("the relative drop", f"the baseline {self.metric.name} is 0")
        return scale


def _changed(baseline: Results, other: Results) -> ProportionDrop:
    change = hits(other) - hits(baseline)
    return ProportionDrop(int((change < 0).sum()), int((change > 0).sum()), len(change))


def hits(results: Results) -> Array:
    """(examples,) how many items of each are right."""
    right = (results.labels == results.predictions).astype(np.int64)
    return np.add.reduceat(right, np.cumsum(results.counts) - results.counts)


@dataclass
class EarlyVerdict:
    """Takes masked results a part at a time, and says when a failure is certain.

    First come the examples that the baseline has wrong, the only ones that could make up for others; then those that
    it has right, the least sure of them first. For losses, the greatest first: the rest then counts for least. All
    examples not yet known count as if the mask made them right, or their loss 0; the failure is certain as soon as
    even then the drop exceeds the tolerance; with confidence, as soon as even then the lower bound on the drop does, so
    that what is merely inconclusive is told by all the data.
    """

    requirement: Requirement
    baseline: Results
    margins: Array | None = None
    """(examples,) how sure the baseline is of each; None where that is not known."""
    noise: float = 0.0
    """How far batching alone can move a loss: no difference within it proves anything."""
    failed: bool = field(init=False, default=False)
    """Whether the check fails, whatever the unknown results are."""
    moved: bool = field(init=False, default=False)
    """Whether the mask is seen to change any result."""
    known: int = field(init=False, default=0)
    """How many examples are known."""

    def __post_init__(self) -> None:
        self.order = self._order()
        self._predictions = np.array(self.baseline.labels)
        self._losses = np.zeros(len(self.order))
        self._ends = np.cumsum(self.baseline.counts)
        self._trace: list[tuple[int, float]] = []

    def __len__(self) -> int:
        return len(self.order)

    @property
    def least(self) -> float:
        """What the judged number is at least, by what is known."""
        try:
            return self.requirement.least(self.baseline, self._best(self._losses))
        except UndefinedScore:  # the whole may say more
            return float("-inf")

    @property
    def p_value(self) -> float | None:
        """What the p-value is at least, by what is known."""
        return self.requirement.p_value(self.baseline, self._best(self._losses))

    def next_part(self) -> Array:
        """The positions to run next; none where all are known.

        All the rest at once where the parts so far do not tend to a failure: full batches are cheaper.
        """
        size = max(_FEWEST, int(np.ceil(_SHARE * len(self))))
        if self.known == 0:
            size = max(size, self._wrong_first())
        elif not self._tends_to_fail():
            size = len(self)
        return self.order[self.known : self.known + size]

    def learn(self, positions: Array, predictions: Array, losses: Array) -> None:
        """Take the masked results of these examples: `predictions` of their items, one loss each."""
        items = self._items(positions)
        self._predictions[items] = predictions
        # As small as another batching could have made them.
        self._losses[positions] = np.maximum(losses - self.noise, 0.0)
        self.known += len(positions)
        if not self.moved:
            apart = np.abs(losses - self.baseline.losses[positions]) > self.noise
            decided = self.requirement.kind in (CLASSIFICATION, TOKENS)
            flipped = decided and (predictions != self.baseline.predictions[items]).any()
            self.moved = bool(apart.any() or flipped)
        try:
            self.failed, near = self.requirement.refuted(self.baseline, self._best(self._losses))
        except UndefinedScore:  # the whole may say more
            self.failed, near = False, float("-inf")
        self._trace.append((self.known, near))

    @property
    def close(self) -> bool:
        """Whether, all being known, the losses are so close to the limit that another batching could decide."""
        if not self.requirement.by_loss():
            return False
        greatest = self.requirement.least(self.baseline, self._best(self._losses + 2 * self.noise))
        return self.least <= self.requirement.limit < greatest

    def _best(self, losses: Array) -> Results:
        base = self.baseline
        return Results(base.labels, self._predictions, losses, base.counts, base.n_labels)

    def _items(self, positions: Array) -> Array:
        counts, ends = self.baseline.counts, self._ends
        return np.concatenate([np.arange(ends[at] - counts[at], ends[at]) for at in positions])

    def _order(self) -> Array:
        base = self.baseline
        if self.requirement.by_loss():
            return np.argsort(-base.losses, kind="stable")
        wrong = 1.0 - hits(base) / base.counts
        margins = np.zeros(len(wrong)) if self.margins is None else self.margins
        return np.lexsort((margins, -wrong))

    def _wrong_first(self) -> int:
        """How many examples come before any that could prove a failure: those of one item that are wrong."""
        single = len(self.baseline.labels) == len(self.baseline.losses)
        if self.requirement.by_loss() or not single:
            return 0
        return int((self.baseline.labels != self.baseline.predictions).sum())

    def _tends_to_fail(self) -> bool:
        """Whether the rest would make the failure certain if it told as much as the last two parts, surer as it is."""
        if len(self._trace) < 3:
            return True
        (before, start), (now, least) = self._trace[-3], self._trace[-1]
        if not np.isfinite(start):
            return True
        slope = max(0.0, least - start) / (now - before)
        return least + slope * (len(self) - now) > self.requirement.limit
