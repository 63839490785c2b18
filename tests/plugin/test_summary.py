"""The terminal summary, the JSON report and the sections of failed tests.

Oracle: scores written down by hand, a baseline known from how the data were labelled, and a strict reader of JSON.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version

import pytest

CHECKS = """
    import pytest
    from pytest_bertology import HeadMap, HeadScores, assert_heads_in_top, assert_metric_retained, assert_ranking_agrees

    SCORES = HeadScores([8, 7, 6, 5, 4, 3, 2, 1], HeadMap([4, 4]), "by hand")

    def test_holds(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, heads=[(0, 1), (1, 2)], tolerance=0.975)

    def test_fails(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.01, early=False)

    def test_top(bertology_model):
        assert_heads_in_top(SCORES, [(0, 2)], k=2)

    def test_agree(bertology_model):
        assert_ranking_agrees(SCORES, SCORES, min_correlation=0.9)

    def test_without_a_check(bertology_model):
        pass
"""


def summary(result):
    """The lines below the headline `bertology`."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if re.fullmatch("=+ bertology =+", line))
    end = next(i for i, line in enumerate(lines[start + 1 :], start + 1) if line.startswith("==="))
    return [line for line in lines[start + 1 : end] if line]


def report(suite):
    """The JSON report, read as strictly as JSON is."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (suite.path / "report.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


# -- the terminal ------------------------------------------------------------------------------------------------


def test_the_summary_shows_baselines_and_what_was_observed_and_required(suite):
    result = suite.run(CHECKS)

    result.assert_outcomes(passed=3, failed=2)
    baseline, *rows = summary(result)
    assert baseline == "tiny: baseline 0.9750 accuracy on reviews.csv (40 examples)"
    assert rows[0] == "  passed  test_release.py::test_agree: rank correlation 1, required >= 0.9"
    assert re.fullmatch(
        r"  FAILED  test_release.py::test_fails: "
        r"drop in accuracy 0\.\d+ \(0\.9750 → 0\.\d+\), required <= 0.01, 8 heads masked",
        rows[1],
    )
    assert re.fullmatch(
        r"  passed  test_release.py::test_holds: "
        r"drop in accuracy 0\.\d+ \(0\.9750 → 0\.\d+\), required <= 0.975, 2 heads masked",
        rows[2],
    )
    assert rows[3] == "  FAILED  test_release.py::test_top: lowest rank 2, required < 2"
    assert len(rows) == 4


def test_the_summary_has_a_baseline_for_each_model(suite, edited):
    result = suite.run(
        CHECKS,
        f"--bertology-model={edited(lambda model: model.classifier.bias.add_(100.0))}",
        "-k",
        "test_holds",
    )

    lines = summary(result)
    assert [line.split(":")[0] for line in lines[:2]] == ["edited", "tiny"]
    assert [line.split("::")[1].split(":")[0] for line in lines[2:]] == ["test_holds[edited]", "test_holds[tiny]"]


def test_models_of_equal_names_each_have_a_baseline(suite, edited):
    from tests.tiny import LABELS

    folder = edited(lambda model: model.classifier.bias.add_(model.classifier.bias.new_tensor([100.0, 0.0])))
    folder.rename(suite.path / "tiny")

    result = suite.run(CHECKS, "--bertology-model=./tiny", "-k", "test_holds", "-W", "ignore:the baseline accuracy")

    share = suite.task.read_text().count(f",{LABELS[0]}") / 40
    assert summary(result)[:2] == [
        "tiny: baseline 0.9750 accuracy on reviews.csv (40 examples)",
        f"tiny: baseline {share:.4f} accuracy on reviews.csv (40 examples)",
    ]
    assert [line.split(": ")[0] for line in summary(result)[2:4]] == [
        "  passed  test_release.py::test_holds[checkpoints0/tiny]",
        "  passed  test_release.py::test_holds[tiny]",
    ]


def test_without_checks_there_is_no_summary(suite):
    result = suite.run("def test_nothing(bertology_model): pass")

    assert not [line for line in result.outlines if re.fullmatch("=+ bertology =+", line)]


def test_the_verdicts_of_a_hypothesis_test_are_merged_and_counted(suite):
    result = suite.run("""
        from hypothesis import given, settings, strategies as st
        from pytest_bertology import assert_heads_in_top
        from pytest_bertology import HeadMap, HeadScores

        SCORES = HeadScores([8, 7, 6, 5, 4, 3, 2, 1], HeadMap([4, 4]), "by hand")

        @settings(max_examples=20, database=None, deadline=None)
        @given(head=st.integers(0, 3))
        def test_every_head(bertology_model, head):
            assert_heads_in_top(SCORES, [(0, head)], k=4)
    """)

    (line,) = summary(result)
    assert re.fullmatch(
        r"  passed  test_release.py::test_every_head: lowest rank \d, required < 4, (4|[5-9]|1\d|20) times", line
    )


def test_a_failing_hypothesis_test_shows_the_verdict_that_failed(suite):
    result = suite.run("""
        from hypothesis import given, settings, strategies as st
        from pytest_bertology import assert_heads_in_top
        from pytest_bertology import HeadMap, HeadScores

        SCORES = HeadScores([8, 7, 6, 5, 4, 3, 2, 1], HeadMap([4, 4]), "by hand")

        @settings(max_examples=20, database=None, deadline=None)
        @given(head=st.integers(0, 3))
        def test_every_head(bertology_model, head):
            assert_heads_in_top(SCORES, [(0, head)], k=2)
    """)

    result.assert_outcomes(failed=1)
    (line,) = summary(result)
    assert re.match(r"  FAILED  test_release.py::test_every_head: lowest rank 2, required < 2, \d+ times", line)


def test_the_failure_shows_the_checks_message_and_the_users_line(suite, section):
    result = suite.run(CHECKS)

    text = section(result, "test_fails")
    assert (
        ">       assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.01, early=False)"
        in text
    )
    assert "E       pytest_bertology.CheckFailed: accuracy is not retained with 8 of 8 heads masked (100%, the" in text
    assert "E         baseline  0.9750 (39 of 40 right)" in text
    assert "; required: at most 0.01" in text
    assert "E         heads     L0H0 L0H1 L0H2 L0H3 L1H0 L1H1 L1H2 L1H3" in text
    assert not re.search(r"pytest_bertology/\S*\.py:\d+", text)


def test_text_of_the_data_is_shown_escaped(suite, section):
    (suite.path / "odd.csv").write_bytes(
        "text,label\n\x1b[31mgood\x1b[0m \u202efilm,positive\n\x1b[31mbad\x07,negative\n".encode()
    )
    result = suite.run(
        """
        from pytest_bertology import assert_metric_retained

        def test_fails(bertology_model, bertology_task):
            assert_metric_retained(bertology_model, bertology_task, prune=1.0, tolerance=0.0, metric="loss")
        """,
        "--bertology-task=odd.csv",
    )

    result.assert_outcomes(failed=1)
    text = section(result, "test_fails")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


# -- the rerun command -------------------------------------------------------------------------------------------


def rerun(text):
    """The words of the command in a failure's section."""
    (line,) = [line for line in text.splitlines() if line.startswith("rerun: ")]
    return shlex.split(line.removeprefix("rerun: "))


