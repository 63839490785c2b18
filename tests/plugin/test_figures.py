"""Figures of what tests compute: which files are written, by which test, and what is said of it."""

from __future__ import annotations

import importlib.util
import re

import pytest
from PIL import Image

from pytest_bertology import Head, head_importance
from pytest_bertology.engine.announcing import announced, listening
from pytest_bertology.plugin.figures import file_name
from pytest_bertology.report import saving
from pytest_bertology.report.pictures import titled
from tests.planted import planted_model, planted_task

COMPUTES = """
    from pytest_bertology import ablate_heads, assert_heads_in_top, assert_metric_retained, head_importance

    def test_top(head_importance):
        assert_heads_in_top(head_importance, head_importance.top(1), k=1)

    def test_again(head_importance): pass

    class TestAblation:
        def test_heads(self, bertology_model, bertology_task):
            ablate_heads(bertology_model, bertology_task, resamples=10)
            ablate_heads(bertology_model, bertology_task, resamples=10)
            head_importance(bertology_model, bertology_task, "random", seed=1)
            head_importance(bertology_model, bertology_task, "random", seed=2)

    def test_pruned(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=0.2, tolerance=0.99)

    def test_nothing(bertology_model): pass
"""
WRITTEN = [
    "test_release.py-TestAblation-test_heads.ablation.png",
    "test_release.py-TestAblation-test_heads.importance-2.png",
    "test_release.py-TestAblation-test_heads.importance.png",
    "test_release.py-test_pruned.importance.png",
    "test_release.py-test_top.importance.png",
]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_test_computes_is_drawn_under_its_name(suite):
    result = suite.run(COMPUTES, "--bertology-figures=out/figures")

    result.assert_outcomes(passed=5)
    assert files(suite.path / "out" / "figures") == WRITTEN
    assert f"5 figures in {suite.path / 'out' / 'figures'}" in result.outlines
    for name in WRITTEN:
        with Image.open(suite.path / "out" / "figures" / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200


@pytest.mark.slow
def test_workers_write_what_one_process_writes(suite):
    result = suite.run(COMPUTES, "--bertology-figures=figures", "-n2", "--dist=loadscope")

    result.assert_outcomes(passed=5)
    # The importance of the session is computed once in each worker, and drawn for the first test that asks for it.
    drawn = set(files(suite.path / "figures"))
    assert set(WRITTEN) <= drawn <= {*WRITTEN, "test_release.py-test_again.importance.png"}
    assert f"{len(drawn)} figures in {suite.path / 'figures'}" in result.outlines


def test_without_the_option_nothing_is_drawn(suite, monkeypatch):
    monkeypatch.setattr(saving, "save_figure", lambda *_, **__: pytest.fail("a figure was drawn"))

    result = suite.run(COMPUTES)

    result.assert_outcomes(passed=5)
    assert "figure" not in result.stdout.str()


def test_the_folder_may_come_from_the_environment_and_the_ini_file(suite, monkeypatch):
    suite.pytester.makeini("[pytest]\nbertology_figures = of_ini\n")
    (suite.path / "below").mkdir()
    suite.write(COMPUTES)
    monkeypatch.chdir(suite.path / "below")

    suite.bare("", *suite.given, "..", "-k", "test_top")
    monkeypatch.setenv("BERTOLOGY_FIGURES", str(suite.path / "of_environment"))
    suite.bare("", *suite.given, "..", "-k", "test_top")

    assert files(suite.path / "of_ini") == files(suite.path / "of_environment") == [WRITTEN[-1]]


def test_a_test_that_changes_folder_writes_where_the_session_was_started(suite):
    source = """
        from pytest_bertology import head_importance

        def test_elsewhere(bertology_model, bertology_task, monkeypatch, tmp_path):
            monkeypatch.chdir(tmp_path)
            head_importance(bertology_model, bertology_task)
    """

    suite.run(source, "--bertology-figures=figures")

    assert files(suite.path / "figures") == ["test_release.py-test_elsewhere.importance.png"]


def test_a_failing_test_is_drawn_too(suite):
    result = suite.run(
        """
        from pytest_bertology import assert_heads_in_top

        def test_top(head_importance):
            assert_heads_in_top(head_importance, head_importance.bottom(1), k=1)
        """,
        "--bertology-figures=figures",
    )

    result.assert_outcomes(failed=1)
    assert files(suite.path / "figures") == ["test_release.py-test_top.importance.png"]
    assert "--bertology-figures" not in re.search("rerun: .*", result.stdout.str())[0]


def test_a_property_test_is_drawn_by_its_last_results(suite):
    source = """
        import pytest
        from pytest_bertology import head_importance

        def test_many(bertology_model, bertology_task):
            for seed in range(40):
                head_importance(bertology_model, bertology_task, "random", seed=seed)
    """

    suite.run(source, "--bertology-figures=figures")

    assert len(files(suite.path / "figures")) == 12


def test_a_figure_that_cannot_be_written_fails_the_session_and_no_test(suite):
    (suite.path / "file").write_text("")

    result = suite.run(COMPUTES, "--bertology-figures=file/figures", "-k", "test_top")

    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert re.search(r"FAILED  the figure .*test_top.importance.png could not be written", result.stdout.str())


def test_without_matplotlib_the_option_is_refused_before_anything_loads(suite, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "pytest_bertology.plugin.figures.find_spec", lambda name: None if name == "matplotlib" else found(name)
    )

    message = suite.refused("", "--bertology-figures=figures")

    assert "--bertology-figures needs matplotlib" in message
    assert 'pip install "pytest-bertology[figures]"' in message


def test_a_file_is_no_folder(suite):
    (suite.path / "file").write_text("")

    assert "'file' is not valid; expected a folder" in suite.refused("", "--bertology-figures=file")


@pytest.mark.parametrize(
    ("test", "number", "name"),
    [
        ("tests/test_a.py::test_b", 1, "tests.test_a.py-test_b.curve.png"),
        ("tests/test_a.py::TestC::test_b[bert]", 2, "tests.test_a.py-TestC-test_b[bert].curve-2.png"),
    ],
)
def test_file_names_are_test_ids(test, number, name):
    assert file_name(test, "curve", number) == name


def test_file_names_of_odd_ids_differ():
    ids = [f"t.py::test[{x}]" for x in ("a b", "a-b", "a?b", "a/b", "a.b", "é", "x" * 300, "x" * 301)]

    names = [file_name(test, "curve", 1) for test in ids]

    assert len(set(names)) == len(ids)
    assert all(len(name) < 200 and "/" not in name and "?" not in name for name in names)


def test_attention_is_drawn_and_named_after_its_texts(suite):
    result = suite.run(
        """
        from pytest_bertology import attention_statistics

        def test_heads(bertology_model):
            attention_statistics(bertology_model, ["the film was good", "a plot"])
        """,
        "--bertology-figures=out",
    )

    result.assert_outcomes(passed=1)
    assert files(suite.path / "out") == ["test_release.py-test_heads.attention.png"]


@announced("evaluated")
def evaluated(model, task):
    """Nothing."""


def test_titles_name_the_heads_masked_and_attention_changed():
    model = planted_model(Head(1, 2))
    heard = []

    with listening(heard.append):
        head_importance(model, planted_task())
        with model.masked([(0, 2), (1, 3)]):
            head_importance(model, planted_task())
        with model.masked([(0, head) for head in range(4)] + [(1, 0)]), model.with_top_k_attention(1):
            head_importance(model, planted_task())

        with model.skipping([1]):
            evaluated(model, planted_task())

    assert heard[3].state == "1 layer skipped"
    titles = [titled(found).splitlines() for found in heard[:3]]
    assert titles[0] == titles[1][:2] == titles[2][:2]
    assert titles[1][2] == "2 heads masked: L0H2, L1H3"
    assert titles[2][2] == "5 heads masked: L0H0, L0H1, L0H2, L0H3, …; attention changed"


def test_the_help_says_what_is_drawn(suite):
    text = " ".join(suite.pytester.runpytest("--help").stdout.str().split())

    assert "importance, ablation, attention statistics, relations, pruning curves and curves of constant" in text
