"""What belongs to each head: which rows of which projections feed it, and which slices of other tensors are its own.

Found by gradients, without a table of layouts: every linear module's output is made a variable of its own, so that a
head's context depends on the nearest projections alone (query, key, value, fused or not), and the numbers of theirs
by which it has a derivative are its rows. The same is asked of the parameters and buffers beside them (sinks, tables of
position biases, norms of each head) and of the tensors that the attention module is given (position biases of ALiBi).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.models.modules import is_linear
from pytest_bertology.models.reduced import variable_of
from pytest_bertology.models.sites import Site

Owners = tuple[frozenset[int], ...]
"""Per position, the heads that it feeds."""


@dataclass(frozen=True)
class Feed:
    """The rows of one module that feed the heads of one site."""

    name: str
    """Module path."""
    owners: Owners
    """Per output row, the heads that it feeds."""

    def rows(self, head: int) -> tuple[int, ...]:
        """The rows that feed `head`."""
        return tuple(row for row, heads in enumerate(self.owners) if head in heads)


@dataclass(frozen=True)
class PerHead:
    """A parameter or buffer that holds a slice for each head, or each group of them."""

    name: str
    axis: int
    owners: Owners


@dataclass(frozen=True)
class Given:
    """A tensor that the attention module is given, with a slice for each head."""

    module: str
    argument: int | str
    axis: int
    """The axis of heads, along which there may be a multiple (batch * heads)."""
    source: tuple[str, int] | None = None
    """The attention module that returned it, and its place in what that returned."""
    returned: int | None = None
    """Its place in what this module returns, where it hands the tensor on as it is."""


@dataclass(frozen=True)
class RowMap:
    """What belongs to the heads of one site."""

    feeds: tuple[Feed, ...]
    tensors: tuple[PerHead, ...] = ()
    given: tuple[Given, ...] = ()


def row_maps(model: PreTrainedModel, sites: Sequence[Site], sample: Mapping[str, Any]) -> list[RowMap]:
    """Per site, what belongs to its heads, by the first call of its projection. The model is left as it was."""
    search = _Search(model, sites)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(search.prepared())
        model(**sample)
    return [search.handed_on(search.found[id(site)]) for site in sites]


def feeds(model: PreTrainedModel, sites: Sequence[Site], sample: Mapping[str, Any]) -> list[tuple[Feed, ...]]:
    """Per site, the projections that feed its heads."""
    return [found.feeds for found in row_maps(model, sites, sample)]


def why_not_cut(site: Site, feed: Sequence[Feed], joint: bool) -> str | None:
    """Why the heads of a site cannot be cut out one by one, as far as its rows tell; None where they can."""
    if hasattr(site.projection, "_packed_params"):
        return "its weights are quantised"
    if joint or not is_linear(site.projection):
        return f"its heads are read by a {type(site.projection).__name__}, which does not take them one by one"
    alone = [sum(owners == {head} for part in feed for owners in part.owners) for head in range(site.heads)]
    if min(alone, default=0) == 0:
        return "no rows belong to one head alone: heads are normalised or computed together"
    if groups_of(site, feed) is None:
        return "the groups of heads that share rows overlap"
    return None


def groups_of(site: Site, feed: Sequence[Feed]) -> tuple[frozenset[int], ...] | None:
    """The groups of heads that share key and value rows, in order; single heads where none do. None if they overlap.

    Rows that feed all heads (one key-value head for all, or what is projected again for each head) make no group.
    """
    every = frozenset(range(site.heads))
    groups = {owners for part in feed for owners in part.owners if len(owners) > 1 and owners != every}
    found = sorted(groups or {frozenset({head}) for head in every}, key=min)
    if sum(map(len, found)) != site.heads or frozenset[int]().union(*found) != every:
        return None
    return tuple(found)


def kv_heads(site: Site, feed: Sequence[Feed]) -> int:
    """Key-value heads: as the interface showed them, else as many as there are groups of heads that share rows."""
    if site.kv_heads:
        return site.kv_heads
    owners = [heads for part in feed for heads in part.owners if heads]
    groups = {heads for heads in owners if len(heads) > 1}
    own = sum(len(heads) == 1 for heads in owners) / site.heads
    # Rows of one head alone are its query's, and where there are more of them its key's and value's too.
    return len(groups) if groups and own < 2 * site.width else site.heads


_Source = tuple[str, str, int | str]
"""Of a variable: "rows", "tensor" or "given", its module's or its own path, and which argument it is."""


