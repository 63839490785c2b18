"""Numbers of heads that attention modules keep: which attributes may have to change with a cut, as trials to be proven.

Most architectures read head counts off the shapes of what their projections return. Some keep a count, or a size
computed from one, and use it. Names and values only suggest which; whether a suggestion is right is decided by running
the cut model against the masked one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_bertology.models.edits import Configured, Counts, Edit, OwnConfig
from pytest_bertology.models.layout import Layout
from pytest_bertology.models.rows import RowMap, kv_heads


@dataclass(frozen=True)
class Trial:
    """Which kinds of numbers are set."""

    heads: bool
    """Attributes named after heads that hold their number."""
    sizes: bool
    """Attributes that hold a projection's width."""
    config: bool
    """The same in the configuration, as the attention module reads it."""
    hollow: bool = False
    """None: attention goes on computing all heads, and those cut have no weights."""


TRIALS = (
    Trial(heads=True, sizes=False, config=False),
    Trial(heads=True, sizes=True, config=False),
    Trial(heads=True, sizes=False, config=True),
    Trial(heads=True, sizes=True, config=True),
    Trial(heads=False, sizes=False, config=False),
    Trial(heads=False, sizes=True, config=False),
    Trial(heads=False, sizes=False, config=False, hollow=True),
)


def counts(model: nn.Module, plan: Layout, row_map: RowMap, trial: Trial) -> Iterator[Edit]:
    """The attributes to set for one site under a trial."""
    if trial.hollow:
        return
    sizes = _Sizes.of(plan, row_map)
    for path in _modules(plan.site.attention, [feed.name for feed in row_map.feeds]):
        module = model.get_submodule(path)
        found = {name: value for name, value in vars(module).items() if type(value) is int}
        values = sizes.changed(found, heads=trial.heads, sizes=trial.sizes)
        if values:
            yield Counts(path, values)
        config = getattr(module, "config", None)
        if trial.config and config is not None:
            values = sizes.changed(_numbers(config), heads=True, sizes=False)
            if values:
                yield Configured(path, values)


def _numbers(config: Any) -> dict[str, int]:
    """The numbers that a configuration holds, under all their names, as its module reads them."""
    whole, own = (config.whole, config.changed) if isinstance(config, OwnConfig) else (config, {})
    found = {name: own.get(name, value) for name, value in vars(whole).items() if type(value) is int}
    return found | {name: found[of] for name, of in getattr(whole, "attribute_map", {}).items() if of in found}


@dataclass(frozen=True)
class _Sizes:
    """What the numbers of one site were, and are to be."""

    heads: tuple[int, int]
    kv_heads: tuple[int, int]
    widths: Mapping[int, int]

    @classmethod
    def of(cls, plan: Layout, row_map: RowMap) -> _Sizes:
        site = plan.site
        before = kv_heads(site, row_map.feeds)
        widths = {site.heads * site.width: plan.heads * site.width}
        for feed in row_map.feeds:
            widths.setdefault(len(feed.owners), len(plan.positions(feed.owners)))
        return cls((site.heads, plan.heads), (before, plan.kv_heads(before)), widths)

    def changed(self, found: Mapping[str, int], *, heads: bool, sizes: bool) -> tuple[tuple[str, int], ...]:
        """The numbers to set, of those found."""
        changes: dict[str, int] = {}
        for name, value in found.items():
            new = self._count(name, value)
            if new is not None and (heads or _repeats(name)):
                changes[name] = new
            elif new is None and sizes and not _is_count(name) and value in self.widths:
                changes[name] = self.widths[value]
        return tuple((name, value) for name, value in changes.items() if value != found[name])

    def _count(self, name: str, value: int) -> int | None:
        (heads, heads_now), (kv, kv_now) = self.heads, self.kv_heads
        if _repeats(name):
            return heads_now // kv_now if kv and value == heads // kv else None
        if not _is_count(name):
            return None
        if "kv" in name or "key_value" in name:
            return kv_now if value == kv else None
        if value == heads:
            return heads_now
        return kv_now if value == kv else None


def _is_count(name: str) -> bool:
    return "head" in name and not any(part in name for part in ("dim", "size", "width"))


def _repeats(name: str) -> bool:
    """Names of how many query heads share a key-value head."""
    return "group" in name or "n_rep" in name


def _modules(attention: str, feeds: Iterable[str]) -> list[str]:
    """The attention module, and the modules that hold its projections, up to their common parent."""
    paths = [attention.split("."), *(feed.split(".")[:-1] for feed in feeds)]
    common = [parts[0] for parts in itertools.takewhile(lambda p: len(set(p)) == 1, zip(*paths, strict=False))]
    found = {".".join(path[:length]): None for path in paths for length in range(max(1, len(common)), len(path) + 1)}
    return list(found)
