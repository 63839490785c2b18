"""The figure of heads in the plane: near each other where they attend alike (Clark et al. 2019, figure 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head
from pytest_bertology.measures.head_clusters import HeadClusters
from pytest_bertology.measures.head_embedding import HeadEmbedding
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^"
"""A marker for each stack."""
_FONT = 5.5
_CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Where a name may be, seen from its point, the first first."""
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
    note = f"distance: mean Jensen-Shannon divergence on {embedding.task}; stress {embedding.stress:.3f}"
    if clusters is not None:
        told = "" if clusters.silhouette is None else f", silhouette {clusters.silhouette:.3f}"
        note += f"\n{len(clusters)} groups by average linkage{told}"
    _titled(_noted(figure, note), title or f"heads of {embedding.model}")
    nameless = len(embedding.heads) - _names(figure, axis, embedding)
    if nameless:
        _noted(figure, f"{note}; {nameless} in crowds are not named")
    return figure


def _points(figure: Figure, axis: Any, embedding: HeadEmbedding) -> None:
    """A scatter for each stack, the layers on one scale of colours."""
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
    if len(stacks) > 1:
        axis.legend(fontsize=8, frameon=False)
    bar = figure.colorbar(scatter, ax=axis, aspect=30, ticks=range(0, last + 1, max(1, (last + 1) // 12)))
    bar.set_label("layer")
    bar.outline.set_visible(False)


def _names(figure: Figure, axis: Any, embedding: HeadEmbedding) -> int:
    """Name heads where there is room, those farthest from others first; return how many are named."""
    figure.draw_without_rendering()  # points on the page are known once all is laid out
    at = axis.transData.transform(embedding.points) * 72.0 / figure.dpi
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1) + np.diag(np.full(len(at), np.inf))
    taken = np.column_stack([at - 2.5, at + 2.5])  # what points cover: left, bottom, right, top
    count = 0
    for index in np.argsort(-apart.min(axis=1), kind="stable"):
        name = _name(embedding.heads[index])
        width, height = 0.62 * _FONT * len(name), 1.1 * _FONT
        for right, up in _CORNERS:
            shift = np.array([right * (2.5 + width / 2), up * (2.5 + height / 2)])
            middle, half = at[index] + shift, np.array([width, height]) / 2
            box = np.concatenate([middle - half, middle + half])
            if ((taken[:, :2] < box[2:]) & (taken[:, 2:] > box[:2])).all(axis=1).any():
                continue
            text = axis.annotate(
                name, embedding.points[index], xytext=tuple(shift), textcoords="offset points", fontsize=_FONT,
                color="0.3", ha="center", va="center",
            )  # fmt: skip
            text.set_in_layout(False)
            taken = np.vstack([taken, box])
            count += 1
            break
    return count


def _name(head: Head) -> str:
    """Without its stack, which the marker tells."""
    return f"L{head.layer}H{head.head}"


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
