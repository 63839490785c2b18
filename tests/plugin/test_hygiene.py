"""What the plugin costs and leaves behind where it is not in use, and how it stands strict settings.

Oracle: `sys.modules` at the very end of a session of its own, printed by a hook that runs last.
"""

from __future__ import annotations

import pytest

LAST_WORDS = """
    import sys
    import pytest

    HEAVY = {"torch", "transformers", "datasets", "numpy", "sklearn", "scipy", "safetensors", "tokenizers"}
    HEAVY |= {"matplotlib"}

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(config):
        print()
        print("loaded:", sorted(HEAVY & set(sys.modules)))
"""
WORDS_OF_WORKERS = """
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(session):
        if hasattr(session.config, "workerinput"):
            with open(session.config.workerinput["workerid"], "w") as file:
                file.write(str(sorted(HEAVY & set(sys.modules))))
"""
FIXTURES_ONLY = """
    import pytest

    @pytest.mark.bertology(heads_masked=[(0, 1)])
    def test_model(bertology_model, head_mask): pass

    @pytest.mark.gpu
    def test_all(bertology_task, head_importance): pass
"""
WITH_IMPORTS = """
    from pytest_bertology import assert_heads_in_top, assert_metric_retained

    def test_survives_pruning(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=0.3, tolerance=0.01)

    def test_key_heads(head_importance):
        assert_heads_in_top(head_importance, [(0, 1), (0, 2)], k=5)
"""
UNRELATED = """
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    def test_theirs(number, tmp_path): pass

    @pytest.mark.gpu
    def test_on_gpu(): pass

    def test_that_fails(): assert False

    @pytest.fixture
    def broken(): raise RuntimeError

    def test_without_set_up(broken): pass
"""
REAL = """
    import pytest
    from hypothesis import given, settings
    from hypothesis import strategies as st
    from pytest_bertology import assert_heads_in_top, assert_metric_retained, evaluate
    from pytest_bertology.strategies import head_sets

    def test_retained(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=0.5, tolerance=0.99, confidence=0.9)

    def test_top(head_importance):
        assert_heads_in_top(head_importance, head_importance.top(2), k=2)

    @pytest.mark.bertology(heads_masked=[(0, 1)])
    def test_masked(bertology_model, bertology_task, head_mask):
        assert evaluate(bertology_model, bertology_task).mask == head_mask

    @settings(max_examples=5, database=None, deadline=None)
    @given(data=st.data())
    def test_any(bertology_model, bertology_task, data):
        heads = data.draw(head_sets(bertology_model))
        assert len(evaluate(bertology_model, bertology_task, heads)) == 40

    def test_factory(load_bertology_model, bertology_model):
        assert load_bertology_model() is bertology_model
"""


def loaded(result):
    """What a session had loaded in the end."""
    (line,) = [line for line in result.outlines if line.startswith("loaded: ")]
    return line.removeprefix("loaded: ")


# -- nothing is loaded until a test needs it -----------------------------------------------------------------------


def test_help_loads_nothing(suite):
    result = suite.apart("", "--help", conftest=LAST_WORDS)

    assert result.ret == 0
    assert "--bertology-model=MODEL" in result.stdout.str()
    assert loaded(result) == "[]"


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures", "--markers"])
def test_a_look_at_a_suite_of_ours_loads_nothing(suite, option):
    result = suite.apart(FIXTURES_ONLY, *suite.given, option, conftest=LAST_WORDS)

    assert result.ret == 0
    assert loaded(result) == "[]"


def test_collecting_a_suite_that_imports_checks_loads_nothing(suite):
    result = suite.apart(WITH_IMPORTS, *suite.given, "--collect-only", conftest=LAST_WORDS)

    assert result.ret == 0
    assert loaded(result) == "[]"


def test_an_unrelated_suite_loads_nothing(suite):
    result = suite.apart(UNRELATED, "--bertology-require-gpu", "--bertology-figures=figures", conftest=LAST_WORDS)

    result.assert_outcomes(passed=3, failed=1, errors=1)
    assert loaded(result) == "[]"


