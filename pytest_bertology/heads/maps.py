"""One head, and the map of all heads of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

from pytest_bertology.errors import NotAHead, UnknownHead


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
    if not (is_whole(layer) and is_whole(head)) or not isinstance(stack, str | None):
        raise NotAHead(value)
    return Head(int(layer), int(head), stack or None)


def is_whole(value: object) -> bool:
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
    One stack of several may have no name (None, or "" in JSON): the language model beside its towers. `kept` names
    the heads as they were before others were cut out; maps of different cuts are different maps.
    """

    def __init__(
        self, per_layer: Sequence[int] | Mapping[str | None, Sequence[int]], kept: Sequence[Head] | None = None
    ) -> None:
        self.kept = None if kept is None else tuple(kept)
        stacks = per_layer.items() if isinstance(per_layer, Mapping) else [(None, per_layer)]
        self.layers = tuple(
            Layer(stack or None, index, int(count)) for stack, counts in stacks for index, count in enumerate(counts)
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
        return isinstance(other, HeadMap) and self.layers == other.layers and self.kept == other.kept

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
        stacks = self.to_stacks()
        if not stacks:
            return "no heads"
        return "; ".join((f"{stack}: " if stack else "") + _describe_layers(counts) for stack, counts in stacks.items())

    def to_stacks(self) -> dict[str | None, list[int]]:
        """The counts of each stack, in order."""
        stacks: dict[str | None, list[int]] = {}
        for layer in self.layers:
            stacks.setdefault(layer.stack, []).append(layer.heads)
        return stacks

    def identify(self) -> str:
        """`describe`, and of a cut model's heads which they were."""
        if self.kept is None:
            return self.describe()
        names = ", ".join(map(str, self.kept[:12])) + (" …" if len(self.kept) > 12 else "")
        return f"{self.describe()} left of a cut model, which were {names}"

    def to_jsonable(self) -> list[int] | dict[str, list[int]]:
        """The counts this map is made from, as plain lists."""
        if any(layer.stack for layer in self.layers):
            return {stack or "": counts for stack, counts in self.to_stacks().items()}
        return list(self.per_layer)


def _describe_layers(counts: Sequence[int]) -> str:
    """`6 layers of 12 heads`, or the counts where they differ."""
    layers = f"{len(counts)} layer{'s' if len(counts) != 1 else ''}"
    if len(set(counts)) == 1:
        return f"{layers} of {counts[0]} head{'s' if counts[0] != 1 else ''}"
    return f"{layers} of {', '.join(map(str, counts))} heads"
