"""--bertology-noise-floor in whole sessions of a tiny suite: what is refused, shown and written, with workers too."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Retaining")]

SUITE = """
    from pytest_bertology import assert_layers_droppable, assert_metric_retained, evaluate

    def test_below(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, heads=[(0, 1)], metric="loss", tolerance=1e-9)

    def test_above(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, heads=[(0, 1)], metric="loss", tolerance=50.0)

    def test_baseline(bertology_model, bertology_task, bertology_baseline):
        found = evaluate(bertology_model, bertology_task).rescored("loss")
        bertology_baseline.check(found, tolerance=1e-9)

    def test_layers(bertology_model, bertology_task):
        assert_layers_droppable(bertology_model, bertology_task, [1], metric="loss", relative=True, tolerance=1e-12)
"""


def test_a_tolerance_below_the_floor_fails_its_test_alone(suite, section):
    result = suite.run(SUITE, "--bertology-noise-floor", "--bertology-report-json=report.json")

    result.assert_outcomes(passed=1, failed=3)
    told = section(result, "test_below")
    assert "ToleranceBelowNoise" in told
    assert "tolerance 1e-09 is below the noise floor" in told
    assert "Allow at least" in told
    assert "ToleranceBelowNoise" in section(result, "test_baseline")
    assert "(relative, " in section(result, "test_layers")
    (floor,) = json.loads((suite.path / "report.json").read_text())["noise_floor"]
    assert (floor["model"], floor["task"], floor["metric"]) == ("tiny", "reviews.csv", "loss")
    assert 0.0 < floor["least_tolerance"] < 1e-3
    lines = [line for line in result.outlines if line.startswith("noise floor of tiny on reviews.csv (float32, cpu)")]
    assert len(lines) == 1
    assert "not counted: bfloat16" in lines[0]


def test_without_the_option_nothing_is_measured_or_refused(suite):
    result = suite.run(SUITE, "--bertology-report-json=report.json")

    assert "noise" not in result.stdout.str()
    assert json.loads((suite.path / "report.json").read_text())["noise_floor"] == []


def test_floors_of_workers_arrive_once(suite):
    suite.write(SUITE)
    options = ("--bertology-noise-floor", "--bertology-report-json=report.json", "-n2", "--dist=load")
    result = suite.pytester.runpytest_subprocess("-p", "no:cacheprovider", *suite.given, *options, timeout=120)

    result.assert_outcomes(passed=1, failed=3)
    assert len(json.loads((suite.path / "report.json").read_text())["noise_floor"]) == 1
    assert len([line for line in result.outlines if line.startswith("noise floor of")]) == 1
