"""What a forward pass need not compute again: the layers below the first head that changed.

A recording keeps what each layer gave, and what each output projection received. A pass resumed at a head gets those
instead of computing them; the model's own code does the rest. So nothing here knows any architecture, and whether a
model can be resumed is seen by trying (`engine.resuming`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pytest_bertology.models.attention import Asked, answering
from pytest_bertology.models.modules import is_linear
from pytest_bertology.models.narrowing import narrowed, replaced
from pytest_bertology.models.sites import Site

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


class CannotResume(Exception):
    """Why a model's layers cannot be skipped; never shown as an error: the plain path is taken instead."""


@dataclass(frozen=True, eq=False)
class Block:
    """One layer: it runs once in a forward pass, and holds attention."""

    path: str
    module: nn.Module = field(repr=False)
    sites: tuple[int, ...]
    """Which of the model's sites are in it, in the order they run."""
    batched: tuple[bool, ...]
    """Of each tensor it gives, whether its first axis runs over examples; otherwise that axis is 1."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a model in the order they run, seen in one forward pass of two examples."""

    blocks: tuple[Block, ...]
    feeders: tuple[tuple[nn.Module, ...], ...] = field(repr=False)
    """Per site, the linear maps that run inside its attention before its projection and nowhere else."""
    order: tuple[int, ...]
    """Per site, its place in the order they run."""
    bytes_per_token: float
    """What recording takes."""
    each: bool = False
    """Whether a skipped block must give its own result, and not that of the last one skipped of its list."""

    def block_of(self, site: int) -> int:
        """Which block a site is in."""
        return next(i for i, block in enumerate(self.blocks) if site in block.sites)

    def before(self, start: int) -> frozenset[int]:
        """The sites that do not run in a pass resumed at a block."""
        return frozenset(at for block in self.blocks[:start] for at in block.sites)


@dataclass
class Recording:
    """What one forward pass gave: per block its result, per site what its projection received before any gate."""

    results: list[Any] = field(default_factory=list)
    """None where it was not to be kept."""
    contexts: dict[int, Tensor] = field(default_factory=dict)

    def start(self, layers: Layers, site: int) -> int:
        """The block that a pass can be resumed at for a site: its own, or the last before it whose input was kept."""
        block = layers.block_of(site)
        while block and not self._suffices(layers, block):
            block -= 1
        return block

    def _suffices(self, layers: Layers, start: int) -> bool:
        """Whether what skipped blocks have to give was kept."""
        if layers.each:
            return all(result is not None for result in self.results[:start])
        lists = {block.path.rpartition(".")[0]: index for index, block in enumerate(layers.blocks[:start])}
        return all(self.results[index] is not None for index in lists.values())


def find_layers(model: ModelUnderTest, run: Callable[[], Any], rows: int, tokens: int) -> Layers:
    """The model's layers, seen while `run` runs it once over `rows` examples of `tokens` tokens (unlike numbers).

    Raises CannotResume, with the reason.
    """
    paths = _paths(model)
    seen = _Seen()
    with seen.watching(model, paths):
        run()
    if sorted(seen.blocks) != sorted(paths) or sorted(seen.sites) != list(range(len(model.sites))):
        raise CannotResume("layers that do not run exactly once in a forward pass")
    order = tuple(seen.sites.index(index) for index in range(len(model.sites)))
    blocks, size = [], 0
    for path in seen.blocks:
        leaves = [leaf for leaf in tree_flatten(seen.results[path])[0] if isinstance(leaf, Tensor)]
        if not leaves or any(leaf.ndim == 0 or leaf.shape[0] not in (rows, 1) for leaf in leaves):
            raise CannotResume(f"{path}, which gives tensors that are not of one example each")
        size += sum(leaf.nbytes for leaf in leaves)
        own = sorted(paths[path], key=order.__getitem__)
        batched = tuple(leaf.shape[0] == rows for leaf in leaves)
        blocks.append(Block(path, model.model.get_submodule(path), tuple(own), batched))
    feeders = tuple(seen.feeders(index) for index in range(len(model.sites)))
    return Layers(tuple(blocks), feeders, order, bytes_per_token=(size + seen.contexts) / (rows * tokens))


