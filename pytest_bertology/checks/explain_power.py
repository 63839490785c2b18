"""What the examples of a check can show: its power, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_bertology.measures.paired import changes
from pytest_bertology.measures.retention import Retention
from pytest_bertology.power import (
    examples_needed,
    mean_power,
    non_inferiority_power,
    smallest_mean_tolerance,
    smallest_tolerance,
)
from pytest_bertology.statistics import DropTest, MeanDrop, ProportionDrop, StrictestDrop

POWER = 0.8
"""The share of samples in which a check should pass where nothing is lost."""
_POINTS = ("accuracy", "f1", "f1_macro", "f1_micro")


def power_rows(found: Retention, tolerance: float, relative: bool) -> list[str]:
    """What a check with confidence could establish, and how likely; nothing where no confidence was asked for.

    Exact for the accuracy of single labels, by the share of examples that changed in this sample; by the standard error
    of this sample for other scores. Of several tests, of which the most cautious counts, by the weakest.
    """
    bound, n = found.bound, len(found.baseline)
    if bound is None or bound.test is None or n < 2:
        return []
    scale = found.scale() if relative else 1.0
    parts = [_power(part, n, tolerance * scale, bound.confidence) for part in _parts(bound.test)]
    if not parts:
        return []
    least, chance, needed = (
        choose(each) for choose, each in zip((max, min, max), zip(*parts, strict=True), strict=True)
    )
    of_which = ""
    if isinstance(bound.test, ProportionDrop):
        lost, gained = changes(found.baseline.results(), found.masked.results(), found.baseline.task.kind)
        of_which = f" of which {(lost + gained) / n:.1%} change"
    metric = found.baseline.metric.name
    unit = _amount(least / scale, metric, relative)
    rows = [
        f"with {n} examples{of_which}, the smallest drop that this check can establish is {unit} ({POWER:.0%} power)"
    ]
    if tolerance * scale < least and tolerance > 0.0:
        rows.append(
            f"a tolerance of {_amount(tolerance, metric, relative)} it establishes in {chance:.0%} of samples where "
            f"nothing is lost; that takes about {_rounded(max(int(needed), n + 1)):,} examples for {POWER:.0%}"
        )
    return rows


def examples_for(test: DropTest | None, n: int, tolerance: float, confidence: float) -> int | None:
    """About how many examples, more than these `n`, establish this tolerance; None where that is not known."""
    parts = list(_parts(test)) if test is not None and tolerance > 0.0 else []
    if not parts:
        return None
    return _rounded(max(n + 1, *(int(_power(part, n, tolerance, confidence)[2]) for part in parts)))


def _parts(test: DropTest) -> Iterator[DropTest]:
    """The tests whose power is known."""
    for part in test.tests if isinstance(test, StrictestDrop) else (test,):
        if isinstance(part, ProportionDrop) or (isinstance(part, MeanDrop) and part.n > 1):
            yield part


def _power(test: DropTest, n: int, tolerance: float, confidence: float) -> tuple[float, float, int]:
    """The smallest tolerance, the power at the one that was asked for, and how many examples that takes."""
    if isinstance(test, ProportionDrop):
        variance = (test.worse + test.better) / n
        least = smallest_tolerance(n, variance, confidence, POWER)
        chance = non_inferiority_power(n, variance, tolerance, confidence)
    else:
        assert isinstance(test, MeanDrop)
        variance = n * test.error**2
        least = smallest_mean_tolerance(n, test.error, confidence, POWER)
        chance = mean_power(n, test.error, tolerance, confidence)
    return least, chance, examples_needed(variance, tolerance, confidence, POWER) if tolerance > 0.0 else 0


def _amount(value: float, metric: str, relative: bool) -> str:
    if relative:
        return f"{value:.2%} of the baseline"
    if metric not in _POINTS:
        return f"{value:.3g}"
    points = f"{100.0 * value:.2g}"
    return f"{points} point{'' if points == '1' else 's'}"


def _rounded(count: int) -> int:
    """Up, to two digits: it is a rule of thumb."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
