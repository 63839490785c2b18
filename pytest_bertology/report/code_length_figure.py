"""A figure of how far each layer's states compress labels, beside what that is to be compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.measures.code_length_report import CodeLengthReport
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def code_length_figure(report: CodeLengthReport, title: str | None = None) -> Figure:
    """Compression of true and control labels by layer, and of labels whose frequencies alone are known.

    Raises InvalidArgument for what is no report, MissingExtra without matplotlib.
    """
    if not isinstance(report, CodeLengthReport):
        raise InvalidArgument("report", type(report).__name__, "what description_length(...) returns")
    figure = _new_figure(max(4.0, 0.35 * len(report.layers) + 2.4), 3.6)
    axis = figure.add_subplot()
    axis.plot(report.layers, report.compression, marker="o", color="tab:blue", label="labels")
    for name, colour, label in (
        ("random_compression", "tab:green", "labels, random weights"),
        ("control_compression", "tab:orange", "control task"),
    ):
        try:
            found = getattr(report, name)
        except UndefinedScore:
            continue
        axis.plot(report.layers, found, marker="o", color=colour, label=label)
    axis.axhline(report.frequency_compression, color="0.5", linestyle="--", linewidth=1, label="frequencies alone")
    axis.set_xticks(report.layers)
    axis.set_xlabel("layer (0: embeddings)")
    axis.set_ylabel("compression")
    axis.set_ylim(bottom=0.0)
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7)
    note = (
        f"uniform code ({report.uniform_bits / 1000:.1f} kbit) over online code; {report.items} "
        f"{report.probing.level}s of {report.training}"
    )
    return _noted(_titled(figure, title or f"{report.model}: how far states compress labels"), note)
