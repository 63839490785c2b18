"""The weights of a model, in whatever form it is given, and which of them differ between two."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_flatten_with_path

from pytest_bertology.errors import InvalidArgument, ModelNotFound, NonFinite, NothingToJudge, NoWeights
from pytest_bertology.models import ModelUnderTest, compiling, state

WeightSource: TypeAlias = "ModelUnderTest | nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]"
"""A loaded model, a live one, a state dict, or a folder (or file) of safetensors."""

_SOURCES = (
    "a loaded model, a live PreTrainedModel, a state dict of tensors, or a folder with safetensors (for a hub name, "
    "load_model(name))"
)


@dataclass(frozen=True)
class WeightChange:
    """One weight that is not what it was."""

    name: str
    what: str
    """"values", "came", "went", or the other shape or dtype: "shape (2, 3) → (4, 3)"."""
    numbers: int
    """How many of its numbers differ; all of them where it came, went or has another shape."""
    size: int
    """How many numbers it has."""
    largest: float | None = None
    """The largest difference of a number; None where numbers do not stand side by side."""


@dataclass(frozen=True, repr=False)
class WeightChanges:
    """What differs between the weights of two models, bit for bit."""

    names: tuple[str, ...]
    """All weights of either: parameters and persistent buffers, by their full names."""
    changes: tuple[WeightChange, ...]

    def __repr__(self) -> str:
        return f"WeightChanges({len(self.changes)} of {len(self.names)} weights changed)"

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the weights that differ, came or went."""
        return tuple(change.name for change in self.changes)


def weight_changes(before: WeightSource, after: WeightSource) -> WeightChanges:
    """Compare two models' weights by name, bit for bit: parameters and persistent buffers.

    A name that only one side has is no change where it is tied, on that side, to a weight that both have: checkpoints
    keep tied weights once. Raises InvalidArgument for what holds no weights or has no name in common, ModelNotFound or
    NoWeights for a folder without them, NonFinite for NaN.
    """
    old, new = weights_of(before, "before"), weights_of(after, "after")
    if not old.keys() & new.keys():
        some = f"{next(iter(old), 'nothing')!r} … before and {next(iter(new), 'nothing')!r} … after"
        raise InvalidArgument("after", said(after), f"weights named like those before: no name is in both ({some})")
    names = tuple(dict.fromkeys((*old, *new)))
    changes = (_change(name, old.get(name), new.get(name)) for name in names)
    spare = _tied(old, new) | _tied(new, old)
    return WeightChanges(names, tuple(c for c in changes if c is not None and c.name not in spare))


def nothing_changed(before: WeightSource, after: WeightSource, count: int) -> NothingToJudge:
    """The error for two models that are the same; says so where they share their memory."""
    old, new = weights_of(before, "before"), weights_of(after, "after")
    shared = any(_place(old[name]) == _place(new[name]) for name in old.keys() & new.keys())
    advice = (
        "Both hold the same live tensors: keep a copy from before the training (copy.deepcopy, or save_pretrained)."
        if shared
        else "Nothing was trained, or the same checkpoint was given twice."
    )
    return NothingToJudge(f"all {count} weights are the same before and after, bit for bit", advice)


def weights_of(source: WeightSource, argument: str) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones under each of their names; packed ones by their parts."""
    if isinstance(source, ModelUnderTest):
        return module_weights(source.model)
    live = compiling.original(source)
    if isinstance(live, nn.Module):
        return module_weights(live)
    if isinstance(source, Mapping):
        return _of_mapping(source, argument)
    if isinstance(source, str | os.PathLike):
        return _of_folder(Path(source))
    raise InvalidArgument(argument, type(source).__name__, _SOURCES)


def module_weights(model: nn.Module) -> dict[str, Tensor]:
    """A live model's weights; those that accelerate has offloaded are fetched."""
    found = dict(_plain(model.state_dict()))
    if any(tensor.is_meta for tensor in found.values()):
        fetched = dict(state.tensors(model))
        found = {name: fetched.get(name, tensor) for name, tensor in found.items()}
    return found


