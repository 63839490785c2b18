"""Written bounds against what they must allow: used as a tolerance, the bound is within it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology.rounding import rounded_down, rounded_up


@pytest.mark.parametrize(("bound", "up", "down"), [
    (0.024935, "0.0250", "0.0249"),
    (0.025, "0.0250", "0.0250"),
    (0.02500000001, "0.0250", "0.0250"),
    (-0.01234, "-0.0123", "-0.0124"),
    (0.0, "0.0000", "0.0000"),
    (float("inf"), "inf", "inf"),
])  # fmt: skip
def test_a_bound_is_rounded_to_its_side(bound, up, down):
    assert rounded_up(bound) == up
    assert rounded_down(bound) == down


def test_a_share_is_told_in_percent():
    assert rounded_up(0.024935, percent=True) == "2.50%"


@given(st.floats(-1.0, 1.0))
def test_what_is_read_holds_as_a_tolerance(bound):
    assert bound - 2e-9 <= float(rounded_up(bound)) <= bound + 1e-4
    assert bound - 1e-4 <= float(rounded_down(bound)) <= bound + 2e-9
