"""LEACE: the least change after which no linear function of vectors knows their labels (Belrose et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ROWS = 2**14
"""Vectors that are brought to float64 at a time."""
_ROUNDING = 1e-12
"""Variance of a direction, in units of the mean square of a vector's numbers, that is rounding."""
_NOTHING = 1e-10
"""Correlation with the labels, in units of the greatest, that is rounding."""


@dataclass(frozen=True)
class Directions:
    """x ↦ x − left · rightᵀ (x − mean) takes something out of vectors."""

    mean: Array
    """(width,)"""
    left: Array
    """(width, rank)"""
    right: Array
    """(width, rank)"""


def leace(vectors: Array, labels: Array, classes: int) -> Directions:
    """The affine map of least mean squared change after which vectors and one-hot labels do not covary.

    Belrose et al. 2023, theorem 4.3: r(x) = x − W⁺ Π W (x − E[x]), with the whitening W = (Σ_xx^½)⁺ and Π the
    orthogonal projection on the columns of W Σ_xz. By theorem 3.1 no linear predictor of the erased vectors then has a
    lower loss, by any convex loss, than the best constant one: on the distribution of these vectors. What is taken out
    has at most `classes` − 1 dimensions; with Π = U Uᵀ of W Σ_xz = U S Vᵀ, W⁺ U is Σ_xz V S⁻¹, which is exact for
    directions, too, that W leaves out because the vectors vary there by rounding alone.

    `vectors` (items, width), `labels` (items,) numbers below `classes`; all is computed in float64. Rank 0 where
    vectors do not vary.
    """
    mean, within, across = _moments(vectors, labels, classes)
    values, basis = np.linalg.eigh(within)
    least = float(values[-1]) * len(values) * np.finfo(np.float64).eps
    kept = values > max(least, _ROUNDING * (float(mean @ mean) + float(values.sum())) / len(values))
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    whitening = (basis * scale) @ basis.T
    u, sizes, vt = np.linalg.svd(whitening @ across, full_matrices=False)
    found = (sizes > _NOTHING * max(float(sizes[0]), _NOTHING)) & (np.arange(len(sizes)) < classes - 1)
    left = across @ vt[found].T / sizes[found]
    return Directions(mean, left, whitening @ u[:, found])


def _moments(vectors: Array, labels: Array, classes: int) -> tuple[Array, Array, Array]:
    """The mean, Σ_xx, and Σ_xz with one-hot labels; sums over blocks of vectors."""
    count, width = vectors.shape
    mean = sum((block.sum(axis=0) for _, block in _blocks(vectors)), np.zeros(width)) / count
    within, across = np.zeros((width, width)), np.zeros((width, classes))
    shares = np.bincount(labels, minlength=classes) / count
    for at, block in _blocks(vectors):
        block -= mean
        within += block.T @ block
        across += block.T @ (np.eye(classes)[labels[at]] - shares)
    return mean, within / count, across / count


def _blocks(vectors: Array) -> Iterator[tuple[slice, Array]]:
    for start in range(0, len(vectors), _ROWS):
        at = slice(start, start + _ROWS)
        yield at, vectors[at].astype(np.float64)
