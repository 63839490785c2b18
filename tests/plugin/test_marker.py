"""What `@pytest.mark.bertology(...)` asks for reaches the fixtures, and what it must not ask for is refused.

Oracle: which heads are masked while a test runs, read from the zeros that arrive at BERT's own output projections.
"""

from __future__ import annotations

import pytest


def test_heads_masked_acts_on_the_model_alone(suite):
    result = suite.run("""
        import pytest
        from looking import masked_heads

        @pytest.mark.bertology(heads_masked=[(0, 1), (1, 3)])
        def test_masked(bertology_model):
            assert masked_heads(bertology_model) == {(0, 1), (1, 3)}

        def test_next_is_not(bertology_model):
            assert masked_heads(bertology_model) == set()
    """)

    result.assert_outcomes(passed=2)


def test_heads_masked_is_the_head_mask_fixture(suite):
    result = suite.run("""
        import pytest
        from looking import masked_heads
        from pytest_bertology import Head

        @pytest.mark.bertology(heads_masked=[(0, 1), (1, 3)])
        def test_masked(bertology_model, head_mask):
            assert head_mask.masked == (Head(0, 1), Head(1, 3))
            assert masked_heads(bertology_model) == {(0, 1), (1, 3)}

        def test_next_is_not(bertology_model, head_mask):
            assert head_mask.masked == ()
            assert masked_heads(bertology_model) == set()
    """)

    result.assert_outcomes(passed=2)


def test_heads_masked_leaves_importance_alone(suite):
    result = suite.run("""
        import pytest

        found = {}

        def test_unmasked(head_importance):
            found["unmasked"] = head_importance.values.tolist()

        @pytest.mark.bertology(heads_masked=[(0, 1)])
        def test_masked(head_importance):
            assert head_importance.values.tolist() == found["unmasked"]
    """)

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("fixtures", ["bertology_model", "bertology_model, head_mask"])
def test_no_heads_masked_takes_back_the_mask_of_the_class(suite, fixtures):
    result = suite.run(f"""
        import pytest
        from looking import masked_heads

        @pytest.mark.bertology(heads_masked=[(0, 1)])
        class TestMasked:
            @pytest.mark.bertology(heads_masked=[])
            def test_not_here({"self, " + fixtures}):
                assert masked_heads(bertology_model) == set()
    """)

    result.assert_outcomes(passed=1)


def test_model_and_task_of_the_marker_go_before_those_of_the_command_line(suite, copied):
    other = copied("other")
    few = suite.path / "few.csv"
    few.write_text("text,label\ngood film,positive\nbad film,negative\n")

    result = suite.run(f"""
        import pytest

        @pytest.mark.bertology(model={str(other)!r}, task={str(few)!r})
        def test_marked(bertology_model, bertology_task):
            assert bertology_model.name == "other"
            assert len(bertology_task) == 2

        def test_unmarked(bertology_model, bertology_task):
            assert bertology_model.name == "tiny"
            assert len(bertology_task) == 40
    """)

    result.assert_outcomes(passed=2)


def test_a_marker_alone_is_enough(suite):
    result = suite.bare(f"""
        import pytest

        pytestmark = pytest.mark.bertology(model={str(suite.model)!r}, task={str(suite.task)!r})

        def test_marked(bertology_model, bertology_task):
            assert bertology_model.name == "tiny"
            assert len(bertology_task) == 40
    """)

    result.assert_outcomes(passed=1)


def test_model_and_task_may_be_paths(suite):
    result = suite.bare(f"""
        from pathlib import Path
        import pytest

        pytestmark = pytest.mark.bertology(model=Path({str(suite.model)!r}), task=Path({str(suite.task)!r}))

        def test_marked(bertology_model, bertology_task):
            assert bertology_model.name == "tiny"
            assert len(bertology_task) == 40
    """)

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("model", ["object()", "[]", "[7]"])
def test_a_model_that_is_no_name_is_refused(suite, model):
    message = suite.refused(f"""
        import pytest

        @pytest.mark.bertology(model={model})
        def test_marked(bertology_model): pass
    """)

    assert "test_marked: @pytest.mark.bertology(model=" in message
    assert "expected a folder, a hub name, 'embedded', or a list of these" in message


def test_split_goes_to_the_task(suite):
    import datasets

    rows = {"text": ["good", "bad"], "label": ["positive", "negative"]}
    longer = {name: values * 2 for name, values in rows.items()}
    splits = {"validation": datasets.Dataset.from_dict(rows), "test": datasets.Dataset.from_dict(longer)}
    datasets.DatasetDict(splits).save_to_disk(suite.path / "saved")

    result = suite.run(
        """
        import pytest

        @pytest.mark.bertology(split="test")
        def test_marked(bertology_task):
            assert len(bertology_task) == 4

        def test_unmarked(bertology_task):
            assert len(bertology_task) == 2
        """,
        "--bertology-task=./saved",
    )

    result.assert_outcomes(passed=2)


