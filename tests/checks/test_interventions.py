"""Checks on changed attention hold, fail and say why.

Oracle: the measures, which are held against eager attention of one text at a time, and planted heads.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pytest_bertology import (
    CheckFailed,
    Head,
    assert_constant_attention_ok,
    assert_head_follows_pattern,
    assert_pattern_injectable,
    assert_top_k_attention_ok,
    constant_attention,
    constant_curve,
    evaluate,
    head_importance,
    pruning_curve,
    save_figure,
)
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import (
    BertologyWarning,
    InvalidArgument,
    NoHeadSelected,
    NotAHead,
    NothingToJudge,
    UndefinedScore,
    UnknownHead,
)
from pytest_bertology.report.constant_figure import constant_curves
from tests.changed_eagerly import changeable
from tests.families import under_test
from tests.planted import planted_model, planted_task
from tests.tiny import tiny_model, tiny_task

HEAD = Head(1, 2)
PLANTED, QUALITY = planted_model(HEAD), planted_task()
MODEL = tiny_model()
TASK = tiny_task(24, MODEL)
CONSTANTS = dataclasses.replace(constant_attention(MODEL, TASK), marks=np.zeros(0, dtype=np.uint64))
"""As if of other texts."""
CAUSAL, BOTH = under_test("gpt2"), changeable("bart")


def test_what_costs_nothing_passes_and_is_returned():
    verdicts = []
    with hearing(verdicts.append):
        found = assert_constant_attention_ok(MODEL, TASK, CONSTANTS, 0.25, 0.9)

    with MODEL.with_constant_attention(CONSTANTS, head_importance(MODEL, TASK).normalized().bottom(2)):
        assert found.masked.score == evaluate(MODEL, TASK).score
    assert found.baseline.score == evaluate(MODEL, TASK).score == 1.0
    assert len(found.changed) == 2
    (verdict,) = verdicts
    assert (verdict.check, verdict.passed, verdict.observed) == ("assert_constant_attention_ok", True, found.drop)
    assert verdict.details["change"] == "constant attention"
    assert verdict.to_jsonable()


def test_constant_heads_that_cost_too_much_are_told():
    with pytest.raises(CheckFailed) as failed:
        assert_constant_attention_ok(MODEL, TASK, CONSTANTS, 1.0, 0.01, confidence=0.95)

    text = str(failed.value)
    assert "accuracy is not retained with constant attention in 8 of 8 heads (100%, all heads)" in text
    assert "required: at most 0.01" in text
    assert "with 95% confidence" in text
    assert "became wrong" in text


def test_few_keys_that_cost_too_much_are_told():
    with pytest.raises(CheckFailed, match=r"attention to the 1 greatest key in 4 of 8 heads \(50%, of some layers\)"):
        assert_top_k_attention_ok(MODEL, TASK, 1, 0.0, layers=[0])

    assert assert_top_k_attention_ok(MODEL, TASK, 8, 0.5).change == "attention to the 8 greatest keys"


def test_a_pattern_that_a_head_needs_not_can_be_injected_and_one_that_takes_its_words_cannot():
    words = ("good", "fine", "great", "lovely", "superb", "bad", "poor", "awful")
    marked = {PLANTED.tokenizer.convert_tokens_to_ids(word) for word in words}

    def to_marked(ids):
        return np.array([[token in marked for token in ids]] * len(ids), dtype=bool)

    with pytest.warns(BertologyWarning, match="changes no result"):  # it looks at nothing else
        found = assert_pattern_injectable(PLANTED, QUALITY, HEAD, to_marked, 0.0)
    assert found.drop == 0.0
    assert found.change == "the pattern to_marked"
    with pytest.raises(CheckFailed) as failed:
        assert_pattern_injectable(PLANTED, QUALITY, HEAD, "self", 0.1, relative=True)

    text = str(failed.value)
    assert "accuracy is not retained with the pattern self in 1 of 12 heads (8%)" in text
    assert "50.00% of the baseline; required: at most 10.00% of the baseline" in text
    assert "heads     L1H2" in text


def test_what_a_pattern_leaves_nothing_is_told():
    with pytest.raises(CheckFailed, match=r"unchanged\s+\d+\.\d% of tokens: the pattern left them nothing"):
        assert_pattern_injectable(MODEL, TASK, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)], -1, 0.0)


def test_a_head_follows_the_pattern_it_was_made_for():
    with MODEL.with_attention_pattern((1, 1), "previous"):
        found = assert_head_follows_pattern(MODEL, TASK, (1, 1), "previous", 1.0)

    assert found[(1, 1)] == pytest.approx(1.0)
    with pytest.raises(CheckFailed) as failed:
        assert_head_follows_pattern(MODEL, TASK, [(0, 0), (1, 1)], "previous", 0.99)
    text = str(failed.value)
    assert "2 of 2 heads do not follow the pattern" in text
    assert "previous; required: at least 0.99 of a head's attention" in text
    assert "most on it" in text
    with pytest.raises(CheckFailed, match="L0H0 does not follow the pattern"):
        assert_head_follows_pattern(MODEL, TASK, (0, 0), "previous", 0.99)


@pytest.mark.parametrize(
    ("check", "error", "match"),
    [
        (lambda: assert_constant_attention_ok(MODEL, TASK, TASK, 0.01, 0.1), NoHeadSelected, "rounds to no head"),
        (lambda: assert_constant_attention_ok(MODEL, TASK, TASK, 1.5, 0.1), InvalidArgument, "fraction=1.5"),
        (lambda: assert_constant_attention_ok(MODEL, TASK, TASK, 0.5, 1.0), InvalidArgument, "tolerance"),
        (lambda: assert_constant_attention_ok(MODEL, TASK, TASK, 0.5, 0.1, by="luck"), InvalidArgument, "by"),
        (lambda: assert_constant_attention_ok(MODEL, TASK, "texts", 0.5, 0.1), InvalidArgument, "texts"),
        (lambda: assert_constant_attention_ok(MODEL, "dev", TASK, 0.5, 0.1), InvalidArgument, "task"),
        (lambda: assert_constant_attention_ok(MODEL, TASK, TASK, 0.5, 0.1), InvalidArgument, "the train split"),
        (lambda: assert_head_follows_pattern(MODEL, TASK, "L0H2", "self", 0.5), NotAHead, "'L0H2' is not a head"),
        (lambda: assert_head_follows_pattern(CAUSAL, ["abc"], (0, 0), "next", 0.5), UndefinedScore, "looks ahead"),
        (
            lambda: assert_head_follows_pattern(BOTH, ["abc"], (0, 0, "decoder"), 1, 0.5),
            UndefinedScore,
            "in the decoder has no value here: none of it can be seen",
        ),
        (lambda: assert_top_k_attention_ok(MODEL, TASK, 2, -0.1), InvalidArgument, "tolerance"),
        (lambda: assert_top_k_attention_ok(MODEL, TASK, 0, 0.1), InvalidArgument, "k=0"),
        (lambda: assert_top_k_attention_ok(MODEL, TASK, 30, 0.1), NothingToJudge, "keeps all keys"),
        (lambda: assert_pattern_injectable(MODEL, TASK, [], "self", 0.1), NoHeadSelected, "no head"),
        (lambda: assert_pattern_injectable(MODEL, TASK, (9, 9), "self", 0.1), UnknownHead, "L9H9"),
        (lambda: assert_pattern_injectable(MODEL, TASK, (0, 0), "up", 0.1), InvalidArgument, "pattern"),
        (lambda: assert_head_follows_pattern(MODEL, TASK, (0, 0), "self", 0.0), InvalidArgument, "at_least"),
        (lambda: assert_head_follows_pattern(MODEL, TASK, (0, 0), "self", True), InvalidArgument, "at_least"),
        (lambda: assert_head_follows_pattern(TASK, TASK, (0, 0), "self", 0.5), InvalidArgument, "model"),
    ],
)
def test_checks_that_could_not_fail_are_refused(check, error, match):
    with pytest.raises(error, match=match):
        check()


def test_masked_heads_are_not_judged_by_what_they_attend_to():
    with MODEL.masked([(0, 2)]):
        with pytest.raises(NothingToJudge, match="L0H2 is masked"):
            assert_pattern_injectable(MODEL, TASK, (0, 2), "first", 0.01)
        with pytest.raises(NothingToJudge, match="L0H2 is masked"):
            assert_head_follows_pattern(MODEL, TASK, [(0, 1), (0, 2)], "first", 0.01)
    with MODEL.masked(MODEL.heads), pytest.raises(NothingToJudge, match="all heads are masked"):
        assert_constant_attention_ok(MODEL, TASK, CONSTANTS, 1.0, 0.01)


def test_a_curve_is_drawn_alone_and_beside_masked_heads(tmp_path):
    pytest.importorskip("matplotlib")
    found = constant_curve(MODEL, TASK, CONSTANTS, "random", [0.0, 0.5, 1.0])
    masked = pruning_curve(MODEL, TASK, "random", [0.0, 0.5, 1.0])

    (alone,) = constant_curves(found).axes
    (both,) = constant_curves(found, masked, "$cost$").axes

    assert list(alone.lines[0].get_ydata()) == list(found.scores)
    assert list(alone.lines[0].get_xdata()) == [0.0, 50.0, 100.0]
    assert [list(line.get_ydata()) for line in both.lines[:2]] == [list(masked.scores), list(found.scores)]
    assert save_figure(constant_curves(found), tmp_path / "curve.png").stat().st_size > 1000
    with pytest.raises(InvalidArgument, match="a pruning curve of accuracy"):
        constant_curves(found, pruning_curve(MODEL, TASK.with_metric("loss"), "random", [0.0, 1.0]))


def test_a_context_that_a_test_never_leaves_is_closed_for_the_next(pytester):
    pytester.makepyfile("""
        import pytest
        from pytest_bertology import evaluate
        from tests.tiny import tiny_model, tiny_task
        from transformers.modeling_utils import AttentionInterface

        seen, task = {}, tiny_task()

        def losses(model):
            return evaluate(model, task).losses

        @pytest.fixture(scope="session")
        def bertology_model():
            return tiny_model()

        def test_before(bertology_model):
            seen["plain"] = losses(bertology_model)
            seen["look_up"] = AttentionInterface.get_interface

        def test_that_forgets(bertology_model):
            seen["one"] = bertology_model.with_top_k_attention(1)
            seen["one"].__enter__()
            assert (losses(bertology_model) != seen["plain"]).any()

        def test_that_fails(bertology_model):
            assert bertology_model.masks_open() == 0
            seen["other"] = bertology_model.with_attention_pattern((0, 0), "first")
            seen["other"].__enter__()
            assert False

        def test_after(bertology_model):
            assert bertology_model.masks_open() == 0
            assert AttentionInterface.get_interface is seen["look_up"]
            assert (losses(bertology_model) == seen["plain"]).all()
    """)

    result = pytester.runpytest_inprocess()

    result.assert_outcomes(passed=3, failed=1)


def test_a_context_of_a_fixture_lasts_for_all_its_tests(pytester):
    pytester.makepyfile("""
        import pytest
        from pytest_bertology import evaluate
        from tests.tiny import tiny_model, tiny_task

        seen, task = [], tiny_task()

        @pytest.fixture(scope="session")
        def bertology_model():
            model = tiny_model()
            seen.append(evaluate(model, task).losses)
            with model.with_top_k_attention(1):
                yield model

        @pytest.mark.parametrize("turn", [0, 1])
        def test_each(bertology_model, turn):
            seen.append(evaluate(bertology_model, task).losses)
            assert bertology_model.masks_open() == 1
            assert (seen[1] == seen[-1]).all()
            assert (seen[0] != seen[-1]).any()
    """)

    result = pytester.runpytest_inprocess()

    result.assert_outcomes(passed=2)
