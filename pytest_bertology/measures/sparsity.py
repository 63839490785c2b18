"""How many weights of a model's linear maps are zero, one by one, in blocks or in groups, and whether they stay so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from pytest_bertology.errors import InvalidArgument, NonFinite, NothingToJudge
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.weights import has_nan, module_weights
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.modules import is_linear

_SPARSE = 0.001
"""A share of zeros below which they are there by accident."""
Pattern: TypeAlias = "str | tuple[int, int]"
"""What is counted: "unstructured", (rows, columns) of a block, or "2:4"."""

_PATTERNS = '"unstructured", "2:4", or the rows and columns of a block, such as (32, 32)'


@dataclass(frozen=True)
class Counted:
    """One weight matrix, or all of them: how much of it is as it must be."""

    name: str
    sparse: int
    """Zeros, blocks of zeros, or groups of four with two zeros."""
    total: int
    """Numbers, blocks or groups."""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.sparse / self.total


@dataclass(frozen=True, repr=False)
class Sparsity:
    """How sparse the weight matrices of a model are."""

    pattern: Pattern
    matrices: tuple[Counted, ...]
    """By full name, in the model's order."""

    def __repr__(self) -> str:
        return f"Sparsity({self.share:.4f} {self.unit}, {len(self.matrices)} matrices)"

    @property
    def sparse(self) -> int:
        """Of all matrices together."""
        return sum(matrix.sparse for matrix in self.matrices)

    @property
    def total(self) -> int:
        """Of all matrices together."""
        return sum(matrix.total for matrix in self.matrices)

    @property
    def share(self) -> float:
        """Of all matrices together, so that a large one weighs more than a small one."""
        return self.sparse / self.total

    @property
    def unit(self) -> str:
        """What is counted, in words."""
        if self.pattern == "unstructured":
            return "zeros"
        return "2:4 groups" if self.pattern == "2:4" else "zero blocks of {}×{}".format(*self.pattern)


@dataclass(frozen=True, repr=False)
class ZeroPattern:
    """What became of the zeros of one model's weight matrices in another's."""

    before: Sparsity
    after: Sparsity
    revived: tuple[Counted, ...]
    """Of each matrix with zeros before: how many of them (`total`) are zero no longer (`sparse` counts those)."""

    def __repr__(self) -> str:
        return f"ZeroPattern({self.lost} of {self.zeros} zeros revived)"

    @property
    def zeros(self) -> int:
        """Zeros before."""
        return sum(matrix.total for matrix in self.revived)

    @property
    def lost(self) -> int:
        """Those that are zero no longer."""
        return sum(matrix.sparse for matrix in self.revived)


def sparsity(model: ModelUnderTest, pattern: Pattern = "unstructured", weights: str | None = None) -> Sparsity:
    """Count what is sparse in the weight matrices of a model's linear maps.

    "unstructured" counts zeros, (rows, columns) the blocks of a grid that are zero throughout, rows being outputs and
    columns inputs; "2:4" the groups of four neighbours along the inputs with at least two zeros. For which matrices,
    see `linear_weights`. Raises InvalidArgument for a pattern or a regular expression that does not fit, a matrix that
    blocks or groups do not divide evenly among them: what is ragged at its edge no kernel could leave out.
    """
    pattern = _pattern(pattern)
    found = linear_weights(model, weights)
    return Sparsity(pattern, tuple(_count(name, weight == 0, pattern) for name, weight in found.items()))


def zero_pattern(before: ModelUnderTest, after: ModelUnderTest, weights: str | None = None) -> ZeroPattern:
    """Look up each zero of `before` in `after`: in the matrices of `linear_weights` that have zeros before.

    They are matched by name, without the prefix that the base model has within a model with a head. Raises
    NothingToJudge where `before` has no zeros to speak of, InvalidArgument where `after` lacks a matrix or has it in
    another shape.
    """
    old = linear_weights(before, weights, "before")
    every = {_bare(after, name): weight for name, weight in linear_weights(after, ".", "after").items()}
    revived, kept = [], {}
    for name, weight in old.items():
        other = every.get(_bare(before, name))
        if other is None or other.shape != weight.shape:
            found = f"{after.name}, " + ("none" if other is None else f"shape {tuple(other.shape)}")
            raise InvalidArgument("after", found, f"a model with {name} of shape {tuple(weight.shape)}, as before")
        kept[name] = other
        zero = weight == 0
        if bool(zero.any()):
            revived.append(Counted(name, int((other.to(zero.device)[zero] != 0).sum()), int(zero.sum())))
    if not revived:
        raise NothingToJudge(
            f"no weight of {before.name} is zero before", f"{len(old)} matrices were looked at; prune first."
        )
    sparse = _zeros(old)
    if sparse.share < _SPARSE:
        raise NothingToJudge(
            f"only {sparse.share:.2g} of the weights of {before.name} are zero before",
            f"A model that was made sparse has more, at least {_SPARSE:g}; is it the one before the training?",
        )
    return ZeroPattern(sparse, _zeros(kept), tuple(revived))


