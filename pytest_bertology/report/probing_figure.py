"""A figure of what probes find layer by layer, beside a control task, random weights and the majority class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.probing_report import ProbeReport
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def probing_figure(report: ProbeReport, title: str | None = None) -> Figure:
    """Scores by layer with their intervals and what they are compared with; below, the selectivity.

    The ringed layer is the best on the held-out part. Raises InvalidArgument for what is no report, MissingExtra
    without matplotlib.
    """
    if not isinstance(report, ProbeReport):
        raise InvalidArgument("report", type(report).__name__, "what probe(...) returns")
    each = [report.at(layer) for layer in report.layers]
    selective = all(found.selectivity is not None for found in each)
    figure = _new_figure(6.4, 5.4 if selective else 4.0)
    axes = figure.subplots(2 if selective else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1][: 1 + selective])
    upper: Axes = axes[0, 0]
    _line(upper, report, report.scores, report.intervals, "tab:blue", f"{report.kind} probe", "o")
    best = report.at(report.best_layer)
    upper.plot([best.layer], [best.score], "o", ms=12, mfc="none", mec="tab:blue")
    if each[0].random_score is not None:
        upper.plot(report.layers, report.random_scores, marker="s", color="tab:green", label="random weights")
    if selective:
        upper.plot(report.layers, report.control_scores, marker="^", color="tab:orange", label="control task")
    upper.axhline(report.majority_baseline, color="0.4", linestyle=":", label="majority class")
    upper.set_ylabel(report.metric.name, parse_math=False)
    upper.legend(fontsize=8, frameon=False)
    if selective:
        bands = [found.selectivity.interval for found in each if found.selectivity is not None]
        _line(axes[1, 0], report, report.selectivity, bands, "tab:purple", "", "o")
        axes[1, 0].axhline(0.0, color="0.4", linestyle=":")
        axes[1, 0].set_ylabel("selectivity")
    for axis in axes[:, 0]:
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    step = -(-len(report.layers) // 16)
    axes[-1, 0].set_xticks(report.layers[::step])
    axes[-1, 0].set_xlabel("layer (0: the embeddings)")
    note = (
        f"{len(report)} {report.probing.level}s of {report.data}, trained on {report.trained_on} of {report.training}\n"
        f"{report.confidence:.0%} intervals; ringed: the best layer on the held-out part"
    )
    return _noted(_titled(figure, title or f"{report.model}: probes by layer"), note)


def _line(
    axis: Axes,
    report: ProbeReport,
    values: tuple[float, ...],
    bands: tuple[tuple[float, float], ...] | list[tuple[float, float]],
    colour: str,
    label: str,
    marker: str,
) -> None:
    """Values with their intervals: a band, or a bar where there is a single layer."""
    axis.plot(report.layers, values, marker=marker, color=colour, label=label or None)
    lows, highs = zip(*bands, strict=True)
    if len(values) > 1:
        axis.fill_between(report.layers, lows, highs, color=colour, alpha=0.18, linewidth=0)
    else:
        axis.vlines(report.layers, lows, highs, color=colour)