def test_an_unrelated_suite_loads_nothing_in_workers(suite):
    result = suite.apart(UNRELATED, "-n1", conftest=LAST_WORDS + WORDS_OF_WORKERS)

    result.assert_outcomes(passed=3, failed=1, errors=1)
    assert (suite.path / "gw0").read_text() == "[]"


def test_a_refused_option_loads_nothing(suite):
    result = suite.apart(FIXTURES_ONLY, "--bertology-dtype=fp16", conftest=LAST_WORDS)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert loaded(result) == "[]"


def test_skipping_for_want_of_a_model_or_task_loads_nothing(suite):
    source = """
        def test_model(bertology_model): pass
        def test_task(bertology_task): pass
        def test_both(head_importance): pass
        def test_factory(load_bertology_model): load_bertology_model()
    """

    result = suite.apart(source, conftest=LAST_WORDS)

    result.assert_outcomes(skipped=4)
    assert loaded(result) == "[]"


def test_looking_for_imports_of_ours_wakes_no_lazy_module(suite):
    suite.pytester.makepyfile(sleeping="raise AssertionError('woken')")

    result = suite.bare("""
        import importlib.util
        import sys

        spec = importlib.util.find_spec("sleeping")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        sleeping = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sleeping)

        class Proxy:
            def __getattribute__(self, name):
                raise RuntimeError("there is nothing behind this proxy now")

        proxy = Proxy()

        def test_theirs(): pass
    """)

    result.assert_outcomes(passed=1)


# -- switched off ------------------------------------------------------------------------------------------------


def test_switched_off_there_are_no_options(suite):
    result = suite.bare("", "-p", "no:bertology", "--help")

    assert "bertology" not in result.stdout.str().replace("no:bertology", "")


def test_switched_off_there_are_no_fixtures_and_markers(suite):
    fixtures = suite.bare("", "-p", "no:bertology", "--fixtures", "-v")
    markers = suite.bare("", "-p", "no:bertology", "--markers")

    assert "bertology_model" not in fixtures.stdout.str()
    assert "pytest.mark.bertology" not in markers.stdout.str()


def test_switched_off_there_is_no_header_and_no_settings(suite, monkeypatch):
    monkeypatch.setenv("BERTOLOGY_DTYPE", "not valid")

    result = suite.bare("def test_theirs(): pass", "-p", "no:bertology")

    result.assert_outcomes(passed=1)
    assert not [line for line in result.outlines if line.startswith("bertology")]


# -- strict ------------------------------------------------------------------------------------------------------


def test_a_real_suite_passes_where_warnings_are_errors(suite):
    suite.pytester.makeini("[pytest]\nbertology_importance = gradient\n")

    result = suite.apart(REAL, *suite.given, "-W", "error", "--strict-markers", "--strict-config")

    result.assert_outcomes(passed=5)


@pytest.mark.slow
def test_a_real_suite_passes_in_two_workers(suite):
    result = suite.apart(REAL, *suite.given, "-n2", "-W", "error")

    result.assert_outcomes(passed=5)


def test_a_real_suite_passes_with_strict_markers_and_settings(suite):
    suite.pytester.makeini("[pytest]\nbertology_dtype = float64\nbertology_require_gpu = false\n")

    result = suite.run(REAL, "--strict-markers", "--strict-config")

    result.assert_outcomes(passed=5)


def test_a_quiet_session_says_nothing_of_us_but_the_summary(suite):
    result = suite.run("def test_model(bertology_model): pass", "-q")

    assert "bertology" not in result.stdout.str()
    assert result.stderr.str() == ""


def test_collecting_a_suite_asks_for_no_model(suite):
    hook = "def pytest_bertology_load_model(source): raise AssertionError('a model was loaded')"

    result = suite.run(FIXTURES_ONLY, "--collect-only", conftest=hook)

    assert result.ret == 0


def test_folders_with_conftests_of_their_own_run_side_by_side(pytester):
    for folder in ("one", "two"):
        pytester.mkdir(folder)
        (pytester.path / folder / "conftest.py").write_text("def pytest_runtest_logreport(report): pass")
        (pytester.path / folder / f"test_{folder}.py").write_text("def test_nothing(): pass")

    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=2)
