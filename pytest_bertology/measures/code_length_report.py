"""What minimum description length probing found: bits by layer, beside those that say what they are worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.store import Arrays
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.measures.probing_data import TESTED, ProbingData
from pytest_bertology.measures.probing_report import judge_of
from pytest_bertology.measures.probing_scores import Judge
from pytest_bertology.measures.relation_intervals import Interval

Array = npt.NDArray[Any]
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class LayerCode:
    """The code of one layer."""

    layer: int
    """0 is the embeddings."""
    bits: float
    """The online code length of the true labels."""
    compression: float
    """The uniform code length over `bits`."""
    control_compression: float | None
    """Of the control task's labels; None where it was not asked for."""
    random_compression: float | None
    """By a model with random weights; None where it was not asked for."""
    score: float
    """Of the probe of all that was sent, on the texts judged on."""
    penalty: float
    """Of the probes that describe the labels in the fewest bits."""


@dataclass(frozen=True, eq=False, repr=False)
class CodeLengthReport:
    """Code lengths in bits, by layer."""

    model: str
    data: str
    """Name of the data that the last probe is judged on."""
    training: str
    """Name of the data whose labels are sent."""
    probing: ProbingData
    """The items: sent is the training part."""
    layers: tuple[int, ...]
    ends: tuple[int, ...]
    """How many items have been sent after each block."""
    penalties: Numbers
    """Those that the code mixes."""
    confidence: float
    """Of the intervals."""
    frequency_bits: float
    """Bits of the labels without any states, each by the frequencies of those before it."""
    _codes: tuple[Arrays, ...] = field(repr=False)
    _control: tuple[Arrays, ...] | None = field(repr=False)
    _random: tuple[Arrays, ...] | None = field(repr=False)

    def __repr__(self) -> str:
        best = self.at(self.best_layer)
        beside = "" if best.control_compression is None else f", control {best.control_compression:.2f}"
        return (
            f"CodeLengthReport({self.model} on {self.training}: compression {best.compression:.2f} at layer "
            f"{best.layer}{beside})"
        )

    @property
    def items(self) -> int:
        """How many labels were sent."""
        return self.ends[-1]

    @property
    def uniform_bits(self) -> float:
        """n · log2 K."""
        return self.items * float(np.log2(len(self.probing.classes)))

    @cached_property
    def online_bits(self) -> Numbers:
        """Of the true labels, one for each of `layers`."""
        return _bits(self._codes)

    @cached_property
    def control_bits(self) -> Numbers:
        """Of the control task's labels; UndefinedScore where it was not asked for."""
        return _bits(_asked(self._control, "control task", "control"))

    @cached_property
    def random_bits(self) -> Numbers:
        """Of the true labels by random weights; UndefinedScore where they were not asked for."""
        return _bits(_asked(self._random, "model with random weights", "random_model"))

    @cached_property
    def block_bits(self) -> tuple[Numbers, ...]:
        """For each layer, the bits of each block of true labels."""
        return tuple(tuple(code["blocks"].tolist()) for code in self._codes)

    @property
    def compression(self) -> Numbers:
        """Uniform over online code length; above 1 where the labels' frequencies or the states help."""
        return self._over(self.online_bits)

    @property
    def control_compression(self) -> Numbers:
        """The same of the control task's labels."""
        return self._over(self.control_bits)

    @property
    def random_compression(self) -> Numbers:
        """The same by random weights."""
        return self._over(self.random_bits)

    @property
    def frequency_compression(self) -> float:
        """The same without any states: a layer that does not reach it tells nothing of the labels."""
        return self.uniform_bits / self.frequency_bits

    @cached_property
    def scores(self) -> Numbers:
        """The task's metric of the probes of all that was sent, on the texts judged on."""
        labels = self.probing.parts[TESTED].labels
        return tuple(self._judge.score(labels, code["predictions"]) for code in self._codes)

    @cached_property
    def intervals(self) -> tuple[Interval, ...]:
        """Of `scores`, at `confidence`: texts are drawn, not items."""
        labels = self.probing.parts[TESTED].labels
        return tuple(self._judge.interval(labels, code["predictions"]) for code in self._codes)

    @property
    def best_layer(self) -> int:
        """Whose states describe the labels in the fewest bits."""
        return self.layers[int(np.argmin(self.online_bits))]

    def at(self, layer: int) -> LayerCode:
        """The code of one layer; raises InvalidArgument for one that was not measured."""
        if layer not in self.layers:
            raise InvalidArgument("layer", layer, f"one that was measured: {', '.join(map(str, self.layers))}")
        at = self.layers.index(layer)
        return LayerCode(
            layer=layer,
            bits=self.online_bits[at],
            compression=self.compression[at],
            control_compression=None if self._control is None else self.control_compression[at],
            random_compression=None if self._random is None else self.random_compression[at],
            score=self.scores[at],
            penalty=self.penalties[int(np.argmin(self._codes[at]["nats"]))],
        )

    def table(self) -> str:
        """All layers, as text."""
        data, unit = self.probing, f"{self.probing.level}s"
        judged = f"{data.metric.name} on {len(data.parts[TESTED])} {unit} of {self.data}"
        lines = [
            f"code lengths by {self.model}: {self.items} {unit} of {self.training}, {len(data.classes)} labels",
            f"uniform code {self.uniform_bits / 1000:.2f} kbit; by the labels' frequencies alone "
            f"{self.frequency_bits / 1000:.2f} kbit, compression {self.frequency_compression:.2f}",
            f"score: {judged}",
            "  ".join(f"{name:>{width}}" for name, width in self._columns()),
        ]
        for layer in self.layers:
            found = self.at(layer)
            cells = [f"{layer}", f"{found.bits / 1000:.2f}", f"{found.compression:.2f}"]
            beside = (found.control_compression, found.random_compression)
            cells += [f"{value:.2f}" for value in beside if value is not None]
            cells += [f"{found.score:.4f}", f"{found.penalty:g}"]
            lines.append("  ".join(f"{c:>{w}}" for c, (_, w) in zip(cells, self._columns(), strict=True)))
        if data.left_out.items or data.left_out.long_texts:
            lines.append(f"left out: {data.left_out}")
        if data.unseen:
            lines.append(f"{data.unseen} items judged on have labels that are not trained on, and count as wrong")
        return "\n".join(lines)

    def _columns(self) -> list[tuple[str, int]]:
        names = ["layer", "kbit", "compression"]
        names += ["of control"] * (self._control is not None) + ["random weights"] * (self._random is not None)
        return [(name, max(len(name), 7)) for name in (*names, "score", "penalty")]

    def _over(self, bits: Numbers) -> Numbers:
        return tuple(self.uniform_bits / each for each in bits)

    @property
    def _judge(self) -> Judge:
        return judge_of(self.probing, self.confidence)


def _bits(codes: tuple[Arrays, ...]) -> Numbers:
    return tuple(float(code["blocks"].sum()) for code in codes)


def _asked(codes: tuple[Arrays, ...] | None, what: str, argument: str) -> tuple[Arrays, ...]:
    if codes is None:
        raise UndefinedScore(f"the code length of the {what}", f"it was not measured: {argument} was False")
    return codes
