"""The bigram model of tests/measures/test_prompting.py, which says the colour of the thing before, and nothing else."""

from __future__ import annotations

import pytest

from pytest_bertology import CheckFailed, load_task
from pytest_bertology.checks.prompting import assert_prompt_score
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument
from tests.measures.test_prompting import COLOURS, bigrams

WORDS = {"red": "red", "green": "green"}


@pytest.fixture(scope="module")
def model():
    return bigrams()


def things(mapping=COLOURS):
    chosen = [thing for thing in COLOURS if COLOURS[thing] in WORDS]
    found = [(f"{start} {thing}", mapping[thing]) for thing in chosen for start in ("a", "of", "a of", "of of a")]
    return load_task({"text": [text for text, _ in found], "label": [label for _, label in found]})


def test_a_model_that_knows_passes(model):
    heard = []

    with hearing(heard.append):
        report = assert_prompt_score(model, things(), "{text}", WORDS, 0.9, min_selectivity=0.3)

    (verdict,) = heard
    assert verdict.passed
    assert verdict.observed == report.score == 1.0
    assert verdict.details["selectivity"] == report.selectivity


def test_a_score_that_is_too_low_fails_and_shows_what_was_answered(model):
    swapped = things({thing: {"red": "green", "green": "red"}.get(colour) for thing, colour in COLOURS.items()})

    with pytest.raises(CheckFailed) as caught:
        assert_prompt_score(model, swapped, "{text}", WORDS, 0.9, min_selectivity=0.2)

    page = str(caught.value)
    assert "accuracy is below 0.9; accuracy is not better than the most frequent label's" in page
    assert "selectivity is below 0.2" in page
    assert "wrong on 16 of 16" in page
    assert "nats above" in page


def test_always_the_same_answer_never_passes(model):
    with pytest.raises(CheckFailed, match="not better than the most frequent") as caught:
        assert_prompt_score(model, things(), "{text} sky", WORDS, 0.0)

    assert "calibrate='content-free'" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"at_least": "0.9"}, "at_least"), ({"at_least": 2}, "at_least"), ({"min_selectivity": "a"}, "min_selectivity")],
)
def test_wrong_arguments_are_named(model, arguments, named):
    with pytest.raises(InvalidArgument, match=named):
        assert_prompt_score(model, things(), "{text}", WORDS, **{"at_least": 0.5} | arguments)
