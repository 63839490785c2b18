"""Heads as points in the plane, those that attend alike near each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import as_head, is_whole

if TYPE_CHECKING:
    from pytest_bertology.measures.divergence import HeadDivergence

Matrix = npt.NDArray[np.float64]

METHODS = ("mds", "classical")
_STARTS = 4
"""Random starts beside the classical one."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadEmbedding:
    """Heads in two dimensions, so that distances come near the mean Jensen-Shannon divergences, in nats."""

    heads: tuple[Head, ...]
    points: Matrix = field(repr=False)
    """(heads, 2), centred, the first axis the longer; signs are set so that each axis' greatest number is positive."""
    stress: float
    """How far distances are from divergences: √(Σ (distance − divergence)² / Σ divergence²), 0 where they are equal."""
    method: str
    model: str
    task: str

    def __repr__(self) -> str:
        return f"HeadEmbedding({len(self.heads)} heads of {self.model} by {self.method}, stress {self.stress:.3f})"

    def point(self, head: HeadLike) -> tuple[float, float]:
        """Where a head is."""
        found = as_head(head)
        if found not in self.heads:
            raise InvalidArgument("head", str(found), f"one of the {len(self.heads)} heads of the embedding")
        x, y = self.points[self.heads.index(found)]
        return float(x), float(y)

    def table(self) -> str:
        """Every head's point, a line each."""
        width = max([4, *(len(str(head)) for head in self.heads)])
        lines = [
            f"heads of {self.model} on {self.task} in the plane, by {self.method}: stress {self.stress:.3f}",
            f"{'head':<{width}}  {'x':>8}  {'y':>8}",
        ]
        lines += [f"{h!s:<{width}}  {x:>+8.4f}  {y:>+8.4f}" for h, (x, y) in zip(self.heads, self.points, strict=True)]
        return "\n".join(lines)


def embed_heads(divergence: HeadDivergence, method: str = "mds", *, seed: int = 0) -> HeadEmbedding:
    """Heads in the plane by their mean divergences (Clark et al. 2019, section 6).

    "mds" is metric multidimensional scaling: of what SMACOF makes of the classical solution, and of four starts drawn
    with `seed`, the one of least stress. "classical" is the classical solution itself, of the two greatest eigenvalues.
    """
    if method not in METHODS:
        raise InvalidArgument("method", method, f"one of {', '.join(METHODS)}")
    if not is_whole(seed) or seed < 0:
        raise InvalidArgument("seed", seed, "a whole number from 0")
    wanted = divergence.mean
    points = _classical(wanted)
    if method == "mds" and wanted.any():
        points = min(_scaled(wanted, points, seed), key=lambda found: _stress(found, wanted))
    found = _turned(points)
    return HeadEmbedding(
        divergence.heads, found, _stress(found, wanted), method, model=divergence.model, task=divergence.task
    )


def _classical(wanted: Matrix) -> Matrix:
    """(heads, 2) classical scaling: the greatest eigenvectors of the doubly centred squares."""
    squares = wanted**2
    centred = -0.5 * (squares - squares.mean(axis=0) - squares.mean(axis=1)[:, None] + squares.mean())
    values, vectors = np.linalg.eigh(centred)
    points: Matrix = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0.0))
    return points


def _scaled(wanted: Matrix, start: Matrix, seed: int) -> list[Matrix]:
    """What SMACOF makes of every start."""
    from sklearn.manifold import smacof

    draw = np.random.default_rng(seed)
    starts = [start, *(draw.uniform(-0.5, 0.5, start.shape) * wanted.max() for _ in range(_STARTS))]
    options = {"n_components": 2, "n_init": 1, "max_iter": 1000, "eps": 1e-9, "random_state": seed}
    return [smacof(wanted, init=each, normalized_stress=False, **options)[0] for each in starts]


def _stress(points: Matrix, wanted: Matrix) -> float:
    distances = np.linalg.norm(points[:, None] - points[None, :], axis=-1)
    total = float((wanted**2).sum())
    return float(np.sqrt(((distances - wanted) ** 2).sum() / total)) if total else 0.0


def _turned(points: Matrix) -> Matrix:
    """Centred, along their principal axes, signs set: equal solutions look equal."""
    centred = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ axes.T
    greatest = turned[np.abs(turned).argmax(axis=0), np.arange(2)]
    found: Matrix = turned * np.where(greatest < 0.0, -1.0, 1.0) + 0.0
    found.setflags(write=False)
    return found