@dataclass
class _Search:
    """One forward pass in which everything that may belong to heads is a variable."""

    model: PreTrainedModel
    sites: Sequence[Site]
    found: dict[int, RowMap] = field(default_factory=dict)
    variables: list[tuple[_Source, Tensor]] = field(default_factory=list)
    returns: list[tuple[tuple[str, int], Tensor]] = field(default_factory=list)
    """What attention modules returned, and in which place."""
    came: dict[_Source, tuple[str, int]] = field(default_factory=dict)
    """Where what attention modules were given came from."""
    passed: dict[_Source, Tensor] = field(default_factory=dict)
    """What they were given instead."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The hooks in place, and the tensors near attention variables."""
        attentions = {site.attention: self.model.get_submodule(site.attention) for site in self.sites}
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                if is_linear(module):
                    stack.callback(module.register_forward_hook(self._cut(name)).remove)
            for name, module in attentions.items():
                before = module.register_forward_pre_hook(self._came(name), with_kwargs=True, prepend=True)
                stack.callback(before.remove)
                stack.callback(module.register_forward_pre_hook(self._give(name), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._took(name)).remove)
            for name in {name.rpartition(".")[0] for name in attentions}:
                stack.enter_context(self._near(name))
            for site in self.sites:
                hook = site.projection.register_forward_pre_hook(self._read(site), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _cut(self, name: str) -> Any:
        def cut(module: nn.Module, args: Any, result: Any) -> Any:
            if not isinstance(result, Tensor):  # a router may return more
                return None
            variable = variable_of(module, result)
            self.variables.append((("rows", name, 0), variable))
            return variable.clone()

        return cut

    def _came(self, name: str) -> Any:
        """Before the hooks of a model that was cut already take heads' slices."""

        def came(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            for argument, value in given:
                for place, tensor in self.returns:
                    if tensor is value:
                        self.came[("given", name, argument)] = place

        return came

    def _give(self, name: str) -> Any:
        def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            def variable(argument: int | str, value: Any) -> Any:
                if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 3:
                    return value
                detached = value.detach().requires_grad_()
                source: _Source = ("given", name, argument)
                self.variables.append((source, detached))
                self.passed[source] = instead = detached.clone()
                return instead

            args = tuple(variable(place, value) for place, value in enumerate(args))
            return args, {key: variable(key, value) for key, value in kwargs.items()}

        return give

    def _took(self, name: str) -> Any:
        def took(module: nn.Module, args: Any, result: Any) -> None:
            for place, value in enumerate(result if isinstance(result, tuple) else ()):
                if isinstance(value, Tensor):
                    self.returns.append(((name, place), value))

        return took

    @contextmanager
    def _near(self, path: str) -> Iterator[None]:
        """Parameters and buffers around an attention module as variables, but for those of linear maps."""
        kept: list[tuple[dict[str, Any], str, Tensor]] = []
        frozen: list[Tensor] = []
        try:
            for name, module in self.model.get_submodule(path).named_modules(prefix=path):
                if is_linear(module) or isinstance(module, nn.modules.batchnorm._BatchNorm):
                    continue
                for own, tensor in (*module._parameters.items(), *module._buffers.items()):
                    if tensor is None or not tensor.is_floating_point() or tensor.is_meta:
                        continue
                    source: _Source = ("tensor", f"{name}.{own}".lstrip("."), 0)
                    if own in module._buffers:
                        variable = tensor.detach().clone().requires_grad_()
                        kept.append((module._buffers, own, tensor))
                        module._buffers[own] = variable.clone()
                    else:
                        variable = tensor
                        if not tensor.requires_grad:
                            frozen.append(tensor.requires_grad_())
                    self.variables.append((source, variable))
            yield
        finally:
            for place, own, tensor in kept:
                place[own] = tensor
            for parameter in frozen:
                parameter.requires_grad_(False)

    def _read(self, site: Site) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if id(site) not in self.found:
                self.found[id(site)] = self._row_map(site, site.context(args, kwargs))

        return read

    def _row_map(self, site: Site, context: Tensor) -> RowMap:
        owned = self._owned(site, context)
        rows: list[Feed] = []
        tensors: list[PerHead] = []
        given: list[Given] = []
        for (kind, name, argument), by_axis in owned.items():
            if kind == "rows":
                rows.append(Feed(name, by_axis[-1]))
            elif kind == "tensor":
                axis = _axis_of_heads(by_axis, site.heads)
                if axis is not None:
                    tensors.append(PerHead(name, axis, by_axis[axis]))
            else:
                axis = _axis_of_single_heads(by_axis, site.heads)
                if axis is not None:
                    given.append(Given(name, argument, axis))
        return RowMap(tuple(rows), tuple(tensors), tuple(given))

    def handed_on(self, found: RowMap) -> RowMap:
        """With where given tensors came from, and where they went, which is known when the model has run."""
        return replace(found, given=tuple(map(self._handed_on, found.given)))

    def _handed_on(self, given: Given) -> Given:
        source = ("given", given.module, given.argument)
        returned = (at for (name, at), tensor in self.returns if tensor is self.passed[source] and name == given.module)
        return replace(given, source=self.came.get(source), returned=next(returned, None))

    def _owned(self, site: Site, context: Tensor) -> dict[_Source, list[Owners]]:
        """Per variable that feeds a head, and per axis of it, the heads that each position feeds."""
        context = context.movedim(site.feature_axis, -1)
        weights = torch.randn(context.shape, generator=torch.Generator().manual_seed(0))
        weights = weights.to(context.device, context.dtype)
        tensors = [variable for _, variable in self.variables]
        owners: dict[_Source, list[list[set[int]]]] = {}
        for head in range(site.heads):
            own = (context * weights)[..., site.slice(head)].sum()
            if not own.requires_grad or not tensors:
                continue
            slopes: Sequence[Tensor | None] = torch.autograd.grad(own, tensors, retain_graph=True, allow_unused=True)
            for (source, _), slope in zip(self.variables, slopes, strict=True):
                if slope is None:
                    continue
                used = slope.ne(0)
                if source[0] == "rows":  # the last axis alone, whatever shapes it is called with
                    used = used.reshape(-1, used.shape[-1]).any(0)
                axes = owners.setdefault(source, [[set() for _ in range(n)] for n in used.shape])
                if [len(axis) for axis in axes] == list(used.shape):
                    _note(axes, used, head)
        found = {source: [tuple(map(frozenset, axis)) for axis in axes] for source, axes in owners.items()}
        return {source: axes for source, axes in found.items() if any(axes[-1])}


def _note(axes: Sequence[Sequence[set[int]]], used: Tensor, head: int) -> None:
    """Add a head to the positions, along each axis, that it uses."""
    for axis, positions in enumerate(axes):
        along = used.movedim(axis, 0).reshape(used.shape[axis], -1).any(1)
        for position in along.nonzero().flatten().tolist():
            positions[position].add(head)


def _axis_of_heads(by_axis: Sequence[Owners], heads: int) -> int | None:
    """The axis along which positions belong to some heads and not to others."""
    for axis, owners in enumerate(by_axis):
        owned = {position for position in owners if position}
        if len(owned) > 1 and all(len(position) < heads for position in owned):
            return axis
    return None


def _axis_of_single_heads(by_axis: Sequence[Owners], heads: int) -> int | None:
    """The axis that runs over heads, one after the other, once or once per example."""
    for axis, owners in enumerate(by_axis):
        if heads > 1 and len(owners) % heads == 0 and all(o == {i % heads} for i, o in enumerate(owners)):
            return axis
    return None
