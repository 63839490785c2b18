"""Whether a model's forward passes can be resumed in the middle: seen by trying, head by head, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, collate
from pytest_bertology.engine.encoding import Encoded, lengths
from pytest_bertology.engine.objectives import judge
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.prefix import CannotResume, Layers, find_layers, recorded, resumed
from pytest_bertology.models.sampling import can_batch

_CLOSE = {"float64": 1e-12, "float32": 4e-6}


@dataclass(frozen=True)
class Way:
    """How a model's sweeps are run."""

    layers: Layers | None
    """What can be skipped; None: every mask takes a whole forward pass."""
    contexts: tuple[bool, ...]
    """Per site, whether its own attention can be taken from the recording too."""
    stacks: bool
    """Whether several masks may share a batch."""
    reason: str = ""
    """Why nothing is skipped."""


_known: WeakKeyDictionary[ModelUnderTest, dict[str, Way]] = WeakKeyDictionary()


def way_of(model: ModelUnderTest, encoded: Encoded) -> Way:
    """How sweeps of a model are run, found out once for each kind of task on two short examples of its own."""
    stacks = model.check.per_example and can_batch(model.model)
    if model.altered():
        return Way(None, (), stacks, "hooks of others are on the model")
    known = _known.setdefault(model, {})
    if encoded.objective not in known:
        known[encoded.objective] = _find(model, encoded, stacks)
    return known[encoded.objective]


def _find(model: ModelUnderTest, encoded: Encoded, stacks: bool) -> Way:
    batch = _two(model, encoded)
    try:
        layers = find_layers(model, lambda: model.model(**batch.inputs), *batch.inputs["input_ids"].shape)
        trial = _Trial(model, encoded.objective, batch, layers)
        contexts = tuple(trial.resumes(site, context=True) for site in range(len(model.sites)))
        for site, context in enumerate(contexts):
            if not context and not trial.resumes(site, context=False):
                raise CannotResume(f"{model.sites[site].attention}: resumed there, the model gives other results")
        if stacks:
            stacks = all(trial.stacks(site, contexts[site]) for site in {0, len(model.sites) - 1})
    except CannotResume as error:
        return Way(None, (), stacks, str(error))
    return Way(layers, contexts, stacks)


def _two(model: ModelUnderTest, encoded: Encoded) -> Batch:
    """The shortest example, and beside it the shortest of another length: with padding, and not as many as tokens."""
    length = lengths(encoded)
    first = int(length.argmin())
    longer = [i for i in range(len(length)) if length[i] > max(length[first], 2)]
    second = min(longer, key=lambda i: (int(length[i]), i), default=first)
    chosen = (first, second) if can_batch(model.model) else (second,)
    return collate(model, [encoded.examples[i] for i in chosen], chosen)


class _Trial:
    """One head after the other masked, with and without the layers below it."""

    def __init__(self, model: ModelUnderTest, objective: str, batch: Batch, layers: Layers) -> None:
        self.model, self.objective, self.batch, self.layers = model, objective, batch, layers
        with recorded(model, layers) as self.recording:
            self._run([None] * len(model.sites))

    def resumes(self, site: int, *, context: bool) -> bool:
        """Whether a pass resumed at a site, its first head masked, is the whole pass bit for bit."""
        gates = self._gates(site, torch.tensor([0.0] + [1.0] * (self.model.sites[site].heads - 1)))
        whole = self._run(gates)
        shorter = self._resumed(site, gates, 1, context)
        return shorter is not None and self._same(whole, shorter, exact=self.model.device.type == "cpu")

    def stacks(self, site: int, context: bool) -> bool:
        """Whether two masks in one batch give what each of them gives alone."""
        heads = self.model.sites[site].heads
        rows = torch.ones(2, heads)
        rows[0, 0] = rows[1, -1] = 0.0
        each = [self._run(self._gates(site, row)) for row in rows]
        count = len(self.batch.positions)
        together = self._resumed(site, self._gates(site, rows.repeat_interleave(count, dim=0)), 2, context)
        return together is not None and self._same(torch.cat(each), together, exact=False)

    def _gates(self, site: int, gate: Tensor) -> list[Tensor | None]:
        gates: list[Tensor | None] = [None] * len(self.model.sites)
        gates[site] = gate
        return gates

    def _run(self, gates: list[Tensor | None], copies: int = 1) -> Tensor:
        with self.model.gated(gates):
            return judge(self.model, repeated(self.batch, copies), self.objective).logits

    def _resumed(self, site: int, gates: list[Tensor | None], copies: int, context: bool) -> Tensor | None:
        try:
            with resumed(self.model, self.layers, self.recording, site, copies, context=context):
                return self._run(gates, copies)
        except Exception:  # whatever the model makes of it: it is not run this way
            return None

    def _same(self, one: Tensor, other: Tensor, *, exact: bool) -> bool:
        if one.shape != other.shape:
            return False
        if exact:
            return torch.equal(one, other)
        limit = _CLOSE.get(self.model.dtype, 2e-2) * max(1.0, float(one.abs().max()))
        return bool((one - other).abs().max() <= limit)


def repeated(batch: Batch, copies: int) -> Batch:
    """The same examples several times, one copy after the other."""
    if copies == 1:
        return batch
    inputs = {name: tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for name, tensor in batch.inputs.items()}
    labels = batch.labels.repeat(copies, *(1,) * (batch.labels.ndim - 1))
    return Batch(batch.positions * copies, inputs, labels)
