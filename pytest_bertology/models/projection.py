"""What is taken out of hidden states: affine maps, each of one layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Projection:
    """An affine map of one layer's states, x ↦ x − P(x − μ), with P = left · rightᵀ and P · P = P."""

    layer: int
    """0 the embeddings, n what the n-th block gives."""
    mean: Array
    """(width,) μ."""
    left: Array
    """(width, rank)"""
    right: Array
    """(width, rank)"""
    stack: str | None = None
    """"encoder" or "decoder" of an encoder-decoder model; None there: the encoder."""

    def __repr__(self) -> str:
        return f"Projection(layer {self.layer}, rank {self.rank} of {self.width})"

    @property
    def width(self) -> int:
        """How many numbers a state has."""
        return len(self.mean)

    @property
    def rank(self) -> int:
        """How many directions are taken away."""
        return int(self.left.shape[1])

    @property
    def digest(self) -> str:
        """Eight digits that tell it from others of the same layer and rank."""
        sha = hashlib.sha256(f"{self.layer} {self.stack}".encode())
        for each in (self.mean, self.left, self.right):
            sha.update(np.ascontiguousarray(each, dtype=np.float64).tobytes())
        return sha.hexdigest()[:8]

    def to_numpy(self) -> Array:
        """(width, width) P."""
        found: Array = self.left @ self.right.T
        return found

    def __call__(self, vectors: npt.NDArray[Any]) -> Array:
        """What is left of (items, width) states, in float64."""
        own = vectors.astype(np.float64)
        own -= ((own - self.mean) @ self.right) @ self.left.T
        return own


@dataclass(frozen=True)
class FoundOn:
    """The model that an erasure was found on, and how it was then."""

    model: str
    """Its name."""
    weights: str
    """SHA-256 of its weights, as hexadecimal."""
    under: tuple[str, ...] = ()
    """What was in force on it, in words."""


class HasProjections(Protocol):
    """What `erase` returns."""

    @property
    def projections(self) -> tuple[Projection, ...]:
        """One for each layer."""


def projections_of(erasures: Iterable[Any]) -> tuple[Projection, ...]:
    """All projections of erasures, in order; raises InvalidArgument for none, or what has none."""
    found: list[Projection] = []
    for each in erasures:
        own = (each,) if isinstance(each, Projection) else getattr(each, "projections", ())
        if not own or not all(isinstance(part, Projection) for part in own):
            raise InvalidArgument("erasures", type(each).__name__, "what erase(...) returns")
        found += own
    if not found:
        raise InvalidArgument("erasures", [], "what erase(...) returns")
    return tuple(found)