def test_the_rerun_command_reruns_the_failed_test(suite, section):
    result = suite.run(CHECKS, "--bertology-dtype=float64", "--bertology-report-json=report.json")

    command, *words = rerun(section(result, "test_fails"))
    again = suite.bare("", *words)

    assert command == "pytest"
    assert words == ["test_release.py::test_fails", *suite.given, "--bertology-dtype=float64"]
    again.assert_outcomes(failed=1)
    assert section(again, "test_fails").splitlines()[-1] == section(result, "test_fails").splitlines()[-1]


def test_the_rerun_command_quotes_what_a_shell_would_split(suite, section, copied):
    model = copied("a model")
    source = """
        import pytest

        @pytest.mark.parametrize("word", ["two words", "it's"])
        def test_word(bertology_model, word):
            assert word == "it's"
    """
    result = suite.bare(source, f"--bertology-model={model}", f"--bertology-model={suite.model}")

    words = rerun(section(result, "test_word[a model-two words]"))[1:]
    again = suite.bare("", *words)

    again.assert_outcomes(failed=1)
    assert words[0] == "test_release.py::test_word[a model-two words]"
    assert words[1:] == [f"--bertology-model={model}", f"--bertology-model={suite.model}"]


def test_the_rerun_command_works_from_where_pytest_was_started(suite, section, monkeypatch):
    (suite.path / "below").mkdir()
    suite.write("def test_fails(bertology_model): assert False")
    monkeypatch.chdir(suite.path / "below")
    suite.pytester.makeini("[pytest]")

    result = suite.bare("", *suite.given, "..")
    again = suite.bare("", *rerun(section(result, "test_fails"))[1:])

    again.assert_outcomes(failed=1)


