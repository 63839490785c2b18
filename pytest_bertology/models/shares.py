"""What one head gives to its projection's output, and the examples of a batch apart in what a projection sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_bertology.errors import InvalidGate
from pytest_bertology.models.sites import Site


@dataclass
class Seen:
    """What one call of a projection received before its gate and behind it, and what it returned."""

    offered: Tensor
    received: Tensor | None = None
    returned: Tensor | None = None


@dataclass(frozen=True)
class Row:
    """One example of a batch of `rows`, in what a projection receives or returns."""

    site: Site
    row: int
    rows: int

    def of(self, tensor: Tensor) -> Tensor:
        """(…, features) of this example alone."""
        return by_row(self.site, tensor, self.rows)[self.row]


def by_row(site: Site, tensor: Tensor, rows: int) -> Tensor:
    """(rows, …, features): the examples of a batch apart."""
    tensor = tensor.movedim(site.feature_axis, -1)
    if rows == 1:
        return tensor.unsqueeze(0)
    tensor = tensor.movedim(site.batch_axis, 0)
    if tensor.shape[0] != rows and (not site.flattened or tensor.shape[0] % rows):
        raise InvalidGate(f"{rows} examples", f"examples apart at {site.name}, which receives {tuple(tensor.shape)}")
    return tensor.reshape(rows, -1, *tensor.shape[1:])


def first_row(rows: int, site: Site, index: int, offered: Tensor) -> Tensor:
    """What the first example has, for every example."""
    moved = offered.movedim(site.feature_axis, -1).movedim(site.batch_axis, 0)
    first = by_row(site, offered, rows)[:1]
    same = first.expand(rows, *first.shape[1:]).reshape(moved.shape)
    return same.movedim(0, site.batch_axis).movedim(-1, site.feature_axis).contiguous()


def share_of(site: Site, head: int, offered: Tensor, row: Row) -> Tensor:
    """What this head alone adds to the projection's output in one row: its context times its columns."""
    read = site.slice(head)
    weight = getattr(site.projection, "weight", None)
    if isinstance(weight, Tensor) and not weight.is_meta:
        if type(site.projection) is nn.Linear:
            return torch.matmul(row.of(offered)[..., read], weight[:, read].T)
        if isinstance(site.projection, Conv1D):
            return torch.matmul(row.of(offered)[..., read], weight[read])
    alone = torch.zeros_like(offered)
    alone.movedim(site.feature_axis, -1)[..., read] = offered.movedim(site.feature_axis, -1)[..., read]
    forward = site.projection.forward
    return row.of(first_result(forward(alone)) - first_result(forward(torch.zeros_like(alone))))


def adds_up(module: nn.Module) -> bool:
    """Whether a module is known to be linear, so that its output is the sum of the heads' shares."""
    return type(module) is nn.Linear or isinstance(module, Conv1D)


def first_result(result: Any) -> Tensor:
    """A module's result, or the first of several."""
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


def tolerance(dtype: torch.dtype) -> float:
    """How far a sum of shares may be from the whole, in units of the larger, by rounding alone."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 5e-2)
