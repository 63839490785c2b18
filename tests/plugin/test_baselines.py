"""Baselines of whole sessions on the tiny model: what is written, compared and refused, against files and reports."""

from __future__ import annotations

import json

import pytest

SUITE = """
    from pytest_bertology import attention_statistics, evaluate, head_importance

    def test_release(bertology_baseline, bertology_model, bertology_task):
        bertology_baseline.check(evaluate(bertology_model, bertology_task))
        bertology_baseline.check(head_importance(bertology_model, bertology_task))
        bertology_baseline.check(attention_statistics(bertology_model, bertology_task))
"""


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


def kept(suite):
    return suite.path / "bertology_baselines" / "test_release.json"


def entries(suite):
    return json.loads(kept(suite).read_text(encoding="utf-8"))["entries"]


def test_missing_baselines_fail_and_write_nothing(suite):
    result = suite.run(SUITE)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*there is no baseline 'test_release/outcomes' in bertology_baselines/test_release.json*"]
    )
    assert not kept(suite).parent.exists()


def test_new_baselines_are_written_and_hold_for_the_same_model(suite):
    written = suite.run(SUITE, "--bertology-update=new")
    content = kept(suite).read_bytes()

    held = suite.run(SUITE)

    written.assert_outcomes(passed=1)
    written.stdout.fnmatch_lines(["3 baselines written (3 new) to bertology_baselines/test_release.json"])
    held.assert_outcomes(passed=1)
    assert sorted(entries(suite)) == ["test_release/attention", "test_release/importance", "test_release/outcomes"]
    assert kept(suite).read_bytes() == content
