"""The figure of a path of compression: what probes find, and how well the model itself does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.compression_path import CompressionPath
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compression_figure(found: CompressionPath, title: str | None = None) -> Figure:
    """The probe's score with its interval above, the model's own score below, point by point.

    Raises MissingExtra without matplotlib.
    """
    figure = _new_figure(6.4, 5.0)
    above, below = figure.subplots(2, 1, sharex=True)
    at = range(len(found))
    probes = [point.probe for point in found.points]
    low, high = zip(*(point.interval for point in found.points), strict=True)
    above.fill_between(at, low, high, color="tab:blue", alpha=0.15, linewidth=0)
    above.plot(at, probes, marker="o", color="tab:blue", label=f"probe of layer {found.layer}")
    above.axhline(found.majority_baseline, color="grey", linestyle="--", linewidth=1, label="most frequent class")
    above.set_ylabel(f"{found.metric.name} of the probe")
    above.legend(fontsize=8)
    below.plot(at, [point.score for point in found.points], marker="s", color="tab:orange")
    below.set_ylabel(f"{found.model_metric.name} of the model")
    below.set_xticks(list(at), [point.name for point in found.points], rotation=20, ha="right", parse_math=False)
    for axis in (above, below):
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    try:
        note = f"rank correlation {found.rank_correlation:+.2f} (p {found.p_value:.3f}, one-sided)"
    except UndefinedScore:
        note = "rank correlation undefined: one of them never changes"
    return _noted(_titled(figure, title or f"{found.model}: {found.probed}, and {found.judged}"), note)
