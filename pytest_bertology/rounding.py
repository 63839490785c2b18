"""How a bound on a drop is written: rounded so that what is written stays true."""

from __future__ import annotations

import math

_STEPS = 10_000
_CLOSE = 1e-9
"""What a check grants for rounding: a tolerance that is short of the bound by less still passes."""


def rounded_up(bound: float, *, percent: bool = False) -> str:
    """An upper bound, rounded up to four decimals: the number that is read can be used as the tolerance.

    With `percent` a share in percent, to as many decimals: `2.50%` for 0.025.
    """
    return _written(math.ceil((bound - _CLOSE) * _STEPS), percent) if math.isfinite(bound) else str(bound)


def rounded_down(bound: float, *, percent: bool = False) -> str:
    """The same of a lower bound, rounded down."""
    return _written(math.floor((bound + _CLOSE) * _STEPS), percent) if math.isfinite(bound) else str(bound)


def _written(steps: int, percent: bool) -> str:
    value = steps / _STEPS
    return f"{value:.2%}" if percent else f"{value:.4f}"
