"""Control tasks: labels drawn at random for each type, which only memory can know (Hewitt & Liang 2019)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def control_labels(types: Sequence[str], counts: Sequence[int] | npt.NDArray[Any], seed: int) -> Ints:
    """(items,) a label from 0 for each item: the same for all items of a type, otherwise drawn at random.

    Hewitt & Liang 2019, section 2: structured (by type) and random. Labels are drawn in proportion to `counts`, those
    of the true task's labels where the probe is trained. A type's label depends on seed and type alone: not on other
    items, their order, or any generator's state.
    """
    shares = np.cumsum(np.asarray(counts, dtype=np.float64))
    if shares[-1] <= 0.0:
        raise ValueError("there are no labels to draw from")
    drawn = {each: _uniform(seed, each) for each in set(types)}
    at = np.array([drawn[each] for each in types], dtype=np.float64) * shares[-1]
    found: Ints = np.minimum(np.searchsorted(shares, at, side="right"), len(shares) - 1).astype(np.int64)
    return found


def _uniform(seed: int, text: str) -> float:
    """A number in [0, 1) that seed and text decide."""
    digest = hashlib.blake2b(f"{seed}\x00{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
