"""Sessions that find everything in the store. The oracle: `sys.modules` of a process of its own, and its report."""

from __future__ import annotations

import json

import pytest

SUITE = """
    import pytest
    from hypothesis import given, settings, strategies as st
    from pytest_bertology import (
        CheckFailed, assert_heads_in_top, assert_metric_retained, attention_statistics, evaluate, pruning_curve,
    )

    def test_retained(bertology_model, bertology_task):
        assert assert_metric_retained(bertology_model, bertology_task, prune=0.25, tolerance=0.9).drop < 0.9

    def test_ranks(head_importance, bertology_model):
        assert_heads_in_top(head_importance, head_importance.top(2), k=len(bertology_model.heads) - 1)

    @pytest.mark.bertology(heads_masked=[(0, 1)])
    def test_masked(bertology_model, bertology_task, head_mask):
        assert evaluate(bertology_model, bertology_task).score < 1.0
        assert len(head_mask.masked) == 1

    def test_curve(bertology_model, bertology_task):
        assert pruning_curve(bertology_model, bertology_task, fractions=(0.0, 0.5)).at(0.5).score <= 1.0

    def test_refused(bertology_model, bertology_task):
        with pytest.raises(CheckFailed, match="not retained"):
            assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.0)

    @settings(max_examples=3, derandomize=True, deadline=None)
    @given(head=st.integers(0, 3))
    def test_each(head, bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, heads=[(1, head)], tolerance=0.95)

    def test_attention(bertology_model, bertology_task):
        assert attention_statistics(bertology_model, bertology_task).entropy.values.min() >= 0

    def test_known(bertology_model, bertology_task, bertology_baseline):
        bertology_baseline.check(evaluate(bertology_model, bertology_task), name="outcomes")
"""
CONFTEST = """
    import sys

    def pytest_unconfigure(config):
        names = ("torch", "transformers", "datasets", "sklearn", "matplotlib")
        print("loaded:", *[name for name in names if name in sys.modules])
"""


def loaded(result: pytest.RunResult) -> list[str]:
    return next(line for line in result.outlines if line.startswith("loaded:")).split()[1:]


def report(path) -> list:
    tests = json.loads(path.read_text())["tests"]
    for test in tests:
        del test["seconds"]
    return tests


def test_a_session_that_finds_everything_loads_no_torch_and_reports_the_same(suite, tmp_path):
    options = (*suite.given, f"--bertology-store={tmp_path / 'store'}")
    told = []
    results = []
    suite.write(SUITE, CONFTEST)
    suite.run("", "--bertology-update=new", "-k", "known").assert_outcomes(passed=1, deselected=7)
    for number in range(2):
        file = tmp_path / f"{number}.json"
        html = f"--bertology-report-html={tmp_path / 'report.html'}"
        results.append(suite.apart("", *options, f"--bertology-report-json={file}", html))
        told.append(report(file))

    for result in results:
        result.assert_outcomes(passed=8)
    assert "torch" in loaded(results[0])
    assert loaded(results[1]) == []
    results[1].stdout.fnmatch_lines(["store: * calls answered from *, 0 computed"])
    assert told[0] == told[1]


def test_a_model_of_a_hook_is_made_each_time(suite, tmp_path):
    conftest = f"""
        from pytest_bertology import load_model

        def pytest_bertology_load_model(source, config):
            print("made")
            return load_model({str(suite.model)!r})
    """
    source = """
        from pytest_bertology import evaluate

        def test_it(bertology_model, bertology_task):
            assert evaluate(bertology_model, bertology_task).score > 0
    """
    for _ in range(2):
        result = suite.run(source, f"--bertology-store={tmp_path / 'store'}", "-s", conftest=conftest)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*made*"])


def test_weights_that_a_test_changes_are_put_back_though_the_model_was_known(suite, tmp_path):
    source = """
        import torch
        from pytest_bertology import evaluate

        def test_changes(bertology_model):
            with torch.no_grad():
                bertology_model.model.classifier.weight.zero_()

        def test_after(bertology_model, bertology_task):
            assert evaluate(bertology_model, bertology_task).score > 0.9
    """
    for _ in range(2):
        result = suite.run(source, f"--bertology-store={tmp_path / 'store'}")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["*weights of tiny were changed*"])