def test_flags_are_in_the_rerun_command(suite, section):
    result = suite.run("def test_fails(bertology_model): assert False", "--bertology-require-gpu")

    assert rerun(section(result, "test_fails"))[-1] == "--bertology-require-gpu"


def test_a_failure_that_is_none_of_ours_has_no_rerun_command(suite):
    result = suite.run("def test_fails(): assert False")

    assert "rerun: " not in result.stdout.str()


# -- the JSON report ---------------------------------------------------------------------------------------------


def test_the_report_holds_schema_settings_versions_and_tests(suite):
    suite.pytester.makeini("[pytest]\nbertology_importance = random\n")

    suite.run(CHECKS, "--bertology-report-json=report.json")

    content = report(suite)
    assert list(content) == [
        "schema", "created", "exit_status", "summary", "notes", "noise_floor", "settings", "versions", "provenance",
        "tests",
    ]  # fmt: skip
    assert content["schema"] == "pytest-bertology report 1"
    assert content["exit_status"] == 1
    assert content["settings"] == {
        "model": {"value": [str(suite.model)], "source": "--bertology-model"},
        "task": {"value": str(suite.task), "source": "--bertology-task"},
        "importance": {"value": "random", "source": "bertology_importance in tox.ini"},
        "report_json": {"value": "report.json", "source": "--bertology-report-json"},
    }
    assert content["versions"]["torch"] == version("torch")
    assert content["versions"]["pytest-bertology"] == version("pytest-bertology")
    assert set(content["versions"]) == {"python", "pytest-bertology", "torch", "transformers", "pytest"}
    outcomes = {test["test"]: test["outcome"] for test in content["tests"]}
    assert outcomes == {
        "test_release.py::test_agree": "passed",
        "test_release.py::test_fails": "failed",
        "test_release.py::test_holds": "passed",
        "test_release.py::test_top": "failed",
        "test_release.py::test_without_a_check": "passed",
    }


def test_the_report_holds_each_verdict(suite):
    suite.run(CHECKS, "--bertology-report-json=report.json")

    tests = {test["test"].split("::")[1]: test for test in report(suite)["tests"]}
    (verdict,) = tests["test_holds"]["verdicts"]
    assert verdict["check"] == "assert_metric_retained"
    assert verdict["passed"] is True
    assert verdict["required"] == "<= 0.975"
    assert verdict["judged"] == "drop"
    assert (verdict["model"], verdict["task"], verdict["metric"]) == ("tiny", "reviews.csv", "accuracy")
    assert verdict["baseline"] == 0.975
    assert verdict["observed"] == pytest.approx(verdict["baseline"] - verdict["score"])
    assert verdict["examples"] == 40
    assert verdict["heads"] == ["L0H1", "L1H2"]
    (failed,) = tests["test_fails"]["verdicts"]
    assert failed["passed"] is False
    assert tests["test_without_a_check"]["verdicts"] == []
    assert tests["test_holds"]["seconds"] >= 0


