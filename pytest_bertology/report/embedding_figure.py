"""The figure of heads in the plane: near each other where they attend alike (Clark et al. 2019, figure 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.head_clusters import HeadClusters
from pytest_bertology.measures.head_embedding import HeadEmbedding
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^"
"""A marker for each stack."""
_MOST_LABELS = 200
_PADDING = 0.018
"""How far a group's outline is from its points, as a share of the picture."""


def embedding_figure(
    embedding: HeadEmbedding, clusters: HeadClusters | None = None, title: str | None = None
) -> Figure:
    """Every head as a point, coloured by its layer, with a marker for its stack; groups are outlined.

    Distances are mean Jensen-Shannon divergences as nearly as the plane allows: the stress below says how nearly.
    Raises InvalidArgument for groups of other heads, MissingExtra without matplotlib.
    """
    if clusters is not None and clusters.heads != embedding.heads:
        wanted = f"groups of the {len(embedding.heads)} heads of the embedding"
        raise InvalidArgument("clusters", f"groups of {len(clusters.heads)} heads", wanted)
    figure = _new_figure(7.0, 5.6)
    axis = figure.add_subplot()
    axis.set_aspect("equal", adjustable="datalim")
    if clusters is not None:
        _outline(axis, embedding, clusters)
    _points(figure, axis, embedding)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color("0.8")
    note = f"layer-head; distance: mean Jensen-Shannon divergence on {embedding.task}; stress {embedding.stress:.3f}"
    if clusters is not None:
        told = "" if clusters.silhouette is None else f", silhouette {clusters.silhouette:.3f}"
        note += f"\n{len(clusters)} groups by average linkage{told}"
    return _titled(_noted(figure, note), title or f"heads of {embedding.model}")


def _points(figure: Figure, axis: Any, embedding: HeadEmbedding) -> None:
    """A scatter for each stack, the layers on one scale of colours, and the heads' names."""
    stacks = list(dict.fromkeys(head.stack for head in embedding.heads))
    last = max(head.layer for head in embedding.heads)
    for stack, marker in zip(stacks, _MARKERS * len(stacks), strict=False):
        own = [index for index, head in enumerate(embedding.heads) if head.stack == stack]
        layers = [embedding.heads[index].layer for index in own]
        x, y = embedding.points[own].T
        scatter = axis.scatter(
            x, y, c=layers, cmap="viridis", vmin=0, vmax=max(1, last), marker=marker, s=26, linewidth=0.4,
            edgecolor="white", label=stack, zorder=2,
        )  # fmt: skip
    if len(embedding.heads) <= _MOST_LABELS:
        for head, point in zip(embedding.heads, embedding.points, strict=True):
            name = f"{head.layer}-{head.head}"
            axis.annotate(name, point, xytext=(3, 3), textcoords="offset points", fontsize=5, color="0.3")
    if len(stacks) > 1:
        axis.legend(fontsize=8, frameon=False)
    bar = figure.colorbar(scatter, ax=axis, aspect=30, ticks=range(0, last + 1, max(1, (last + 1) // 12)))
    bar.set_label("layer")
    bar.outline.set_visible(False)


def _outline(axis: Any, embedding: HeadEmbedding, clusters: HeadClusters) -> None:
    """A rounded outline around each group of two heads or more, and its number."""
    from matplotlib import colormaps

    spread = float(np.ptp(embedding.points, axis=0).max()) or 1.0
    for group, heads in enumerate(clusters.groups):
        points = np.array([embedding.point(head) for head in heads])
        colour = colormaps["tab10"](group % 10)[:3]
        x, y = _around(points, _PADDING * spread).T
        axis.fill(x, y, facecolor=(*colour, 0.10), edgecolor=(*colour, 0.6), linewidth=0.8, zorder=1)
        top = y.argmax()
        axis.text(x[top], y[top], str(group), color=colour, fontsize=9, ha="center", va="bottom")


def _around(points: Any, distance: float) -> Any:
    """The convex hull of discs around the points."""
    from scipy.spatial import ConvexHull

    turns = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    circle = distance * np.column_stack([np.cos(turns), np.sin(turns)])
    every = (points[:, None] + circle[None]).reshape(-1, 2)
    return every[ConvexHull(every).vertices]
