"""What all errors are, and how they list things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_bertology.heads import Head


class BertologyError(Exception):
    """The base of every error this package raises on purpose."""


class BertologyWarning(UserWarning):
    """Something that does not make a result wrong, but that its reader should know."""


class StoreWarning(BertologyWarning):
    """Something is wrong with the folder that keeps results, and nothing with the results."""


def some(items: Sequence[object], limit: int = 8) -> str:
    """The first few of `items`, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def describe_heads(heads: Iterable[Head], limit: int = 24) -> str:
    """Heads on one line: `L0H1 L2H4 …`."""
    names = [str(head) for head in heads]
    shown = " ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} … and {len(names) - limit} more"
