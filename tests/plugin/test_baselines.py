"""Baselines of whole sessions on the tiny model: what is written, compared and refused, against files and reports."""

from __future__ import annotations

import json

import pytest

from pytest_bertology.baselines.files import read_baselines, write_baselines

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
    result.stdout.fnmatch_lines(["  FAILED  test_release.py::test_release: no baseline 'outcomes'"])
    assert not kept(suite).parent.exists()


def test_new_baselines_are_written_and_hold_for_the_same_model(suite):
    written = suite.run(SUITE, "--bertology-update=new")
    content = kept(suite).read_bytes()

    held = suite.run(SUITE)

    written.assert_outcomes(passed=1)
    written.stdout.fnmatch_lines(["3 baselines written (3 new) to bertology_baselines/test_release.json"])
    written.stdout.fnmatch_lines(["  passed  *outcomes: new baseline written: accuracy 0.9750"])
    held.assert_outcomes(passed=1)
    assert sorted(entries(suite)) == ["test_release/attention", "test_release/importance", "test_release/outcomes"]
    assert kept(suite).read_bytes() == content


NUMBER = """
    import pytest

    @pytest.mark.parametrize("part", ["a", "b"])
    class TestParts:
        def test_number(self, bertology_baseline, part):
            bertology_baseline.check({"a": 1.0, "b": 2.0}[part], "score", tolerance=0.1)

    def test_other(bertology_baseline):
        bertology_baseline.check(5.0, "score", tolerance=0.1)
"""


def changed(source, before, after):
    assert before in source
    return source.replace(before, after)


def test_entries_are_named_by_class_test_and_parameters_but_not_by_the_model(suite, copied):
    suite.bare(NUMBER, "--bertology-update=new")

    assert sorted(entries(suite)) == [
        "TestParts::test_number[a]/score",
        "TestParts::test_number[b]/score",
        "test_other/score",
    ]


def test_a_candidate_of_another_name_is_compared_with_the_same_entry(suite, copied):
    suite.run(SUITE, "--bertology-update=new")

    result = suite.bare("", f"--bertology-model={copied('candidate2')}", f"--bertology-task={suite.task}")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*importance: rank correlation of gradient scores with their baseline 1, *"])


