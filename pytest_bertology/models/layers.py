"""A model without some of its layers (Sajjad et al. 2023): a checkpoint of fewer layers, proven to be the skipped one.

The model is copied without the layers, and what depends on a layer's number is taken from what transformers builds for
so many layers: numbers by which layers find their place in the cache, settings, and T5's position bias, which the
first layer holds for all.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_bertology.errors import CannotDropLayers, MaskNotApplied
from pytest_bertology.models import state
from pytest_bertology.models.blocks import Blocks, Cut, LayerLike, blocks, choose
from pytest_bertology.models.edits import OwnConfig
from pytest_bertology.models.fewer import Plan, holds_tensors, plan, renamed
from pytest_bertology.models.quiet import Quiet
from pytest_bertology.models.selfcheck import output
from pytest_bertology.models.skipping import skipping, states_key, states_of, unskipped

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How far outputs may differ by rounding, in units of the largest number; 0.02 in half precision."""


def without_layers(model: ModelUnderTest, layers: Iterable[LayerLike]) -> PreTrainedModel:
    """A new model without these layers; `model` stays as it is, and no weights are held twice but those that are kept.

    `layers` are numbers from 0, counted as `blocks` counts them, or (number, stack) pairs. The new model's
    configuration says how many layers are left: saved, it is an ordinary checkpoint, which transformers loads without
    this package. Its outputs on the model's sample are those of the model under `skipping`, but for rounding.

    Raises UnknownLayer or InvalidArgument for layers that there are not, or that are none or all; CannotDropLayers,
    with the reason, where no configuration gives such a model or its outputs are not those; CopiedUnderMask while a
    mask is in force or layers are skipped.
    """
    return dropped(model, layers)[0]


def dropped(model: ModelUnderTest, layers: Iterable[LayerLike]) -> tuple[PreTrainedModel, dict[str, tuple[int, ...]]]:
    """`without_layers`, and by the path of each shortened list which of its layers are kept, in order."""
    cuts = choose(model, layers)
    live = model.model
    if state.offloaded(live) or any(tensor.is_meta for tensor in (*live.parameters(), *live.buffers())):
        raise CannotDropLayers(type(live).__name__, "some of its weights are not in memory (offloaded, or on meta)")
    target = plan(live, cuts)
    new = _cut(live, cuts, target)
    if model.plan is not None:  # heads were cut out of it before
        kept = {cut.blocks.path: cut.kept for cut in cuts}
        model.plan.without_blocks(kept, new.config).attach(new)
    _prove(model, cuts, new)
    return new, {cut.blocks.path: cut.kept for cut in cuts}


# -- the copy ----------------------------------------------------------------------------------------------------


def _cut(model: PreTrainedModel, cuts: Sequence[Cut], target: Plan) -> PreTrainedModel:
    """A deep copy into which the dropped layers never come."""
    memo: dict[int, Any] = {}
    for cut in cuts:
        whole = model.get_submodule(cut.blocks.path)
        children = list(whole.children())
        short = whole.__new__(type(whole))
        memo[id(whole)] = short
        for name, value in vars(whole).items():
            short.__dict__[name] = {} if name == "_modules" else copy.deepcopy(value, memo)
        for place, layer in enumerate(cut.kept):
            short._modules[str(place)] = copy.deepcopy(children[layer], memo)
    new = copy.deepcopy(model, memo)
    for name, source in target.moves.items():
        _move(model, new, name, source, memo)
    _align(new, cuts, target)
    return new


def _move(model: PreTrainedModel, new: PreTrainedModel, name: str, source: str, memo: dict[int, Any]) -> None:
    """Give a kept layer a tensor of a dropped one, with the module that holds it where it has none."""
    modules = dict(new.named_modules())
    path, _, own = name.rpartition(".")
    old_path = source.rpartition(".")[0]
    while path not in modules and path.rpartition(".")[0] not in modules:
        path, old_path = path.rpartition(".")[0], old_path.rpartition(".")[0]
    if path not in modules:
        parent, _, leaf = path.rpartition(".")
        modules[parent].add_module(leaf, copy.deepcopy(model.get_submodule(old_path), memo))
    elif own not in {**modules[path]._parameters, **modules[path]._buffers}:
        tensor = copy.deepcopy(model.get_submodule(old_path).get_parameter(own), memo)
        modules[path].register_parameter(own, tensor)


def _align(new: PreTrainedModel, cuts: Sequence[Cut], target: Plan) -> None:
    """Set what depends on the number of layers, or on a layer's own, as transformers sets it for so many.

    That is whatever differs between the models that it builds before and after; all else stays, as changed by its
    user as it may be. The configurations that modules hold are those of the model built after.
    """
    before = dict(target.before.named_modules())
    after = dict(target.after.named_modules())
    ours = dict(new.named_modules())
    for old_name, old in before.items():
        name = renamed(cuts, old_name)
        if name is None or name not in ours:
            continue
        if type(old) is not type(after[name]) and not holds_tensors(old):
            path, _, leaf = name.rpartition(".")
            ours[path]._modules[leaf] = copy.deepcopy(after[name])
            continue
        values, own = after[name].__dict__, ours[name].__dict__
        for key in [key for key in values.keys() | vars(old).keys() if key in values or key in own]:
            value = values.get(key, _NOTHING)
            if isinstance(value, PreTrainedConfig):
                own[key] = own[key].of(value) if isinstance(own.get(key), OwnConfig) else value
            elif value is _NOTHING:
                if _plain(vars(old)[key]):
                    own.pop(key)
            elif _plain(value) and vars(old).get(key, _NOTHING) != value:
                own[key] = copy.deepcopy(value)


