"""Heads, head maps, head masks and head scores: immutable values that know nothing of models or pytest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pytest_bertology.errors import (
    InvalidArgument,
    InvalidGate,
    InvalidMaskFile,
    InvalidScores,
    MaskOfAnotherModel,
    NotAHead,
    UndefinedScore,
    UnknownHead,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MASK_SCHEMA = "pytest-bertology head mask 1"


class Head(NamedTuple):
    """One attention head: `Head(2, 4)` is head 4 of layer 2, both counted from 0.

    `stack` tells the attention stacks of encoder-decoder models apart: "encoder", "decoder" or "cross". A head
    without a stack equals the plain tuple (2, 4).
    """

    layer: int
    head: int
    stack: str | None = None

    def __str__(self) -> str:
        name = f"L{self.layer}H{self.head}"
        return f"{self.stack}.{name}" if self.stack else name

    def __repr__(self) -> str:
        return f"Head({', '.join(map(repr, self._key))})"

    def __eq__(self, other: object) -> bool:
        return self._key == (other._key if isinstance(other, Head) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return tuple(self) if self.stack else (self.layer, self.head)


HeadLike: TypeAlias = "Head | tuple[int, int] | tuple[int, int, str]"


def as_head(value: HeadLike) -> Head:
    """Read a head from a `Head` or a plain (layer, head) or (layer, head, stack) tuple.

    Raises NotAHead for anything else.
    """
    if isinstance(value, Head):
        return value
    if not isinstance(value, tuple | list) or len(value) not in (2, 3):
        raise NotAHead(value)
    layer, head, stack = (*value, None)[:3]
    if not (_whole(layer) and _whole(head)) or not isinstance(stack, str | None):
        raise NotAHead(value)
    return Head(int(layer), int(head), stack or None)


def _whole(value: object) -> bool:
    """Whether a value is a whole number of any kind, NumPy's among them."""
    return isinstance(value, Integral) and not isinstance(value, bool)


class Layer(NamedTuple):
    """One attention layer of a head map: which it is and how many heads it has."""

    stack: str | None
    layer: int
    heads: int


class HeadMap(Collection[Head]):
    """The heads of a model, in order: `HeadMap([12, 12])`, or `HeadMap({"encoder": [8], "decoder": [8]})`.

    `len`, iteration and `in` work on heads; plain tuples are accepted. Layers may have different numbers of heads.
    """

    def __init__(self, per_layer: Sequence[int] | Mapping[str, Sequence[int]]) -> None:
        stacks = per_layer.items() if isinstance(per_layer, Mapping) else [(None, per_layer)]
        self.layers = tuple(
            Layer(stack, index, int(count)) for stack, counts in stacks for index, count in enumerate(counts)
        )
        self._heads = tuple(
            Head(layer.layer, head, layer.stack) for layer in self.layers for head in range(layer.heads)
        )
        self._index = {head: position for position, head in enumerate(self._heads)}

    @property
    def per_layer(self) -> tuple[int, ...]:
        """How many heads each of `layers` has."""
        return tuple(layer.heads for layer in self.layers)

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[Head]:
        return iter(self._heads)

    def __contains__(self, head: object) -> bool:
        try:
            return as_head(head) in self._index  # type: ignore[arg-type]
        except NotAHead:
            return False

    def __getitem__(self, position: int) -> Head:
        return self._heads[position]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadMap) and self.layers == other.layers

    def __hash__(self) -> int:
        return hash(self.layers)

    def __repr__(self) -> str:
        return f"HeadMap({self.describe()})"

    def index(self, head: HeadLike) -> int:
        """The position of `head` in this map; raises UnknownHead where it is not one of its heads."""
        found = as_head(head)
        try:
            return self._index[found]
        except KeyError:
            raise UnknownHead(found, self) from None

    def select(self, heads: Iterable[HeadLike]) -> tuple[Head, ...]:
        """These heads, each once, in the map's order; raises UnknownHead or NotAHead."""
        if isinstance(heads, Head) or not isinstance(heads, Iterable):
            raise NotAHead(heads)
        return tuple(self._heads[position] for position in sorted({self.index(head) for head in heads}))

    def describe(self) -> str:
        """One line a person understands: `6 layers of 12 heads`."""
        stacks: dict[str | None, list[int]] = {}
        for layer in self.layers:
            stacks.setdefault(layer.stack, []).append(layer.heads)
        if not stacks:
            return "no heads"
        return "; ".join((f"{stack}: " if stack else "") + _describe_layers(counts) for stack, counts in stacks.items())

    def to_jsonable(self) -> list[int] | dict[str, list[int]]:
        """The counts this map is made from, as plain lists."""
        if any(layer.stack for layer in self.layers):
            stacks: dict[str, list[int]] = {}
            for layer in self.layers:
                stacks.setdefault(str(layer.stack), []).append(layer.heads)
            return stacks
        return list(self.per_layer)


