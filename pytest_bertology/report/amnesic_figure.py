"""A figure of what it costs to take a property out of each layer, beside random directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.amnesic_report import AmnesicReport
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ERASED, _RANDOM, _PROBE = "tab:red", "0.55", "tab:blue"


def amnesic_figure(report: AmnesicReport, title: str | None = None) -> Figure:
    """The score by layer, the property or random directions erased there; below, what a linear probe gets.

    Bars are the interval of the drop, crosses the single draws of random directions. Raises InvalidArgument for what is
    no report, MissingExtra without matplotlib.
    """
    if not isinstance(report, AmnesicReport):
        raise InvalidArgument("report", type(report).__name__, "what amnesic_probe(...) returns")
    figure = _new_figure(6.4, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    layers = [each.layer for each in report.layers]
    sign = -1.0 if report.higher_is_better else 1.0
    above.axhline(report.baseline, color="0.2", linewidth=1, linestyle="--", label="as it was")
    for each in report.layers:
        ends = [report.baseline + sign * end for end in each.drop_interval]
        above.plot([each.layer] * 2, ends, color=_ERASED, linewidth=1.5, solid_capstyle="butt")
        above.plot([each.layer] * len(each.random_scores), each.random_scores, "x", color=_RANDOM, markersize=4)
    random = [report.baseline + sign * each.random_drop for each in report.layers]
    above.plot(layers, random, color=_RANDOM, linewidth=1, label="random directions erased")
    above.plot(layers, [each.score for each in report.layers], "o-", color=_ERASED, markersize=5, label="erased")
    above.set_ylabel(report.metric)
    above.legend(fontsize=7)
    probes = [each.erasure.only for each in report.layers]
    below.plot(layers, [each.accuracy_before for each in probes], "o-", color=_PROBE, markersize=4, label="before")
    below.plot(layers, [each.accuracy_after for each in probes], "o:", color=_PROBE, markersize=4, label="after")
    if all(each.last is not None for each in report.layers):
        last = [
            own.majority + each.last.difference for own, each in zip(probes, report.layers, strict=True) if each.last
        ]
        below.plot(layers, last, "^:", color="tab:purple", markersize=4, label="after, at the last layer")
    below.axhline(probes[0].majority, color="0.2", linewidth=1, linestyle="--", label="majority class")
    below.set_ylim(0.0, 1.02)
    below.set_ylabel("linear probe")
    below.set_xlabel("layer (0: embeddings)")
    below.set_xticks(layers)
    below.legend(fontsize=7, ncols=4, loc="lower center")
    for axis in (above, below):
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    note = (
        f"{report.erased}, erased from one layer at a time by {report.method}; {report.confidence:.0%} intervals over "
        f"{report.examples} examples\ncrosses: as many directions, drawn at random"
    )
    return _noted(_titled(figure, title or f"{report.model}: {report.task} without {report.erased}"), note)