def test_tests_that_were_skipped_or_could_not_be_set_up_are_in_the_report(suite):
    suite.bare(
        """
        import pytest

        def test_passes(bertology_model): pass
        def test_skipped(bertology_model, bertology_task): pass

        @pytest.mark.xfail
        def test_expected(bertology_model): assert False

        @pytest.mark.xfail
        def test_unexpected(bertology_model): pass

        @pytest.mark.bertology(heads_masked=[(9, 9)])
        def test_no_such_head(bertology_model): pass
        """,
        suite.given[0],
        "--bertology-report-json=report.json",
    )

    outcomes = {test["test"].split("::")[1]: test["outcome"] for test in report(suite)["tests"]}
    assert outcomes == {
        "test_passes": "passed",
        "test_skipped": "skipped",
        "test_expected": "xfailed",
        "test_unexpected": "xpassed",
        "test_no_such_head": "error",
    }


def test_a_test_whose_teardown_fails_is_an_error_in_the_report(suite):
    suite.run(
        """
        import pytest

        @pytest.fixture
        def late(bertology_model):
            yield
            bertology_model.model.classifier.weight.data.mul_(2)

        def test_changes(late): pass
        """,
        "--bertology-report-json=report.json",
    )

    assert [test["outcome"] for test in report(suite)["tests"]] == ["error"]


def test_unrelated_tests_are_not_in_the_report(suite):
    suite.run("def test_other(): pass", "--bertology-report-json=report.json")

    assert report(suite)["tests"] == []


GIVEN_BY_HAND = """
    import numpy
    import pytest
    import torch
    from pytest_bertology.checks.verdicts import Verdict, give

    @pytest.mark.parametrize("number", [{}])
    def test_given(bertology_model, number):
        give(Verdict("ours", True, number, "any", "number", details={{"most": number}}), str)
"""


def test_a_report_is_strict_json_whatever_was_observed(suite):
    source = GIVEN_BY_HAND.format("float('nan'), float('inf'), numpy.float64('-inf')")

    result = suite.run(source, "--bertology-report-json=report.json")

    result.assert_outcomes(passed=3)
    for test in report(suite)["tests"]:
        assert test["verdicts"][0]["observed"] is None
        assert test["verdicts"][0]["details"] == {"most": None}


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_numbers_of_numpy_and_torch_are_plain_in_the_report(suite, workers):
    source = GIVEN_BY_HAND.format("numpy.float32(0.5), numpy.float64(0.5), torch.tensor(0.5)")

    result = suite.run(source, "--bertology-report-json=report.json", workers)

    result.assert_outcomes(passed=3)
    for test in report(suite)["tests"]:
        assert test["verdicts"][0]["observed"] == 0.5
        assert test["verdicts"][0]["details"] == {"most": 0.5}


def test_thresholds_of_numpy_are_plain_in_the_report(suite):
    result = suite.run(
        """
        import numpy
        from pytest_bertology import HeadMap, HeadScores, assert_heads_in_top, assert_metric_retained

        def test_numpy(bertology_model, bertology_task):
            heads = numpy.array([[0, 1]])
            tolerance = numpy.float64(0.9)
            assert_metric_retained(bertology_model, bertology_task, heads=[tuple(heads[0])], tolerance=tolerance)
            assert_metric_retained(
                bertology_model, bertology_task, prune=numpy.float64(0.5), tolerance=0.99, confidence=numpy.float64(0.9)
            )
            scores = HeadScores(numpy.arange(8), HeadMap([4, 4]), "by hand")
            assert_heads_in_top(scores, [(1, numpy.int64(3))], k=numpy.int64(3))
        """,
        "--bertology-report-json=report.json",
    )

    result.assert_outcomes(passed=1)
    assert [verdict["passed"] for verdict in report(suite)["tests"][0]["verdicts"]] == [True] * 3


def test_an_earlier_report_is_replaced(suite):
    (suite.path / "report.json").write_text("an earlier report")

    suite.run(CHECKS, "--bertology-report-json=report.json", "-k", "test_top")

    assert [test["test"] for test in report(suite)["tests"]] == ["test_release.py::test_top"]


def test_a_report_that_cannot_be_written_leaves_the_earlier_one_and_nothing_else(suite, monkeypatch):
    (suite.path / "report.json").write_text("an earlier report")
    monkeypatch.setattr(json, "dump", _fail)

    result = suite.run(CHECKS, "--bertology-report-json=report.json", "-k", "test_top")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    assert summary(result)[-1] == "  FAILED  the report report.json could not be written: the disk is full"
    assert (suite.path / "report.json").read_text() == "an earlier report"
    assert [path.name for path in suite.path.iterdir() if "report" in path.name] == ["report.json"]


