"""What becomes of tests that need a GPU where there is none.

Oracle: torch's own word on whether there is one.
"""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")

MARKED = """
    import pytest

    @pytest.mark.gpu
    def test_on_gpu(bertology_model): pass

    def test_anywhere(bertology_model): pass
"""


def test_a_test_marked_gpu_is_skipped_with_a_reason(suite):
    result = suite.run(MARKED, "-rs")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*the test is marked gpu, and torch sees no CUDA device"])


def test_a_test_marked_gpu_fails_where_a_gpu_is_required(suite, section):
    result = suite.run(MARKED, "--bertology-require-gpu")

    result.assert_outcomes(passed=1, errors=1)
    assert section(result, "test_on_gpu").splitlines()[0] == (
        "the test is marked gpu, and torch sees no CUDA device (--bertology-require-gpu)"
    )


def test_a_skipped_test_loads_no_model(suite):
    hook = "def pytest_bertology_load_model(source): raise AssertionError('a model was loaded')"

    result = suite.run(MARKED, "-k", "test_on_gpu", conftest=hook)

    result.assert_outcomes(skipped=1, deselected=1)


def test_a_marked_test_that_only_imports_us_is_skipped_too(suite):
    result = suite.run("""
        import pytest
        from pytest_bertology import load_model

        @pytest.mark.gpu
        def test_on_gpu(): raise AssertionError("ran")
    """)

    result.assert_outcomes(skipped=1)


@pytest.mark.parametrize("arguments", [[], ["--bertology-require-gpu"]], ids=["skip", "require"])
def test_the_gpu_marker_of_an_unrelated_suite_is_left_alone(suite, arguments):
    result = suite.bare(
        """
        import pytest

        @pytest.mark.gpu
        def test_theirs(): pass
        """,
        *arguments,
    )

    result.assert_outcomes(passed=1)


def test_the_gpu_marker_may_be_declared_by_the_suite_too(suite):
    suite.pytester.makeini("[pytest]\nmarkers =\n    gpu: ours\n")

    result = suite.run(MARKED, "--strict-markers")

    result.assert_outcomes(passed=1, skipped=1)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_cuda_device_that_is_not_there_skips_with_a_reason(suite, device):
    result = suite.run("def test_model(bertology_model): pass", f"--bertology-device={device}", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED*device {device} was asked for, and torch sees no CUDA device"])


def test_a_cuda_device_that_is_not_there_fails_where_a_gpu_is_required(suite, section):
    result = suite.run("def test_model(bertology_model): pass", "--bertology-device=cuda", "--bertology-require-gpu")

    result.assert_outcomes(errors=1)
    assert section(result, "test_model").splitlines()[0] == (
        "device cuda was asked for, and torch sees no CUDA device (--bertology-require-gpu)"
    )


def test_a_model_of_the_factory_on_a_cuda_device_skips_too(suite):
    result = suite.run(f"""
        def test_factory(load_bertology_model):
            load_bertology_model({str(suite.model)!r}, device="cuda")
    """)

    result.assert_outcomes(skipped=1)


def test_a_required_gpu_is_nothing_to_tests_that_need_none(suite):
    result = suite.run("def test_model(bertology_model): pass", "--bertology-require-gpu")

    result.assert_outcomes(passed=1)
