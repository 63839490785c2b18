"""Figures beside kept ones: differences written out, and quantiles of scipy's normal distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pytest_bertology import attention_statistics, pruning_curve
from pytest_bertology.baselines.compare_figures import compare_figures
from pytest_bertology.baselines.comparison import Limits
from pytest_bertology.baselines.files import as_stored
from pytest_bertology.baselines.records import record
from pytest_bertology.baselines.series import HIGHER, Series, series_of
from pytest_bertology.errors import InvalidArgument, NonFinite
from tests.tiny import tiny_model, tiny_task


def compared(before, now, **limits):
    kept = as_stored({"c": dict(record(before).content)})["c"]
    found = record(now)
    return compare_figures(kept, found.live, found.match["value"], Limits(**limits))


def test_a_number_needs_a_tolerance_and_moves_either_way_within_it():
    assert compared(10.0, 10.4, tolerance=0.5).passed
    assert not compared(10.0, 10.6, tolerance=0.5).passed
    assert not compared(10.0, 9.4, tolerance=0.5).passed
    with pytest.raises(InvalidArgument, match="no noise of its own"):
        compared(10.0, 10.0)


def test_which_way_is_better_can_be_said():
    assert compared(10.0, 12.0, tolerance=0.5, higher_is_better=True).passed
    assert compared(10.0, 8.0, tolerance=0.5, higher_is_better=False).passed
    found = compared(10.0, 8.0, tolerance=0.5, higher_is_better=True)
    assert (found.passed, found.observed, found.required) == (False, 2.0, "<= 0.5")
    assert (found.baseline, found.score) == (10.0, 8.0)


def test_a_tolerance_may_be_a_share_of_the_baseline():
    assert compared(200.0, 209.0, tolerance=0.05, relative=True).passed
    assert not compared(200.0, 211.0, tolerance=0.05, relative=True).passed


def test_a_number_of_more_digits_than_a_file_holds_is_equal_to_itself():
    assert compared({"checksum": 3423974925}, {"checksum": 3423974925}, tolerance=0).passed
    assert compared({"bytes": 1234567.8912345}, {"bytes": 1234567.8912345}, tolerance=0).passed
    assert not compared({"bytes": 1234567.89}, {"bytes": 1234567.88}, tolerance=0).passed


def test_every_figure_of_a_dict_is_judged_and_the_worst_is_named_first():
    found = compared({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.05, "b": 2.5, "c": 4.0}, tolerance=0.1)

    assert (found.passed, found.observed) == (False, 2.0)
    assert [line.strip().split(":")[0] for line in found.lines[1:]] == ["c", "b"]


@pytest.mark.parametrize("value", [{}, {1: 2.0}, {"a": "b"}, {"a": True}, "text", object(), True, [1.0]])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(InvalidArgument):
        record(value)


def test_a_number_that_is_none_is_refused():
    with pytest.raises(NonFinite, match="accuracy"):
        record({"accuracy": float("nan")})


def test_figures_with_errors_may_move_by_what_those_allow():
    def judged(change):
        kept = {"score": {"values": {"layer 0": 0.8, "layer 1": 0.9}, "errors": {"layer 0": 0.03, "layer 1": 0.03}}}
        now = Series("score", ("layer 0", "layer 1"), [0.8, 0.9 - change], [0.04, 0.04], HIGHER, 0.001)
        return compare_figures(kept, [now], "ProbeReport", Limits())

    limit = stats.norm.isf(0.05 / 2) * 0.05  # √(0.03² + 0.04²), two figures

    assert judged(limit - 1e-6).passed
    assert not judged(limit + 1e-6).passed
    assert judged(limit + 1e-6).p_value == pytest.approx(0.05, rel=1e-3)
    assert judged(-1.0).passed


def test_attention_is_judged_head_by_head_and_statistic_by_statistic():
    model, texts = tiny_model(), tiny_task(8)
    found = attention_statistics(model, texts)
    kind, _, _, series = series_of(found)

    def with_change(name, head, change):
        values = found.statistic(name).values.copy()
        values[head] += change
        moved = [replace(each, values=values) if each.name == name else each for each in series]
        kept = as_stored({"c": dict(record(found).content)})["c"]
        return compare_figures(kept, moved, kind, Limits())

    assert with_change("entropy", 3, 0.0).passed
    assert with_change("entropy", 3, 0.04).passed
    assert not with_change("entropy", 3, -0.06).passed
    assert not with_change("to_first", 5, 0.03).passed
    assert with_change("to_first", 5, 0.03).heads == ("L1H1",)
    assert not with_change("distance", 0, 0.2).passed


def test_heads_that_rank_otherwise_are_refused_though_each_moved_by_less_than_it_may():
    model, texts = tiny_model(), tiny_task(8)
    found = attention_statistics(model, texts)

    passed = compared(found, found, tolerance=0.5)
    other = attention_statistics(tiny_model(seed=3), texts)

    assert passed.passed
    assert not compared(found, other).passed


def test_a_curve_may_rise_but_not_fall():
    curve = pruning_curve(tiny_model(), tiny_task(12), fractions=[0.0, 0.5])
    kept = as_stored({"c": dict(record(curve).content)})["c"]
    names = ("0", "0.5")
    rising, falling = (
        [Series("score", names, np.array(curve.scores) + change, None, HIGHER, 0.02)] for change in (0.3, -0.03)
    )

    assert compare_figures(kept, rising, "PruningCurve", Limits()).passed
    assert not compare_figures(kept, falling, "PruningCurve", Limits()).passed


def test_limits_that_judge_nothing_of_figures_are_refused():
    with pytest.raises(InvalidArgument, match="max_changed"):
        compared(1.0, 1.0, tolerance=0.1, max_changed=0.1)
