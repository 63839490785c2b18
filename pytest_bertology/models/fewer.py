"""The configuration of a model without some of its layers, proven by what transformers builds from it.

Which settings count a stack's layers, or hold an entry for each, is guessed from their values, the likelier names
first. A guess holds if the model class, built from it on the meta device, has the modules, names and shapes that are
left when the layers are dropped from what it builds from the present configuration.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_bertology.errors import CannotDropLayers
from pytest_bertology.models.blocks import Cut
from pytest_bertology.models.plan import SEAL

Settings = dict[str, Any]
"""A configuration as it is saved."""
Shapes = dict[str, torch.Size]
_WORDS = ("layer", "block", "depth")
_LIST_WORDS = (*_WORDS, "type", "pattern", "attention", "first", "dense", "stage", "out_")
_FIRSTS = ("first", "dense")
"""Words in the names of settings that count the first layers, of some kind."""
_BACKBONE = ("out_features", "out_indices", "stage_names")


@dataclass(frozen=True)
class Plan:
    """What a model is to become."""

    before: PreTrainedModel
    """What the model class builds from the present configuration, without numbers."""
    after: PreTrainedModel
    """What it builds from the new one, which is `after.config`."""
    moves: dict[str, str]
    """Tensors that only a dropped layer has and a kept one needs (T5's position bias): new name, old name."""


def plan(model: PreTrainedModel, cuts: Sequence[Cut]) -> Plan:
    """The configuration without these layers, and what is built from it; raises CannotDropLayers for want of one."""
    architecture = type(model).__name__
    before = _own(model)
    settings, moves = before.config.to_dict(), dict[str, str]()
    after = before
    for end, cut in enumerate(cuts, 1):
        tried: list[str] = []
        for guess in _guesses(settings, cut):
            try:
                after = _build(type(model), guess, model.config)
            except Exception as error:  # noqa: BLE001 - a configuration may refuse itself with any
                tried.append(f"{type(error).__name__}: {error}")
                continue
            found = _differ(before, after, cuts[:end])
            if not isinstance(found, str):
                settings, moves = guess, found
                break
            tried.append(found)
        else:
            reason = f"no configuration that was tried builds {architecture} without them"
            raise CannotDropLayers(architecture, _short(f"{reason} ({tried[0]})" if tried else reason))
    return Plan(before, after, moves)


def renamed(cuts: Sequence[Cut], name: str) -> str | None:
    """What a module or tensor of the model is called when the layers are gone; None if it goes with them."""
    for cut in cuts:
        prefix = f"{cut.blocks.path}."
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) in cut.dropped:
                return None
            return f"{prefix}{cut.kept.index(int(number))}" + (f".{rest}" if rest else "")
    return name


# -- what is built -----------------------------------------------------------------------------------------------


def _own(model: PreTrainedModel) -> PreTrainedModel:
    """What the model's class builds from its configuration, which must be this model but for heads pruned since."""
    architecture = type(model).__name__
    try:
        before = _build(type(model), model.config.to_dict(), model.config)
    except Exception as error:
        reason = f"its configuration does not build it ({type(error).__name__}: {error})"
        raise CannotDropLayers(architecture, _short(reason)) from error
    own, built = _shapes(model), _shapes(before)
    pruned = hasattr(model.config, "pytest_bertology")
    wrong = sorted(own.keys() ^ built.keys())
    wrong += [name for name in own.keys() & built.keys() if own[name] != built[name] and not pruned]
    if wrong:
        reason = f"its configuration does not build it: {', '.join(wrong[:3])} would not be as they are"
        raise CannotDropLayers(architecture, reason)
    return before


def _build(architecture: type[PreTrainedModel], settings: Settings, original: PreTrainedConfig) -> PreTrainedModel:
    """On the meta device, from the configuration as it would be read from a file."""
    config = type(original).from_dict(copy.deepcopy(settings))
    for new, old in zip(_configs(config), _configs(original), strict=True):
        for name, value in vars(old).items():
            if "implementation" in name or name == "_name_or_path":  # which are not saved
                vars(new)[name] = value
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return architecture(config).eval()


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and those inside it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)


def _differ(before: PreTrainedModel, after: PreTrainedModel, cuts: Sequence[Cut]) -> dict[str, str] | str:
    """How `after` is not `before` without the layers; if it is, what has to move from dropped layers to kept ones."""
    expected = {new: shape for name, shape in _shapes(before).items() if (new := renamed(cuts, name)) is not None}
    built = _shapes(after)
    for name, shape in expected.items():
        if name not in built:
            return f"{name} would not be there"
        if built[name] != shape:
            return f"{name} would be {tuple(built[name])} and not {tuple(shape)}"
    modules = dict(after.named_modules())
    for name, module in before.named_modules():
        new = renamed(cuts, name)
        if new is not None and not _alike(module, modules.get(new)):
            return f"{new} would not be a {type(module).__name__}"
    moves = {}
    for name in built.keys() - expected.keys():
        source = _source(before, name, built[name], cuts)
        if source is None:
            return f"{name} would be new"
        moves[name] = source
    return moves


