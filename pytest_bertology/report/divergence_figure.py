"""The figure of how differently heads attend: a heat map of heads by heads."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from pytest_bertology.measures.divergence import HeadDivergence
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 48
"""Up to so many heads are named one by one, more by their layers."""


def divergence_map(found: HeadDivergence, title: str | None = None) -> Figure:
    """The mean Jensen-Shannon divergence between every two heads, dark where they attend alike; lines part layers."""
    count = len(found.heads)
    side = max(3.0, 0.15 * min(count, _NAMED) + 0.02 * max(0, min(count, 300) - _NAMED))
    figure = _new_figure(side + 2.0, side + 1.2)
    axis = figure.add_subplot()
    image = axis.imshow(found.mean, cmap="viridis", vmin=0.0, vmax=float(found.mean.max()) or 1.0)
    sizes = [(key, len(list(own))) for key, own in groupby((head.stack, head.layer) for head in found.heads)]
    ends = np.cumsum([size for _, size in sizes])
    for end in ends[:-1] - 0.5:
        axis.axhline(end, color="white", linewidth=0.6)
        axis.axvline(end, color="white", linewidth=0.6)
    places, names, size_of_names = np.arange(count, dtype=np.float64), [str(head) for head in found.heads], 6
    if count > _NAMED:
        places, size_of_names = ends - np.array([size + 1 for _, size in sizes]) / 2, 8
        names = [f"{stack} layer {layer}" if stack else f"layer {layer}" for (stack, layer), _ in sizes]
    axis.set_xticks(places, names, rotation=90, fontsize=size_of_names)
    axis.set_yticks(places, names, fontsize=size_of_names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, aspect=25)
    bar.set_label("mean Jensen-Shannon divergence, nats")
    bar.outline.set_visible(False)
    note = f"{found.texts} texts, {found.tokens} tokens; 0: the same attention, ln 2 = 0.693: never to the same token"
    return _titled(_noted(figure, note), title or f"how differently heads of {found.model} attend\n{found.task}")
