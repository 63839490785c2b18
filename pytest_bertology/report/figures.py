"""Figures: heat maps of heads, ablation maps, pruning curves. Drawn with matplotlib, which is loaded only here.

Figures are objects of their own, made without pyplot: nothing is shown, nothing kept, and no backend chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument, MissingExtra
from pytest_bertology.heads import Head, HeadScores
from pytest_bertology.measures.ablation import AblationReport
from pytest_bertology.measures.all_but_one import AllButOneReport
from pytest_bertology.measures.amnesic_report import AmnesicReport
from pytest_bertology.measures.attention import AttentionStatistics
from pytest_bertology.measures.attention_maps import HeadView
from pytest_bertology.measures.code_length_report import CodeLengthReport
from pytest_bertology.measures.compression_path import CompressionPath
from pytest_bertology.measures.constant_attention import ConstantCurve
from pytest_bertology.measures.curve import PruningCurve
from pytest_bertology.measures.divergence import HeadDivergence
from pytest_bertology.measures.edge_report import EdgeProbeReport
from pytest_bertology.measures.head_clusters import HeadClusters
from pytest_bertology.measures.head_embedding import HeadEmbedding
from pytest_bertology.measures.probing_report import ProbeReport
from pytest_bertology.measures.relation_report import RelationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

_SEQUENTIAL, _DIVERGING = "viridis", "RdBu"
_CELL, _PANEL = 0.34, 2.4
"""Inches per head and layer, and of a panel at least: twelve by twelve heads fit a page."""
_MOST_LABELS = 16
_INSTEAD = {
    "AttentionMaps": ".view(head) of it, one head on one text; or what attention_statistics(...) returns",
    "AttentionProbe": ".to_head or .from_head of it, the weights of heads",
    "CatReport": ".by_head of it, the scores of all heads (measured with layer='all')",
    "HeadClusters": "the pair (divergence.embedding(), clusters): heads in the plane, with the groups outlined",
    "LayerDistances": "something else: layers are few, print its .table()",
    "RoleReport": ".positional, .rare or .tracking of it, scores of heads and how well they track relations",
}
"""What to draw of results that no single figure shows."""


def figure_of(thing: Any, title: str | None = None) -> Figure:
    """The figure that shows a result; raises InvalidArgument for what none shows, MissingExtra without matplotlib."""
    if isinstance(thing, HeadScores):
        return heat_map(thing, title)
    if isinstance(thing, AblationReport):
        return ablation_map(thing, title)
    if isinstance(thing, AllButOneReport):
        return all_but_one_map(thing, title)
    if isinstance(thing, PruningCurve):
        return curve(thing, title)
    found = _of_attention(thing, title) or _of_probes(thing, title)
    if found is not None:
        return found
    shown = "head scores, a report on ablation, attention or relations, a curve, heads in the plane, a view of a head"
    raise InvalidArgument("thing", type(thing).__name__, _INSTEAD.get(type(thing).__name__, shown))


def _of_attention(thing: Any, title: str | None) -> Figure | None:
    """The figure that shows a result on attention; None for anything else."""
    from pytest_bertology.report import (
        attention_figures,
        constant_figure,
        divergence_figure,
        embedding_figure,
        relation_figure,
    )

    if isinstance(thing, AttentionStatistics):
        return attention_figures.statistics_maps(thing, title)
    if isinstance(thing, HeadView):
        return attention_figures.head_view(thing, title)
    if isinstance(thing, RelationReport):
        return relation_figure.relation_figure(thing, title)
    if isinstance(thing, HeadEmbedding):
        return embedding_figure.embedding_figure(thing, title=title)
    if isinstance(thing, tuple) and [type(part) for part in thing] == [HeadEmbedding, HeadClusters]:
        return embedding_figure.embedding_figure(thing[0], thing[1], title)
    if isinstance(thing, HeadDivergence):
        return divergence_figure.divergence_map(thing, title)
    if isinstance(thing, ConstantCurve):
        return constant_figure.constant_curves(thing, title=title)
    return None


def _of_probes(thing: Any, title: str | None) -> Figure | None:
    """The figure that shows what probes found; None for anything else."""
    from pytest_bertology.report import amnesic_figure, code_length_figure, edge_figures, path_figure, probing_figure

    if isinstance(thing, AmnesicReport):
        return amnesic_figure.amnesic_figure(thing, title)
    if isinstance(thing, CodeLengthReport):
        return code_length_figure.code_length_figure(thing, title)
    if isinstance(thing, EdgeProbeReport):
        return edge_figures.edge_figure(thing, title)
    if isinstance(thing, CompressionPath):
        return path_figure.compression_figure(thing, title)
    if isinstance(thing, ProbeReport):
        return probing_figure.probing_figure(thing, title)
    return None


def heat_map(
    scores: HeadScores,
    title: str | None = None,
    *,
    label: str | None = None,
    marked: Collection[Head] = (),
    worse_is_negative: bool = True,
) -> Figure:
    """Layers by heads, a panel for each stack; cells that are no head are left blank.

    Scores of either sign are coloured around a white zero, what is worse in red. `label` names the colour bar
    (default: the method); heads in `marked` carry a star.
    """
    panels = _panels(scores)
    figure = _new_figure(*_size(panels.values()))
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=[table.shape[1] for table in panels.values()])[0]
    colours = _colours(scores, worse_is_negative)
    for axis, (stack, table) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(np.ma.masked_invalid(table), origin="lower", aspect="equal", **colours)
        axis.set_xlabel("head")
        axis.set_ylabel(f"{stack} layer" if stack else "layer")
        for side, count in (("x", table.shape[1]), ("y", table.shape[0])):
            getattr(axis, f"set_{side}ticks")(range(0, count, -(-count // _MOST_LABELS)))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        _outline(axis, table)
        _mark(axis, image, table, [head for head in marked if head.stack == stack])
    bar = figure.colorbar(image, ax=list(axes), aspect=25)
    bar.set_label(fill(label or scores.method, int(11 * figure.get_figheight()) - 12), parse_math=False)
    bar.outline.set_visible(False)
    return _titled(figure, title)


def ablation_map(report: AblationReport, title: str | None = None, alpha: float = 0.05) -> Figure:
    """The change in score without each head; stars mark changes that are significant at `alpha`."""
    name, tests = report.baseline.metric.name, len(report.tested)
    found = report.significant(alpha) if report.can_find(alpha) else ()
    corrected = f"{report.correction}-corrected " if report.correction else ""
    stars = f"★ {corrected}p ≤ {alpha:g}: {len(found)} of {tests} heads"
    if not report.can_find(alpha):
        stars = f"{report.resamples} resamples are too few to tell which changes are significant"
    figure = heat_map(
        report.score_change,
        title,
        label=f"change in {name} without the head",
        marked=found,
        worse_is_negative=report.baseline.metric.higher_is_better,
    )
    return _noted(figure, f"{report.ablation} ablation; baseline {name} {report.baseline.score:.4f}\n{stars}")


def all_but_one_map(report: AllButOneReport, title: str | None = None) -> Figure:
    """The change in score with only one head left in its layer; stars mark the best head of each layer."""
    name = report.baseline.metric.name
    figure = heat_map(
        report.score_change,
        title,
        label=f"change in {name} with only that head in its layer",
        marked=[best.head for best in report.best],
        worse_is_negative=report.baseline.metric.higher_is_better,
    )
    return _noted(figure, f"baseline {name} {report.baseline.score:.4f}\n★ the head that alone serves its layer best")


def curve(found: PruningCurve, title: str | None = None, tolerance: float | None = None) -> Figure:
    """The score over the fraction of heads masked, and that of the model as trained.

    With `tolerance` the range of scores that it allows is shaded, and the largest fraction within it marked.
    """
    figure = _new_figure(6.4, 4.0)
    axis = figure.add_subplot()
    found.plot(axis)
    axis.set_title("")
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if tolerance is not None:
        worst = found.baseline - tolerance if found.metric.higher_is_better else found.baseline + tolerance
        axis.axhspan(*sorted((worst, found.baseline)), color="tab:green", alpha=0.12, linewidth=0)
        within = found.largest_within(tolerance)
        axis.axvline(100 * within, color="tab:green", linewidth=1, label=f"within {tolerance:g}: {within:.0%}")
        axis.legend()
    return _titled(figure, title or (f"{found.model} on {found.task}" if found.model else found.task))


def _new_figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("drawing a figure", "matplotlib", "figures") from None
    return Figure(figsize=(width, height), dpi=150, layout="compressed")


def _size(panels: Collection[Array]) -> tuple[float, float]:
    """Inches: room for every head, and for labels and colour bar."""
    rows, widest = max(len(table) for table in panels), max(table.shape[1] for table in panels)
    cell = min(1.0, max(_CELL, _PANEL / max(rows, widest)))
    width = sum(table.shape[1] * cell + 0.7 for table in panels) + 1.4
    return min(20.0, max(4.0, width)), min(20.0, max(2.0, rows * cell) + 1.5)


def _panels(scores: HeadScores) -> Mapping[str | None, Array]:
    """The table of each stack that has heads: (layers, heads), NaN where there is none."""
    table, stacks = scores.to_numpy(), scores.heads.to_stacks()
    if not len(scores):
        raise InvalidArgument("thing", "scores of no heads", "scores of one head or more")
    panels: dict[str | None, Array] = {}
    start = 0
    for stack, counts in stacks.items():
        if any(counts):
            panels[stack] = table[start : start + len(counts), : max(counts)]
        start += len(counts)
    return panels


def _colours(scores: HeadScores, worse_is_negative: bool) -> dict[str, Any]:
    low, high = float(scores.values.min()), float(scores.values.max())
    if low < 0.0 or "change" in scores.method:
        reach = max(-low, high) or 1.0
        return {"cmap": _DIVERGING if worse_is_negative else f"{_DIVERGING}_r", "vmin": -reach, "vmax": reach}
    return {"cmap": _SEQUENTIAL, "vmin": 0.0, "vmax": high or 1.0}


def _outline(axis: Any, table: Array) -> None:
    """A thin line around each head, so that a head of score zero is not taken for none."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    cells = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in np.argwhere(np.isfinite(table))]
    axis.add_collection(PatchCollection(cells, facecolor="none", edgecolor="0.8", linewidth=0.4))


def _mark(axis: Any, image: Any, table: Array, heads: Collection[Head]) -> None:
    """Stars that can be seen on any colour."""
    for head in heads:
        red, green, blue, _ = image.cmap(image.norm(table[head.layer, head.head]))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axis.text(head.head, head.layer, "★", ha="center", va="center", color="white" if dark else "black", fontsize=8)


def _titled(figure: Figure, title: str | None) -> Figure:
    if title:
        lines = "\n".join(fill(line, int(11 * figure.get_figwidth()) - 4) for line in title.splitlines())
        figure.suptitle(lines, fontsize=11, parse_math=False)  # a name may hold dollar signs
    return figure


def _noted(figure: Figure, note: str) -> Figure:
    figure.supxlabel(note, fontsize=8, color="0.35", parse_math=False)
    return figure
