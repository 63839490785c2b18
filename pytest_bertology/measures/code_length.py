"""How many bits labels take for someone who has a layer's states: minimum description length probing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.measures.code_fit import Learner
from pytest_bertology.measures.code_length_report import CodeLengthReport
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.probe_linear import standardised
from pytest_bertology.measures.probe_random import with_random_weights
from pytest_bertology.measures.probing_data import (
    PARTS,
    TESTED,
    TRAIN,
    ProbingData,
    States,
    chosen_layers,
    probing_data,
)
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import Ints
from pytest_bertology.tasks.task import Task

Array = npt.NDArray[Any]

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Where blocks end, as shares of all items: those of Voita & Titov 2020, section 3.2."""
PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
"""Of the probes that the code mixes, strongest first; of the summed loss, so that they weigh less as items come."""
BEHIND = 32.0
"""Bits by which a penalty must be behind a stronger one to be given up."""
_WHAT = "the code length"


@remakeable
@announced("code_length")
def description_length(
    model: ModelUnderTest,
    task: Task,
    layers: Any = "all",
    *,
    train: Task | None = None,
    kind: str = "linear",
    fractions: Sequence[float] = FRACTIONS,
    control: bool = True,
    random_model: bool = False,
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    batching: Batching | None = None,
) -> CodeLengthReport:
    """How many bits it takes to send the labels of n items to someone who has a layer's states of them.

    Voita & Titov 2020, section 3.2, the online (prequential) code; the variational one is not offered. What is sent are
    the labels that `probe` would train on (of `train`, or three quarters of the task's texts; less the tenth that is
    held out), text by text in an order that `seed` and contents decide. Blocks end at `fractions` of the items: the
    first takes log2 K bits an item, K being the number of different labels; each later one −log2 of the probability
    that probes trained on all before it give its labels. Compression is n · log2 K bits, the uniform code, over that.

    The code is one that a receiver can follow; nothing is chosen by looking ahead. Probes are multinomial logistic
    regressions on states standardised by what came before. Their penalty is not chosen but mixed: the probability of a
    block is the mean of those that five penalties (1000 to 0.1 times half the squared weights, beside the summed loss)
    give it, weighed by the probabilities that each gave all blocks before (Bayes): in all at most log2 5 = 2.3 bits
    more than the best penalty of those kept. One that is 32 bits behind a stronger one is given up for good. After t
    items a probe's p is sent as (t · p + 1/2) / (t + K / 2), so that labels not seen yet have a code too.

    With `control` the labels of the control task (`probe`; Hewitt & Liang 2019) are sent in the same way, with
    `random_model` the true ones by the states of a copy whose weights are drawn anew. For comparison there are the
    bits that the labels take without any states, by their frequencies so far. The probe of all that was sent, of the
    penalty that weighs most, is scored on the texts that are judged on, with an interval at `confidence`.

    Raises InvalidArgument; SingleClass, and what `probing_data` and `record` raise; UndefinedScore where a fit does not
    converge.
    """
    _check(kind, fractions, confidence)
    batching = batching or Batching()
    data = probing_data(model, task, train=train, pooling=pooling, too_long=too_long, seed=seed, what=_WHAT)
    if data.metric.name == "loss":
        raise InvalidArgument("task", f"{task.name}, judged by its loss", "a metric of predictions, such as accuracy")
    ends = block_ends(len(data.parts[TRAIN]), fractions)
    states = data.record(model, what=_WHAT, stack=stack, batching=batching)
    chosen = chosen_layers(layers, states.layers)
    codes = _Codes(data, ends, chosen, f"stack {stack}", batching)
    with tracked(f"code lengths of {data.source}", len(chosen) * (1 + control + random_model)) as show:
        codes.show = show
        true = codes.of(model, states, controlled=False)
        controls = codes.of(model, states, controlled=True) if control else None
        random = codes.of_random(model, stack) if random_model else None
    return CodeLengthReport(
        model=model.name,
        data=data.name,
        training=data.source,
        probing=data,
        layers=chosen,
        ends=ends,
        penalties=PENALTIES,
        confidence=confidence,
        frequency_bits=frequency_code(np.bincount(data.parts[TRAIN].labels, minlength=len(data.classes))),
        _codes=true,
        _control=controls,
        _random=random,
    )


