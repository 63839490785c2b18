"""Units finer than a head: the dimensions inside heads, and the neurons of feed-forward layers (GRAIN)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from pytest_bertology.errors import NotAUnit, UnknownUnit
from pytest_bertology.heads.maps import Head, is_whole

PARTS = ("qk", "vo")


class Neuron(NamedTuple):
    """One neuron of a feed-forward layer: `Neuron(2, 17)` is neuron 17 of layer 2, both counted from 0.

    Layers are counted as `blocks` counts them.
    """

    layer: int
    neuron: int
    stack: str | None = None

    def __str__(self) -> str:
        name = f"L{self.layer}N{self.neuron}"
        return f"{self.stack}.{name}" if self.stack else name


class Dimension(NamedTuple):
    """One dimension inside a head: `Dimension(2, 4, "vo", 7)` is number 7 of the values of head 4 in layer 2.

    "qk" dimensions are those in which query and key are compared, "vo" those that carry values to the output.
    """

    layer: int
    head: int
    part: str
    dimension: int
    stack: str | None = None

    def __str__(self) -> str:
        name = f"L{self.layer}H{self.head}.{self.part}{self.dimension}"
        return f"{self.stack}.{name}" if self.stack else name

    @property
    def of(self) -> Head:
        """The head that it belongs to."""
        return Head(self.layer, self.head, self.stack)


Unit: TypeAlias = "Neuron | Dimension"


class UnitMap(Collection["Unit"]):
    """The units of a model: neurons layer by layer, then dimensions head by head."""

    def __init__(
        self,
        neurons: Mapping[tuple[str | None, int], int],
        qk: Mapping[Head, int],
        vo: Mapping[Head, int],
    ) -> None:
        """How many neurons each (stack, layer) has, and how many dimensions of either kind each head has."""
        self.neurons_of = dict(neurons)
        self.dimensions_of = {"qk": dict(qk), "vo": dict(vo)}

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """All neurons."""
        return tuple(Neuron(layer, n, stack) for (stack, layer), count in self.neurons_of.items() for n in range(count))

    def dimensions(self, part: str) -> tuple[Dimension, ...]:
        """All dimensions of heads: "qk" or "vo"."""
        if part not in PARTS:
            raise NotAUnit(part)
        return tuple(
            Dimension(head.layer, head.head, part, d, head.stack)
            for head, count in self.dimensions_of[part].items()
            for d in range(count)
        )

    def __len__(self) -> int:
        dimensions = sum(sum(counts.values()) for counts in self.dimensions_of.values())
        return sum(self.neurons_of.values()) + dimensions

    def __iter__(self) -> Iterator[Unit]:
        yield from self.neurons
        for part in PARTS:
            yield from self.dimensions(part)

    def __contains__(self, unit: object) -> bool:
        if isinstance(unit, Neuron):
            return 0 <= unit.neuron < self.neurons_of.get((unit.stack or None, unit.layer), 0)
        if isinstance(unit, Dimension) and unit.part in PARTS:
            return 0 <= unit.dimension < self.dimensions_of[unit.part].get(unit.of, 0)
        return False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UnitMap):
            return False
        return self.neurons_of == other.neurons_of and self.dimensions_of == other.dimensions_of

    def __hash__(self) -> int:
        return hash((tuple(self.neurons_of.items()), len(self)))

    def __repr__(self) -> str:
        return f"UnitMap({self.describe()})"

    def select(self, units: Iterable[Unit]) -> tuple[Unit, ...]:
        """These units, each once; raises NotAUnit or UnknownUnit."""
        found: dict[Unit, None] = {}
        for unit in units:
            whole = isinstance(unit, Neuron | Dimension) and is_whole(unit.layer) and is_whole(unit[1])
            if not whole:
                raise NotAUnit(unit)
            if unit not in self:
                raise UnknownUnit(unit, self.describe())
            found[unit] = None
        return tuple(found)

    def describe(self) -> str:
        """One line a person understands."""
        neurons = ", ".join(sorted({str(count) for count in self.neurons_of.values()}, key=int))
        parts = [f"{len(self.neurons_of)} feed-forward layers of {neurons} neurons"] if self.neurons_of else []
        for part, counts in self.dimensions_of.items():
            sizes = ", ".join(sorted({str(count) for count in counts.values()}, key=int))
            if counts:
                parts.append(f"{len(counts)} heads of {sizes} {part} dimensions")
        return "; ".join(parts) or "no units"
