"""Figures of attention: a head's weights on a text, as a matrix or as lines, and maps of all statistics."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_bertology.measures.attention import AttentionStatistics
from pytest_bertology.measures.attention_maps import HeadView
from pytest_bertology.report.figures import _new_figure, _outline, _panels, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST_TOKEN = 16
_FAINTEST = 0.02
"""Weights below are no line."""


def head_view(view: HeadView, title: str | None = None) -> Figure:
    """One head's attention on one text: a matrix of queries by keys, or lines from queries to keys."""
    draw = _lines if view.kind == "lines" else _matrix
    return _titled(draw(view), title or f"{view.head} of {view.model}")


def _matrix(view: HeadView) -> Figure:
    tokens = [_shown(token) for token in view.tokens]
    count = len(tokens)
    side = min(18.0, max(2.6, 0.24 * count))
    figure = _new_figure(side + 2.4, side + 1.2)
    axis = figure.add_subplot()
    image = axis.imshow(view.weights, cmap="Blues", vmin=0.0, vmax=max(float(view.weights.max()), 1e-9))
    size = 8 if count <= 60 else 4
    axis.set_xticks(range(count), tokens, rotation=90, fontsize=size, parse_math=False)
    axis.set_yticks(range(count), tokens, fontsize=size, parse_math=False)
    axis.set_xlabel("attended to")
    axis.set_ylabel("attending")
    axis.tick_params(length=0)
    bar = figure.colorbar(image, ax=axis, aspect=25)
    bar.set_label("attention weight")
    bar.outline.set_visible(False)
    return figure


def _lines(view: HeadView) -> Figure:
    from matplotlib.collections import LineCollection

    count = len(view.tokens)
    figure = _new_figure(4.2, min(30.0, max(2.0, 0.22 * count + 0.8)))
    axis = figure.add_subplot()
    strong = [(i, j) for i, j in np.argwhere(view.weights >= _FAINTEST).tolist()]
    segments = [[(0.0, i), (1.0, j)] for i, j in strong]
    shades = [(0.12, 0.35, 0.65, min(1.0, float(view.weights[i, j]))) for i, j in strong]
    axis.add_collection(LineCollection(segments, colors=shades, linewidths=1.6))
    for index, token in enumerate(view.tokens):
        for x, side in ((-0.04, "right"), (1.04, "left")):
            axis.text(x, index, _shown(token), ha=side, va="center", fontsize=8, parse_math=False)
    for x, side, label in ((-0.04, "right", "attending"), (1.04, "left", "attended to")):
        axis.text(x, -1.2, label, ha=side, va="center", fontsize=8, color="0.35")
    axis.set_xlim(-0.7, 1.7)
    axis.set_ylim(count - 0.4, -1.8)
    axis.axis("off")
    return figure


def statistics_maps(found: AttentionStatistics, title: str | None = None) -> Figure:
    """Layers by heads, a small map for each statistic; of several stacks, one row of maps each.

    Each statistic has a scale of colours of its own, from 0 to its greatest value; confidence goes to 1.
    """
    names = found.available
    panels = _panels(found.entropy)
    stacks = list(panels)
    columns, rows = min(len(names), 6), -(-len(names) // 6)
    tallest = sum(min(4.0, 0.42 + 1.65 * table.shape[0] / table.shape[1]) for table in panels.values())
    figure = _new_figure(2.2 * columns + 0.6, tallest * rows + 0.75)
    axes = figure.subplots(rows * len(stacks), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, name in enumerate(names):
        scores = found.statistic(name)
        most = 1.0 if name == "confidence" else float(scores.values.max()) or 1.0  # a colour bar each tells it
        for row, (stack, table) in enumerate(_panels(scores).items()):
            axis = axes[(index // 6) * len(stacks) + row, index % 6]
            axis.axis("on")
            image = axis.imshow(np.ma.masked_invalid(table), origin="lower", cmap="viridis", vmin=0.0, vmax=most)
            label = name.removeprefix("to_").replace("_", " ") if name.startswith("to_") else name.replace("_", " ")
            label = f"to {label}" if name.startswith("to_") else label
            axis.set_title(f"{stack}: {label}" if stack else label, fontsize=8)
            axis.set_xticks(_ends(table.shape[1]))
            axis.set_yticks(_ends(table.shape[0]))
            axis.tick_params(length=0, labelsize=6)
            axis.spines[:].set_visible(False)
            _outline(axis, table)
            bar = figure.colorbar(image, ax=axis, fraction=0.046)
            bar.ax.tick_params(labelsize=6)
            bar.outline.set_visible(False)
            if axis in axes[:, 0]:
                axis.set_ylabel("layer", fontsize=7)
            if row == len(stacks) - 1 and index + columns >= len(names):
                axis.set_xlabel("head", fontsize=7)
    return _titled(figure, title or f"attention of {found.model}\n{found.task}")


def _ends(count: int) -> list[int]:
    return [0, count - 1] if count > 1 else [0]


def _shown(token: Any) -> str:
    """A token that is no longer than a label may be, and of characters that can be seen."""
    text = str(token).replace("Ġ", "▁").replace("Ċ", "⏎")
    visible = "".join(c if c.isprintable() else "�" for c in text)
    return shorten(visible, _LONGEST_TOKEN, placeholder="…") or "·"
