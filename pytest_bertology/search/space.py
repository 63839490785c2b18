"""The sets of heads that a search may mask, as whole numbers: bit i stands for the i-th head of the model's map."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from math import comb

from torch import Tensor, nn

from pytest_bertology.heads import Head, HeadMask
from pytest_bertology.measures.ordering import room_per_layer
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.sites import Site


class Space:
    """Sets of heads beyond those that `base` masks, each layer keeping at least so many."""

    def __init__(self, base: HeadMask, least_per_layer: int, idle: Iterable[Head] = ()) -> None:
        """`idle` heads are those proven to move nothing: where no layer has to keep heads, every set holds them."""
        self.heads, self.base = base.heads, base
        masked = set(base.masked)
        idle_bits = self.bits(head for head in idle if head not in masked)
        self.idle = idle_bits
        self.start = 0 if least_per_layer else idle_bits
        """The smallest set: the idle heads that cost nothing."""
        self.free = tuple(i for i, head in enumerate(self.heads) if head not in masked and not self.start >> i & 1)
        """Positions of the heads among which a search chooses."""
        self.everything = self.start | sum(1 << i for i in self.free)
        """All heads, whatever layers have to keep."""
        self._room = room_per_layer(base, least_per_layer)
        self._layer = [(head.stack or None, head.layer) for head in self.heads]

    def bits(self, heads: Iterable[Head]) -> int:
        """The set of these heads."""
        return sum(1 << self.heads.index(head) for head in set(heads))

    def positions(self, bits: int) -> tuple[int, ...]:
        """The heads of a set by their position in the map, ascending."""
        return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)

    def select(self, bits: int) -> tuple[Head, ...]:
        """The heads of a set, in the map's order."""
        return tuple(self.heads[i] for i in self.positions(bits))

    def mask(self, bits: int) -> HeadMask:
        """The mask of a set on top of the base."""
        gates = tuple(0.0 if bits >> i & 1 else gate for i, gate in enumerate(self.base.gates))
        return HeadMask(self.heads, gates)

    def live(self, bits: int) -> int:
        """The set without its idle heads, which gives the same results bit for bit."""
        return bits & ~self.idle

    def one_more(self, bits: int) -> list[int]:
        """Every set of one head more, in the map's order."""
        room = self._left(bits)
        return [bits | 1 << i for i in self.free if not bits >> i & 1 and room[self._layer[i]] > 0]

    def grown(self, bits: int, order: Sequence[int], count: int) -> int:
        """The set with the next `count` heads of `order`, as far as their layers can spare them."""
        room, left = self._left(bits), count
        for i in order:
            if left and i in self._free and not bits >> i & 1 and room[self._layer[i]] > 0:
                room[self._layer[i]] -= 1
                bits |= 1 << i
                left -= 1
        return bits

    @cached_property
    def _free(self) -> frozenset[int]:
        return frozenset(self.free)

    def _left(self, bits: int) -> dict[tuple[str | None, int], int]:
        room = dict(self._room)
        for i in self.positions(bits):
            room[self._layer[i]] -= 1
        return room

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many sets there are of each size, from 0 up to the largest."""
        ways = [1]
        for layer, room in self._room.items():
            free = sum(self._layer[i] == layer for i in self.free)
            most = min(free, room)
            grown = [0] * (len(ways) + most)
            for size, count in enumerate(ways):
                for more in range(most + 1):
                    grown[size + more] += count * comb(free, more)
            ways = grown
        return (0,) * self.start.bit_count() + tuple(ways)

    @property
    def largest(self) -> int:
        """The size of the largest set."""
        return len(self.counts) - 1

    def of_size(self, size: int, weights: Sequence[float]) -> Iterator[int]:
        """All sets of a size, those of the smallest summed weight first; `weights` has one number per head."""
        order = sorted(self.free, key=lambda i: (weights[i], i))
        more = size - self.start.bit_count()
        for chosen in _lightest([weights[i] for i in order], more) if more >= 0 else ():
            bits = self.start | sum(1 << order[place] for place in chosen)
            if min(self._left(bits).values(), default=0) >= 0:
                yield bits


def _lightest(weights: Sequence[float], count: int) -> Iterator[tuple[int, ...]]:
    """Every choice of `count` places, by ascending sum of their (ascending) weights, found one after the other."""
    first = tuple(range(count))
    waiting, seen = [(sum(weights[:count]), first)], {first}
    while waiting:
        total, chosen = heapq.heappop(waiting)
        yield chosen
        for at, place in enumerate(chosen):
            limit = chosen[at + 1] if at + 1 < count else len(weights)
            moved = (*chosen[:at], place + 1, *chosen[at + 1 :])
            if place + 1 < limit and moved not in seen:
                seen.add(moved)
                heapq.heappush(waiting, (total - weights[place] + weights[place + 1], moved))


def idle_heads(model: ModelUnderTest) -> tuple[Head, ...]:
    """Heads that move nothing on any data: the load-time proof calls them dead, and zero weights read them.

    A head that is dead on the proof's sample alone may still write something on other texts.
    """
    sites = {(site.stack or None, site.layer): site for site in model.sites}
    return tuple(head for head in model.check.dead if _unread(sites[head.stack or None, head.layer], head, model))


def _unread(site: Site, head: Head, model: ModelUnderTest) -> bool:
    weight = getattr(site.projection, "weight", None)
    if site.name in model.check.joint or not isinstance(weight, Tensor) or weight.ndim != 2:
        return False
    columns = weight if isinstance(site.projection, nn.Linear) else weight.T
    if columns.shape[1] != site.features:
        return False
    return not bool(columns[:, site.slice(head.head)].any())
