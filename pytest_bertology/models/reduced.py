"""Linear maps of which a part has been cut out, and where what is left goes.

Where rows are left out and nothing has to be put in their place, a smaller `nn.Linear` does. These modules are for the
rest: outputs that other code still expects (zeros, or one key-value head for several query heads), and inputs that
still arrive with numbers that no column reads any more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

ZERO = -1
"""An output that no row computes."""


class ReducedLinear(nn.Module):
    """A linear map that reads some of the numbers it is given, and writes its own among zeros, or several times."""

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        reads: Sequence[int] | None,
        writes: Sequence[int] | None,
        in_features: int,
    ) -> None:
        """`weight` is (rows, columns); `reads` names the input of each column, `writes` the row of each output."""
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.reads = None if reads is None else tuple(reads)
        self.writes = None if writes is None else tuple(writes)
        self.in_features = in_features
        self.out_features = weight.shape[0] if writes is None else len(writes)
        self._placed: dict[tuple[str, torch.device], Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        if not self.weight.shape[0]:
            return inputs.new_zeros(*inputs.shape[:-1], self.out_features)
        if self.reads is not None:
            inputs = inputs.index_select(-1, self._index("reads", self.reads, inputs.device))
        bias: Any = self.bias
        result = functional.linear(inputs, self.weight, bias)
        if self.writes is None:
            return result
        if ZERO in self.writes:  # the index of a number behind the last
            result = functional.pad(result, (0, 1))
        return result.index_select(-1, self._index("writes", self.writes, result.device))

    def extra_repr(self) -> str:
        """As `nn.Linear` has it, with the rows and columns that are left."""
        rows, columns = self.weight.shape
        return f"in_features={self.in_features} ({columns} read), out_features={self.out_features} ({rows} computed)"

    def _index(self, name: str, values: Sequence[int], device: torch.device) -> Tensor:
        key = (name, device)
        if key not in self._placed:
            rows = self.weight.shape[0]
            with torch.inference_mode(False):
                self._placed[key] = torch.tensor(
                    [rows if v == ZERO else v for v in values], dtype=torch.long, device=device
                )
        return self._placed[key]


def variable_of(module: nn.Module, result: Tensor) -> Tensor:
    """What a linear map returned, as a variable of its own; noise where a reduced map writes zeros.

    For asking what depends on which output: zeros would hide what depends on those they are multiplied with.
    """
    values = result.detach().clone()
    if isinstance(module, ReducedLinear) and module.writes is not None and ZERO in module.writes:
        zeros = [place for place, row in enumerate(module.writes) if row == ZERO]
        noise = torch.randn(*values.shape[:-1], len(zeros), generator=torch.Generator().manual_seed(0))
        values[..., zeros] = noise.to(values.device, values.dtype)
    return values.requires_grad_()


class HeadColumns(nn.Embedding):
    """A table of numbers per head that several layers read, of which this layer uses some heads' columns.

    What it would return for all heads is kept until the layer has run: the layers after it need it whole.
    """

    columns: tuple[int, ...]
    whole: dict[int, Tensor]
    """Per thread."""

    def forward(self, input: Tensor) -> Tensor:
        """(…) to (…, heads left)."""
        whole = super().forward(input)
        self.whole[threading.get_ident()] = whole
        return whole[..., list(self.columns)]


def rows_of(module: nn.Module) -> int:
    """How many numbers a linear map returns."""
    if isinstance(module, Conv1D):
        return int(module.nf)
    return int(module.out_features)  # type: ignore[arg-type]


def keep_rows(module: nn.Module, index: Sequence[int]) -> nn.Module:
    """The linear map whose i-th output is that of `module` at `index[i]`; `ZERO` is zero. May be `module` itself."""
    reads = writes = None
    if isinstance(module, ReducedLinear):
        reads, writes = module.reads, module.writes
    rows = [i if i == ZERO or writes is None else writes[i] for i in index]
    kept = sorted({row for row in rows if row != ZERO})
    place = {row: position for position, row in enumerate(kept)} | {ZERO: ZERO}
    plain = reads is None and rows == kept
    if plain and not isinstance(module, ReducedLinear):
        _slice(module, kept, output=True)
        return module
    weight, bias = _parts(module)
    in_features = module.in_features if isinstance(module, ReducedLinear) else weight.shape[1]
    return ReducedLinear(
        _taken(weight, 0, kept),
        None if bias is None else _taken(bias, 0, kept),
        reads,
        None if rows == kept else [place[row] for row in rows],
        int(in_features),
    ).train(module.training)


def keep_columns(module: nn.Module, index: Sequence[int], reads: Sequence[int] | None, features: int) -> nn.Module:
    """The linear map of the columns `index` of `module`, at the places `reads` of `features` numbers that arrive.

    `reads` None: they arrive alone. May be `module` itself.
    """
    if reads is None and not isinstance(module, ReducedLinear):
        _slice(module, index, output=False)
        return module
    weight, bias = _parts(module)
    writes, columns = None, list(index)
    if isinstance(module, ReducedLinear):
        writes = module.writes
        if module.reads is not None:  # columns are counted as they arrive; some of those were cut before
            stored = {place: column for column, place in enumerate(module.reads)}
            kept = [(stored[i], at) for i, at in zip(index, reads or range(features), strict=True) if i in stored]
            columns, reads = [column for column, _ in kept], [at for _, at in kept]
    return ReducedLinear(_taken(weight, 1, columns), bias, reads, writes, features).train(module.training)


def _parts(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight (rows, columns) and bias."""
    weight: Any = module.weight
    bias: Any = module.bias
    if isinstance(module, Conv1D):
        weight = nn.Parameter(weight.detach().t(), requires_grad=weight.requires_grad)
    return weight, bias


def _taken(parameter: nn.Parameter, axis: int, index: Sequence[int]) -> nn.Parameter:
    at = torch.tensor(list(index), dtype=torch.long, device=parameter.device)
    values = parameter.detach().index_select(axis, at).contiguous()
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _slice(module: Any, index: Sequence[int], *, output: bool) -> None:
    """Leave these rows (outputs) or columns (inputs) of a plain linear map."""
    transposed = isinstance(module, Conv1D)
    module.weight = _taken(module.weight, int(output == transposed), index)
    if output and module.bias is not None:
        module.bias = _taken(module.bias, 0, index)
    if transposed:
        setattr(module, "nf" if output else "nx", len(index))
    else:
        setattr(module, "out_features" if output else "in_features", len(index))