def test_columns_and_metric_go_to_the_task(suite):
    (suite.path / "odd.csv").write_text("a,b\ngood,positive\nbad,negative\n")

    result = suite.run(
        """
        import pytest

        @pytest.mark.bertology(text="a", label="b", metric="f1")
        def test_marked(bertology_task):
            assert bertology_task.texts == ("good", "bad")
            assert bertology_task.labels == ("positive", "negative")
            assert bertology_task.metric.name == "f1"
        """,
        "--bertology-task=odd.csv",
    )

    result.assert_outcomes(passed=1)


def test_kind_goes_to_the_model(suite):
    result = suite.run("""
        import pytest

        @pytest.mark.bertology(kind="encoder")
        def test_marked(bertology_model):
            assert type(bertology_model.model).__name__ == "BertModel"

        def test_unmarked(bertology_model):
            assert type(bertology_model.model).__name__ == "BertForSequenceClassification"
    """)

    result.assert_outcomes(passed=2)


def test_importance_goes_before_the_command_line(suite):
    result = suite.run(
        """
        import pytest

        @pytest.mark.bertology(importance="random")
        def test_marked(head_importance):
            assert head_importance.method.startswith("random")

        def test_unmarked(head_importance):
            assert head_importance.method == "gradient"
        """,
        "--bertology-importance=gradient",
    )

    result.assert_outcomes(passed=2)


def test_the_closest_marker_wins_argument_by_argument(suite):
    result = suite.run("""
        import pytest
        from looking import masked_heads

        pytestmark = pytest.mark.bertology(importance="random")

        @pytest.mark.bertology(heads_masked=[(0, 1)], metric="f1")
        class TestMerged:
            @pytest.mark.bertology(metric="matthews")
            def test_function(self, bertology_model, bertology_task, head_importance):
                assert masked_heads(bertology_model) == {(0, 1)}
                assert bertology_task.metric.name == "matthews"
                assert head_importance.method.startswith("random")

            @pytest.mark.bertology(heads_masked=[(1, 2)], importance="gradient")
            def test_other_function(self, bertology_model, bertology_task, head_importance):
                assert masked_heads(bertology_model) == {(1, 2)}
                assert bertology_task.metric.name == "f1"
                assert head_importance.method == "gradient"
    """)

    result.assert_outcomes(passed=2)


