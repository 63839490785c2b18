"""Importance methods of a suite's own, by the hook `pytest_bertology_importance_method`.

Oracle: the numbers that the suite's own method returns, which no method of the package gives.
"""

from __future__ import annotations

import pytest

_MAPPING = """
    def by_number(model, task):
        return [head.layer * 10 + head.head for head in model.heads]

    def pytest_bertology_importance_method():
        return {"mine": by_number, "upside_down": lambda model, task: [-score for score in by_number(model, task)]}
"""
_FUNCTION = """
    def pytest_bertology_importance_method(name, config):
        return (lambda model, task: [[0, 1, 2, 3], [10, 11, 12, 13]]) if name == "mine" else None
"""
_CONFTESTS = pytest.mark.parametrize("conftest", [_MAPPING, _FUNCTION], ids=["mapping", "function"])
_SCORES = "[0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]"


@_CONFTESTS
def test_the_option_takes_a_name_of_the_hook(suite, conftest):
    result = suite.run(
        f"""
        def test_mine(head_importance):
            assert head_importance.values.tolist() == {_SCORES}
            assert head_importance.method == "mine"
        """,
        "--bertology-importance=mine",
        conftest=conftest,
    )

    result.assert_outcomes(passed=1)
    assert "bertology importance: mine (from --bertology-importance)" in result.outlines


@_CONFTESTS
def test_the_marker_takes_a_name_of_the_hook(suite, conftest):
    result = suite.run(
        f"""
        import pytest

        @pytest.mark.bertology(importance="mine")
        def test_mine(head_importance):
            assert head_importance.values.tolist() == {_SCORES}

        def test_default(head_importance):
            assert head_importance.method == "gradient"
        """,
        conftest=conftest,
    )

    result.assert_outcomes(passed=2)


@_CONFTESTS
def test_a_check_prunes_by_a_method_of_the_hook(suite, conftest):
    result = suite.run(
        """
        from pytest_bertology import assert_metric_retained

        def test_mine(bertology_model, bertology_task):
            found = assert_metric_retained(bertology_model, bertology_task, prune=0.25, by="mine", tolerance=0.9)
            assert [str(head) for head in found.masked.mask.masked] == ["L0H0", "L0H1"]
        """,
        conftest=conftest,
    )

    result.assert_outcomes(passed=1)


def test_a_failed_check_names_the_method_of_the_hook(suite):
    result = suite.run(
        """
        from pytest_bertology import assert_metric_retained

        def test_mine(bertology_model, bertology_task):
            assert_metric_retained(bertology_model, bertology_task, prune=0.9, by="mine", tolerance=0.0)
        """,
        conftest=_MAPPING,
    )

    result.assert_outcomes(failed=1)
    assert "the least important by mine" in result.stdout.str()


def test_the_library_takes_a_name_of_the_hook_in_a_test_without_fixtures(suite):
    result = suite.run(
        f"""
        from pytest_bertology import head_importance, load_model, load_task

        def test_mine():
            model, task = load_model({str(suite.model)!r}), load_task({str(suite.task)!r})
            assert head_importance(model, task, "mine").values.tolist() == {_SCORES}
        """,
        conftest=_MAPPING,
    )

    result.assert_outcomes(passed=1)


def test_the_innermost_conftest_goes_first(suite):
    folder = suite.path / "inner"
    folder.mkdir()
    (folder / "conftest.py").write_text(
        "def pytest_bertology_importance_method(name):\n"
        "    return {'mine': lambda model, task: [7, 6, 5, 4, 3, 2, 1, 0]}\n",
        encoding="utf-8",
    )
    (folder / "test_inner.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.bertology(importance='mine')\n"
        "def test_inner(head_importance):\n"
        "    assert head_importance.rank((0, 0)) == 0\n",
        encoding="utf-8",
    )

    result = suite.run(conftest=_MAPPING)

    result.assert_outcomes(passed=1)