def _describe_layers(counts: Sequence[int]) -> str:
    """`6 layers of 12 heads`, or the counts where they differ."""
    layers = f"{len(counts)} layer{'s' if len(counts) != 1 else ''}"
    if len(set(counts)) == 1:
        return f"{layers} of {counts[0]} head{'s' if counts[0] != 1 else ''}"
    return f"{layers} of {', '.join(map(str, counts))} heads"


@dataclass(frozen=True, repr=False)
class HeadMask:
    """A gate in [0, 1] for every head of a map: 1 as trained, 0 masked. Hashable.

    `a | b` masks what either masks, `a & b` what both mask, `a - b` what `a` masks and `b` does not, `~a` the other
    heads; `a <= b` holds where `b` masks at least what `a` does.
    """

    heads: HeadMap
    gates: tuple[float, ...]

    def __post_init__(self) -> None:
        gates = tuple(float(gate) for gate in self.gates)
        object.__setattr__(self, "gates", gates)
        if len(gates) != len(self.heads):
            raise InvalidGate(f"{len(gates)} of them", f"one for each of {len(self.heads)} heads")
        for head, gate in zip(self.heads, gates, strict=True):
            if not 0.0 <= gate <= 1.0:
                raise InvalidGate(f"{gate} for {head}", "a number from 0 to 1")

    @classmethod
    def keep_all(cls, heads: HeadMap) -> HeadMask:
        """The mask that masks nothing."""
        return cls(heads, (1.0,) * len(heads))

    @classmethod
    def without(cls, heads: HeadMap, masked: Iterable[HeadLike]) -> HeadMask:
        """The mask that masks these heads; raises UnknownHead for one the map does not have."""
        gone = set(heads.select(masked))
        return cls(heads, tuple(0.0 if head in gone else 1.0 for head in heads))

    @classmethod
    def only(cls, heads: HeadMap, kept: Iterable[HeadLike]) -> HeadMask:
        """The mask that keeps these heads and masks all others."""
        return ~cls.without(heads, kept)

    @property
    def masked(self) -> tuple[Head, ...]:
        """The heads whose gate is 0, in the map's order."""
        return tuple(head for head, gate in zip(self.heads, self.gates, strict=True) if gate == 0.0)

    @property
    def touched(self) -> tuple[Head, ...]:
        """The heads whose gate is not 1: masked, or damped."""
        return tuple(head for head, gate in zip(self.heads, self.gates, strict=True) if gate != 1.0)

    @property
    def fraction_masked(self) -> float:
        """Masked heads as a share of all heads."""
        return len(self.masked) / len(self.heads) if len(self.heads) else 0.0

    def gate(self, head: HeadLike) -> float:
        """The gate of one head."""
        return self.gates[self.heads.index(head)]

    def __or__(self, other: HeadMask) -> HeadMask:
        return NotImplemented if not isinstance(other, HeadMask) else self._combine(other, min)

    def __and__(self, other: HeadMask) -> HeadMask:
        return NotImplemented if not isinstance(other, HeadMask) else self._combine(other, max)

    def __sub__(self, other: HeadMask) -> HeadMask:
        return NotImplemented if not isinstance(other, HeadMask) else self & ~other

    def __invert__(self) -> HeadMask:
        return HeadMask(self.heads, tuple(1.0 - gate for gate in self.gates))

    def __le__(self, other: HeadMask) -> bool:
        return self._combine(other, min) == other

    def __ge__(self, other: HeadMask) -> bool:
        return other <= self

    def __repr__(self) -> str:
        damped = len(self.touched) - len(self.masked)
        names = " ".join(map(str, self.masked)) or "none"
        return f"HeadMask(masked: {names}{f'; damped: {damped}' if damped else ''}; of {self.heads.describe()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis prints a failing test's arguments field by field where it is not told otherwise.
        printer.text(repr(self))

    def to_json(self) -> str:
        """This mask as JSON text that a person can read and a diff can show."""
        damped = {str(h): g for h, g in zip(self.heads, self.gates, strict=True) if g not in (0.0, 1.0)}
        content: dict[str, Any] = {
            "schema": _MASK_SCHEMA,
            "heads": self.heads.to_jsonable(),
            "masked": [list(head) if head.stack else [head.layer, head.head] for head in self.masked],
        }
        if damped:
            content["gates"] = damped
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, heads: HeadMap | None = None, source: str = "the text") -> HeadMask:
        """Read what `to_json` wrote; with `heads`, insist that the mask is for a model with those heads.

        Raises InvalidMaskFile, MaskOfAnotherModel or UnknownHead.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidMaskFile(source, f"it is not JSON ({error})") from None
        if not isinstance(content, dict) or not isinstance(content.get("masked"), list) or "heads" not in content:
            raise InvalidMaskFile(source, 'it must be an object with "heads" and "masked"')
        if content.get("schema", _MASK_SCHEMA) != _MASK_SCHEMA:
            raise InvalidMaskFile(source, f"its schema is {content['schema']!r}; this version reads {_MASK_SCHEMA!r}")
        own = _read_head_map(content["heads"], source)
        if heads is not None and own != heads:
            raise MaskOfAnotherModel(own.describe(), heads.describe(), source)
        try:
            mask = cls.without(own, content["masked"])
        except NotAHead as error:
            raise InvalidMaskFile(source, f'"masked" must list [layer, head] pairs; {error.value!r} is none') from None
        damped = content.get("gates", {})
        if not isinstance(damped, dict) or not all(isinstance(gate, int | float) for gate in damped.values()):
            raise InvalidMaskFile(source, '"gates" must map head names such as "L2H4" to numbers')
        unknown = set(damped) - {str(head) for head in own}
        if unknown:
            raise InvalidMaskFile(source, f'"gates" names heads the mask does not have: {sorted(unknown)}')
        twice = sorted(set(damped) & set(map(str, mask.masked)))
        if twice:
            raise InvalidMaskFile(source, f'"masked" and "gates" name the same heads: {twice}')
        try:
            return cls(own, tuple(damped.get(str(h), g) for h, g in zip(own, mask.gates, strict=True)))
        except InvalidGate as error:
            raise InvalidMaskFile(source, str(error)) from None

    def _combine(self, other: HeadMask, choose: Callable[[float, float], float]) -> HeadMask:
        if self.heads != other.heads:
            raise MaskOfAnotherModel(other.heads.describe(), self.heads.describe())
        return HeadMask(self.heads, tuple(map(choose, self.gates, other.gates)))


def _read_head_map(counts: object, source: str) -> HeadMap:
    stacks = counts.values() if isinstance(counts, dict) else [counts]
    for stack in stacks:
        if not isinstance(stack, list) or not all(isinstance(n, int) and n >= 0 for n in stack):
            raise InvalidMaskFile(source, '"heads" must be the number of heads of each layer, for example [12, 12]')
    return HeadMap(counts)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """One finite number per head, and the method it comes from; the greatest is the most important."""

    values: npt.NDArray[np.float64] = field()
    """One value per head, in the map's order."""
    heads: HeadMap = field()
    method: str = field()

    def __post_init__(self) -> None:
        import numpy as np

        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(self.heads),):
            raise InvalidScores(f"an array of shape {values.shape}", f"one number for each of {len(self.heads)} heads")
        if not np.isfinite(values).all():
            bad = [str(head) for head, value in zip(self.heads, values, strict=True) if not math.isfinite(value)]
            raise InvalidScores(f"NaN or infinity for {', '.join(bad[:8])}", "finite")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __getitem__(self, head: HeadLike) -> float:
        return float(self.values[self.heads.index(head)])

    def __len__(self) -> int:
        return len(self.heads)

    def __repr__(self) -> str:
        top = ", ".join(f"{head} {self[head]:.3g}" for head in self.top(min(5, len(self))))
        return f"HeadScores({self.method}: {top}{' …' if len(self) > 5 else ''}; {self.heads.describe()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis prints a failing test's arguments field by field where it is not told otherwise.
        printer.text(repr(self))

    @cached_property
    def ranking(self) -> tuple[Head, ...]:
        """All heads, the most important first; equal scores in the map's order."""
        import numpy as np

        return tuple(self.heads[int(i)] for i in np.argsort(-self.values, kind="stable"))

    @cached_property
    def _ranks(self) -> dict[Head, int]:
        return {head: rank for rank, head in enumerate(self.ranking)}

    def top(self, k: int) -> list[Head]:
        """The `k` most important heads, the most important first."""
        return list(self.ranking[: self._count(k)])

    def bottom(self, k: int) -> list[Head]:
        """The `k` least important heads, the least important first."""
        return list(self.ranking[::-1][: self._count(k)])

    def rank(self, head: HeadLike) -> int:
        """How many heads are more important: 0 for the most important."""
        return self._ranks[self.heads[self.heads.index(head)]]

    def normalized(self, per_layer: bool = True, min_max: bool = True) -> HeadScores:
        """Divide each layer by its L2 norm, then bring all scores to [0, 1] (Michel et al. 2019, section 4).

        A layer of zeros stays zero; where all scores are equal, min-max makes them all 0.
        """
        import numpy as np

        values = self.values.copy()
        if per_layer:
            start = 0
            for count in self.heads.per_layer:
                norm = float(np.linalg.norm(values[start : start + count]))
                if norm > 0.0:
                    values[start : start + count] /= norm
                start += count
        if min_max and len(values):
            spread = values.max() - values.min()
            values = (values - values.min()) / spread if spread > 0.0 else np.zeros_like(values)
        return HeadScores(values, self.heads, self.method)

    def rank_correlation(self, other: HeadScores) -> float:
        """Spearman's rank correlation with scores of the same heads, ties sharing their mean rank.

        Raises MaskOfAnotherModel where the heads differ, UndefinedScore where all scores of one side are equal.
        """
        import numpy as np

        if self.heads != other.heads:
            raise MaskOfAnotherModel(other.heads.describe(), self.heads.describe())
        ours, theirs = _mean_ranks(self.values), _mean_ranks(other.values)
        for scores, ranks in ((self, ours), (other, theirs)):
            if len(ranks) < 2 or ranks.std() == 0.0:
                raise UndefinedScore("the rank correlation", f"all {scores.method} scores are equal")
        return float(np.clip(np.corrcoef(ours, theirs)[0, 1], -1.0, 1.0))

    def to_numpy(self) -> npt.NDArray[np.float64]:
        """A new array (layers, heads), NaN where a layer has fewer heads than the widest."""
        import numpy as np

        counts = self.heads.per_layer
        table = np.full((len(counts), max(counts, default=0)), np.nan)
        start = 0
        for row, count in enumerate(counts):
            table[row, :count] = self.values[start : start + count]
            start += count
        return table

    def _count(self, k: int) -> int:
        if not _whole(k) or not 0 <= k <= len(self.heads):
            raise InvalidArgument("k", k, f"a whole number from 0 to {len(self.heads)}, the number of heads")
        return int(k)


def _mean_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0, equal values sharing the mean of theirs."""
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: npt.NDArray[np.float64] = ends - (counts + 1) / 2
    return means[inverse]
