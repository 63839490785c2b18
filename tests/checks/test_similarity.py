"""Checks on how alike heads attend. Oracle: heads that were given the same weights by hand, and others."""

from __future__ import annotations

import re

import pytest
import torch

from pytest_bertology import CheckFailed, Head, ResultStore, using_store
from pytest_bertology.checks.similarity import assert_heads_distinct, assert_heads_similar
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UnknownHead
from pytest_bertology.measures.divergence import head_divergence
from tests.families import texts, under_test

LETTERS = texts(6)
TWINS = [(1, 1), (1, 3)]


@pytest.fixture
def model():
    """Heads 1 and 3 of layer 1 have the same weights."""
    found = under_test("bert")
    attention = found.model.bert.encoder.layer[1].attention.self
    with torch.no_grad():
        for part in (attention.query, attention.key):
            part.weight[6:12], part.bias[6:12] = part.weight[18:24], part.bias[18:24]
    with using_store(ResultStore()):
        yield found


def test_twins_are_similar_even_with_no_tolerance(model):
    found = assert_heads_similar(model, LETTERS, TWINS, at_most=0.0)

    assert found.heads == (Head(1, 1), Head(1, 3))


def test_others_are_distinct(model):
    between = head_divergence(model, LETTERS).between((0, 0), (1, 2))

    found = assert_heads_distinct(model, LETTERS, [(0, 0), (1, 2)], at_least=between)

    assert found.between((0, 0), (1, 2)) == pytest.approx(between, abs=1e-9)


def test_the_failure_of_similar_heads_names_the_farthest_first(model):
    apart = head_divergence(model, LETTERS).between((0, 0), (1, 1))

    with pytest.raises(CheckFailed) as failure:
        assert_heads_similar(model, LETTERS, [*TWINS, (0, 0)], at_most=0.01)

    lines = str(failure.value).splitlines()
    assert lines[0] == "2 of 3 pairs of heads do not attend alike"
    assert lines[2].startswith("  model  ")
    assert re.search(r"\(6 texts, \d+ tokens\)", lines[3])
    first = next(line for line in lines if " and L1" in line)
    assert first.startswith("  L0H0 and L1H")
    assert first.endswith(f"{apart:.4f}")
    assert failure.value.verdict.observed == pytest.approx(apart, abs=1e-6)


def test_the_failure_of_distinct_heads_names_the_twins(model):
    with pytest.raises(CheckFailed, match=r"^L1H1 and L1H3 attend too much alike\n(.|\n)*L1H1 and L1H3 +0\.0000"):
        assert_heads_distinct(model, LETTERS, [*TWINS, (0, 0)], at_least=0.01)


def test_a_long_list_of_pairs_is_cut(model):
    with pytest.raises(CheckFailed, match=r"28 of 28 pairs(.|\n)*and 18 more pairs"):
        assert_heads_distinct(model, LETTERS, model.heads, at_least=0.69)


def test_of_a_cut_models_heads_it_is_said_which_they_were(model):
    cut = model.pruned([(1, 0)])

    with pytest.raises(CheckFailed, match=r"L1H0 and L1H2 attend too much alike(.|\n)*which were +L1H1 L1H3"):
        assert_heads_distinct(cut, LETTERS, [(1, 0), (1, 2)], at_least=0.01)


@pytest.mark.parametrize("bound", [-0.1, 0.6932, 1, float("nan"), "0.1", True, None])
def test_bounds_on_which_similarity_could_not_fail(model, bound):
    with pytest.raises(InvalidArgument, match="at_most"):
        assert_heads_similar(model, LETTERS, TWINS, at_most=bound)


@pytest.mark.parametrize("bound", [0.0, -0.1, 0.6932, float("nan"), "0.1", True, None])
def test_bounds_on_which_distinctness_could_not_fail_or_hold(model, bound):
    with pytest.raises(InvalidArgument, match="at_least"):
        assert_heads_distinct(model, LETTERS, TWINS, at_least=bound)


@pytest.mark.parametrize("check", [assert_heads_similar, assert_heads_distinct])
def test_fewer_than_two_heads_are_none_to_compare(model, check):
    for heads in ([], [(0, 0)], [(0, 0), (0, 0)]):
        with pytest.raises(NothingToJudge, match="to compare"):
            check(model, LETTERS, heads, 0.1)
    with pytest.raises(UnknownHead):
        check(model, LETTERS, [(0, 0), (9, 9)], 0.1)
    with pytest.raises(InvalidArgument, match="load_model"):
        check(model.model, LETTERS, TWINS, 0.1)


@pytest.mark.parametrize("check", [assert_heads_similar, assert_heads_distinct])
def test_masked_heads_are_none_to_compare(model, check):
    with model.masked([(1, 1), (0, 0)]), pytest.raises(NothingToJudge, match="L1H1 is masked"):
        check(model, LETTERS, iter(TWINS), 0.1)


def test_the_verdict_is_heard(model):
    heard = []
    with hearing(heard.append):
        assert_heads_similar(model, LETTERS, TWINS, at_most=0.1)

    assert (heard[0].check, heard[0].passed, heard[0].required) == ("assert_heads_similar", True, "<= 0.1")
    assert heard[0].heads == ("L1H1", "L1H3")
    assert heard[0].examples == 6