def _zeros(matrices: Mapping[str, Tensor]) -> Sparsity:
    counted = (_count(name, weight == 0, "unstructured") for name, weight in matrices.items())
    return Sparsity("unstructured", tuple(counted))


def linear_weights(model: ModelUnderTest, weights: str | None = None, argument: str = "model") -> dict[str, Tensor]:
    """The weight matrices of a model's linear maps (`nn.Linear`, `Conv1D`), (outputs, inputs) each, by full name.

    By default those of the layers that have attention heads, what pruning is about: not embeddings, poolers and task
    heads. `weights`, a regular expression (`re.search`), chooses by full name among all of the model's instead.
    Matrices of experts that are kept together in one tensor are not among them. Shared ones come once. Raises
    InvalidArgument where none is chosen or one is packed into other numbers, NonFinite for NaN.
    """
    check_model(model, argument)
    chosen = None if weights is None else regular_expression("weights", weights)
    stacks = _stacks(model)
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for path, module in model.model.named_modules():
        name = f"{path}.weight".removeprefix(".")
        wanted = chosen.search(name) if chosen else path.startswith(stacks)
        if not wanted or not is_linear(module) or not isinstance(module.weight, Tensor):
            continue
        kept = module._parameters.get("weight")
        if kept is None or id(kept) not in taken:
            taken.add(id(kept))
            found[name] = _checked(model, name, module)
    if not found and weights is not None:
        raise InvalidArgument("weights", weights, "a regular expression found in the name of a linear map's weight")
    if not found:
        expected = "a model whose layers with attention heads have linear maps with weights of their own, not packed"
        raise InvalidArgument(argument, model.name, expected)
    return found


def regular_expression(argument: str, pattern: object) -> re.Pattern[str]:
    """The compiled expression; raises InvalidArgument for what is none."""
    try:
        return re.compile(pattern)  # type: ignore[call-overload,no-any-return]
    except (re.error, TypeError) as error:
        raise InvalidArgument(argument, pattern, f"a regular expression ({error})") from None


def _stacks(model: ModelUnderTest) -> tuple[str, ...]:
    """Path prefixes of the lists of layers that hold attention; where a model has no such list, its base model's."""
    lists = {path for path, module in model.model.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = set()
    for site in model.sites:
        parts = site.name.split(".")
        paths = [".".join(parts[:n]) for n in range(1, len(parts))]
        outermost.update([f"{path}." for path in paths if path in lists][:1])
    prefix = model.model.base_model_prefix
    return tuple(outermost) or (f"{prefix}." if hasattr(model.model, prefix) else "",)


def _bare(model: ModelUnderTest, name: str) -> str:
    """A name as the base model has it."""
    return name.removeprefix(f"{model.model.base_model_prefix}.")


def _checked(model: ModelUnderTest, name: str, module: Any) -> Tensor:
    """A linear map's weight, (outputs, inputs)."""
    weight: Any = module_weights(model.model)[name] if module.weight.is_meta else module.weight.detach()
    if not weight.is_floating_point() or is_traceable_wrapper_subclass(weight):
        raise InvalidArgument("model", f"{name} is packed ({weight.dtype})", "weights kept as floating-point numbers")
    if has_nan(weight):
        raise NonFinite("a weight", name)
    oriented: Tensor = weight.T if isinstance(module, Conv1D) else weight
    return oriented


def _pattern(pattern: Any) -> Pattern:
    if pattern in ("unstructured", "2:4"):
        return str(pattern)
    whole = isinstance(pattern, tuple | list) and all(isinstance(n, int) and not isinstance(n, bool) for n in pattern)
    if not whole or len(pattern) != 2 or min(pattern) < 1:
        raise InvalidArgument("pattern", pattern, _PATTERNS)
    return pattern[0], pattern[1]


def _count(name: str, zero: Tensor, pattern: Pattern) -> Counted:
    """`zero` (outputs, inputs) says which weights are zero."""
    if pattern == "unstructured":
        return Counted(name, int(zero.sum()), zero.numel())
    rows, columns = (1, 4) if isinstance(pattern, str) else pattern
    if zero.shape[0] % rows or zero.shape[1] % columns:
        shape = f"{zero.shape[0]}×{zero.shape[1]}"
        raise InvalidArgument("pattern", pattern, f"one that divides {name}, {shape} (outputs×inputs), evenly")
    blocks = zero.reshape(zero.shape[0] // rows, rows, zero.shape[1] // columns, columns)
    full = blocks.sum(dim=(1, 3)) >= (2 if isinstance(pattern, str) else rows * columns)
    return Counted(name, int(full.sum()), full.numel())
