"""What cutting changes in a model, as plain values: applied to the live model, written to a file, applied again.

Each edit names its module by its path and needs nothing but the module's own shapes, so that it can be applied to a
model that was just built from its configuration and has no weights yet.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pytest_bertology.errors import InvalidPlan
from pytest_bertology.models.reduced import ZERO, HeadColumns, keep_columns, keep_rows


@dataclass(frozen=True)
class Rows:
    """The outputs of a linear map that stay, by their present positions, in their new order; -1 is zero."""

    kind: ClassVar[str] = "rows"
    module: str
    index: tuple[int, ...]

    def apply(self, model: nn.Module) -> None:
        """Put the smaller map in its place."""
        _replace(model, self.module, keep_rows(_linear(model, self.module, self.index), self.index))


@dataclass(frozen=True)
class Columns:
    """The inputs of a linear map that stay; `reads` are their places among the `features` numbers that arrive."""

    kind: ClassVar[str] = "columns"
    module: str
    index: tuple[int, ...]
    reads: tuple[int, ...] | None
    features: int

    def apply(self, model: nn.Module) -> None:
        """Put the smaller map in its place."""
        module = _linear(model, self.module, ())
        _replace(model, self.module, keep_columns(module, self.index, self.reads, self.features))


@dataclass(frozen=True)
class Slices:
    """The slices of a parameter or buffer, along one axis, that stay."""

    kind: ClassVar[str] = "slices"
    tensor: str
    axis: int
    index: tuple[int, ...]

    def apply(self, model: nn.Module) -> None:
        """Put the smaller tensor in its place."""
        path, _, name = self.tensor.rpartition(".")
        module = _module(model, path)
        old = getattr(module, name, None)
        if not isinstance(old, Tensor) or max(self.index, default=0) >= old.shape[self.axis]:
            raise InvalidPlan(f"{self.tensor} has no {max(self.index, default=0) + 1} slices")
        at = torch.tensor(self.index, dtype=torch.long, device=old.device)
        values = old.detach().index_select(self.axis, at)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(values, requires_grad=old.requires_grad)
        else:
            module._buffers[name] = values
        if isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = values.shape


@dataclass(frozen=True)
class Counts:
    """Numbers of heads, and sizes computed from them, that a module keeps as attributes."""

    kind: ClassVar[str] = "counts"
    module: str
    values: tuple[tuple[str, int], ...]

    def apply(self, model: nn.Module) -> None:
        """Set them."""
        module = _module(model, self.module)
        for name, value in self.values:
            if not isinstance(getattr(module, name, None), int):
                raise InvalidPlan(f"{self.module} has no count {name}")
            setattr(module, name, value)


@dataclass(frozen=True)
class Configured:
    """What one module is to read in its configuration instead of what all read."""

    kind: ClassVar[str] = "configured"
    module: str
    values: tuple[tuple[str, int], ...]

    def apply(self, model: nn.Module) -> None:
        """Give the module a view of the configuration that says so."""
        module: Any = _module(model, self.module)
        config = getattr(module, "config", None)
        if config is None:
            raise InvalidPlan(f"{self.module} has no configuration")
        module.config = OwnConfig(config, dict(self.values))


@dataclass(frozen=True)
class Arguments:
    """A tensor with a slice per head that a module is given, of which it is to see these heads' slices."""

    kind: ClassVar[str] = "arguments"
    module: str
    argument: int | str
    axis: int
    of: int
    """How many heads it arrives for; along that axis there may be a multiple (batch * heads)."""
    index: tuple[int, ...]
    returned: int | None = None
    """Its place in what the module returns, where the layers after it are given it from there, whole."""

    def apply(self, model: nn.Module) -> None:
        """Take the slices before the module runs."""
        module = _module(model, self.module)
        take = _Take(self.argument, self.axis, self.of, self.index, keep=self.returned is not None)
        module.register_forward_pre_hook(take, with_kwargs=True)
        if self.returned is not None:
            module.register_forward_hook(_GiveBack(take, self.returned), with_kwargs=True)


