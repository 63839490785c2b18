"""What amnesic probing found: what a property's removal costs a task, beside that of random directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.erasure_report import Erasure
from pytest_bertology.measures.relation_intervals import Interval, PairedDifference


@dataclass(frozen=True, eq=False)
class LayerAmnesia:
    """What it costs to take the property out of one layer."""

    erasure: Erasure
    """What is taken out, and what a linear probe gets there before and after."""
    score: float
    """Of the task, with the property erased."""
    drop: float
    """How much worse that is than the model as it was; negative where it is better."""
    random_scores: tuple[float, ...]
    """With as many random directions erased."""
    random_drops: tuple[float, ...]
    interval: Interval
    """Of `difference`, over samples of the task's examples."""
    drop_interval: Interval
    """Of `drop`."""
    last: PairedDifference | None
    """How much more often than the majority a linear probe of the last layer is right while it is erased here; None
    where that was not asked for."""

    @property
    def layer(self) -> int:
        """0 the embeddings, n what the n-th block gives."""
        return self.erasure.only.layer

    @property
    def rank(self) -> int:
        """How many directions are taken out."""
        return self.erasure.rank

    @property
    def random_drop(self) -> float:
        """The mean drop with random directions erased."""
        return float(np.mean(self.random_drops))

    @property
    def difference(self) -> float:
        """How much more the property's removal costs than that of random directions."""
        return self.drop - self.random_drop

    @property
    def used(self) -> bool:
        """Whether a probe found the property there, and its removal costs more than that of random directions does."""
        return self.erasure.only.was_there and self.interval[0] > 0.0


@dataclass(frozen=True, eq=False, repr=False)
class AmnesicReport:
    """A task's score with a property erased from one layer after the other, each by itself."""

    model: str
    erased: str
    """The name of the property's data."""
    task: str
    metric: str
    higher_is_better: bool
    baseline: float
    """The task's score as the model was."""
    examples: int
    """Of the task."""
    method: str
    last_layer: int
    last_before: PairedDifference | None
    """How much more often than the majority a linear probe of the last layer is right, nothing erased."""
    confidence: float
    seed: int
    layers: tuple[LayerAmnesia, ...]
    """In order."""

    def __repr__(self) -> str:
        worst = max(self.layers, key=lambda each: each.difference)
        return (
            f"AmnesicReport({self.erased} erased by {self.method}, {self.metric} of {self.task} {self.baseline:.4f}: "
            f"costs most at layer {worst.layer}, {worst.drop:.4f} (random directions {worst.random_drop:.4f}))"
        )

    def at(self, layer: int) -> LayerAmnesia:
        """One layer's results; raises InvalidArgument for one that was not asked for."""
        for each in self.layers:
            if each.layer == layer:
                return each
        raise InvalidArgument("layer", layer, f"one of {[each.layer for each in self.layers]}")

    @property
    def used_at(self) -> tuple[int, ...]:
        """The layers of which the property is used (see `LayerAmnesia.used`)."""
        return tuple(each.layer for each in self.layers if each.used)

    def table(self) -> str:
        """A line for each layer, aligned; ✱ marks removals that cost more than random directions."""
        title = f"{self.metric} of {self.task} without {self.erased} (by {self.method}; {self.model})"
        share = f"{self.confidence:.0%}"
        head = (
            f"{'layer':>5} {'rank':>5} {'probe':>15} {'last layer':>11} {self.metric[:10]:>10} {'drop':>9} "
            f"{'random':>9} {'more by':>9}  {share + ' interval':<20}"
        )
        lines = [title, "", head]
        for each in self.layers:
            own = each.erasure.only
            probes = f"{own.accuracy_before:.4f} → {own.accuracy_after:.4f}"
            last = "" if each.last is None else f"{own.majority + each.last.difference:.4f}"
            low, high = each.interval
            lines.append(
                f"{each.layer:>5} {each.rank:>5} {probes:>15} {last:>11} {each.score:>10.4f} {each.drop:>9.4f} "
                f"{each.random_drop:>9.4f} {each.difference:>+9.4f}  {f'{low:+.4f} to {high:+.4f}':<20}"
                f"{' ✱' if each.used else '' if own.was_there else ' was not there'}"
            )
        return "\n".join([*lines, "", *self._notes()])

    def _notes(self) -> list[str]:
        own = self.layers[0].erasure
        controls = len(self.layers[0].random_drops)
        majority = own.only.majority
        probes = f"probes: accuracy on {own.judged_on} {own.level}s, majority {majority:.4f}"
        if self.last_before is not None:
            last = majority + self.last_before.difference
            probes += f"; of the last layer ({self.last_layer}) with nothing erased {last:.4f}"
        return [
            f"as it was: {self.baseline:.4f} on {self.examples} examples; random: mean of {controls} times as many",
            "directions; ✱: the property was there, and its removal costs more than random directions",
            probes,
        ]
