"""The figure of a curve of constant heads, alone or beside the same heads masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.constant_attention import ConstantCurve
from pytest_bertology.measures.curve import PruningCurve
from pytest_bertology.report.figures import _new_figure, _noted, _titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def constant_curves(found: ConstantCurve, masked: PruningCurve | None = None, title: str | None = None) -> Figure:
    """The score over the fraction of heads whose attention is constant, and that of the model as trained.

    With `masked`, a pruning curve of the same task and metric, the scores with heads masked are drawn beside it.
    Raises InvalidArgument for a curve of another task or metric, MissingExtra without matplotlib.
    """
    if masked is not None and (masked.task, masked.metric) != (found.task, found.metric):
        expected = f"a pruning curve of {found.metric.name} on {found.task}"
        raise InvalidArgument("masked", f"{masked.metric.name} on {masked.task}", expected)
    figure = _new_figure(6.4, 4.0)
    axis = figure.add_subplot()
    if masked is not None:
        shares = [100 * fraction for fraction in masked.fractions]
        axis.plot(shares, masked.scores, marker="s", color="tab:orange", label=f"masked, by {masked.by}")
    found.plot(axis)
    axis.set_title("")
    axis.set_xlabel("heads changed (%)" if masked is not None else "heads with constant attention (%)")
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    title = title or (f"{found.model} on {found.task}" if found.model else found.task)
    return _noted(_titled(figure, title), f"constants estimated on {found.source}")