def _alike(module: nn.Module, other: nn.Module | None) -> bool:
    """Whether both are of one class, by its name (parametrised modules have classes of their own), or hold nothing."""
    one, two = type(module), type(other)
    if other is not None and not holds_tensors(module) and not holds_tensors(other):
        return True
    return (one.__module__, one.__qualname__) == (two.__module__, two.__qualname__)


def holds_tensors(module: nn.Module) -> bool:
    """Whether a module or one in it has parameters or buffers."""
    return any(True for part in module.modules() for _ in (*part._parameters, *part._buffers))


def _source(before: PreTrainedModel, name: str, shape: torch.Size, cuts: Sequence[Cut]) -> str | None:
    """The tensor of a dropped layer that stands where this one of a kept layer is to stand, if there is just one."""
    shapes = _shapes(before)
    for cut in cuts:
        prefix = f"{cut.blocks.path}."
        number, _, rest = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and int(number) < len(cut.kept):
            found = [f"{path}.{rest}" for path in cut.paths if shapes.get(f"{path}.{rest}") == shape]
            return found[0] if len(found) == 1 else None
    return None


def _shapes(model: PreTrainedModel) -> Shapes:
    return {name: tensor.shape for name, tensor in model.state_dict().items() if _counts(name, tensor)}


def _short(reason: str) -> str:
    return textwrap.shorten(reason, 300)


# -- guesses -----------------------------------------------------------------------------------------------------


def _guesses(settings: Settings, cut: Cut) -> Iterator[Settings]:
    """Settings in which one that is the number of layers is the number that stays, likely ones first.

    With it, in the same part of the configuration, go those that say something of single layers.
    """
    counts = [
        (path, name)
        for path, part in _parts(settings)
        for name, value in part.items()
        if type(value) is int and value == cut.blocks.count
    ]
    seen: list[Settings] = []
    for path, name in sorted(counts, key=lambda count: _unlikely(cut, *count)):
        for chosen in (_any_of(_LIST_WORDS), lambda _: True, lambda _: False):
            guess = copy.deepcopy(settings)
            part = dict(_parts(guess))[path]
            for entry, value in list(_per_layer(part, cut)):
                if chosen(entry):
                    part[entry] = value
                    if value is None:
                        part.pop(entry)
            part[name] = len(cut.kept)
            if guess not in seen:
                seen.append(guess)
                yield guess


def _unlikely(cut: Cut, path: str, name: str) -> tuple[int, ...]:
    """How unlikely it is that a setting counts the layers of this stack; smaller is likelier."""
    stack, whole = cut.blocks.stack or "text", f"{path}{name}"
    others = [other for other in ("encoder", "decoder", "vision", "audio") if other != stack]
    named_otherwise = stack not in whole and any(other in whole for other in others)
    return (not _any_of(_WORDS)(name), named_otherwise, stack not in whole, "num" not in name, len(whole))


def _any_of(words: Iterable[str]) -> Callable[[str], bool]:
    return lambda name: any(word in name for word in words)


def _per_layer(part: Settings, cut: Cut) -> Iterator[tuple[str, Any]]:
    """Settings that say something of single layers, as they would be without the dropped ones."""
    count, places = cut.blocks.count, {layer: place for place, layer in enumerate(cut.kept)}
    for name, value in part.items():
        if name in _BACKBONE and len(part.get("out_indices") or ()) == 1:
            yield name, None  # left out: a backbone then gives its last layer
        elif type(value) is int and 0 < value < count and _any_of(_FIRSTS)(name):
            yield name, sum(layer < value for layer in cut.kept)
        elif isinstance(value, dict) and "layer" in name and value and all(str(key).isdigit() for key in value):
            yield name, {type(key)(places[int(key)]): e for key, e in value.items() if int(key) in places}
        elif isinstance(value, list | tuple) and value:
            if (
                "layer" in name
                and all(type(i) is int for i in value)
                and list(value) == sorted({*value} & {*range(count)})
            ):
                yield name, [places[layer] for layer in value if layer in places]
            elif len(value) == count:
                yield name, [value[layer] for layer in cut.kept]
            elif (entries := _spelt_out(value)) is not None and len(entries) == count:
                yield name, [[[entries[layer] for layer in cut.kept], 1]]


def _spelt_out(value: Sequence[Any]) -> list[Any] | None:
    """[[["global", "local"], 6]] (GPT-Neo) as twelve names; None for lists of another form."""
    if not all(isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], list | tuple) for x in value):
        return None
    if not all(type(x[1]) is int for x in value):
        return None
    return [entry for names, times in value for _ in range(times) for entry in names]


def _parts(settings: Settings, path: str = "") -> Iterator[tuple[str, Settings]]:
    """Settings and those of the configurations inside, each with the path to them."""
    yield path, settings
    for name, value in settings.items():
        if isinstance(value, dict) and "model_type" in value:
            yield from _parts(value, f"{path}{name}.")


def _counts(name: str, tensor: object) -> bool:
    """Whether an entry of a state dict is a weight; not the seal of a cut model's plan."""
    return isinstance(tensor, torch.Tensor) and SEAL not in name.split(".")
