"""Neurons of feed-forward layers and dimensions inside heads, as masks on the live model and as cuts (GRAIN).

A neuron is masked where its layer's second map reads it; a "vo" dimension where the head's projection reads it; a "qk"
dimension by its rows of query and key being zero. A key's row, and a value's, goes when it is masked in all the heads
that share it. A head of which no "vo" dimension is left needs no "qk" dimension either (Yang et al. 2023, GRAIN).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.errors import (
    BertologyError,
    CannotPrune,
    CutDiffers,
    InvalidArgument,
    MaskNotApplied,
    MaskOfAnotherThread,
)
from pytest_bertology.heads import Dimension, Neuron, Unit
from pytest_bertology.models import state
from pytest_bertology.models.copies import own_tensors, structure_of, tie_again
from pytest_bertology.models.edits import Columns, Edit, Rows, apply
from pytest_bertology.models.modules import is_linear
from pytest_bertology.models.plan import PrunedLayer, PruningPlan
from pytest_bertology.models.proof import Reference, Seen
from pytest_bertology.models.reduced import ZERO, rows_of
from pytest_bertology.models.unit_rows import Row, UnitRows

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


@dataclass(frozen=True)
class Places:
    """Where chosen units are: inputs and outputs of linear maps, by module path."""

    neurons: Mapping[str, frozenset[int]]
    """Inputs that are neurons: they can go with the rows that make them."""
    inputs: Mapping[str, frozenset[int]]
    """Inputs that are dimensions of heads: they still arrive when they are cut."""
    made: Mapping[str, frozenset[int]]
    """Rows that make neurons."""
    outputs: Mapping[str, frozenset[int]]
    """Rows of queries, keys and values, in place of which zeros leave."""

    @property
    def modules(self) -> list[str]:
        """The linear maps whose results show the units' absence."""
        return [*self.neurons, *self.inputs, *(name for name in self.outputs if name not in self.inputs)]


def places(rows: UnitRows, units: Iterable[Unit]) -> Places:
    """Where these units are; raises NotAUnit, UnknownUnit, InvalidArgument for none."""
    chosen = set(rows.units.select(units))
    if not chosen:
        raise InvalidArgument("units", [], "neurons or dimensions, such as [Neuron(0, 3)]")
    neurons: dict[str, set[int]] = {}
    inputs: dict[str, set[int]] = {}
    made: dict[str, set[int]] = {}
    outputs: dict[str, set[int]] = {}
    _find_neurons(rows, chosen, neurons, made)
    _find_dimensions(rows, chosen, inputs, outputs)
    return Places(
        *({name: frozenset(own) for name, own in found.items()} for found in (neurons, inputs, made, outputs))
    )


def _find_neurons(rows: UnitRows, chosen: set[Unit], neurons: dict[str, set[int]], made: dict[str, set[int]]) -> None:
    before: dict[tuple[str | None, int], int] = {}
    for layer in rows.layers:
        start = before.get((layer.stack, layer.layer), 0)
        before[layer.stack, layer.layer] = start + len(layer.rows)
        for place, own in enumerate(layer.rows):
            if Neuron(layer.layer, start + place, layer.stack) in chosen:
                neurons.setdefault(layer.reader, set()).add(place)
                _add(made, own)


def _find_dimensions(
    rows: UnitRows, chosen: set[Unit], inputs: dict[str, set[int]], outputs: dict[str, set[int]]
) -> None:
    for found in rows.inside:
        site = found.site

        def gone(head: int, part: str, dimension: int, found: Any = found) -> bool:
            named = Dimension(found.site.layer, head, part, dimension, found.site.stack) in chosen
            return named or (part == "qk" and all(gone(head, "vo", d, found) for d in range(found.site.width)))

        for head in range(site.heads):
            inputs.setdefault(site.name, set()).update(
                site.slice(head).start + d for d in range(site.width) if gone(head, "vo", d)
            )
            _add(outputs, (row for d, row in enumerate(found.query[head]) if gone(head, "qk", d)))
        for group, heads in enumerate(found.groups):
            for part, shared in (("qk", found.key[group]), ("vo", found.value[group])):
                _add(outputs, (row for d, row in enumerate(shared) if all(gone(head, part, d) for head in heads)))
        if not inputs[site.name]:
            del inputs[site.name]


def _add(found: dict[str, set[int]], rows: Iterable[Row]) -> None:
    for name, row in rows:
        found.setdefault(name, set()).add(row)


# -- masks -------------------------------------------------------------------------------------------------------------


@contextmanager
def units_masked(model: nn.Module, found: Places, opened: list[list[Any]] | None = None) -> Iterator[None]:
    """Mask units for the length of the context, in this thread; raises MaskNotApplied where the model ran past one."""
    mask = _Mask()
    handles = [model.register_forward_pre_hook(mask.count)]
    with ExitStack() as stack:
        stack.callback(_remove, handles)
        if opened is not None:
            opened.append(handles)
            stack.callback(_forget, opened, handles)
        for name, own in (*found.neurons.items(), *found.inputs.items()):
            handles.append(model.get_submodule(name).register_forward_pre_hook(mask.silence_inputs(name, own)))
        for name, own in found.outputs.items():
            handles.append(model.get_submodule(name).register_forward_hook(mask.silence_outputs(name, own)))
        yield
    mask.check()


