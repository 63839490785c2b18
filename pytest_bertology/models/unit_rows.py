"""Which rows and columns belong to the dimensions inside heads, and to the neurons of feed-forward layers.

Found as the rows of heads are, by gradients from a variable behind every linear map. Numbers of a projection's input
are told apart by codes: for each binary digit of their places, once those with a 1 and once those with a 0 are asked
for. A row that feeds one number answers exactly one of the two each time, and spells its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_bertology.heads import Head, UnitMap
from pytest_bertology.models.blocks import blocks
from pytest_bertology.models.modules import is_linear
from pytest_bertology.models.reduced import variable_of
from pytest_bertology.models.rows import RowMap, groups_of, row_maps, why_not_cut
from pytest_bertology.models.sites import Site

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

Row = tuple[str, int]
"""A row of a linear map: its module path and place."""


@dataclass(frozen=True)
class FeedForward:
    """The neurons of one linear map's input, and the rows that make each of them."""

    stack: str | None
    layer: int
    reader: str
    """Module path of the linear map that reads them."""
    rows: tuple[tuple[Row, ...], ...]
    """Per neuron: one row, or several where a gate is multiplied to it."""


@dataclass(frozen=True)
class Inside:
    """The dimensions inside the heads of one attention layer."""

    site: Site
    groups: tuple[frozenset[int], ...]
    """Heads that share keys and values."""
    query: tuple[tuple[Row, ...], ...]
    """Per head, the rows of its query, a row per dimension."""
    key: tuple[tuple[Row, ...], ...]
    """Per group."""
    value: tuple[tuple[Row, ...], ...]
    """Per group."""


@dataclass(frozen=True)
class UnitRows:
    """The units of a model, and where they are."""

    layers: tuple[FeedForward, ...]
    inside: tuple[Inside, ...]

    @property
    def units(self) -> UnitMap:
        """The map of the units."""
        neurons: dict[tuple[str | None, int], int] = {}
        for layer in self.layers:
            neurons[layer.stack, layer.layer] = neurons.get((layer.stack, layer.layer), 0) + len(layer.rows)
        qk = {head: len(found.query[head.head]) for found in self.inside for head in _heads(found.site)}
        vo = {head: found.site.width for found in self.inside for head in _heads(found.site)}
        return UnitMap(neurons, {head: count for head, count in qk.items() if count}, vo)


def _heads(site: Site) -> list[Head]:
    return [Head(site.layer, head, site.stack) for head in range(site.heads)]


def unit_rows(model: ModelUnderTest) -> UnitRows:
    """Find the units of a model: those that have rows of their own. The model is left as it was."""
    sample = model.sample()
    places: dict[str, tuple[str | None, int]] = {}
    for found in blocks(model) if model.sites else ():
        places |= {f"{found.path}.{layer}.": (found.stack, layer) for layer in range(found.count)}
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), model.exactly(None), torch.enable_grad()):
            stack.enter_context(context)
        maps = dict(zip(model.sites, row_maps(model.model, model.sites, sample), strict=True))
        search = _Search(model.model, maps, places)
        stack.enter_context(search.prepared())
        model.model(**sample)
    apart = [
        site for site in model.sites if why_not_cut(site, maps[site].feeds, site.name in model.check.joint) is None
    ]
    inside = [search.inside[id(site)] for site in apart if id(site) in search.inside]
    return UnitRows(tuple(layer for layer in search.layers.values() if layer), tuple(inside))


