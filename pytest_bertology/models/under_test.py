"""A model with its heads found and its gates proven: what the rest of the package works on."""

from __future__ import annotations

import copy
import hashlib
import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_bertology.errors import (
    BertologyError,
    BertologyWarning,
    CannotDropLayers,
    CannotPrune,
    CannotSample,
    CannotSave,
    InvalidArgument,
    InvalidGate,
    NoTokenizer,
    SelfCheckFailed,
)
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadMask, Unit, UnitMap
from pytest_bertology.heads.masks import as_mask
from pytest_bertology.models import compiling, intervening, state
from pytest_bertology.models import erasing as erasing_of
from pytest_bertology.models import skipping as skipping_of
from pytest_bertology.models.changing import ChangesAttention
from pytest_bertology.models.discovery import Discovery, discover
from pytest_bertology.models.gating import Gating
from pytest_bertology.models.kept import KeptLayers
from pytest_bertology.models.layers import LayerLike, dropped, skipping
from pytest_bertology.models.plan import PruningPlan, plan_of
from pytest_bertology.models.pruning import prune
from pytest_bertology.models.sampling import make_sample
from pytest_bertology.models.saving import save
from pytest_bertology.models.selfcheck import SelfCheck, self_check
from pytest_bertology.models.sites import Site
from pytest_bertology.models.skipping import skipped
from pytest_bertology.models.unit_rows import UnitRows, unit_rows
from pytest_bertology.models.units import places, units_masked, without_units
from pytest_bertology.models.units import unwind as unwind_units

_CHANGED = "its attention is changed (model.with_…_attention(…)), and that would be lost: leave the context first"
_LOST = "units are masked, layers skipped or states erased, which would not be saved: leave that"


