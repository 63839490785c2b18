"""From task to task: by how many layers the next one lies higher (Tenney et al. 2019, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pytest_bertology.measures.edge_report import EXPECTED, EdgeProbeReport, seed_interval
from pytest_bertology.measures.relation_intervals import Interval


@dataclass(frozen=True)
class LayerStep:
    """Two tasks that should follow one another."""

    first: str
    second: str
    difference: float | None
    """The second's layer less the first's, means over seeds; None where one of them has none."""
    interval: Interval | None
    """Over seeds, paired; None where it was not asked for or there is no difference."""
    holds: bool
    """Whether the second lies above the first: with an interval, surely."""
    without: tuple[str, ...]
    """Those of the two that have no layer."""


def layer_steps(reports: Mapping[str, EdgeProbeReport], by: str, confidence: float | None) -> tuple[LayerStep, ...]:
    """Each of the tasks and the next; with `confidence` they must have the same seeds, two or more."""
    return tuple(_step(one, other, reports, by, confidence) for one, other in pairwise(reports))


def unplaced(report: EdgeProbeReport, by: str) -> str | None:
    """Why a task has no layer to be compared by; None where it has one."""
    if by == EXPECTED and report.undefined is not None:
        return report.undefined
    if not report.beats_majority:
        low, high = report.lead.interval
        lead = f"{report.lead.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
        return f"its probe is not surely better than always saying the commonest label: accuracy {lead}"
    return None


def _step(one: str, other: str, reports: Mapping[str, EdgeProbeReport], by: str, confidence: float | None) -> LayerStep:
    without = tuple(name for name in (one, other) if unplaced(reports[name], by) is not None)
    if without:
        return LayerStep(one, other, None, None, False, without)
    if confidence is None:
        difference = reports[other].layer(by) - reports[one].layer(by)
        return LayerStep(one, other, difference, None, difference > 0.0, ())
    moved = np.array(reports[other].by_seed(by)) - np.array(reports[one].by_seed(by))
    interval = seed_interval(moved, confidence)
    holds = interval is not None and interval[0] > 0.0
    return LayerStep(one, other, float(moved.mean()), interval, holds, ())