def block_ends(items: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """How many items have been sent after each block: the fractions of all, rounded up; equal ones are one block."""
    ends = sorted({int(np.ceil(round(fraction * items, 9))) for fraction in fractions})
    if len(ends) < 2:
        raise UndefinedScore(_WHAT, f"{items} items make one block, which is sent without a probe")
    return tuple(ends)


def frequency_code(counts: Array) -> float:
    """Bits of labels of these counts, each sent by the frequencies of those before it (Krichevsky & Trofimov 1981).

    A label seen m times among t has probability (m + 1/2) / (t + K / 2); the sum does not depend on the order.
    """
    k, n = len(counts), float(np.sum(counts))
    nats = gammaln(n + k / 2) - gammaln(k / 2) - (gammaln(counts + 0.5) - gammaln(0.5)).sum()
    return float(nats / np.log(2.0))


def online_code(vectors: Array, labels: Ints, classes: int, ends: Sequence[int], what: str) -> Arrays:
    """Bits of each block ("blocks"), and nats that each penalty's own code takes ("nats"; inf where given up)."""
    blocks, nats = [ends[0] * np.log2(classes)], np.zeros(len(PENALTIES))
    for start, end in pairwise(ends):
        known, new = standardised(vectors[:start], vectors[start:end])
        learner = Learner(known, labels[:start], classes, what)
        before = _mixed(nats)
        for index in np.flatnonzero(np.isfinite(nats)):
            said = learner.probabilities(new, PENALTIES[index])[np.arange(end - start), labels[start:end]]
            nats[index] -= np.log((start * said + 0.5) / (start + 0.5 * classes)).sum()
        blocks.append((_mixed(nats) - before) / np.log(2.0))
        leading = np.minimum.accumulate(nats)
        nats[nats > leading + BEHIND * np.log(2.0)] = np.inf
    return {"blocks": np.array(blocks), "nats": nats}


def _mixed(nats: Array) -> float:
    """Nats of a code whose probability is the mean of those of codes of so many nats."""
    return float(np.log(len(nats)) - logsumexp(-nats))


class _Codes:
    """Online codes of some layers: of true labels, control labels, and by random weights."""

    show: Callable[[int], None]

    def __init__(
        self, data: ProbingData, ends: tuple[int, ...], layers: tuple[int, ...], read: str, batching: Batching
    ) -> None:
        self._data, self._ends, self._layers, self._batching = data, ends, layers, batching
        self._key, self._done = f"{_digest(data)}, {read}, blocks {ends}", 0

    def of(self, model: ModelUnderTest, states: States, *, controlled: bool) -> tuple[Arrays, ...]:
        """One code for each layer."""
        found = []
        for layer in self._layers:
            what = f"code length 1, {'control' if controlled else 'true'}, layer {layer}, {self._key}"
            found.append(self._once(what, model, lambda layer=layer: self._code(states, layer, controlled)))  # type: ignore[misc]
        return tuple(found)

    def of_random(self, model: ModelUnderTest, stack: str | None) -> tuple[Arrays, ...]:
        """The same by the states of a copy with random weights."""
        recorded: list[States] = []

        def code(layer: int) -> Arrays:
            if not recorded:
                twin = with_random_weights(model, self._data.seed)
                recorded.append(self._data.record(twin, what=_WHAT, stack=stack, batching=self._batching))
            return self._code(recorded[0], layer, controlled=False)

        found = []
        for layer in self._layers:
            what = f"code length 1, random weights {self._data.seed}, layer {layer}, {self._key}"
            found.append(self._once(what, model, lambda layer=layer: code(layer)))  # type: ignore[misc]
        return tuple(found)

    def _once(self, what: str, model: ModelUnderTest, compute: Callable[[], Arrays]) -> Arrays:
        texts = self._data.parts[TESTED].read.texts.encoded
        found = computed_once(what, (model, texts, model.mask_in_force(), self._batching), compute)
        self._done += 1
        self.show(self._done)
        return found

    def _code(self, states: States, layer: int, controlled: bool) -> Arrays:
        part, classes = self._data.parts[TRAIN], len(self._data.classes)
        labels = part.control if controlled else part.labels
        what = f"{_WHAT} of layer {layer}"
        vectors = states.vectors(TRAIN, layer)
        code = online_code(vectors, labels, classes, self._ends, what)
        if controlled:
            return code
        known, judged = standardised(vectors, states.vectors(TESTED, layer))
        best = PENALTIES[int(np.argmin(code["nats"]))]
        predictions = Learner(known, labels, classes, what).probabilities(judged, best).argmax(axis=1)
        return {**code, "predictions": predictions}


def _digest(data: ProbingData) -> str:
    """Of all that codes depend on but the model and the token ids that are judged on."""
    sha = hashlib.sha256(repr((data.pooling, data.seed, len(data.classes))).encode())
    for name in PARTS:
        part = data.parts[name]
        sha.update(part.read.texts.encoded.digest.encode())
        sha.update(part.labels.tobytes() + part.control.tobytes())
        sha.update(repr([[each.tolist() for each in spans] for spans in part.read.tokens]).encode())
    return sha.hexdigest()


def _check(kind: object, fractions: Any, confidence: object) -> None:
    if kind != "linear":
        raise InvalidArgument("kind", kind, "'linear': the code is that of linear probes")
    expected = "shares of the items at which blocks end: numbers above 0, ascending, the last 1, such as (0.1, 0.5, 1)"
    numbers = not isinstance(fractions, str) and isinstance(fractions, Sequence) and len(fractions) > 1
    if not numbers or any(isinstance(each, bool) or not isinstance(each, int | float) for each in fractions):
        raise InvalidArgument("fractions", fractions, expected)
    if fractions[0] <= 0.0 or fractions[-1] != 1 or any(np.diff(fractions) <= 0.0):
        raise InvalidArgument("fractions", fractions, expected)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.0 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
