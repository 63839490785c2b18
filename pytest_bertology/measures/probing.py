"""What each layer of a frozen model knows of a task: probes, their control task and their baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import Arrays, computed_once, stored
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.probe_linear import (
    BACKENDS,
    SKLEARN,
    TORCH,
    Split,
    linear_probe,
    quietly,
    standardised,
    unquiet_probe,
)
from pytest_bertology.measures.probe_mlp import mlp_probe
from pytest_bertology.measures.probe_random import with_random_weights
from pytest_bertology.measures.probing_data import (
    HELD_OUT,
    PARTS,
    TESTED,
    TRAIN,
    ProbingData,
    States,
    chosen_layers,
    probing_data,
)
from pytest_bertology.measures.probing_report import CONTROL, PROBE, RANDOM, ProbeReport
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import check_labelled
from pytest_bertology.tasks.metrics import Metric
from pytest_bertology.tasks.task import Task

Array = npt.NDArray[Any]

LINEAR, MLP = "linear", "mlp"
KINDS = (LINEAR, MLP)
_WHAT = "a probe"


@remakeable
@announced("probe")
def probe(
    model: ModelUnderTest,
    task: Task,
    layers: str | Collection[int] = "all",
    kind: str = LINEAR,
    *,
    train: Task | None = None,
    held_out: Task | None = None,
    control: bool = True,
    random_model: bool = True,
    learning_curve: Sequence[float] = (),
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    backend: str | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    batching: Batching | None = None,
) -> ProbeReport:
    """Train a probe on the frozen hidden states of each layer, and score it on texts that it did not learn from.

    `task` labels words, spans, pairs of spans, or texts. An item of several tokens stands for its first, last or mean
    token (`pooling`); `train`, `held_out`, `too_long` and `seed` are those of `probing_data`: by default a quarter of
    the task's texts is judged on, a tenth of the others is held out, and the rest learned from. `layers` are those of
    `output_hidden_states`: 0 is the embeddings, L the last layer; `stack` chooses the "encoder" or "decoder" of a model
    with both. The model is used with the masks in force.

    A "linear" probe is multinomial logistic regression on standardised vectors (statistics of the training part), its
    L2 penalty chosen by the loss on the held-out part, each layer for itself. An "mlp" has one hidden layer and is
    stopped by the same loss (see `linear_probe` and `mlp_probe`).

    With `control` the same kind of probe is trained on the control task of Hewitt & Liang (2019, section 2): each type
    (word, or whatever stands in the span) has one label, drawn at random, which only memory can know. It chooses its
    own penalty by its own labels of the held-out part: it is to be the best control that there is. Selectivity is the
    score less the control's. With `random_model` the same is done with a copy of the model whose weights are drawn anew
    with `seed`: what tokens, positions and the architecture allow, with no mask or anything else in force.

    `learning_curve`, such as (0.1, 0.3), trains on these shares of the training texts too. `backend` solves linear
    probes: "scikit-learn" (the default on the CPU) or "torch" (on GPUs); both find the same minimum.

    Linear probes agree in four digits whatever the batch size, order of texts, and number of threads. An mlp depends on
    none of it but by rounding, which its training may magnify. What was fitted is stored, and not fitted again.

    Raises InvalidArgument; UndefinedScore where a fit does not converge or the metric has no value; and what
    `probing_data` and `record` raise.
    """
    batching = batching or Batching()
    check_model_and_task(model, task)
    check_labelled(task)
    _check(task.metric, kind, control, random_model, backend, confidence)
    shares = _shares(learning_curve)
    data = probing_data(
        model, task, train=train, held_out=held_out, pooling=pooling, too_long=too_long, seed=seed, what=_WHAT
    )
    backend = backend or (SKLEARN if model.device.type == "cpu" else TORCH)
    work = _Work(model, data, kind, backend, stack, batching)
    numbers = chosen_layers(layers, work.last)
    ways = [PROBE, *([CONTROL] if control else []), *([RANDOM] if random_model else [])]
    jobs = [*((way, 1.0) for way in ways), *((PROBE, share) for share in shares)]
    found = work.all([_Job(layer, *job) for job in jobs for layer in numbers])
    each = {job: tuple(found[_Job(layer, *job)] for layer in numbers) for job in jobs}
    return ProbeReport(
        model=model.name,
        data=data.name,
        training=data.source,
        kind=kind,
        layers=numbers,
        probing=data,
        confidence=confidence,
        seed=seed,
        learning_shares=shares,
        _found={way: each[way, 1.0] for way in ways},
        _learned=tuple(each[PROBE, share] for share in shares),
    )


class _Job(NamedTuple):
    """One probe to fit."""

    layer: int
    way: str
    share: float
    """Of the training texts."""


class _Work:
    """Probes of one model and its data; states are recorded when the first of them is fitted."""

    def __init__(
        self, model: ModelUnderTest, data: ProbingData, kind: str, backend: str, stack: str | None, batching: Batching
    ) -> None:
        self.model, self.data, self.kind, self.backend, self.stack = model, data, kind, backend, stack
        self.batching = batching

    @property
    def last(self) -> int:
        """The number of the last layer."""
        found = computed_once(f"layers 1, {self.stack}", self._inputs, lambda: {"last": np.array(self.states.layers)})
        return int(found["last"])

    @property
    def _inputs(self) -> Any:
        encoded = self.data.parts[TESTED].read.texts.encoded
        return self.model, encoded, self.model.mask_in_force(), self.batching

    @cached_property
    def states(self) -> States:
        return self.data.record(self.model, what=_WHAT, stack=self.stack, batching=self.batching)

    @cached_property
    def random_states(self) -> States:
        twin = with_random_weights(self.model, self.data.seed)
        return self.data.record(twin, what=_WHAT, stack=self.stack, batching=self.batching)

    @cached_property
    def digest(self) -> str:
        """Of all that a probe learns and is judged by, but the token ids that are judged on."""
        digest = hashlib.sha256(repr((self.data.seed, len(self.data.classes))).encode())
        for part in PARTS:
            each = self.data.parts[part]
            digest.update(each.read.texts.encoded.digest.encode())
            for array in (each.labels, each.control, *each.at):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(repr([[unit.tolist() for unit in text] for text in self.data.units(part)]).encode())
        return digest.hexdigest()

    def all(self, jobs: Sequence[_Job]) -> dict[_Job, Arrays]:
        """What was found of each."""
        solver = self.backend if self.kind == LINEAR else ""
        names = {job: f"{self.kind} probe 1, {tuple(job)!r}, {self.stack}, {solver}, {self.digest}" for job in jobs}
        known = {job: stored(name, self._inputs) for job, name in names.items()}
        found = {job: each for job, each in known.items() if each is not None}
        missing = [job for job in jobs if job not in found]
        with tracked(f"{self.data.name}, {self.kind} probes", len(jobs)) as show, self._fits(missing) as fit:
            for job in missing:
                found[job] = computed_once(names[job], self._inputs, partial(fit, job))
                show(len(found))
        return found

    @contextmanager
    def _fits(self, jobs: Sequence[_Job]) -> Iterator[Callable[[_Job], Arrays]]:
        """A function that does one of these.

        scikit-learn's fits are products of a large matrix and a narrow one, which two threads compute no faster than
        one: as many are done side by side as there are threads to use.
        """
        workers = min(len(jobs), torch.get_num_threads())
        if self.kind != LINEAR or self.backend != SKLEARN or workers < 2:
            yield lambda job: self._fitted(job, linear_probe)
            return
        for way in {job.way for job in jobs}:
            self._states(way)  # recorded by this thread, in which masks are in force
        with quietly(), threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
            running = {job: pool.submit(self._fitted, job, unquiet_probe) for job in jobs}
            try:
                yield lambda job: running[job].result()
            finally:
                for each in running.values():
                    each.cancel()

    def _states(self, way: str) -> States:
        return self.random_states if way == RANDOM else self.states

    def _fitted(self, job: _Job, fit_linear: Callable[..., Arrays]) -> Arrays:
        layer, way, share = job
        states = self._states(way)
        train, held_out = (self.data.parts[part] for part in (TRAIN, HELD_OUT))
        count = self.data.first(share)
        vectors = standardised(
            states.vectors(TRAIN, layer)[:count], states.vectors(HELD_OUT, layer), states.vectors(TESTED, layer)
        )
        labels = [each.control if way == CONTROL else each.labels for each in (train, held_out)]
        split = Split(vectors[0], labels[0][:count], vectors[1], labels[1], vectors[2])
        what, device = f"the probe of layer {layer} ({way})", str(self.model.device)
        if self.kind == MLP:
            return mlp_probe(split, what, seed=self.data.seed, device=device)
        return fit_linear(split, what, backend=self.backend, device=device)


def _shares(shares: Sequence[float]) -> tuple[float, ...]:
    expected = "shares of the training texts above 0 and below 1, such as (0.1, 0.3)"
    if not isinstance(shares, list | tuple):
        raise InvalidArgument("learning_curve", shares, expected)
    for share in shares:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share < 1.0:
            raise InvalidArgument("learning_curve", share, expected)
    return tuple(sorted({float(share) for share in shares}))


def _check(
    metric: Metric, kind: object, control: object, random_model: object, backend: object, confidence: object
) -> None:
    if not metric.higher_is_better:
        raise InvalidArgument("task", f"a task scored by {metric.name}", "a metric of labels, such as 'accuracy'")
    if kind not in KINDS:
        raise InvalidArgument("kind", kind, f"one of {', '.join(map(repr, KINDS))}")
    if backend is not None and backend not in BACKENDS:
        raise InvalidArgument("backend", backend, f"one of {', '.join(map(repr, BACKENDS))}, or None")
    for name, value in (("control", control), ("random_model", random_model)):
        if not isinstance(value, bool):
            raise InvalidArgument(name, value, "True or False")
    numeric = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if not numeric or not 0.0 < confidence < 1.0:  # type: ignore[operator]
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