def test_several_models_run_the_test_for_each(suite, copied):
    other = copied("other")

    result = suite.run(
        f"""
        import pytest

        @pytest.mark.bertology(model=[{str(suite.model)!r}, {str(other)!r}])
        def test_marked(bertology_model): pass
        """,
        "-v",
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_marked[[]tiny] PASSED*", "*::test_marked[[]other] PASSED*"])


@pytest.mark.skipif(not hasattr(pytest, "HIDDEN_PARAM"), reason="pytest hides parameters from 8.4 on")
def test_a_marker_does_not_show_in_the_test_id(suite):
    result = suite.run(
        f"""
        import pytest

        @pytest.mark.bertology(
            model={str(suite.model)!r}, task={str(suite.task)!r}, heads_masked=[(0, 1)], importance="random"
        )
        def test_marked(bertology_model, bertology_task, head_mask, head_importance): pass
        """,
        "-v",
    )

    result.stdout.fnmatch_lines(["test_release.py::test_marked PASSED*"])


@pytest.mark.skipif(not hasattr(pytest, "HIDDEN_PARAM"), reason="pytest hides parameters from 8.4 on")
def test_the_users_own_parameters_stay(suite):
    result = suite.run(
        f"""
        import pytest

        @pytest.mark.bertology(model={str(suite.model)!r})
        @pytest.mark.parametrize("layer", [0, 1])
        def test_marked(bertology_model, layer): pass
        """,
        "-v",
    )

    result.stdout.fnmatch_lines(["*::test_marked[[]0] PASSED*", "*::test_marked[[]1] PASSED*"])


def test_a_misspelt_argument_is_refused(suite):
    message = suite.refused("""
        import pytest

        @pytest.mark.bertology(head_masked=[(0, 1)])
        def test_marked(bertology_model): pass
    """)

    assert message == (
        "ERROR: test_release.py::test_marked: @pytest.mark.bertology has no argument 'head_masked'; did you mean "
        "'heads_masked'? It takes model, task, split, text, label, metric, kind, tokenizer, importance, heads_masked."
    )


def test_an_argument_like_no_other_is_refused_without_a_guess(suite):
    message = suite.refused("""
        import pytest

        @pytest.mark.bertology(zzz=1)
        def test_marked(): pass
    """)

    assert "@pytest.mark.bertology has no argument 'zzz'. It takes model, task," in message
    assert "did you mean" not in message


def test_a_positional_argument_is_refused(suite):
    message = suite.refused("""
        import pytest

        @pytest.mark.bertology("./tiny")
        def test_marked(bertology_model): pass
    """)

    assert message.startswith("ERROR: test_release.py::test_marked: @pytest.mark.bertology takes keyword arguments")
    assert "'./tiny'" in message


@pytest.mark.parametrize(
    ("argument", "valid"), [("importance", "gradient, gradient_per"), ("metric", "accuracy, f1"), ("kind", "sequence-")]
)
def test_a_bad_value_is_refused(suite, argument, valid):
    message = suite.refused(f"""
        import pytest

        @pytest.mark.bertology({argument}="magnitude")
        def test_marked(head_importance): pass
    """)

    assert f"test_marked: @pytest.mark.bertology({argument}='magnitude') is not valid; expected one of" in message
    assert f"one of {valid}" in message


def test_every_misused_marker_is_told_once(suite):
    message = suite.refused("""
        import pytest

        @pytest.mark.bertology(modell="tiny")
        class TestMarked:
            def test_one(self, bertology_model): pass

            @pytest.mark.parametrize("layer", [0, 1])
            def test_two(self, bertology_model, layer): pass
    """)

    assert message.count("did you mean 'model'") == 2


def test_a_misused_marker_is_refused_before_a_model_is_loaded(suite):
    loading = "def pytest_bertology_load_model(source): raise AssertionError('a model was loaded')"

    message = suite.refused(
        """
        import pytest

        def test_first(bertology_model): pass

        @pytest.mark.bertology(modell="tiny")
        def test_marked(bertology_model): pass
        """,
        *suite.given,
        conftest=loading,
    )

    assert "did you mean 'model'" in message


def test_a_misused_marker_is_an_error_in_workers(suite):
    result = suite.bare(
        """
        import pytest

        @pytest.mark.bertology(modell="tiny")
        def test_marked(bertology_model): pass
        """,
        "-n1",
    )

    assert result.ret != 0
    result.stdout.fnmatch_lines(["*has no argument 'modell'; did you mean 'model'*"])
    assert "Traceback" not in result.stdout.str()
    assert "parametrization.py" not in result.stdout.str()


def test_a_head_that_does_not_exist_is_an_error(suite, section):
    result = suite.run("""
        import pytest

        @pytest.mark.bertology(heads_masked=[(2, 0)])
        def test_marked(bertology_model): pass
    """)

    result.assert_outcomes(errors=1)
    assert "UnknownHead: there is no head L2H0: 2 layers of 4 heads" in section(result, "test_marked")


@pytest.mark.parametrize("heads", ["(0, 1)", "5", "'L0H1'", "[[0]]"])
def test_what_are_no_heads_is_an_error(suite, section, heads):
    result = suite.run(f"""
        import pytest

        @pytest.mark.bertology(heads_masked={heads})
        def test_marked(bertology_model): pass
    """)

    result.assert_outcomes(errors=1)
    assert "NotAHead" in section(result, "test_marked")
    assert "is not a head: write (layer, head), both counted from 0" in section(result, "test_marked")


def test_heads_masked_without_a_model_to_mask_is_refused(suite):
    message = suite.refused("""
        import pytest

        @pytest.mark.bertology(heads_masked=[(0, 1)])
        def test_marked(load_bertology_model): pass
    """)

    assert "test_marked: @pytest.mark.bertology(heads_masked=...) masks heads of bertology_model, and the" in message
    assert "nothing would be masked" in message


def test_heads_masked_on_a_class_may_be_for_others(suite):
    result = suite.run("""
        import pytest
        from looking import masked_heads

        @pytest.mark.bertology(heads_masked=[(0, 1)])
        class TestMasked:
            def test_arithmetic(self):
                assert 1 + 1 == 2

            def test_masked(self, bertology_model):
                assert masked_heads(bertology_model) == {(0, 1)}
    """)

    result.assert_outcomes(passed=2)


def test_the_marker_is_registered(suite):
    result = suite.run(
        """
        import pytest

        @pytest.mark.bertology(heads_masked=[(0, 1)])
        def test_marked(bertology_model): pass

        @pytest.mark.gpu
        def test_gpu(): pass
        """,
        "--strict-markers",
        "-m",
        "bertology",
    )

    result.assert_outcomes(passed=1, deselected=1)


def test_markers_are_described(suite):
    result = suite.bare("", "--markers")

    said = result.stdout.str()
    assert "@pytest.mark.bertology(model=..., task=..., split=..., " in said
    assert "heads_masked=[(layer, head), ...]): which model and task the bertology fixtures of this test give" in said
    assert "@pytest.mark.gpu: the test needs a CUDA device; skipped with a reason where there is none" in said