def said(source: WeightSource) -> str:
    """What a source is called in messages."""
    if isinstance(source, ModelUnderTest):
        return source.name
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def plain_tensors(tensor: Tensor) -> list[Tensor]:
    """The tensor itself; of a tensor made of others (quantised ones of torchao), those."""
    whole: Any = tensor
    if not is_traceable_wrapper_subclass(whole):
        return [tensor]
    return [part for name in whole.__tensor_flatten__()[0] for part in plain_tensors(getattr(tensor, name))]


def has_nan(tensor: Tensor) -> bool:
    """Whether a number of it is NaN."""
    if not tensor.is_floating_point():
        return False
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isnan().any())  # 8 bits have no isnan


def _plain(tree: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, and those within its values (packed weights are tuples)."""
    for name, value in tree.items():
        for path, leaf in tree_flatten_with_path(value)[0]:
            if not isinstance(leaf, Tensor):
                continue
            parts = plain_tensors(leaf.detach())
            whole = name + "".join(map(str, path))
            yield from ((whole if len(parts) == 1 else f"{whole}[{i}]", part) for i, part in enumerate(parts))


def _of_mapping(source: Mapping[str, Any], argument: str) -> dict[str, Tensor]:
    found = dict(_plain(source)) if all(isinstance(name, str) for name in source) else {}
    if not found:
        raise InvalidArgument(argument, f"{type(source).__name__} of {len(source)}", _SOURCES)
    return found


def _of_folder(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise ModelNotFound(
            str(path), f"there is no such folder (looked from {Path.cwd()}); weights are not read from hubs"
        )
    try:
        files = _files(path)
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelNotFound(str(path), f"its weights are damaged ({error})") from error


def _files(path: Path) -> list[Path]:
    """The files that hold the weights: those the index names, else model.safetensors, else all there are."""
    if not path.is_dir():
        return [path]
    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if index.is_file():
        return [path / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    files = [single] if single.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise NoWeights(str(path), sorted(entry.name for entry in path.iterdir()))
    return files


def _tied(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> set[str]:
    """Names only `here`, whose weight is `there` too, under another name that it is tied to here."""
    both = {_place(tensor) for name, tensor in here.items() if name in there and tensor.numel()}
    return {name for name, tensor in here.items() if name not in there and _place(tensor) in both}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()
    return storage._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _change(name: str, old: Tensor | None, new: Tensor | None) -> WeightChange | None:
    """How a weight differs; None where it does not. Raises NonFinite for NaN."""
    for side, tensor in (("before", old), ("after", new)):
        if tensor is not None and has_nan(tensor):
            raise NonFinite("a weight", f"{name} {side}")
    if old is None or new is None:
        size = (old if new is None else new).numel()  # type: ignore[union-attr]
        return WeightChange(name, "came" if old is None else "went", size, size)
    if old.shape != new.shape:
        what = f"shape {tuple(old.shape)} → {tuple(new.shape)}"
        return WeightChange(name, what, new.numel(), new.numel())
    if old.dtype != new.dtype:
        what = f"{old.dtype} → {new.dtype}".replace("torch.", "")
        return WeightChange(name, f"dtype {what}", new.numel(), new.numel())
    one, other = _comparable(old), _comparable(new)
    differ = (_bits(one) != _bits(other)).any(dim=1)
    if not bool(differ.any()):
        return None
    apart = (one.flatten()[differ].double() - other.flatten()[differ].double()).abs()
    return WeightChange(name, "values", int(differ.sum()), new.numel(), float(apart.max()))


def _comparable(tensor: Tensor) -> Tensor:
    here = tensor.detach().cpu().contiguous()
    return here.dequantize() if here.is_quantized else here


def _bits(tensor: Tensor) -> Tensor:
    """(numbers, bytes of each)"""
    return tensor.flatten().view(torch.uint8).reshape(tensor.numel(), tensor.element_size())