def unwind(opened: list[list[Any]], beyond: int) -> None:
    """Close the contexts that were opened beyond the first so many and never left."""
    for handles in opened[beyond:]:
        _remove(handles)
        _forget(opened, handles)


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


def _forget(opened: list[list[Any]], handles: list[Any]) -> None:
    opened[:] = [other for other in opened if other is not handles]


@dataclass
class _Mask:
    """The masks of one context, and whether they acted."""

    thread: int = field(default_factory=threading.get_ident)
    forwards: int = 0
    waiting: set[str] = field(default_factory=set)

    def count(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self.thread:
            raise MaskOfAnotherThread(type(module).__name__)
        self.forwards += 1

    def silence_inputs(self, name: str, places: frozenset[int]) -> Any:
        self.waiting.add(name)

        def silence(module: nn.Module, args: tuple[Any, ...]) -> Any:
            self.waiting.discard(name)
            return (_without(args[0], places), *args[1:])

        return silence

    def silence_outputs(self, name: str, places: frozenset[int]) -> Any:
        self.waiting.add(name)

        def silence(module: nn.Module, args: Any, result: Any) -> Any:
            self.waiting.discard(name)
            return _without(result, places)

        return silence

    def check(self) -> None:
        if self.forwards and self.waiting:
            raise MaskNotApplied(f"the model ran {self.forwards} times, and {sorted(self.waiting)[0]} was never called")


def _without(tensor: Tensor, places: frozenset[int]) -> Tensor:
    keep = torch.ones(tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)
    keep[sorted(places)] = 0.0
    return tensor * keep


# -- cuts --------------------------------------------------------------------------------------------------------------


def without_units(model: ModelUnderTest, rows: UnitRows, units: Sequence[Unit]) -> PreTrainedModel:
    """A new model without these units, that carries its plan; `model` is left as it was.

    Neurons are gone with their rows; dimensions of heads have no weights any more, and arrive as zeros where the rest
    of the head is computed. Raises CannotPrune, CutDiffers.
    """
    found = places(rows, units)
    live, sample, architecture = model.model, model.sample(), type(model.model).__name__
    for name in (*found.neurons, *found.inputs, *found.made, *found.outputs):
        module: Any = live.get_submodule(name)
        if not is_linear(module) or module.weight.is_meta or not module.weight.is_floating_point():
            raise CannotPrune(architecture, name, "its weights are quantised, offloaded or not a linear map's")
    edits = tuple(_edits(live, found))
    with state.evaluating(live), torch.no_grad(), model.exactly(None):
        plain = Seen.of(live, found.modules, sample)
        with units_masked(live, found):
            reference = Reference(plain, Seen.of(live, found.modules, sample))
        cut = structure_of(live)
        try:
            apply(cut, edits)
            tie_again(cut, live)
            moved = reference.check(cut, sample, architecture)
        except CutDiffers:
            raise
        except (BertologyError, RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = f"the model does not run without these units ({error})"
            raise CannotPrune(architecture, found.modules[0], reason) from error
    if not moved:
        raise CutDiffers(architecture, "the output", "the mask itself moves nothing, so nothing is proven")
    own_tensors(cut, live)
    _plan(model, edits).attach(cut)
    return cut


def _edits(live: nn.Module, found: Places) -> Iterator[Edit]:
    for name, own in found.neurons.items():
        kept = _others(_columns_of(live, name), own)
        yield Columns(name, kept, None, len(kept))
    for name, own in found.inputs.items():
        features = _columns_of(live, name)
        kept = _others(features, own)
        yield Columns(name, kept, kept, features)
    for name in {**found.made, **found.outputs}:
        gone, silent = found.made.get(name, frozenset()), found.outputs.get(name, frozenset())
        count = rows_of(live.get_submodule(name))
        yield Rows(name, tuple(ZERO if row in silent else row for row in range(count) if row not in gone))


def _columns_of(live: nn.Module, name: str) -> int:
    """How many numbers a linear map is given."""
    module: Any = live.get_submodule(name)
    return int(module.nx if hasattr(module, "nx") else module.in_features)


def _others(count: int, gone: frozenset[int]) -> tuple[int, ...]:
    return tuple(place for place in range(count) if place not in gone)


def _plan(model: ModelUnderTest, edits: Sequence[Edit]) -> PruningPlan:
    if model.plan is not None:
        return model.plan.followed_by(model.model, {}, edits)
    layers = [
        PrunedLayer(site.stack, site.layer, site.heads, tuple(range(site.heads)), site.name, site.attention)
        for site in model.sites
    ]
    return PruningPlan.of(model.model, layers, edits)
