"""Which rows of which projections feed each head: what would have to go with it if it were cut out.

Found by gradients, without a table of layouts: every linear module's output is made a variable of its own, so that a
head's context depends on the nearest projections alone (query, key, value, fused or not), and the numbers of theirs
by which it has a derivative are its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_bertology.models.modules import is_linear
from pytest_bertology.models.sites import Site


@dataclass(frozen=True)
class Feed:
    """The rows of one module that feed the heads of one site."""

    name: str
    """Module path."""
    owners: tuple[frozenset[int], ...]
    """Per output row, the heads that it feeds."""

    def rows(self, head: int) -> tuple[int, ...]:
        """The rows that feed `head`."""
        return tuple(row for row, heads in enumerate(self.owners) if head in heads)


def feeds(model: PreTrainedModel, sites: Sequence[Site], sample: Mapping[str, Any]) -> list[tuple[Feed, ...]]:
    """Per site, the projections that feed its heads, by the first call of its projection."""
    names = {id(module): name for name, module in model.named_modules()}
    variables: list[tuple[nn.Module, Tensor]] = []
    found: dict[int, tuple[Feed, ...]] = {}

    def cut(module: nn.Module, args: Any, result: Any) -> Any:
        variable = result.detach().requires_grad_()
        variables.append((module, variable))
        return variable.clone()

    def reader(site: Site) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if id(site) not in found:
                found[id(site)] = _feeds(site, site.context(args, kwargs), variables, names)

        return read

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for module in model.modules():
            if is_linear(module):
                stack.callback(module.register_forward_hook(cut).remove)
        for site in sites:
            stack.callback(site.projection.register_forward_pre_hook(reader(site), with_kwargs=True).remove)
        model(**sample)
    return [found[id(site)] for site in sites]


def why_not_cut(site: Site, feed: Sequence[Feed], joint: bool) -> str | None:
    """Why the heads of a site cannot be cut out one by one, as far as its rows tell; None where they can."""
    if hasattr(site.projection, "_packed_params"):
        return "its weights are quantised"
    if joint or not is_linear(site.projection):
        return f"its heads are read by a {type(site.projection).__name__}, which does not take them one by one"
    if site.features != site.heads * site.width:
        return "its projection reads other numbers beside the heads"
    alone = [sum(owners == {head} for part in feed for owners in part.owners) for head in range(site.heads)]
    if min(alone, default=0) == 0:
        return "no rows belong to one head alone: heads are normalised or computed together"
    groups = {owners for part in feed for owners in part.owners if len(owners) > 1}
    if any(a & b and not (a <= b or b <= a) for a in groups for b in groups):
        return "the groups of heads that share rows overlap"
    return None


def kv_heads(site: Site, feed: Sequence[Feed]) -> int:
    """Key-value heads: as the interface showed them, else as many as there are groups of heads that share rows."""
    if site.kv_heads:
        return site.kv_heads
    owners = [heads for part in feed for heads in part.owners if heads]
    groups = {heads for heads in owners if len(heads) > 1}
    own = sum(len(heads) == 1 for heads in owners) / site.heads
    # Rows of one head alone are its query's, and where there are more of them its key's and value's too.
    return len(groups) if groups and own < 2 * site.width else site.heads


def _feeds(
    site: Site, context: Tensor, variables: Sequence[tuple[nn.Module, Tensor]], names: Mapping[int, str]
) -> tuple[Feed, ...]:
    """The gradient of each head's context by every variable; those of no head are left out."""
    context = context.movedim(site.feature_axis, -1)
    weights = torch.randn(context.shape, generator=torch.Generator().manual_seed(0)).to(context.device, context.dtype)
    tensors = [variable for _, variable in variables]
    owners: list[list[set[int]]] = [[set() for _ in range(tensor.shape[-1])] for tensor in tensors]
    for head in range(site.heads):
        own = (context * weights)[..., site.slice(head)].sum()
        if not own.requires_grad or not tensors:
            continue
        for index, slope in enumerate(torch.autograd.grad(own, tensors, retain_graph=True, allow_unused=True)):
            if slope is not None:
                for row in slope.flatten(0, -2).ne(0).any(0).nonzero().flatten().tolist():
                    owners[index][row].add(head)
    return tuple(
        Feed(names[id(module)], tuple(map(frozenset, rows)))
        for (module, _), rows in zip(variables, owners, strict=True)
        if any(rows)
    )