OTHERS = ", or a method of your own (hook pytest_bertology_importance_method)"


def test_the_help_tells_of_methods_of_ones_own(suite):
    text = " ".join(suite.run("", "--help").stdout.str().split())

    assert OTHERS.removeprefix(", ") in text


@pytest.mark.parametrize("conftest", [_MAPPING, ""])
def test_an_unknown_name_on_the_command_line_is_refused_with_the_valid_ones(suite, conftest):
    message = suite.refused("", "--bertology-importance=nine", *suite.given, conftest=conftest)

    valid = ", ".join(["confidence, random", *(["mine", "upside_down"] if conftest else [])])
    assert "--bertology-importance: 'nine' is not valid; expected gradient, gradient_per_token, bert" in message
    assert message.endswith(valid + OTHERS)


def test_an_unknown_name_in_a_marker_is_refused_with_the_valid_ones(suite):
    message = suite.refused(
        """
        import pytest

        @pytest.mark.bertology(importance="nine")
        def test_marked(head_importance): pass
        """,
        conftest=_MAPPING,
    )

    assert "test_marked: @pytest.mark.bertology(importance='nine') is not valid" in message
    assert message.endswith("random, mine, upside_down" + OTHERS)


def test_an_unknown_name_in_a_check_fails_with_the_valid_ones(suite):
    result = suite.run(
        """
        from pytest_bertology import assert_metric_retained

        def test_mine(bertology_model, bertology_task):
            assert_metric_retained(bertology_model, bertology_task, prune=0.5, by="nine", tolerance=0.9)
        """,
        conftest=_MAPPING,
    )

    result.assert_outcomes(failed=1)
    assert "by='nine' is not valid: expected one of gradient" in result.stdout.str()
    assert "random, mine, upside_down" + OTHERS.replace("or ", "") + ", or a function" in result.stdout.str()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{'gradient': len}", "names a method 'gradient', which there is already"),
        ("'mine'", "gave 'mine' for 'nine'; expected a function"),
        ("{'mine': 3}", "gave 3 for 'mine'; expected a function"),
        ("{3: len}", "for 3; expected a function"),
    ],
)
def test_a_hook_that_gives_something_else_is_refused(suite, given, says):
    message = suite.refused(
        "",
        "--bertology-importance=nine",
        conftest=f"def pytest_bertology_importance_method(): return {given}",
    )

    assert says in message


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("[1.0, 2.0]", "found list of shape (2,)"),
        ("None", "it returned None"),
        ("'high'", "found str"),
        ("[float('nan')] + [0.0] * 7", "found NaN or infinity for L0H0"),
    ],
)
def test_scores_that_are_not_one_finite_number_per_head_are_refused(suite, given, found):
    result = suite.run(
        "def test_mine(head_importance): pass",
        "--bertology-importance=mine",
        conftest=f"def pytest_bertology_importance_method(): return {{'mine': lambda model, task: {given}}}",
    )

    result.assert_outcomes(errors=1)
    assert "InvalidScores" in result.stdout.str()
    assert found in result.stdout.str()


def test_a_methods_own_error_is_shown_as_it_is(suite):
    result = suite.run(
        "def test_mine(head_importance): pass",
        "--bertology-importance=mine",
        conftest="""
        def by_error(model, task):
            raise KeyError("no such head")

        def pytest_bertology_importance_method():
            return {"mine": by_error}
        """,
    )

    result.assert_outcomes(errors=1)
    assert 'raise KeyError("no such head")' in result.stdout.str()


def test_nothing_of_a_session_is_left_behind(suite):
    from pytest_bertology.measures import own_methods

    before = list(own_methods._sources)

    suite.run(
        "def test_mine(head_importance): pass",
        "--bertology-importance=mine",
        conftest=_MAPPING,
    ).assert_outcomes(passed=1)

    assert own_methods._sources == before