_NOTHING = object()


def _plain(value: Any) -> bool:
    """Numbers, names and truth values, and lists and dictionaries of them."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, Mapping):
        return all(map(_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


# -- the proof ---------------------------------------------------------------------------------------------------


def _prove(model: ModelUnderTest, cuts: Sequence[Cut], new: PreTrainedModel) -> None:
    """The new model, and what transformers makes of its configuration and weights, compute what the skipped one does.

    Which layers are skipped must show in the outputs, unless each of them returns what it is given.
    """
    architecture = type(new).__name__
    inputs = model.sample()
    skipped = _skipped(model, cuts, inputs)
    with torch.no_grad(), state.evaluating(new):
        candidates = {"what transformers loads from its weights": _loaded(new), "the model without them": new}
        for what, candidate in candidates.items():
            try:
                outputs = _real(output(candidate, inputs), inputs)
            except Exception as error:
                reason = f"{what} fails when it runs ({type(error).__name__}: {error})"
                raise CannotDropLayers(architecture, textwrap.shorten(reason, 300)) from error
            _compare(outputs, skipped, architecture, what)


def _skipped(model: ModelUnderTest, cuts: Sequence[Cut], inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The outputs of the model under `skipping`; raises CannotDropLayers where they do not show it."""
    architecture = type(model.model).__name__
    layers = [layer for cut in cuts for layer in cut.layers]
    with ExitStack() as stack:
        for context in (torch.no_grad(), state.evaluating(model.model), model.exactly(None), unskipped(model)):
            stack.enter_context(context)
        acts: set[str] = set()
        for path in (path for cut in cuts for path in cut.paths):
            block = model.model.get_submodule(path)
            stack.callback(block.register_forward_hook(_witness(acts, path), with_kwargs=True).remove)
        plain = _real(output(model.model, inputs), inputs)
        try:
            with skipping(model, layers):
                skipped = _real(output(model.model, inputs), inputs)
        except MaskNotApplied as error:
            raise CannotDropLayers(architecture, str(error)) from error
    if acts and all(torch.equal(one, other) for one, other in zip(plain, skipped, strict=True)):
        raise CannotDropLayers(architecture, f"its output does not show that {', '.join(sorted(acts))} are skipped")
    return skipped


def _loaded(new: PreTrainedModel) -> PreTrainedModel:
    """What transformers loads from the model's configuration and weights; the weights are shared, not copied."""
    architecture = type(new).__name__
    weights = new.state_dict()
    config = type(new.config).from_dict(new.config.to_dict())
    options = {"attn_implementation": new.config._attn_implementation, "dtype": new.dtype}
    try:
        with Quiet(), torch.random.fork_rng(devices=[]):
            loaded = type(new).from_pretrained(None, config=config, state_dict=weights, **options)
        loaded.load_state_dict(weights, assign=True)
        return loaded.to(state.input_device(new)).eval()
    except Exception as error:
        reason = f"transformers does not load the model without them ({type(error).__name__}: {error})"
        raise CannotDropLayers(architecture, textwrap.shorten(reason, 300)) from error


def _witness(acts: set[str], path: str) -> Any:
    """A hook that notes whether a layer's states are not those that it was given."""

    def look(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        key = states_key(block, args, kwargs)
        given, made = args[0] if key is None else kwargs.get(key), states_of(result)
        if not isinstance(given, Tensor) or made is None or not torch.equal(given, made):
            acts.add(path)

    return look


def _real(outputs: tuple[Tensor, ...], inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Outputs of real tokens; those that are not one per token of the sample as they are."""
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor):
        return outputs
    return tuple(tensor[mask.bool()] if tensor.shape[:2] == mask.shape else tensor for tensor in outputs)


def _compare(new: tuple[Tensor, ...], skipped: tuple[Tensor, ...], architecture: str, what: str) -> None:
    if len(new) != len(skipped) or any(a.shape != b.shape for a, b in zip(new, skipped, strict=False)):
        raise CannotDropLayers(architecture, f"{what} has outputs of other shapes than the model that skips them")
    for one, other in zip(new, skipped, strict=True):
        difference = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
        largest = float(other.double().abs().max()) if one.numel() else 1.0
        if not difference <= _TOLERANCE.get(other.dtype, 0.02) * largest:
            reason = f"{what} computes other numbers than the model that skips them (by {difference:.2g})"
            raise CannotDropLayers(architecture, reason)


__all__ = ["Blocks", "LayerLike", "blocks", "dropped", "skipping", "without_layers"]