@dataclass(frozen=True)
class SharedBias:
    """A position bias that one layer makes for itself and for those after it, of which it uses these heads' columns."""

    kind: ClassVar[str] = "shared bias"
    module: str
    """The attention module that makes it."""
    returned: int
    """Its place in what the module returns, (…, heads, queries, keys)."""
    of: int
    """For how many heads the layers after it need it."""
    index: tuple[int, ...]
    table: str | None = None
    """The embedding of positions, a column per head; None where the bias is the same for all heads."""

    def apply(self, model: nn.Module) -> None:
        """Let the layer use its own columns and hand on all of them."""
        table = None if self.table is None else _module(model, self.table)
        first = not isinstance(table, HeadColumns)
        if table is not None:
            if not isinstance(table, nn.Embedding) or max(self.index) >= table.embedding_dim:
                raise InvalidPlan(f"{self.table} is no table of so many heads")
            columns = table.columns if isinstance(table, HeadColumns) else range(table.embedding_dim)
            table.__class__ = HeadColumns
            vars(table).update(columns=tuple(columns[i] for i in self.index), whole={})
        if first:
            own = None if self.table is None else self.table.removeprefix(f"{self.module}.")
            _module(model, self.module).register_forward_hook(_HandOn(own, self.returned, self.of))


Edit = Rows | Columns | Slices | Counts | Configured | Arguments | SharedBias
_KINDS: dict[str, type[Any]] = {
    cls.kind: cls for cls in (Rows, Columns, Slices, Counts, Configured, Arguments, SharedBias)
}


