"""Figures beside a baseline's, one by one: no mean over them can hide the one that moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pytest_bertology.baselines.comparison import Comparison, Limits
from pytest_bertology.baselines.files import as_kept
from pytest_bertology.baselines.series import EITHER, HIGHER, LOWER, Series
from pytest_bertology.errors import InvalidArgument

MIN_CORRELATION = 0.9
"""Required of the ranks of heads, of figures that differ between heads by more than they may move."""
_SHOWN = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Moved:
    """One figure and how far it went the wrong way."""

    series: str
    name: str
    before: float
    now: float
    worse: float
    """How far it went the wrong way; below 0 the right way."""
    allowed: float
    p_value: float | None

    @property
    def beyond(self) -> float:
        """How many times what is allowed."""
        return self.worse / self.allowed if self.allowed > 0.0 else (np.inf if self.worse > 0.0 else 0.0)

    def __str__(self) -> str:
        figure = self.name if self.series in ("number", "numbers") else f"{self.series} of {self.name}"
        figure = "the number" if self.series == "number" else figure
        return (
            f"{figure}: {self.before:.4g} → {self.now:.4g} ({self.now - self.before:+.4g}, allowed {self.allowed:.4g})"
        )


def compare_figures(kept: Mapping[str, Any], series: Sequence[Series], kind: str, limits: Limits) -> Comparison:
    """Judge every figure by the one that was kept.

    A figure may move the wrong way by `tolerance` (with `relative` a share of the baseline). Where none is given:
    figures with standard errors by what those allow (the difference of two such figures, at `limits.level` divided by
    the number of figures), others by a tolerance of their kind. A plain number has neither; raises InvalidArgument
    then. Figures of heads are also ranked: Spearman's ρ is at least `min_correlation` (0.9) where heads differ by more
    than what they may move.
    """
    limits.only(kind, "tolerance", "relative", "min_correlation", "higher_is_better")
    total = sum(len(each.names) for each in series)
    moved = [figure for each in series for figure in _moved(kept[each.name], each, total, limits)]
    beyond = sorted((each for each in moved if each.worse > each.allowed + _ROUNDING), key=lambda each: -each.beyond)
    ranks = [(each.name, *_ranked(kept[each.name], each, limits)) for each in series if each.by_head]
    reordered = [(name, found, least) for name, found, least in ranks if found < least]
    known = [each.p_value for each in moved if each.p_value is not None]
    rows = {"figures": f"{total}, of which {len(beyond)} moved further than they may"}
    if ranks:
        least = min(ranks, key=lambda each: each[1])
        rows["ranks"] = f"least correlation across heads {least[1]:.4f}, of {least[0]}"
    shown = beyond or sorted(moved, key=lambda each: -each.beyond)[:1]
    lines = ["  beyond what is allowed:" if beyond else "  nearest to what is allowed:"]
    lines += [f"    {each}" for each in shown[:_SHOWN]]
    lines += [f"    and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    lines += [
        f"    ranks of {name}: correlation {found:.4f}, required at least {least}" for name, found, least in reordered
    ]
    only = moved[0] if total == 1 else None
    return Comparison(
        **_verdict(kind, moved, beyond, reordered),
        p_value=min(1.0, min(known) * len(known)) if known and limits.tolerance is None else None,
        # Where ranks alone are at fault, no p-value refused it.
        tests="change" if known and limits.tolerance is None and (beyond or not reordered) else "",
        rows=rows,
        lines=tuple(lines),
        heads=tuple(dict.fromkeys(each.name for each in beyond if each.series in {name for name, _, _ in ranks})),
        evidence={"figures": [_told(each) for each in shown[:_SHOWN]]},
        baseline=only.before if only else None,
        score=only.now if only else None,
        better=limits.tolerance is not None and bool(moved) and all(each.worse < -each.allowed for each in moved),
    )


def _verdict(kind: str, moved: list[_Moved], beyond: list[_Moved], reordered: list[Any]) -> dict[str, Any]:
    if reordered and not beyond:
        name, found, least = reordered[0]
        return {
            "passed": False,
            "observed": found,
            "judged": f"rank correlation of {name} across heads with its baseline",
            "required": f">= {least:g}",
            "title": f"heads rank otherwise by {name} than in the baseline",
        }
    worst = max(moved, key=lambda each: each.beyond)
    if len(moved) == 1:
        title = f"{'the number' if worst.series == 'number' else worst.name} is not that of the baseline"
        judged, observed, required = "change from the baseline", worst.worse, f"<= {worst.allowed:.4g}"
    else:
        title = f"{len(beyond)} of {len(moved)} figures of {kind} moved further from the baseline than they may"
        judged, observed, required = f"figures of {kind} that moved from the baseline", float(len(beyond)), "<= 0"
    return {"passed": not beyond, "observed": observed, "judged": judged, "required": required, "title": title}


def _moved(kept: Mapping[str, Any], series: Series, total: int, limits: Limits) -> Iterator[_Moved]:
    before, errors = named(kept["values"]), named(kept.get("errors") or {})
    own = dict(zip(series.names, series.errors, strict=True)) if series.errors is not None else {}
    better = _better(series, limits)
    if set(before) != set(series.names):
        raise InvalidArgument(series.name, sorted(set(before) ^ set(series.names)), "figures of the same names")
    for name, exact in zip(series.names, np.asarray(series.values, dtype=np.float64).tolist(), strict=True):
        value = as_kept(exact)  # or a large number differs from itself by the digits that files leave out
        change = value - before[name]
        worse = {HIGHER: -change, LOWER: change, EITHER: abs(change)}[better]
        error = float(np.hypot(errors.get(name, 0.0), own.get(name, 0.0)))
        p = None
        if error > 0.0:
            p = float(stats.norm.sf(worse / error)) * (2.0 if better == EITHER else 1.0)
        yield _Moved(
            series.name, name, before[name], value, worse, _allowed(series, before[name], error, total, limits), p
        )


def _better(series: Series, limits: Limits) -> str:
    if limits.higher_is_better is None:
        return series.better
    return HIGHER if limits.higher_is_better else LOWER


def _allowed(series: Series, before: float, error: float, total: int, limits: Limits) -> float:
    if limits.tolerance is not None:
        return limits.tolerance * (abs(before) if limits.relative else 1.0)
    if error > 0.0:
        sides = 2.0 if _better(series, limits) == EITHER else 1.0
        return float(stats.norm.isf(limits.level / total / sides)) * error
    if series.tolerance is None:
        expected = "a number: what is compared has no noise of its own, so say how far from its baseline it may be"
        raise InvalidArgument("tolerance", None, expected)
    return series.tolerance


def _ranked(kept: Mapping[str, Any], series: Series, limits: Limits) -> tuple[float, float]:
    """Spearman's ρ across heads, and what is required; 1 where heads hardly differ, and ranks say nothing."""
    before = named(kept["values"])
    one = np.array([before[name] for name in series.names])
    other = np.asarray(series.values, dtype=np.float64)
    least = MIN_CORRELATION if limits.min_correlation is None else limits.min_correlation
    tolerance = limits.tolerance if limits.tolerance is not None and not limits.relative else series.tolerance or 0.0
    if len(one) < 3 or np.std(one) <= 2.0 * tolerance or np.ptp(other) == 0.0:
        return 1.0, least
    return float(stats.spearmanr(one, other)[0]), least


def named(values: Mapping[str, Any]) -> dict[str, float]:
    """Figures by name; those of heads are kept as a list for each layer."""
    found: dict[str, float] = {}
    for name, kept in values.items():
        if isinstance(kept, list):
            found |= {f"{name}H{head}": value for head, value in enumerate(kept)}
        else:
            found[name] = kept
    return found


def _told(figure: _Moved) -> dict[str, Any]:
    return {
        "series": figure.series,
        "name": figure.name,
        "baseline": figure.before,
        "candidate": figure.now,
        "allowed": figure.allowed,
    }
