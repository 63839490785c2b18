"""Derivatives by the gates, with what is not read left out: the last layer elsewhere, a causal model's last token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch
from pytest_bertology.engine.encoding import IGNORED, Encoded
from pytest_bertology.engine.objectives import Judged, judge
from pytest_bertology.engine.reading import needed_rows
from pytest_bertology.engine.resuming import Way, two_examples, way_of
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.narrowing import narrowed
from pytest_bertology.models.prefix import states_in, with_states

_CLOSE = {"float64": 1e-10, "float32": 1e-5}
"""How far derivatives may differ by rounding, as a share of the greatest."""
_known: WeakKeyDictionary[ModelUnderTest, dict[str, Way | None]] = WeakKeyDictionary()


class Shortened:
    """A model's forward passes over a task, for derivatives, without what is not read.

    The last layer is computed at the tokens that are read, a language model's output at those that are judged, and of
    causal ones the last token is left out: only where that is seen to give the same derivatives on two short examples.
    """

    def __init__(self, model: ModelUnderTest, encoded: Encoded) -> None:
        self._model, self._objective = model, encoded.objective
        self._rows: dict[tuple[int, ...], Tensor | None] = {}
        known = _known.setdefault(model, {})
        if model.altered():
            self._way: Way | None = None
            return
        if encoded.objective not in known:
            known[encoded.objective] = self._find(encoded)
            self._rows.clear()
        self._way = known[encoded.objective]

    def judge(self, batch: Batch) -> Judged:
        """Run the model on a batch and judge its logits."""
        if self._way is not None and self._objective == "causal-lm":
            batch = _without_last(batch)
        with self._short(batch):
            gather = self._way is not None and self._way.gathers
            return judge(self._model, batch, self._objective, gather=gather)

    @contextmanager
    def _short(self, batch: Batch) -> Iterator[None]:
        rows = self._needed(batch)
        if self._way is None or self._way.layers is None or rows is None:
            yield
            return
        with narrowed(self._model, self._way.layers, rows, None, self._way.queries):
            yield

    def _needed(self, batch: Batch) -> Tensor | None:
        """Which tokens are read depends on where they stand, and not on the states: any will do to see it."""
        way = self._way
        if way is None or way.layers is None or not way.narrows:
            return None
        if batch.positions not in self._rows:
            form = states_in(way.last)
            shape = (*batch.inputs["input_ids"].shape, *form.shape[2:])
            ramp = torch.linspace(-9.0, 9.0, math.prod(shape), device=form.device)
            result = with_states(way.last, ramp.sin().reshape(shape).to(form.dtype))
            if result is None:
                return None
            with self._model.exactly(None):
                self._rows[batch.positions] = needed_rows(self._model, way.layers, result, batch, self._objective)
        return self._rows[batch.positions]

    def _find(self, encoded: Encoded) -> Way | None:
        """How passes are shortened; None for not at all."""
        with torch.inference_mode(), self._model.frozen(), self._model.exactly(None):
            way = way_of(self._model, encoded)
            batch = two_examples(self._model, encoded)
        if way.layers is None or not (way.narrows or way.gathers):
            return None
        with torch.inference_mode(False), torch.enable_grad(), self._model.frozen(), self._model.exactly(None):
            inputs = {name: tensor.clone() for name, tensor in batch.inputs.items()}
            batch = Batch(tuple(-1 - position for position in batch.positions), inputs, batch.labels.clone())
            whole, short = (self._slopes(batch, each) for each in (None, way))
        return way if whole is not None and short is not None and self._same(whole, short) else None

    def _slopes(self, batch: Batch, way: Way | None) -> Tensor | None:
        """Derivatives of the summed losses by all gates; None where the model cannot be derived this way."""
        self._way = way
        gates = [torch.ones(site.heads, device=self._model.device, requires_grad=True) for site in self._model.sites]
        try:
            with self._model.gated(gates):
                found = torch.autograd.grad(self.judge(batch).losses.sum(), gates, allow_unused=True)
        except Exception:  # noqa: BLE001 - whatever the model makes of it: it is not run this way
            return None
        pairs = zip(gates, found, strict=True)
        return torch.cat([torch.zeros_like(gate) if slope is None else slope for gate, slope in pairs])

    def _same(self, one: Tensor, other: Tensor) -> bool:
        limit = _CLOSE.get(self._model.dtype, 2e-2) * float(one.abs().max())
        return bool((one - other).abs().max() <= limit)


def _without_last(batch: Batch) -> Batch:
    """A batch without its last token, which no other attends to and nothing is judged by."""
    if batch.labels.shape[1] < 2 or bool((batch.labels[:, -1] != IGNORED).any()):
        return batch
    inputs = {name: tensor[:, :-1] for name, tensor in batch.inputs.items()}
    return Batch(batch.positions, inputs, batch.labels[:, :-1])
