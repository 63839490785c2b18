"""Layers skipped and units masked: by a fixture they last for all its tests, left open by a test they end with it.

Oracle: losses, which differ under the context and are bit for bit those of the model as trained without it.
"""

from __future__ import annotations

import pytest

ENTERED = pytest.mark.parametrize(
    "context", ["skipping([1])", "units_masked([Neuron(0, n) for n in range(32)])"], ids=["skipping", "units"]
)
HEAD = """
    import pytest
    from pytest_bertology import Neuron, evaluate
    from tests.tiny import tiny_model, tiny_task

    task = tiny_task()
    seen = {}

    def losses(model):
        return evaluate(model, task).losses
"""


@ENTERED
def test_a_context_of_a_fixture_lasts_for_all_its_tests(pytester, context):
    pytester.makepyfile(
        HEAD
        + f"""
    @pytest.fixture(scope="session")
    def bertology_model():
        model = tiny_model()
        seen["plain"] = losses(model)
        with model.{context}:
            yield model

    @pytest.mark.parametrize("turn", [0, 1, 2])
    def test_each(bertology_model, turn):
        found = losses(bertology_model)
        assert (found != seen["plain"]).any()
        assert (found == seen.setdefault("under", found)).all()
    """
    )

    pytester.runpytest_inprocess().assert_outcomes(passed=3)


@ENTERED
def test_a_context_left_open_by_a_test_ends_with_it(pytester, context):
    pytester.makepyfile(
        HEAD
        + f"""
    @pytest.fixture(scope="session")
    def bertology_model():
        return tiny_model()

    def test_before(bertology_model):
        seen["plain"] = losses(bertology_model)

    def test_that_forgets(bertology_model):
        seen["context"] = bertology_model.{context}
        seen["context"].__enter__()
        assert (losses(bertology_model) != seen["plain"]).any()

    def test_after(bertology_model, tmp_path):
        assert (losses(bertology_model) == seen["plain"]).all()
        bertology_model.save(tmp_path / "saved")
        seen["context"].__exit__(None, None, None)
        assert (losses(bertology_model) == seen["plain"]).all()
    """
    )

    pytester.runpytest_inprocess().assert_outcomes(passed=3)