def test_a_report_that_cannot_be_written_fails_a_session_that_would_have_passed(suite, monkeypatch):
    monkeypatch.setattr(json, "dump", _fail)

    result = suite.run(CHECKS, "--bertology-report-json=report.json", "-k", "test_holds")

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR


def _fail(content, file, **options):
    file.write("half a rep")
    raise OSError("the disk is full")


@pytest.mark.slow
def test_workers_report_what_one_process_reports(suite):
    def told(result):
        lines = [re.sub(r"[\d.]+s", "", line) for line in result.outlines]
        tests = [{**test, "seconds": 0} for test in report(suite)["tests"]]
        return lines[next(i for i, line in enumerate(lines) if "= bertology =" in line) :], tests

    alone = suite.run(CHECKS, "--bertology-report-json=report.json")
    alone_lines, alone_tests = told(alone)
    spread = suite.run(CHECKS, "--bertology-report-json=report.json", "-n2")
    spread_lines, spread_tests = told(spread)

    assert spread.parseoutcomes() == alone.parseoutcomes()
    assert spread_tests == alone_tests
    assert sorted(spread_lines[:-1]) == sorted(alone_lines[:-1])
    assert [line for line in spread.outlines if line.startswith("rerun: ")]


def test_a_report_of_an_ini_file_lies_beside_it(suite, monkeypatch):
    suite.pytester.makeini("[pytest]\nbertology_report_json = report.json\n")
    (suite.path / "below").mkdir()
    suite.write(CHECKS)
    monkeypatch.chdir(suite.path / "below")

    suite.bare("", *suite.given, "..", "-k", "test_top")

    assert [test["test"] for test in report(suite)["tests"]] == ["test_release.py::test_top"]


def test_the_score_of_a_probe_is_no_baseline_of_the_model(suite):
    result = suite.run("""
        from pytest_bertology import assert_metric_retained
        from pytest_bertology.checks.verdicts import Verdict, give

        PROBED = dict(model="tiny", task="dev.conllu:upos", metric="accuracy", baseline=0.66371, score=0.65,
                      examples=333, heads=("L1H0",), details={"layer": 6, "probed": "words"})

        def test_both(bertology_model, bertology_task):
            assert_metric_retained(bertology_model, bertology_task, heads=[(0, 1), (1, 2)], tolerance=0.975)
            give(Verdict("assert_probe_retained", True, 0.0137, "<= 0.05", "drop of the probe", **PROBED), None)
    """)

    baseline, own, probed = summary(result)
    assert baseline == "tiny: baseline 0.9750 accuracy on reviews.csv (40 examples)"
    assert "test_both: drop in accuracy" in own
    assert probed == (
        "  passed  test_release.py::test_both: drop of the probe in accuracy 0.0137 (0.6637 → 0.6500 by probes of "
        "layer 6 on 333 words of dev.conllu:upos), required <= 0.05, 1 head masked"
    )


def test_errors_of_ours_and_warnings_have_a_line_each(suite):
    result = suite.run(
        """
        import warnings
        from pytest_bertology import assert_metric_retained
        from pytest_bertology.errors import BertologyWarning

        def test_misused(bertology_model, bertology_task):
            assert_metric_retained(bertology_model, bertology_task, prune=0.5, tolerance=-1)

        def test_broken(bertology_model):
            raise ValueError("not ours")

        def test_warned(bertology_model):
            for number in range(7):
                warnings.warn(f"mind {number}\\nand more", BertologyWarning)
        """,
        "-Wdefault",
    )

    lines = summary(result)
    (error,) = [line for line in lines if line.startswith("  ERROR")]
    assert re.match(r"  ERROR   test_release.py::test_misused: InvalidArgument: tolerance", error)
    assert len(error) < 260
    assert [line for line in lines if line.startswith("  warning")] == [
        f"  warning test_release.py::test_warned: mind {number}" for number in range(5)
    ]
    assert "  and 2 more warnings, above and in the reports" in lines