def apply(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Apply edits in order; raises InvalidPlan where one does not fit the model."""
    for edit in edits:
        try:
            edit.apply(model)
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            raise InvalidPlan(f"{edit.kind} of {edit!r:.120} do not fit the model ({error})") from error


# -- as plain data -----------------------------------------------------------------------------------------------------


def to_jsonable(edit: Edit) -> dict[str, Any]:
    """Plain data; positions as runs, "0-31,64-95"."""
    content: dict[str, Any] = {"edit": edit.kind}
    for name, value in asdict(edit).items():
        if name in ("index", "reads") and value is not None:
            content[name] = _runs(value)
        elif name == "values":
            content[name] = dict(value)
        elif value is not None:
            content[name] = value
    return content


def from_jsonable(content: Mapping[str, Any]) -> Edit:
    """What `to_jsonable` made; raises InvalidPlan."""
    values = dict(content)
    cls = _KINDS.get(str(values.pop("edit", None)))
    if cls is None:
        raise InvalidPlan(f"it holds an unknown edit {content.get('edit')!r}")
    try:
        for name in ("index", "reads"):
            if name in values:
                values[name] = _positions(values[name])
        if cls is Columns:
            values.setdefault("reads", None)
        if "values" in values:
            values["values"] = tuple((str(k), int(v)) for k, v in values["values"].items())
        edit: Edit = cls(**values)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidPlan(f"its edit {content.get('edit')!r} is not what this version writes ({error})") from error
    return edit


def _runs(positions: Sequence[int]) -> str:
    """Runs of consecutive positions; "~3" is three zeros."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == ZERO and runs[-1][0] == ZERO:
            runs[-1][1] += 1
        elif runs and position != ZERO and runs[-1][0] != ZERO and position == runs[-1][1] + 1:
            runs[-1][1] = position
        else:
            runs.append([position, 1 if position == ZERO else position])
    return ",".join(f"~{b}" if a == ZERO else str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _positions(runs: str) -> tuple[int, ...]:
    positions: list[int] = []
    for run in filter(None, runs.split(",")):
        found = re.fullmatch(r"~(\d+)|(\d+)(?:-(\d+))?", run)
        if found is None:
            raise ValueError(f"{run!r} is no run of positions")
        zeros, first, last = found.groups()
        positions += [ZERO] * int(zeros) if zeros else range(int(first), int(last or first) + 1)
    return tuple(positions)


# -- on the live model -------------------------------------------------------------------------------------------------


class OwnConfig:
    """A model's configuration, in which one module reads other numbers; everything else is the model's own."""

    def __init__(self, config: Any, values: Mapping[str, int]) -> None:
        vars(self).update(_config=config, _values=dict(values))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_config", "_values"):
            raise AttributeError(name)
        return self._values[name] if name in self._values else getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, name, value)

    @property
    def whole(self) -> Any:
        """The model's configuration."""
        return self._config.whole if isinstance(self._config, OwnConfig) else self._config

    @property
    def changed(self) -> dict[str, int]:
        """The numbers that are not the model's."""
        inner = self._config.changed if isinstance(self._config, OwnConfig) else {}
        return {**inner, **self._values}

    def of(self, config: Any) -> OwnConfig:
        """The same view of another configuration."""
        inner = self._config.of(config) if isinstance(self._config, OwnConfig) else config
        return OwnConfig(inner, self._values)


class _Take:
    """A pre-hook that takes some heads' slices of an argument."""

    def __init__(self, argument: int | str, axis: int, of: int, index: Sequence[int], *, keep: bool) -> None:
        self.argument, self.axis, self.of, self.index, self.keep = argument, axis, of, tuple(index), keep
        self.whole: dict[int, Tensor] = {}
        """Per thread, the tensor as it arrived."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        value = dict(values).get(self.argument)
        if not isinstance(value, Tensor) or value.shape[self.axis] % self.of:
            return None  # none given; or for all heads the same
        if self.keep:
            self.whole[threading.get_ident()] = value
        whole = value.reshape(*value.shape[: self.axis], -1, self.of, *value.shape[self.axis + 1 :])
        taken = whole.index_select(self.axis + 1, torch.tensor(self.index, device=value.device))
        taken = taken.flatten(self.axis, self.axis + 1)
        if isinstance(self.argument, int):
            return _put(args, self.argument, taken), kwargs
        return args, {**kwargs, self.argument: taken}


class _GiveBack:
    """A hook that returns the tensor whole of which `_Take` took slices."""

    def __init__(self, take: _Take, place: int) -> None:
        self.take, self.place = take, place

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        whole = self.take.whole.pop(threading.get_ident(), None)
        return result if whole is None else _put(result, self.place, whole)


class _HandOn:
    """A hook that gives the layers after this one the position bias of all heads."""

    def __init__(self, table: str | None, place: int, of: int) -> None:
        self.table, self.place, self.of = table, place, of

    def __call__(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        value = result[self.place]
        if not isinstance(value, Tensor):
            return None
        if self.table is None:
            if not bool((value == value[:, :1]).all()):
                raise InvalidPlan("a position bias that should be the same for all heads is not")
            return _put(result, self.place, value[:, :1].expand(-1, self.of, -1, -1))
        table: Any = module.get_submodule(self.table)
        whole = table.whole.pop(threading.get_ident(), None)
        if whole is None:
            return None
        whole = whole.movedim(-1, 0).unsqueeze(0)
        own = whole[:, list(table.columns)]
        # A padding mask may have been added to it, the same for all heads.
        return _put(result, self.place, whole + (value[:, :1] - own[:, :1]))


def _put(result: Any, place: int, value: Tensor) -> tuple[Any, ...]:
    return (*result[:place], value, *result[place + 1 :])


def hands_on(module: nn.Module) -> bool:
    """Whether a module of a cut model hands a position bias on whole already."""
    return any(isinstance(hook, _GiveBack | _HandOn) for hook in module._forward_hooks.values())


def is_own_hook(hook: object) -> bool:
    """Whether a hook belongs to a cut model itself, and not to someone who changes what it computes."""
    return isinstance(hook, _Take | _GiveBack | _HandOn)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise InvalidPlan(f"the model has no module {path}") from None


def _linear(model: nn.Module, path: str, index: Sequence[int]) -> nn.Module:
    module = _module(model, path)
    if not isinstance(getattr(module, "weight", None), Tensor):
        raise InvalidPlan(f"{path} has no weight")
    return module


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    old = model.get_submodule(path)
    if module is old:
        return
    for parent in list(model.modules()):  # wherever layers share it
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = module