@dataclass
class _Search:
    """One forward pass in which every linear map's output is a variable."""

    model: nn.Module
    maps: Mapping[Site, RowMap]
    places: Mapping[str, tuple[str | None, int]]
    """Prefixes of module paths inside the layers."""
    variables: list[tuple[str, Tensor]] = field(default_factory=list)
    layers: dict[str, FeedForward | None] = field(default_factory=dict)
    inside: dict[int, Inside] = field(default_factory=dict)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The hooks in place."""
        attention = {feed.name for found in self.maps.values() for feed in found.feeds}
        attention |= {site.name for site in self.maps}
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                if not is_linear(module):
                    continue
                place = next((place for prefix, place in self.places.items() if name.startswith(prefix)), None)
                if place is not None and name not in attention:
                    hook = module.register_forward_pre_hook(self._neurons(name, place))
                    stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(self._cut(name)).remove)
            for site in self.maps:
                hook = site.projection.register_forward_pre_hook(self._dimensions(site), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _cut(self, name: str) -> Any:
        def cut(module: nn.Module, args: Any, result: Any) -> Any:
            if not isinstance(result, Tensor):
                return None
            variable = variable_of(module, result)
            self.variables.append((name, variable))
            return variable.clone()

        return cut

    # -- neurons -------------------------------------------------------------------------------------------------------

    def _neurons(self, name: str, place: tuple[str | None, int]) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            if name in self.layers or not args or not isinstance(args[0], Tensor) or not args[0].requires_grad:
                return
            rows = self._elementwise(args[0])
            self.layers[name] = None if rows is None else FeedForward(*place, name, rows)

        return look

    def _elementwise(self, inputs: Tensor) -> tuple[tuple[Row, ...], ...] | None:
        """Per number of the input the rows that it alone is made of; None where rows feed several."""
        count = inputs.shape[-1]
        codes = self._codes(inputs, torch.arange(count), count)
        if codes is None:
            return None
        rows: list[list[Row]] = [[] for _ in range(count)]
        for name, owners in codes.items():
            if len(owners) % count or any(owner not in (-1, i % count) for i, owner in enumerate(owners)):
                return None  # in order: a row that nothing was heard of (a neuron that is off) has its place too
            for row in range(len(owners)):
                rows[row % count].append((name, row))
        return tuple(map(tuple, rows)) if codes else None

    def _codes(self, inputs: Tensor, places: Tensor, count: int) -> dict[str, list[int]] | None:
        """Per module that feeds `inputs`, the one place that each row feeds, -1 for none; None where one feeds several.

        `places` numbers the last axis of `inputs`.
        """
        weights = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0)).to(inputs.device, inputs.dtype)
        found: dict[str, Any] = {}
        silent: dict[str, Tensor] = {}
        for digit in range(max(1, (count - 1).bit_length())):
            ones, zeros = (
                self._used(inputs, weights * (((places >> digit) & 1) == bit).to(inputs.device, inputs.dtype))
                for bit in (1, 0)
            )
            for name in ones:
                if bool((ones[name] & zeros[name]).any()):
                    return None
                found[name] = found.get(name, torch.zeros_like(ones[name], dtype=torch.long)) + (
                    ones[name].long() << digit
                )
                silent[name] = silent.get(name, torch.ones_like(ones[name])) & ~ones[name] & ~zeros[name]
        return {
            name: torch.where(silent[name], -1, code).tolist()
            for name, code in found.items()
            if not bool(silent[name].all())
        }

    def _used(self, inputs: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Per module, the rows by which the weighted sum has a derivative."""
        tensors = [variable for _, variable in self.variables]
        if not tensors:
            return {}
        slopes: Sequence[Tensor | None] = torch.autograd.grad(
            (inputs * weights).sum(), tensors, retain_graph=True, allow_unused=True
        )
        used: dict[str, Tensor] = {}
        for (name, variable), slope in zip(self.variables, slopes, strict=True):
            rows = torch.zeros(variable.shape[-1], dtype=torch.bool)
            if slope is not None:
                rows = slope.ne(0).reshape(-1, variable.shape[-1]).any(0).cpu()
            used[name] = used[name] | rows if name in used else rows
        return used

    # -- dimensions ----------------------------------------------------------------------------------------------------

    def _dimensions(self, site: Site) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            context = site.context(args, kwargs)
            if id(site) in self.inside or site.feature_axis != -1 or not context.requires_grad:
                return
            found = self._inside(site, context)
            if found is not None:
                self.inside[id(site)] = found

        return look

    def _inside(self, site: Site, context: Tensor) -> Inside | None:
        groups = groups_of(site, self.maps[site].feeds)
        every = frozenset(range(site.heads))
        owners = {(feed.name, row): own for feed in self.maps[site].feeds for row, own in enumerate(feed.owners) if own}
        if groups is not None and all(own == every for own in owners.values() if len(own) > 1):
            shared = [own for own in owners.values() if len(own) > 1]
            groups = (every,) if shared and site.kv_heads == 1 else groups
        if groups is None or site.width < 2:
            return None
        dimension = self._value_dimensions(site, context)
        query = self._query_rows(context)
        values: dict[tuple[int, int], Row] = {}
        rest: dict[Row, frozenset[int]] = {}
        for row, own in owners.items():
            place = dimension.get(row[0], {}).get(row[1])
            if place is None:
                rest[row] = own
                continue
            group = next((i for i, heads in enumerate(groups) if own <= heads), -1)
            if group < 0 or values.setdefault((group, place), row) != row:
                return None
        if len(values) != len(groups) * site.width:
            return None  # values are made of other numbers than one row each: shared with keys, or mixed
        value = tuple(tuple(values[group, place] for place in range(site.width)) for group in range(len(groups)))
        queries, keys = self._apart(site, groups, rest, query)
        return Inside(site, groups, queries, keys, value)

    def _apart(
        self, site: Site, groups: Sequence[frozenset[int]], rest: Mapping[Row, frozenset[int]], query: set[Row]
    ) -> tuple[tuple[tuple[Row, ...], ...], tuple[tuple[Row, ...], ...]]:
        """The rows of queries and of keys, dimension by dimension; none where they do not pair up."""
        queries = tuple(
            tuple(row for row, own in rest.items() if row in query and own == {head}) for head in range(site.heads)
        )
        keys = tuple(tuple(row for row, own in rest.items() if row not in query and own == group) for group in groups)
        sizes = {len(rows) for rows in (*queries, *keys)}
        if len(sizes) != 1 or sum(map(len, (*queries, *keys))) != len(rest):
            return ((),) * site.heads, ((),) * len(groups)
        return queries, keys

    def _value_dimensions(self, site: Site, context: Tensor) -> dict[str, dict[int, int]]:
        """Per module, the rows that feed the same one dimension of heads, and which."""
        places = torch.arange(context.shape[-1]) % site.width
        weights = torch.randn(context.shape, generator=torch.Generator().manual_seed(0))
        weights[..., (site.computed or site.heads) * site.width :] = 0.0
        weights = weights.to(context.device, context.dtype)
        code: dict[str, Any] = {}
        single: dict[str, Tensor] = {}
        for digit in range((site.width - 1).bit_length()):
            ones, zeros = (
                self._used(context, weights * (((places >> digit) & 1) == bit).to(context.device, context.dtype))
                for bit in (1, 0)
            )
            for name in ones:
                code[name] = code.get(name, torch.zeros_like(ones[name], dtype=torch.long)) + (
                    ones[name].long() << digit
                )
                single[name] = single.get(name, torch.ones_like(ones[name])) & (ones[name] ^ zeros[name])
        return {name: {row: int(code[name][row]) for row in single[name].nonzero().flatten().tolist()} for name in code}

    def _query_rows(self, context: Tensor) -> set[Row]:
        """The rows by which one token's context depends on itself alone: not those of keys, which others have too."""
        tensors = [variable for _, variable in self.variables]
        if context.ndim < 3:
            return set()
        last = torch.randn(context.shape[-1], generator=torch.Generator().manual_seed(1))
        own = (context[:, -1] * last.to(context.device, context.dtype)).sum()
        slopes: Sequence[Tensor | None] = torch.autograd.grad(own, tensors, retain_graph=True, allow_unused=True)
        found: set[Row] = set()
        for (name, _), slope in zip(self.variables, slopes, strict=True):
            if slope is None or slope.ndim < 3:
                continue
            used = slope.ne(0).reshape(-1, *slope.shape[-2:]).any(0)  # (tokens, rows)
            alone = (used.sum(0) == 1) & used[-1]
            found |= {(name, row) for row in alone.nonzero().flatten().tolist()}
        return found
