"""Where a model keeps its layers: the lists of blocks that hold its attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from pytest_bertology.errors import CannotDropLayers, InvalidArgument, UnknownLayer
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.models.sites import Site

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

LayerLike: TypeAlias = "int | tuple[int, str | None]"
"""A layer as users write it: its number from 0, with its stack where the model has several."""


@dataclass(frozen=True)
class Blocks:
    """The layers of one stack: a list of modules that run one after the other.

    Layers are counted by their place in that list, from 0 at the bottom; those without attention count too, so that in
    hybrids a layer's number here is not that of its heads.
    """

    stack: str | None
    """"encoder" or "decoder" in encoder-decoder models; the tower's name beside a language model; or None."""
    path: str
    """Module path of the list."""
    count: int
    """How many layers it holds."""

    def __str__(self) -> str:
        stack = f" of stack {self.stack!r}" if self.stack else ""
        return f"{self.count} layer{'s' if self.count != 1 else ''}{stack} ({self.path})"


@dataclass(frozen=True)
class Cut:
    """Some layers of one stack, chosen to go."""

    blocks: Blocks
    dropped: tuple[int, ...]
    """In order."""

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers that stay, in order."""
        return tuple(layer for layer in range(self.blocks.count) if layer not in self.dropped)

    @property
    def paths(self) -> tuple[str, ...]:
        """Module paths of the layers that go."""
        return tuple(f"{self.blocks.path}.{layer}" for layer in self.dropped)

    @property
    def layers(self) -> tuple[LayerLike, ...]:
        """The layers that go, as users write them."""
        stack = self.blocks.stack
        return tuple((layer, stack) if stack else layer for layer in self.dropped)


def blocks(model: ModelUnderTest) -> tuple[Blocks, ...]:
    """The lists of layers, in the order of the model's attention sites.

    Attention to an encoder ("cross") belongs to the decoder's layers. Raises CannotDropLayers where attention is in no
    list of modules.
    """
    if not model.sites:
        reason = "layers are found by their attention heads, and all of them were cut out. Drop layers before"
        raise CannotDropLayers(type(model.model).__name__, reason)
    stacks: dict[str, list[Site]] = {}
    for site in model.sites:
        stacks.setdefault(_list_of(model, site), []).append(site)
    decoder = "decoder" if any(site.stack == "decoder" for site in model.sites) else None
    return tuple(
        Blocks(
            next((site.stack for site in sites if site.stack != "cross"), decoder),
            path,
            len(model.model.get_submodule(path)),
        )
        for path, sites in stacks.items()
    )


def choose(model: ModelUnderTest, layers: Iterable[LayerLike]) -> tuple[Cut, ...]:
    """The layers named, by stack; raises where that is none, all of a stack, or one that there is not."""
    known, named = blocks(model), _named(layers)
    chosen: dict[Blocks, set[int]] = {}
    for layer in named:
        number, stack = layer if isinstance(layer, tuple) else (layer, None)
        found = of_stack(model, stack, layer)
        _refuse_parts(model, found)
        if not 0 <= number < found.count:
            raise UnknownLayer(layer, "; ".join(map(str, known)))
        chosen.setdefault(found, set()).add(number)
    cuts = tuple(Cut(found, tuple(sorted(chosen[found]))) for found in known if found in chosen)
    if not cuts or any(not cut.kept for cut in cuts):
        raise InvalidArgument("layers", named, f"some layers and not all of a stack: {_listed(known)}")
    return cuts


def of_stack(model: ModelUnderTest, stack: str | None, layer: object = None) -> Blocks:
    """The layers of a stack; raises UnknownLayer for one there is not, CannotDropLayers for several lists."""
    known = blocks(model)
    found = [each for each in known if each.stack == stack]
    if not found:
        hint = f'; name the stack too, for example (0, "{known[0].stack}")' if stack is None else ""
        raise UnknownLayer(layer if layer is not None else f"of stack {stack!r}", _listed(known) + hint)
    if len(found) > 1:
        lists = ", ".join(each.path for each in found)
        raise CannotDropLayers(type(model.model).__name__, f"its layers are in several lists, {lists}")
    return found[0]


def _named(layers: Iterable[LayerLike]) -> list[LayerLike]:
    """The layers as whole numbers or pairs; raises InvalidArgument for anything else."""
    expected = 'a list of layer numbers from 0, [3, 4], or of numbers and stacks, [(3, "decoder")]'
    try:
        each = list(layers)
    except TypeError:
        raise InvalidArgument("layers", layers, expected) from None
    found: list[LayerLike] = []
    for layer in each:
        number, stack = layer if isinstance(layer, tuple) and len(layer) == 2 else (layer, None)
        if not is_whole(number) or not isinstance(stack, str | None):
            raise InvalidArgument("layers", layers, expected)
        found.append((int(number), stack) if stack else int(number))
    return found


def _listed(known: Iterable[Blocks]) -> str:
    return "; ".join(map(str, known))


def _list_of(model: ModelUnderTest, site: Site) -> str:
    """The outermost list of modules that holds a site's attention: a layer may have lists of its own parts."""
    parts = site.attention.split(".")
    for end in range(1, len(parts)):
        path = ".".join(parts[:end])
        if isinstance(model.model.get_submodule(path), nn.ModuleList):
            return path
    raise CannotDropLayers(type(model.model).__name__, f"its attention {site.attention} is in no list of layers")


def _refuse_parts(model: ModelUnderTest, found: Blocks) -> None:
    """Refuse layers that are one module, or each of which is several modules in several lists."""
    whole = model.model.get_submodule(found.path)
    architecture = type(model.model).__name__
    if len({id(layer) for layer in whole.children()}) < found.count:
        raise CannotDropLayers(architecture, f"layers of {found.path} are one module, which stands there several times")
    parent = model.model.get_submodule(found.path.rpartition(".")[0])
    lists = [each for each in parent.children() if isinstance(each, nn.ModuleList) and len(each) == found.count]
    for site in model.sites:
        path, _, _ = site.attention.rpartition(".")
        if found.count == 1 and site.calls > 1 and site.attention.startswith(f"{found.path}."):
            reason = f"{site.attention} runs {site.calls} times in one forward pass: the layers share their weights"
            raise CannotDropLayers(architecture, reason)
        if path == found.path and len(lists) > 1:
            raise CannotDropLayers(architecture, f"{path} holds the attention of its layers, and other lists the rest")
