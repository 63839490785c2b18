"""Figures of edge probes: which layers are mixed, and what each adds to those below (Tenney et al. 2019, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.edge_report import EdgeProbeReport
from pytest_bertology.measures.relation_intervals import Interval
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = {"f1": "micro-F1", "accuracy": "accuracy"}


def edge_figure(report: EdgeProbeReport, title: str | None = None) -> Figure:
    """Mixing weights by layer and the centre of gravity; scores of layers up to each, gains and the expected layer.

    Without cumulative probes only the weights. Raises InvalidArgument for what is no report, MissingExtra without
    matplotlib.
    """
    if not isinstance(report, EdgeProbeReport):
        raise InvalidArgument("report", type(report).__name__, "what edge_probe(...) returns")
    panels = 3 if report.cumulative else 1
    figure = _new_figure(5.6, 1.0 + 1.7 * panels)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    colour = "tab:blue"
    axes[0].bar(report.layers, report.mixing_weights, color=colour, width=0.7)
    _errors(axes[0], report.layers, report.mixing_weights, report.mixing_intervals)
    _mark(axes[0], report.centre_of_gravity, report.centre_interval, "centre of gravity")
    axes[0].set_ylabel("mixing weight")
    axes[0].set_ylim(bottom=0.0)
    if report.cumulative:
        axes[1].plot(report.layers, report.cumulative_scores, color=colour, marker="o", markersize=4)
        _errors(axes[1], report.layers, report.cumulative_scores, report.cumulative_intervals)
        axes[1].axhline(report.majority_baseline, color="0.6", linewidth=1, linestyle=":", label="commonest label")
        axes[1].legend(fontsize=7)
        axes[1].set_ylabel(f"{_UNITS[report.metric]},\nlayers up to it")
        axes[2].bar(report.layers[1:], report.gains, color=colour, width=0.7)
        axes[2].axhline(0.0, color="0.6", linewidth=0.8)
        axes[2].set_ylabel("gain")
        if report.undefined is None:
            _mark(axes[2], report.expected_layer, report.expected_interval, "expected layer")
        else:
            axes[2].text(0.98, 0.9, "expected layer undefined", transform=axes[2].transAxes, ha="right", va="top")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    axes[-1].set_xlabel("layer (0: the embeddings)")
    step = -(-len(report.layers) // 16)
    axes[-1].set_xticks(report.layers[::step])
    return _titled(_noted(figure, _note(report)), title or f"{report.model}: edge probe\n{report.data}")


def _errors(axis: Any, layers: Sequence[int], values: Sequence[float], around: Sequence[Interval | None]) -> None:
    ends = [(value, value) if each is None else each for value, each in zip(values, around, strict=True)]
    if any(each is not None for each in around):
        axis.vlines(layers, *np.array(ends).T, color="0.2", linewidth=1.2)


def _mark(axis: Any, layer: float, around: Interval | None, name: str) -> None:
    """A line at a layer, and a band for its interval."""
    axis.axvline(layer, color="tab:red", linewidth=1.2, label=f"{name} {layer:.2f}")
    if around is not None:
        axis.axvspan(*around, color="tab:red", alpha=0.12, linewidth=0)
    axis.legend(fontsize=7)


def _note(report: EdgeProbeReport) -> str:
    seeds = f"{report.confidence:.0%} intervals over {len(report.seeds)} seeds" if len(report.seeds) > 1 else "one seed"
    unsure = "" if report.beats_majority else "\nnot surely better than always saying the commonest label"
    return (
        f"{_UNITS[report.metric]} {report.score:.4f} on {report.items} items of {report.texts} texts; {seeds}{unsure}"
    )