def test_a_head_that_is_zeroed_is_found_and_the_report_says_which(suite, edited):
    suite.run(SUITE, "--bertology-update=new")

    def zero(model):
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 4:8] = 0.0

    folder = edited(zero)
    result = suite.bare(
        changed(SUITE, "bertology_baseline.check(evaluate(bertology_model, bertology_task))", ""),
        f"--bertology-model={folder}",
        f"--bertology-task={suite.task}",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_release/importance in bertology_baselines/test_release.json*"])
    result.stdout.fnmatch_lines(["*L1H1*"])


THIRD = """
    def test_third(bertology_baseline):
        bertology_baseline.check(3, "x", tolerance=1)
"""


def test_new_writes_what_is_missing_and_compares_the_rest(suite):
    suite.bare(NUMBER, "--bertology-update=new")

    result = suite.bare(changed(NUMBER, '"a": 1.0', '"a": 7.0') + THIRD, "--bertology-update=new")

    result.assert_outcomes(passed=3, failed=1)
    assert entries(suite)["TestParts::test_number[a]/score"]["content"]["number"]["values"] == {"value": 1}
    assert "test_third/x" in entries(suite)


def test_changed_replaces_what_is_refused_and_nothing_else(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    moved = changed(changed(NUMBER, '"a": 1.0', '"a": 7.0'), '"b": 2.0', '"b": 2.05')

    result = suite.bare(moved, "--bertology-update=changed")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["1 baseline written (1 replaced) to bertology_baselines/test_release.json"])
    result.stdout.fnmatch_lines(["*test_number[[]a[]]: score: baseline replaced: 1 → 7"])
    found = [entries(suite)[f"TestParts::test_number[{part}]/score"]["content"]["number"]["values"] for part in "ab"]
    assert found == [{"value": 7}, {"value": 2}]


def test_all_writes_every_entry_of_the_tests_that_ran_anew(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    moved = changed(changed(NUMBER, '"b": 2.0', '"b": 2.05'), "check(5.0", "check(9.0")

    suite.bare(moved, "--bertology-update=all", "-k", "test_number").assert_outcomes(passed=2, deselected=1)

    found = entries(suite)
    assert found["TestParts::test_number[b]/score"]["content"]["number"]["values"] == {"value": 2.05}
    assert found["test_other/score"]["content"]["number"]["values"] == {"value": 5}


@pytest.mark.parametrize("end", ["assert False", "pytest.exit('enough')"])
def test_a_test_that_fails_otherwise_writes_none_of_its_entries_and_others_write_theirs(suite, end):
    source = f"""
    import pytest

    def test_good(bertology_baseline):
        bertology_baseline.check(1.0, "x", tolerance=1)

    def test_not(bertology_baseline):
        bertology_baseline.check(2.0, "y", tolerance=1)
        {end}
    """
    result = suite.bare(source, "--bertology-update=new")

    assert list(entries(suite)) == ["test_good/x"]
    result.stdout.fnmatch_lines(["*test_good: x: new baseline written: 1"])
    assert "y: new baseline written" not in result.stdout.str()
    if end.startswith("assert"):
        result.stdout.fnmatch_lines(["*test_not: y: not written: the test failed"])


def test_ci_writes_nothing_unless_it_is_said(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")

    said = suite.refused(NUMBER, "--bertology-update=new")

    assert "--bertology-update: 'new' would write baselines, and this is CI" in said
    assert "--bertology-update-in-ci" in said
    suite.bare(NUMBER).assert_outcomes(failed=3)
    assert not kept(suite).exists()
    suite.bare(NUMBER, "--bertology-update=new", "--bertology-update-in-ci").assert_outcomes(passed=3)
    assert kept(suite).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bertology-remove-unused"], "needs --bertology-update=changed or all; found 'none'"),
        (["--bertology-update=all", "--bertology-reference={model}"], "is not valid with --bertology-reference"),
        (["--bertology-update=some"], "none, new, changed, all"),
    ],
)
def test_options_that_do_not_go_together_are_refused(suite, options, said):
    assert said in suite.refused(NUMBER, *(option.format(model=suite.model) for option in options))


def without_other(source):
    return source[: source.index("    def test_other")]


def test_unused_entries_are_listed_and_removed_on_request_after_a_full_clean_run(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    less = without_other(NUMBER)

    listed = suite.bare(less)
    partly = suite.bare(less, "--bertology-update=changed", "--bertology-remove-unused", "-k", "number and not b]")
    failing = suite.bare(
        less + "    def test_bad():\n        assert 0\n", "--bertology-update=changed", "--bertology-remove-unused"
    )
    assert "test_other/score" in entries(suite)
    removed = suite.bare(less, "--bertology-update=changed", "--bertology-remove-unused")

    listed.stdout.fnmatch_lines(["1 baseline that no test asked for (*remove-unused):", "*json: test_other/score"])
    assert "no test asked for" not in partly.stdout.str()
    failing.stdout.fnmatch_lines(["1 baseline that no test asked for (not removed: not all tests ran and passed):"])
    removed.stdout.fnmatch_lines(["1 unused baseline removed:", "*json: test_other/score"])
    assert sorted(entries(suite)) == ["TestParts::test_number[a]/score", "TestParts::test_number[b]/score"]


def test_entries_of_tests_that_did_not_run_or_failed_are_not_called_unused(suite):
    suite.bare(NUMBER, "--bertology-update=new")

    for arguments in (["-k", "other"], ["test_release.py::test_other"]):
        assert "no test asked for" not in suite.bare("", *arguments).stdout.str()
    failing = changed(NUMBER, "bertology_baseline.check(5.0", "assert False; bertology_baseline.check(5.0")
    assert "no test asked for" not in suite.bare(failing).stdout.str()


def test_baselines_of_modules_that_are_gone_are_listed(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    kept(suite).rename(kept(suite).with_name("test_gone.json"))

    result = suite.bare(NUMBER, "--bertology-update=new")

    result.stdout.fnmatch_lines(["3 baselines that no test asked for (*):", "*test_gone.json: test_other/score"])


def test_a_file_that_was_edited_is_one_clear_message_and_is_never_overwritten(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    content = kept(suite).read_text().replace('"value": 5', '"value": 6')
    kept(suite).write_text(content)

    for update in ("none", "all"):
        result = suite.bare("", f"--bertology-update={update}", "-k", "test_other")
        result.assert_outcomes(failed=1, deselected=2)
        result.stdout.fnmatch_lines(["*InvalidBaselines: *test_release.json*'test_other/score' was edited by hand*"])
    assert kept(suite).read_text() == content


def test_the_same_name_stands_for_one_value(suite):
    source = """
    def test_twice(bertology_baseline):
        bertology_baseline.check(1.0, tolerance=1)
        bertology_baseline.check(1.0, tolerance=1)
        bertology_baseline.check(2.0, tolerance=1)
    """
    result = suite.bare(source, "--bertology-update=new")

    result.stdout.fnmatch_lines(["*InvalidArgument: name='number' is not valid*check(..., name=*another value*"])
    assert not kept(suite).exists()


@pytest.mark.parametrize("name", ["", "a/b", "a\\nb"])
def test_names_that_could_not_be_told_apart_are_refused(suite, name):
    source = f'def test_it(bertology_baseline): bertology_baseline.check(1.0, "{name}", tolerance=1)'

    suite.bare(source).stdout.fnmatch_lines(["*InvalidArgument: name=*without a slash*"])


def test_the_order_of_tests_does_not_change_the_file(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    content = kept(suite).read_bytes()
    kept(suite).unlink()
    turned = "def pytest_collection_modifyitems(items):\n    items.reverse()\n"

    suite.bare(NUMBER, "--bertology-update=new", conftest=turned)

    assert kept(suite).read_bytes() == content


@pytest.mark.slow
def test_workers_compare_and_the_controller_writes_and_removes(suite):
    suite.bare(NUMBER, "--bertology-update=new")
    content = kept(suite).read_bytes()
    suite.bare(NUMBER + THIRD, "--bertology-update=new")
    found = read_baselines(kept(suite))
    del found["TestParts::test_number[a]/score"]
    write_baselines(kept(suite), found)

    result = suite.apart(NUMBER, "--bertology-update=changed", "--bertology-remove-unused", "-n", "2")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["1 baseline written (1 new) to *", "1 unused baseline removed:", "*: test_third/x"])
    assert kept(suite).read_bytes() == content


def test_a_property_test_may_check_a_baseline(suite):
    source = """
    from hypothesis import given, settings, strategies as st

    @settings(max_examples=3, database=None)
    @given(st.integers())
    def test_property(bertology_baseline, number):
        bertology_baseline.check(1.0, tolerance=0.1)
    """
    suite.bare(source, "--bertology-update=new").assert_outcomes(passed=1)
    suite.bare("").assert_outcomes(passed=1)


def test_what_must_match_and_does_not_is_told_with_what_to_do(suite, tmp_path):
    suite.run(SUITE, "--bertology-update=new")
    rows = suite.task.read_text().splitlines()
    other = tmp_path / "less.csv"
    other.write_text("\n".join(rows[:-1]) + "\n")

    result = suite.bare("", f"--bertology-model={suite.model}", f"--bertology-task={other}")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*nothing can be compared with the baseline: data, examples differ*",
            "*data *→*(it is judged on other data)*",
            "*Give the data it was written with (*reviews*): this is *less*",
            "*--bertology-update=changed*",
        ]
    )


def test_other_surroundings_are_warned_of_once_per_test(suite):
    suite.run(SUITE, "--bertology-update=new")
    found = read_baselines(kept(suite))
    for each in found.values():
        each["warn"]["torch"] = "1.13"
    write_baselines(kept(suite), found)

    result = suite.run("", "-W", "always")

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*BertologyWarning: the baseline was written elsewhere: torch: 1.13 → *"])


REFERENCE = """
    from pytest_bertology import evaluate, head_importance

    def test_measures(bertology_baseline, bertology_model, bertology_task):
        bertology_baseline.check(evaluate(bertology_model, bertology_task))
        bertology_baseline.check(lambda model: evaluate(model, bertology_task).score, "score", tolerance=0.1)

    def test_number(bertology_baseline):
        bertology_baseline.check(1.0, "number", tolerance=0.1)

    def test_fixture(bertology_reference, bertology_model):
        assert bertology_reference.heads == bertology_model.heads
"""


def test_a_reference_model_takes_the_place_of_what_is_kept(suite, copied, edited):
    same = copied("reference")

    equal = suite.run(REFERENCE, f"--bertology-reference={same}")

    equal.assert_outcomes(passed=2, failed=1)
    equal.stdout.fnmatch_lines([f"bertology reference: {same} (from --bertology-reference)"])
    equal.stdout.fnmatch_lines(["*CannotMeasure*test_number/number*give check a function of a model*"])
    assert not kept(suite).parent.exists()

    def swap(model):
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))

    worse = suite.bare(
        "",
        f"--bertology-model={edited(swap)}",
        f"--bertology-task={suite.task}",
        f"--bertology-reference={same}",
        "-k",
        "measures",
    )
    worse.assert_outcomes(failed=1, deselected=2)
    worse.stdout.fnmatch_lines(["*accuracy is significantly worse than its baseline*"])