class ModelUnderTest(ChangesAttention, erasing_of.ErasesStates):
    """A transformers model whose attention heads can be masked, with the proof that masks act.

    Made by `load_model`. Nothing is left on the model while no mask is in force. Raises, when made, NoAttentionHeads,
    CannotGate or SelfCheckFailed for a model whose heads cannot be masked exactly.
    """

    model: PreTrainedModel
    """The transformers model itself."""
    tokenizer: Any
    """Its tokenizer, or None."""
    heads: HeadMap
    """Its attention heads."""
    sites: tuple[Site, ...]
    """Where they are."""
    ungated: tuple[tuple[str, str], ...]
    """Further attention, outside `heads`, that no gate can act on: module path and reason."""
    not_run: tuple[str, ...]
    """Parts with weights that the sample did not run; heads there, if any, are not in `heads`."""
    plan: PruningPlan | None
    """What was cut out of the model, or None."""
    check: SelfCheck
    """What the load-time proof found: dead heads among it."""
    layers_kept: KeptLayers | None = None
    """What `without_layers` left, in this and earlier cuts; None also for a checkpoint that was read."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        tokenizer: Any = None,
        name: str,
        kind: str,
        sample: Mapping[str, Any] | None = None,
        no_tokenizer: str = "none was given with the model",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.kind = kind
        self._no_tokenizer = no_tokenizer
        self._sample = sample
        self._unit_rows: UnitRows | None = None
        self._units_masked: list[list[Any]] = []
        self._weights: tuple[dict[str, int], str] | None = None
        inputs = self.sample()
        modules = [id(module) for module in model.modules()]
        with state.evaluating(model), compiling.eager(model):
            self.plan = plan_of(model)
            discovery = self._discover(inputs)
            self.sites, self.heads = discovery.sites, discovery.heads
            if self.plan is not None:
                self.sites, self.heads = self.plan.placed(self.sites), self.plan.heads
            self.ungated, self.not_run = discovery.ungated, discovery.not_run
            self._gating = Gating(model, self.sites)
            if self.ungated:
                names = ", ".join(f"{name} ({reason})" for name, reason in self.ungated)
                warnings.warn(
                    f"{self.name} has attention that no mask reaches: {names}", BertologyWarning, stacklevel=3
                )
            with self._failing_on_its_sample():
                self.check = self_check(model, self.sites, self.heads, self._gating, inputs, own_sample=sample is None)
        if [id(module) for module in model.modules()] != modules:
            reason = "it exchanged modules of its own while it ran on the sample (one too short for it, perhaps)"
            raise CannotSample(type(model).__name__, reason)

    def _discover(self, inputs: Mapping[str, Any]) -> Discovery:
        with self._failing_on_its_sample():
            return discover(self.model, inputs, self.plan.headless if self.plan is not None else frozenset())

    @contextmanager
    def _failing_on_its_sample(self) -> Iterator[None]:
        """What the model itself raises becomes CannotSample."""
        try:
            yield
        except BertologyError:
            raise
        except Exception as error:
            whose = "inputs made up from its configuration" if self._sample is None else "the sample given"
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
            raise CannotSample(type(self.model).__name__, f"it fails on {whose} ({reason})") from error

    def __repr__(self) -> str:
        return f"ModelUnderTest({self.name}, {self.kind}, {self.heads.describe()}, {self.device}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelUnderTest:
        return self._with(copy.deepcopy(self.model, memo), cut=False)

    def sample(self) -> Mapping[str, Any]:
        """The inputs that the heads were found with: those given to `load_model`, or made up."""
        if self._sample is None:
            return make_sample(self.model)
        return {name: _placed(value, self.model) for name, value in self._sample.items()}

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return state.input_device(self.model)

    @property
    def dtype(self) -> str:
        """The dtype of the weights, such as "float32"."""
        return str(self.model.dtype).removeprefix("torch.")

    @contextmanager
    def masked(self, mask: HeadMask | Iterable[HeadLike]) -> Iterator[ModelUnderTest]:
        """Mask heads for the length of the context, in this thread; contexts nest, and their masks multiply.

        The gates act in eval and train mode, with and without autograd, and must still be in force when `backward()`
        runs if gradient checkpointing is on. Raises UnknownHead or MaskOfAnotherModel, and MaskNotApplied where the
        model ran and a gate did not act.
        """
        with self._gating.gated(self.gates_of(self.as_mask(mask))):
            yield self

    def pruned(self, heads: HeadMask | Iterable[HeadLike]) -> ModelUnderTest:
        """A new, smaller model without these heads; this one is left as it was, and shares no weights with it.

        Rows, columns, biases and per-head parameters of these heads are gone; layers may have different numbers of
        heads, or none. The heads that are left are counted anew, layer by layer (`plan.kept` has their names here).
        Handed out only after it was run beside this model with the same heads masked: what leaves each projection and
        the output agree (1e-5 of the largest number in float32), on the sample's real tokens.

        Masks in force around the call are not cut. Raises UnknownHead or MaskOfAnotherModel, InvalidArgument for none,
        CannotPrune, with the reason, where these heads can only be masked, CutDiffers where the cut model was not the
        masked one.
        """
        mask = self.as_mask(heads)
        if not mask.touched:
            raise InvalidArgument("heads", [], "the heads to cut, such as [(0, 3)]")
        if self.attention_changed():
            raise CannotPrune(type(self.model).__name__, "its layers", _CHANGED, "Masks act beside it.")
        cut = prune(self, mask)
        try:
            return self._with(cut)
        except SelfCheckFailed as error:
            reason = f"what would be left cannot be trusted ({error.site}: {error.problem})"
            raise CannotPrune(type(self.model).__name__, f"{len(mask.masked)} heads", reason) from error

    def without_layers(self, layers: Iterable[LayerLike]) -> ModelUnderTest:
        """A new model without these layers, numbers from 0 or (number, stack) pairs; this one is left as it was.

        Saved, it is an ordinary checkpoint of fewer layers. Its outputs are those of this model under `skipping`.
        Raises UnknownLayer, InvalidArgument for none or all, CannotDropLayers, with the reason, where no configuration
        gives such a model (see `models.layers.without_layers`).
        """
        if self.attention_changed():
            raise CannotDropLayers(type(self.model).__name__, _CHANGED)
        cut, kept = dropped(self, layers)
        try:
            return self._with(cut, kept=KeptLayers.after(self, kept))
        except SelfCheckFailed as error:
            reason = f"what would be left cannot be trusted ({error.site}: {error.problem})"
            raise CannotDropLayers(type(self.model).__name__, reason) from error

    @contextmanager
    def skipping(self, layers: Iterable[LayerLike]) -> Iterator[ModelUnderTest]:
        """Skip layers for the length of the context, in this thread: each passes on the states that it was given."""
        with skipping(self, layers):
            yield self

    def units(self) -> UnitMap:
        """The units finer than heads that have rows of their own: neurons, and dimensions inside heads.

        Found by running the model once more, with gradients; kept. Layers that mix them are left out.
        """
        return self._rows().units

    @contextmanager
    def units_masked(self, units: Iterable[Unit]) -> Iterator[ModelUnderTest]:
        """Mask neurons, and dimensions inside heads, for the length of the context, in this thread.

        Raises NotAUnit or UnknownUnit, and MaskNotApplied where the model ran past one.
        """
        with units_masked(self.model, places(self._rows(), units), self._units_masked):
            yield self

    def without_units(self, units: Iterable[Unit]) -> ModelUnderTest:
        """A new, smaller model without these neurons and dimensions of heads; this one is left as it was.

        Equal to this model under `units_masked`, or not handed out: see `pruned`. Raises CannotPrune or CutDiffers.
        """
        if self.attention_changed():
            raise CannotPrune(type(self.model).__name__, "its layers", _CHANGED, "Masks act beside it.")
        return self._with(without_units(self, self._rows(), tuple(units)))

    def _rows(self) -> UnitRows:
        if self._unit_rows is None:
            with state.evaluating(self.model), compiling.eager(self.model), intervening.unchanged(self):
                self._unit_rows = unit_rows(self)
        return self._unit_rows

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write model and tokenizer to a folder that `load_model` reads, as transformers' Auto classes do.

        Safetensors only; what was written is read back and compared, bit for bit, and then put in place in one step:
        an interrupted save leaves what was there. For a cut model the configuration holds its plan (heads kept, by
        their names in the uncut model; what was cut; hashes of the weight files): plain `AutoModel….from_pretrained`
        reads it once `pytest_bertology.models` was imported. Raises CannotSave.
        """
        if any(gate is not None and bool((gate != 1.0).any()) for gate in self._gating.current()):
            raise CannotSave(str(folder), "a mask is in force, and it would not be saved: leave it first")
        if self._units_masked or skipped(self) or self.erased():
            raise CannotSave(str(folder), _LOST)
        if self.attention_changed():
            raise CannotSave(str(folder), _CHANGED)
        return save(self.model, self.tokenizer, folder)

    def _with(self, model: PreTrainedModel, *, cut: bool = True, kept: KeptLayers | None = None) -> ModelUnderTest:
        """Another model, for the same inputs."""
        name = f"{self.name} (cut)" if cut and not self.name.endswith(" (cut)") else self.name
        given: dict[str, Any] = {"sample": self._sample, "no_tokenizer": self._no_tokenizer}
        found = ModelUnderTest(model, tokenizer=self.tokenizer, name=name, kind=self.kind, **given)
        found.layers_kept = kept or self.layers_kept
        return found

    @contextmanager
    def gated(self, gates: Sequence[Tensor | None]) -> Iterator[ModelUnderTest]:
        """Gates as tensors, one per attention layer: None, (heads,), or (batch, heads) for each example its own.

        They multiply with the masks in force and may require gradients.
        """
        with self._gating.gated(gates):
            yield self

    @contextmanager
    def exactly(self, mask: HeadMask | None) -> Iterator[ModelUnderTest]:
        """This mask alone (None: all heads as trained), whatever contexts are entered outside."""
        gates: Sequence[Tensor | None] = self.gates_of(mask) if mask is not None else [None] * len(self.sites)
        with self._gating.gated(gates, fresh=True):
            yield self

    def mask_in_force(self) -> HeadMask:
        """The product of all masks entered in this thread; raises InvalidGate under per-example gates."""
        gates: list[float] = []
        for site, gate in zip(self.sites, self._gating.current(), strict=True):
            if gate is not None and gate.ndim != 1:
                raise InvalidGate("gates of each example", "one gate per head")
            gates += [1.0] * site.heads if gate is None else gate.detach().tolist()
        return HeadMask(self.heads, tuple(gates))

    def together(self, mask: HeadMask | Iterable[HeadLike]) -> HeadMask:
        """The product of a mask and the masks in force in this thread."""
        with self.masked(mask):
            return self.mask_in_force()

    def as_mask(self, mask: HeadMask | Iterable[HeadLike]) -> HeadMask:
        """A mask of this model's heads, from a mask or from the heads to mask."""
        return as_mask(self.heads, mask)

    def idle_heads(self) -> tuple[Head, ...]:
        """Heads that the load-time proof saw move nothing, in the map's order."""
        return self.heads.select(self.check.idle)

    @contextmanager
    def frozen(self) -> Iterator[ModelUnderTest]:
        """Eval mode and no gradients to the weights; both restored."""
        with state.frozen(self.model):
            yield self

    def masks_open(self) -> int:
        """How many masks, gates and changes of attention are in force in this thread."""
        return sum(self.contexts_open()[:2])

    def contexts_open(self) -> tuple[int, ...]:
        """How many masks and gates, changes of attention, layers skipped, units masked and erasures are in force."""
        depths = (each.depth(self) for each in (intervening, skipping_of))
        return self._gating.depth(), *depths, len(self._units_masked), erasing_of.depth(self)

    def close_contexts(self, beyond: tuple[int, ...] = ()) -> None:
        """Close what was entered in this thread and never left, as in a notebook cell that was interrupted.

        Of all kinds that `contexts_open` counts; the model is then as it was loaded.
        `beyond` is what `contexts_open` said before: what was open then stays open.
        """
        gates, changes, skips, units, erasures = beyond or (0,) * 5
        erasing_of.unwind(self, erasures)
        unwind_units(self._units_masked, units)
        skipping_of.unwind(self, skips)
        intervening.unwind(self, changes)
        self._gating.unwind(gates)

    def in_force(self) -> tuple[Any, ...] | None:
        """The gates and changes of attention in force in this thread; equal for equals.

        None where layers are skipped, units masked or states erased, hooks of others are there or a forward was
        replaced: what the model computes is then not told by anything that could be compared later.
        """
        if self._gating.others_hooks():
            return None
        gates = tuple(None if gate is None else tuple(gate.flatten().tolist()) for gate in self._gating.current())
        return gates, intervening.in_force(self)

    def altered(self) -> bool:
        """Whether attention is changed, or hooks of others or a replaced forward may change what the model computes."""
        return self.attention_changed() or self._gating.others_hooks()

    def weights_digest(self) -> str:
        """SHA-256 of all weights and buffers, computed again only when a checksum of them has changed."""
        now = state.checksums(self.model)
        if self._weights is None or self._weights[0] != now:
            self._weights = (now, state.digest(self.model))
        return self._weights[1]

    def digest(self) -> str:
        """SHA-256 of all that decides this model's outputs: class, configuration, weights, dtype, device, attention."""
        config = self.model.config
        parts = (
            type(self.model).__qualname__,
            config.to_json_string(use_diff=False),
            self.weights_digest(),
            self.dtype,
            self.device.type,
            str(getattr(config, "_attn_implementation", None)),
            "train" if self.model.training else "eval",
            *intervening.in_force(self),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def needs_tokenizer(self) -> Any:
        """The tokenizer; raises NoTokenizer where there is none."""
        if self.tokenizer is None:
            raise NoTokenizer(self.name, self._no_tokenizer)
        return self.tokenizer

    def gates_of(self, mask: HeadMask) -> list[Tensor | None]:
        """A mask as gates of each attention layer: (heads,), or None where all are open."""
        gates: list[Tensor | None] = []
        start = 0
        with torch.inference_mode(False):  # where autograd could not use them later
            for site in self.sites:
                values = mask.gates[start : start + site.heads]
                gates.append(None if all(v == 1.0 for v in values) else torch.tensor(values, dtype=torch.float64))
                start += site.heads
        return gates


def _placed(value: Any, model: PreTrainedModel) -> Any:
    return value.to(state.input_device(model)) if isinstance(value, Tensor) else value
