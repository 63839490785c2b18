"""A figure of which dependency relations heads track: their accuracy beside that of the best fixed offset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.relation_report import RelationReport, TrackedRelation
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.26
_MOST = 60
_TURNED = "\nᵀ: that head attends the other way, from the syntactic head to the word"


def relation_figure(report: RelationReport, title: str | None = None) -> Figure:
    """Relations, the most frequent at the top: the chosen head's accuracy with its interval, and the best offset's.

    Filled dots are of heads that beat the offset, corrected for the number of relations; hollow ones of those that do
    not. Raises InvalidArgument for what is no report, MissingExtra without matplotlib.
    """
    if not isinstance(report, RelationReport):
        raise InvalidArgument("report", type(report).__name__, "what head_relations(...) returns")
    found = report.bests[:_MOST]
    figure = _new_figure(6.8, max(2.0, _ROW * len(found)) + 1.5)
    axis = figure.add_subplot()
    places = np.arange(len(found))
    for place, each in zip(places, found, strict=True):
        axis.plot(each.interval, [place, place], color="tab:blue", linewidth=1.5, solid_capstyle="butt")
        if each.beats_offset:
            gained = (each.offset_accuracy, each.accuracy)
            axis.plot(gained, [place, place], color="0.85", linewidth=4, solid_capstyle="butt", zorder=0)
    heads, offsets = [each.accuracy for each in found], [each.offset_accuracy for each in found]
    colours = ["tab:blue" if each.beats_offset else "white" for each in found]
    axis.scatter(heads, places, c=colours, edgecolors="tab:blue", s=26, zorder=3, label="best head")
    axis.scatter(offsets, places, color="tab:orange", marker="|", s=70, linewidths=2, zorder=4, label="best offset")
    axis.set_yticks(places, [_label(each) for each in found], fontsize=7, parse_math=False)
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.set_xlim(0.0, 1.02)
    axis.set_xlabel("share of words whose syntactic head is found")
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.5 / (_ROW * len(found) + 1)), ncols=2)
    turned = "" if all(each.direction == "to_head" for each in found) else _TURNED
    more = f"; {len(report.bests) - _MOST} more relations are not shown" if len(report.bests) > _MOST else ""
    note = (
        f"{len(report.significant())} of {len(report.relations)} relations beat the offset (filled; Holm, "
        f"{1.0 - report.confidence:.2g}){more}\n{report.confidence:.0%} intervals on {report.sentences} sentences of "
        f"{report.data}; heads chosen on {report.selecting} of {report.selection}{turned}"
    )
    return _noted(_titled(figure, title or f"{report.model}: relations that heads track"), note)


def _label(found: TrackedRelation) -> str:
    turned = "" if found.direction == "to_head" else "ᵀ"
    return f"{found.relation} ({found.cases})  {found.head}{turned}"
