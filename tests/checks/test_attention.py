"""Checks on what heads look at, against a planted head that attends to the previous token alone."""

from __future__ import annotations

import math

import pytest

from pytest_bertology import (
    CheckFailed,
    Head,
    assert_entropy_between,
    assert_head_attends,
    attention_statistics,
    load_model,
)
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import (
    EmptyTask,
    InvalidArgument,
    NoHeadSelected,
    NothingToJudge,
    UndefinedScore,
    UnknownHead,
)
from tests.attending import letters, spelled
from tests.families import family
from tests.planted_attention import PREVIOUS, previous_token_model

TEXTS = spelled(8)


@pytest.fixture(scope="module")
def model():
    return previous_token_model()


def test_the_planted_head_attends_to_the_previous_token(model):
    found = assert_head_attends(model, TEXTS, PREVIOUS, "previous", 0.99)

    assert found.to_previous[PREVIOUS] == pytest.approx(1.0, abs=1e-6)


def test_another_head_does_not(model):
    with pytest.raises(CheckFailed) as caught:
        assert_head_attends(model, TEXTS, (0, 1), to="previous", at_least=0.9)

    message = str(caught.value)
    assert message.splitlines()[0] == "L0H1 does not attend to the previous token"
    assert "at least 0.9" in message
    assert f"most: {PREVIOUS} 1.000" in message
    assert "the token itself" in message


def test_the_verdict_says_what_was_judged(model):
    verdicts = []
    with hearing(verdicts.append), pytest.raises(CheckFailed):
        assert_head_attends(model, TEXTS, (0, 1), to="to_next", at_least=1.0)

    (verdict,) = verdicts
    assert (verdict.check, verdict.passed, verdict.heads) == ("assert_head_attends", False, ("L0H1",))
    assert verdict.observed == attention_statistics(model, TEXTS).to_next[0, 1]
    assert verdict.judged == "attention to next"
    assert verdict.examples == len(TEXTS)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"to": "behind"}, InvalidArgument),
        ({"to": None}, InvalidArgument),
        ({"at_least": 0.0}, InvalidArgument),
        ({"at_least": 80}, InvalidArgument),
        ({"at_least": True}, InvalidArgument),
        ({"at_least": float("nan")}, InvalidArgument),
        ({"head": (5, 0)}, UnknownHead),
        ({"texts": ["a b"], "to": "punctuation"}, UndefinedScore),
        ({"texts": []}, EmptyTask),
    ],
)
def test_arguments_on_which_nothing_could_be_judged_are_refused(model, changed, error):
    with pytest.raises(error):
        assert_head_attends(**{"model": model, "texts": TEXTS, "head": PREVIOUS, **changed})


def test_a_masked_head_is_not_judged(model):
    with model.masked([PREVIOUS]), pytest.raises(NothingToJudge, match=f"{PREVIOUS} is masked"):
        assert_head_attends(model, TEXTS, PREVIOUS)
    with model.masked([(0, 0), PREVIOUS]), pytest.raises(NothingToJudge, match="are masked"):
        assert_entropy_between(model, TEXTS, [(0, 0), PREVIOUS], high=0.5)


def test_bounds_on_causal_models_go_by_what_they_can_see():
    causal = load_model(family("gpt2", "causal-lm"), tokenizer=letters())
    found = attention_statistics(causal, TEXTS)
    between = (max(found.uniform_entropy.values) + math.log(20)) / 2

    with pytest.raises(NothingToJudge):
        assert_entropy_between(causal, TEXTS, high=between)
    with pytest.raises(InvalidArgument, match="low"):
        assert_entropy_between(causal, TEXTS, low=between)


def test_a_sharp_head_has_little_entropy(model):
    texts = ["a b c d e f g h"]
    sharp = attention_statistics(model, texts).entropy[PREVIOUS]

    assert_entropy_between(model, texts, PREVIOUS, high=sharp + 0.01)
    with pytest.raises(CheckFailed, match="more sharply or more evenly than required"):
        assert_entropy_between(model, texts, PREVIOUS, low=sharp + 0.01)


def test_heads_outside_are_named(model):
    entropy = attention_statistics(model, TEXTS).entropy
    least = min(entropy.heads, key=lambda head: entropy[head])

    with pytest.raises(CheckFailed) as caught:
        assert_entropy_between(model, TEXTS, low=entropy[least] + 1e-6)

    assert "1 of 4 heads attend" in str(caught.value)
    assert f"{least} {entropy[least]:.3f}" in str(caught.value)
    assert caught.value.verdict.heads == (str(least),)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"low": 2.0, "high": 1.0}, InvalidArgument),
        ({"high": -1.0}, InvalidArgument),
        ({"low": float("nan")}, InvalidArgument),
        ({"low": 99.0}, InvalidArgument),
        ({"low": 0.0, "high": 99.0}, NothingToJudge),
        ({}, NothingToJudge),
        ({"heads": [], "high": 1.0}, NoHeadSelected),
        ({"heads": [Head(9, 9)], "high": 1.0}, UnknownHead),
    ],
)
def test_bounds_that_judge_nothing_are_refused(model, changed, error):
    with pytest.raises(error):
        assert_entropy_between(model, TEXTS, **changed)
