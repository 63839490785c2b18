"""Which rows stay, in which order, when some heads of an attention layer are kept: from the row map to edits.

Query heads that share key-value rows stay in groups of equal size, for attention repeats every key-value head equally
often. Where unequal numbers of a group are kept, its key-value rows are computed once and written several times: as
often as the greatest common divisor of those numbers makes necessary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_bertology.models.edits import Arguments, Columns, Edit, Rows, SharedBias, Slices
from pytest_bertology.models.reduced import ZERO
from pytest_bertology.models.rows import Owners, RowMap, groups_of
from pytest_bertology.models.sites import Site


@dataclass(frozen=True)
class Layout:
    """The heads of one site that stay, as the layer will hold them."""

    site: Site
    kept: tuple[int, ...]
    """By their present numbers; none where the layer is to do without."""
    groups: tuple[frozenset[int], ...]
    chunks: tuple[tuple[int, frozenset[int]], ...]
    """The key-value heads that the layer will see: each one's group, and the kept query heads that read it."""
    hollow: bool = False
    """Whether attention goes on computing as many heads as before, of which some have no weights any more."""

    @property
    def slots(self) -> tuple[int, ...]:
        """Which of the heads that a hollow layer computes have weights."""
        return tuple(self.site.slots[head] if self.site.slots else head for head in self.kept)

    @property
    def empty(self) -> bool:
        """Whether no head stays: the layer then runs one head of zeros that has no weights."""
        return not self.kept

    @property
    def heads(self) -> int:
        """Query heads that the layer will see."""
        return sum(len(heads) for _, heads in self.chunks)

    def kv_heads(self, before: int) -> int:
        """Key-value heads that the layer will see, of so many before."""
        return len(self.chunks) if before == len(self.groups) else min(before, self.heads)

    def positions(self, owners: Owners) -> tuple[int, ...]:
        """Which positions stay, in which order; those of all heads, and of none, where they are."""
        every = self.site.heads
        group_of = {head: index for index, group in enumerate(self.groups) for head in group}
        found: list[int] = []
        for segment in _segments(owners, group_of, every):
            if len(owners[segment[0]]) in (0, every) and every > 1:
                found += segment
                continue
            for group, heads in self.chunks:
                found += [i for i in segment if group_of[min(owners[i])] == group and owners[i] & heads]
        return tuple(found)

    def rows(self, owners: Owners) -> tuple[int, ...]:
        """As `positions`, for the rows of a linear map: with zeros where no head is left that they feed."""
        if self.hollow:
            return tuple(ZERO if own and not own & set(self.kept) else i for i, own in enumerate(owners))
        if self.empty:
            return tuple(ZERO if owners[i] else i for i in self.positions(owners))
        return self.positions(owners)


def layout(site: Site, row_map: RowMap, kept: Sequence[int]) -> Layout:
    """How the kept heads of a site are laid out."""
    groups = groups_of(site, row_map.feeds)
    assert groups is not None
    present = tuple(sorted(kept))
    chosen = [(index, sorted(group & set(present or (0,)))) for index, group in enumerate(groups)]
    counts = [len(heads) for _, heads in chosen if heads]
    size = math.gcd(*counts)
    chunks = [
        (index, frozenset(heads[start : start + size]))
        for index, heads in chosen
        for start in range(0, len(heads), size)
    ]
    return Layout(site, present, groups, tuple(chunks))


def edits(plan: Layout, row_map: RowMap, hands_on: tuple[int, str | None] | None) -> Iterator[Edit]:
    """What has to be cut so that the kept heads are left.

    `hands_on` says where this layer returns a position bias that later layers are given, and from which table.
    """
    site = plan.site
    for feed in row_map.feeds:
        index = plan.rows(feed.owners)
        if index != tuple(range(len(feed.owners))):
            yield Rows(feed.name, index)
    yield _columns(plan)
    if plan.hollow:
        return
    heads = tuple(sorted(head for _, chunk in plan.chunks for head in chunk))
    place, table = hands_on or (0, None)
    if hands_on is not None:
        yield SharedBias(site.attention, place, site.heads, heads, table)
    for tensor in row_map.tensors:
        own = plan.positions(tensor.owners)
        if tensor.name != f"{table}.weight" and own != tuple(range(len(tensor.owners))):
            yield Slices(tensor.name, tensor.axis, own)
    for given in row_map.given:
        yield Arguments(given.module, given.argument, given.axis, site.heads, heads, given.returned)


def _columns(plan: Layout) -> Columns:
    site = plan.site
    rest = tuple(range((site.computed or site.heads) * site.width, site.features))
    if plan.hollow:
        own = tuple(i for head in plan.kept for i in range(site.features)[site.slice(head)])
        return Columns(site.name, own + rest, own + rest, site.features)
    if plan.empty:
        reads = tuple(range(site.width, site.width + len(rest)))
        return Columns(site.name, rest, reads, site.width + len(rest))
    own = tuple(i for head in plan.kept for i in range(site.features)[site.slice(head)])
    return Columns(site.name, own + rest, None, len(own) + len(rest))


def _segments(owners: Owners, group_of: dict[int, int], every: int) -> Iterator[list[int]]:
    """Runs of positions: of all heads or none, or of heads whose groups follow one another in order."""
    segment: list[int] = []
    last: int | None = None
    for position, heads in enumerate(owners):
        common = len(heads) in (0, every) and every > 1
        group = None if common else group_of[min(heads)]
        follows = group == last if group is None or last is None else group >= last
        if segment and not follows:
            yield segment
            segment = []
        segment.append(position)
        last = group
    if segment:
        yield segment