class _Seen:
    """What runs in one forward pass, and in which order."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.sites: list[int] = []
        self.results: dict[str, Any] = {}
        self.contexts = 0
        """Bytes of what the projections received."""
        self._linears: list[tuple[int, nn.Module]] = []
        self._before: dict[int, int] = {}
        self._inside = -1

    @contextmanager
    def watching(self, model: ModelUnderTest, paths: Iterable[str]) -> Iterator[None]:
        """Note what runs in the context."""
        with ExitStack() as stack:
            for path in paths:
                block = model.model.get_submodule(path)
                stack.callback(block.register_forward_hook(partial(self._block, path)).remove)
            for index, site in enumerate(model.sites):
                attention = model.model.get_submodule(site.attention)
                stack.callback(attention.register_forward_pre_hook(partial(self._attention, index)).remove)
                hook = partial(self._projection, index, site)
                stack.callback(site.projection.register_forward_pre_hook(hook, with_kwargs=True).remove)
            for module in filter(is_linear, model.model.modules()):
                stack.callback(module.register_forward_hook(self._linear).remove)
            yield

    def feeders(self, site: int) -> tuple[nn.Module, ...]:
        """The linear maps that ran inside a site's attention before its projection, and nowhere else."""
        calls = [id(module) for _, module in self._linears]
        inside = (module for at, module in self._linears[: self._before[site]] if at == site)
        return tuple(module for module in inside if calls.count(id(module)) == 1)

    def _block(self, path: str, module: nn.Module, args: Any, result: Any) -> None:
        self.blocks.append(path)
        self.results[path] = result

    def _attention(self, site: int, module: nn.Module, args: Any) -> None:
        self._inside = site

    def _projection(self, index: int, site: Site, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.sites.append(index)
        self.contexts += site.context(args, kwargs).nbytes
        self._before[index] = len(self._linears)
        self._inside = -1

    def _linear(self, module: nn.Module, args: Any, result: Any) -> None:
        self._linears.append((self._inside, module))


def _paths(model: ModelUnderTest) -> dict[str, set[int]]:
    """The outermost element of a list of modules around each site's attention."""
    paths: dict[str, set[int]] = {}
    for index, site in enumerate(model.sites):
        parts = site.attention.split(".")
        for end in range(1, len(parts)):
            if isinstance(model.model.get_submodule(".".join(parts[:end])), nn.ModuleList):
                paths.setdefault(".".join(parts[: end + 1]), set()).add(index)
                break
        else:
            raise CannotResume(f"attention {site.attention} that is in no list of layers")
    for path in paths:
        if "forward" in vars(model.model.get_submodule(path)):
            raise CannotResume(f"{path} has a forward that was replaced (offloaded weights, perhaps)")
    return paths


@contextmanager
def recorded(model: ModelUnderTest, layers: Layers, every: int = 1) -> Iterator[Recording]:
    """Record one forward pass that is run in the context: what each block gives and each projection receives.

    With `every` above 1, to save memory, only what every so many-th block gives.
    """
    recording = Recording([None] * len(layers.blocks))
    copies: dict[int, tuple[Tensor, Tensor]] = {}  # the original is kept, so that its identity stays its own

    def copy_of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in copies:
            copies[id(leaf)] = (leaf, leaf.clone())
        return copies[id(leaf)][1]

    def result(index: int) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, made: Any) -> None:
            leaves, spec = tree_flatten(made)
            copied = [leaves[0].clone() if isinstance(leaves[0], Tensor) else leaves[0], *map(copy_of, leaves[1:])]
            recording.results[index] = tree_unflatten(copied, spec)

        return note

    def context(index: int, site: Site) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recording.contexts[index] = site.context(args, kwargs).clone()

        return note

    with ExitStack() as stack:
        for index, block in enumerate(layers.blocks):
            if (index + 1) % every and index + 1 < len(layers.blocks):
                continue
            stack.callback(block.module.register_forward_hook(result(index)).remove)
            for at in block.sites if every == 1 else ():
                projection, hook = model.sites[at].projection, context(at, model.sites[at])
                stack.callback(projection.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
        yield recording


@contextmanager
def resumed(
    model: ModelUnderTest,
    layers: Layers,
    recording: Recording,
    site: int,
    copies: int,
    *,
    context: bool,
    rows: Tensor | None = None,
    queries: Sequence[nn.Module] = (),
) -> Iterator[None]:
    """Forward passes in the context start at a site: what runs before it is taken from the recording.

    The batch holds the recorded examples `copies` times, one copy after the other. With `context` the site's own
    attention is taken from the recording as well; otherwise its block runs whole. With `rows` (examples, n), tokens
    of the recorded examples, the last block computes nothing but those, nor do its maps `queries` (see `narrowed`).
    """
    start, last = recording.start(layers, site), len(layers.blocks) - 1
    known = None
    if context and site in recording.contexts:
        known = _tiled(recording.contexts[site], copies, model.sites[site].batch_axis)
    with ExitStack() as stack:
        for block, given in _handed_on(layers, recording, start, copies):
            stack.enter_context(replaced(block.module, lambda *args, given=given, **kwargs: given))
        if rows is not None:
            stack.enter_context(
                narrowed(model, layers, _tiled(rows, copies, 0), known if start == last else None, queries)
            )
        if known is not None and (rows is None or start < last):
            stack.enter_context(_arriving(model, layers, site, known))
        yield


def _handed_on(layers: Layers, recording: Recording, start: int, copies: int) -> Iterator[tuple[Block, Any]]:
    """What each block before `start` gives in a resumed pass.

    The last of a list gives what was recorded; those below give the same, which saves copies: no one reads it, unless
    layers hand on a part each (`each`).
    """
    last: dict[str, Any] = {}
    for index in reversed(range(start)):
        block = layers.blocks[index]
        place = block.path if layers.each else block.path.rpartition(".")[0]
        if place not in last:
            last[place] = _repeated(recording.results[index], block.batched, copies)
        yield block, last[place]


@contextmanager
def handed(layers: Layers, result: Any) -> Iterator[Tensor]:
    """Forward passes in the context skip all layers, the last of which gives `result`; gives its states, a variable."""
    leaves, spec = tree_flatten(result)
    states = leaves[0].detach().clone().requires_grad_()
    with ExitStack() as stack:
        for block in layers.blocks:
            result = tree_unflatten([states, *leaves[1:]], spec)
            stack.enter_context(replaced(block.module, lambda *args, result=result, **kwargs: result))
        yield states


@contextmanager
def _arriving(model: ModelUnderTest, layers: Layers, site: int, contexts: Tensor) -> Iterator[None]:
    """What a site's projection receives is known, and its attention computes nothing."""
    place = model.sites[site]
    attention = model.model.get_submodule(place.attention)
    with ExitStack() as stack:
        for module in layers.feeders[site]:
            stack.enter_context(replaced(module, _zeros(module)))
        hook = place.projection.register_forward_pre_hook(
            lambda module, args, kwargs: place.replaced(args, kwargs, contexts), with_kwargs=True, prepend=True
        )
        stack.callback(hook.remove)
        stack.enter_context(answering(lambda call: _nothing(call) if call.module is attention else None))
        yield


def _nothing(call: Asked) -> Tensor:
    """Attention that looks at nothing, of the shape that it would have."""
    rows, heads, tokens = call.query.shape[:3]
    zeros: Tensor = call.query.new_zeros(rows, tokens, heads, call.value.shape[-1])
    return zeros


def _zeros(module: nn.Module) -> Callable[..., Tensor]:
    """A linear map's forward that computes nothing."""
    width = next(
        int(value)
        for value in (getattr(module, "out_features", None), getattr(module, "nf", None))
        if value is not None
    )
    return lambda states, *args, **kwargs: states.new_zeros(*states.shape[:-1], width)


def states_in(result: Any) -> Tensor:
    """What a block gives to go on with: the first tensor of its result."""
    found: Tensor = next(leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor))
    return found


def with_states(result: Any, states: Tensor) -> Any | None:
    """The same result with other states; None where it holds more than states."""
    leaves, spec = tree_flatten(result)
    if sum(isinstance(leaf, Tensor) for leaf in leaves) != 1:
        return None
    return tree_unflatten([states if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def _repeated(result: Any, batched: Sequence[bool], copies: int) -> Any:
    leaves, spec = tree_flatten(result)
    flags = iter(batched)
    return tree_unflatten(
        [(_tiled(leaf, copies, 0) if next(flags) else leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves],
        spec,
    )


def _tiled(tensor: Tensor, copies: int, axis: int) -> Tensor:
    """One copy after the other along an axis; always a tensor of its own, which the model may write to."""
    times = [1] * tensor.ndim
    times[axis] = copies
    return tensor.repeat(times)