def test_without_a_reference_its_fixture_skips_with_a_reason(suite):
    result = suite.run(REFERENCE, "-k", "fixture", "-rs")

    result.assert_outcomes(skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["*give --bertology-reference*"])


def test_verdicts_name_the_baseline_and_carry_what_reports_show(suite):
    suite.run(SUITE, "--bertology-update=new")

    suite.run("", "--bertology-report-json=report.json")

    (test,) = json.loads((suite.path / "report.json").read_text())["tests"]
    outcomes, importance, attention = test["verdicts"]
    assert {verdict["check"] for verdict in test["verdicts"]} == {"bertology_baseline.check"}
    assert outcomes["details"]["baseline"]["name"] == "test_release/outcomes"
    assert outcomes["details"]["baseline"]["by"] == "stored"
    assert outcomes["evidence"]["changed"] == {"lost": 0, "gained": 0, "worst": []}
    assert outcomes["p_value"] == 1.0
    assert importance["evidence"]["heads"]["baseline"] == importance["evidence"]["heads"]["candidate"]
    assert attention["passed"]


@pytest.mark.parametrize("update", ["none", "new", "all"])
@pytest.mark.parametrize(
    ("limits", "said"),
    [("", "tolerance=None is not valid"), (", tolerance=1, min_overlap=0.5", "min_overlap=0.5 is not valid")],
)
def test_limits_that_judge_nothing_are_refused_before_anything_is_written(suite, update, limits, said):
    result = suite.bare(
        f"def test_it(bertology_baseline): bertology_baseline.check(0.5{limits})", f"--bertology-update={update}"
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*InvalidArgument: {said}*"])
    assert not kept(suite).exists()


TOLERANT = """
    from pytest_bertology import evaluate

    def test_it(bertology_baseline, bertology_model, bertology_task):
        bertology_baseline.check(evaluate(bertology_model, bertology_task), tolerance=0.01)
"""


def test_too_few_examples_are_told_when_the_baseline_is_written(suite):
    """Of n examples none of which changes the bound is 1 - 0.05^(1/n): below 0.01 from n = 299 on."""
    written = suite.run(TOLERANT, "--bertology-update=new", "-W", "always")
    later = suite.run("")

    written.assert_outcomes(passed=1, warnings=1)
    written.stdout.fnmatch_lines(["*BertologyWarning: an equal model will be inconclusive*40 examples*about 300 *"])
    later.assert_outcomes(failed=1)
    text = " ".join(later.stdout.str().split())
    assert "Use more examples or that tolerance; about 300 examples" in text


OF_MODELS = """
    import pytest
    from pytest_bertology import evaluate

    @pytest.mark.parametrize("part", ["tiny", "b"])
    def test_it(bertology_baseline, bertology_model, bertology_task, part):
        bertology_baseline.check(evaluate(bertology_model, bertology_task))

    def test_one(bertology_baseline, bertology_model, bertology_task):
        bertology_baseline.check(evaluate(bertology_model, bertology_task))
"""


def test_several_models_are_compared_with_the_same_entries(suite, copied):
    suite.run(OF_MODELS, "--bertology-update=new")
    both = (*suite.given, f"--bertology-model={copied('other')}")

    result = suite.bare("", *both)

    assert sorted(entries(suite)) == ["test_it[b]/outcomes", "test_it[tiny]/outcomes", "test_one/outcomes"]
    result.assert_outcomes(passed=6)
    assert "no test asked for" not in result.stdout.str()
    result.stdout.fnmatch_lines(["6 comparisons with baselines by p-value: no change beyond chance *"])
    assert "baselines are written of one model; found 2" in suite.refused(OF_MODELS, *both, "--bertology-update=new")


def test_models_that_a_marker_names_are_not_written_either(suite, copied):
    source = f"""
    import pytest

    @pytest.mark.bertology(model=[{str(suite.model)!r}, {str(copied("other"))!r}])
    def test_it(bertology_baseline, bertology_model):
        bertology_baseline.check(1.0, tolerance=0.1)
    """
    assert "baselines are written of one model; found 2" in suite.refused(source, "--bertology-update=new")


def test_all_says_what_is_unchanged(suite):
    suite.bare(NUMBER, "--bertology-update=new")

    same = suite.bare("", "--bertology-update=all")
    moved = suite.bare(changed(NUMBER, "check(5.0", "check(9.0"), "--bertology-update=all")

    same.stdout.fnmatch_lines(["*test_other: score: baseline unchanged: 5", "3 baselines unchanged"])
    assert "written" not in same.stdout.str()
    moved.stdout.fnmatch_lines(["1 baseline written (1 written anew) to *; 2 unchanged"])


def test_a_head_that_became_idle_is_not_counted_as_changed_by_its_p_value(suite, edited):
    source = changed(SUITE, "bertology_baseline.check(evaluate(bertology_model, bertology_task))", "")
    source = changed(source, "bertology_baseline.check(attention_statistics(bertology_model, bertology_task))", "")
    suite.run(source, "--bertology-update=new")

    def zero(model):
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 4:8] = 0.0

    result = suite.bare("", f"--bertology-model={edited(zero)}", f"--bertology-task={suite.task}")

    result.assert_outcomes(failed=1)
    assert "lost their importance" in result.stdout.str()
    assert "by p-value" not in result.stdout.str()


def test_against_a_reference_as_many_comparisons_are_expected_as_entries_are_kept(suite, copied):
    source = """
    from pytest_bertology import evaluate

    def test_it(bertology_baseline, bertology_model, bertology_task):
        for name in "abc":
            bertology_baseline.check(evaluate(bertology_model, bertology_task), name)
    """
    reference = f"--bertology-reference={copied('reference')}"
    suite.run(source, "--bertology-update=new")

    suite.run("", reference).stdout.fnmatch_lines(["*required not significant (p > 0.017)*"])
