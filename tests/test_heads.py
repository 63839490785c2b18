"""Head values against plain tuples, Python sets, direct NumPy formulas and scipy's Spearman correlation."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from pytest_bertology import Head, HeadMap, HeadMask, HeadScores
from pytest_bertology.errors import (
    InvalidArgument,
    InvalidGate,
    InvalidMaskFile,
    InvalidScores,
    MaskOfAnotherModel,
    NotAHead,
    UndefinedScore,
    UnknownHead,
)

properties = settings(deadline=None, database=None)
HEADS = HeadMap([3, 1, 4])
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]
STACKS = HeadMap({"encoder": [2, 2], "decoder": [1], "cross": [2]})
SUBSETS = st.sets(st.sampled_from(PAIRS))
NUMBERS = st.floats(-1e6, 1e6).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
SCORES = arrays.arrays(np.float64, len(PAIRS), elements=NUMBERS)
TIED = arrays.arrays(np.float64, len(PAIRS), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))


def mask_of(pairs: set[tuple[int, int]]) -> HeadMask:
    return HeadMask.without(HEADS, pairs)


def scores_of(*values: float, heads: HeadMap = HEADS) -> HeadScores:
    return HeadScores(np.array(values), heads, "given")


# -- Head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [(2, 4), (0, 0), (11, 3)])
def test_a_head_equals_its_plain_tuple_and_hashes_alike(plain):
    head = Head(*plain)

    assert head == plain
    assert plain == head
    assert (head != plain) is False
    assert hash(head) == hash(plain)
    assert {plain: "found"}[head] == "found"


def test_a_head_with_a_stack_equals_the_triple_and_not_the_pair():
    head = Head(2, 4, "cross")

    assert head == (2, 4, "cross")
    assert hash(head) == hash((2, 4, "cross"))
    assert head != (2, 4)
    assert head != Head(2, 4)
    assert head != Head(2, 4, "encoder")


@pytest.mark.parametrize(
    ("head", "text"), [(Head(2, 4), "L2H4"), (Head(10, 0), "L10H0"), (Head(0, 7, "decoder"), "decoder.L0H7")]
)
def test_a_head_prints_as_the_papers_write_it(head, text):
    assert str(head) == f"{head}" == text


# -- HeadMap -----------------------------------------------------------------------------------------------------


def test_a_map_counts_and_iterates_heads_layer_by_layer():
    assert len(HEADS) == len(PAIRS)
    assert list(HEADS) == PAIRS
    assert HEADS.per_layer == (3, 1, 4)
    assert [HEADS[i] for i in range(len(HEADS))] == PAIRS
    assert [HEADS.index(pair) for pair in PAIRS] == list(range(len(PAIRS)))


@pytest.mark.parametrize("inside", [(0, 2), Head(2, 3), [1, 0], (np.int64(2), np.int64(3))])
def test_a_map_contains_its_heads(inside):
    assert inside in HEADS


@pytest.mark.parametrize("outside", [(1, 1), (3, 0), (-1, 0), (0, 0, "encoder"), "L0H0", 0, None, (0.0, 0), (True, 0)])
def test_a_map_does_not_contain_other_things(outside):
    assert outside not in HEADS


def test_a_map_of_stacks_tells_their_heads_apart():
    assert list(STACKS) == [
        *[(0, 0, "encoder"), (0, 1, "encoder"), (1, 0, "encoder"), (1, 1, "encoder")],
        *[(0, 0, "decoder"), (0, 0, "cross"), (0, 1, "cross")],
    ]
    assert (0, 0, "decoder") in STACKS
    assert (0, 1, "decoder") not in STACKS
    assert (0, 0) not in STACKS
    assert STACKS.per_layer == (2, 2, 1, 2)


def test_select_gives_each_head_once_in_the_maps_order():
    selected = HEADS.select([(2, 1), Head(0, 2), (2, 1), [0, 0]])

    assert selected == ((0, 0), (0, 2), (2, 1))
    assert all(isinstance(head, Head) for head in selected)


def test_an_unknown_head_is_named_with_what_there_is():
    with pytest.raises(UnknownHead, match=re.escape("there is no head L1H1: 3 layers of 3, 1, 4 heads")) as caught:
        HEADS.select([(0, 0), (1, 1)])

    assert caught.value.head == (1, 1)
    assert caught.value.heads is HEADS


@pytest.mark.parametrize("wrong", [(2, 1), Head(2, 1), [5], ["L0H1"], "L0H1", [(1,)], [(0, 1, 2)], [(0, 1.0)], 7, None])
def test_what_is_no_list_of_heads_is_refused(wrong):
    with pytest.raises(NotAHead, match="is not a head: write"):
        HEADS.select(wrong)


def test_maps_are_equal_where_their_layers_are():
    assert HeadMap([2, 2]) == HeadMap((2, 2))
    assert hash(HeadMap([2, 2])) == hash(HeadMap((2, 2)))
    assert HeadMap([2, 2]) != HeadMap([4])
    assert HeadMap([2, 2]) != HeadMap({"encoder": [2, 2]})
    assert HeadMap([2, 2]) != [2, 2]


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        (HeadMap([12] * 6), "6 layers of 12 heads"),
        (HeadMap([1]), "1 layer of 1 head"),
        (HEADS, "3 layers of 3, 1, 4 heads"),
        (STACKS, "encoder: 2 layers of 2 heads; decoder: 1 layer of 1 head; cross: 1 layer of 2 heads"),
        (HeadMap([]), "no heads"),
    ],
)
def test_a_map_describes_itself(heads, text):
    assert heads.describe() == text


# -- HeadMask ----------------------------------------------------------------------------------------------------


@properties
@given(SUBSETS, SUBSETS)
def test_masks_combine_as_the_sets_of_masked_heads_do(one, other):
    a, b = mask_of(one), mask_of(other)

    assert set((a | b).masked) == one | other
    assert set((a & b).masked) == one & other
    assert set((a - b).masked) == one - other
    assert set((~a).masked) == set(PAIRS) - one
    assert (a <= b) == (one <= other)
    assert (a >= b) == (one >= other)
    assert (a == b) == (one == other)


@properties
@given(SUBSETS)
def test_only_keeps_what_without_masks(chosen):
    kept = HeadMask.only(HEADS, chosen)

    assert set(kept.masked) == set(PAIRS) - chosen
    assert list(kept.masked) == sorted(set(PAIRS) - chosen)
    assert kept.fraction_masked == pytest.approx(1 - len(chosen) / 8)


@properties
@given(SUBSETS)
def test_gates_are_0_where_masked_and_1_elsewhere(chosen):
    mask = mask_of(chosen)

    assert mask.gates == tuple(0.0 if pair in chosen else 1.0 for pair in PAIRS)
    assert {pair for pair in PAIRS if mask.gate(pair) == 0.0} == chosen
    assert mask.touched == mask.masked


def test_keep_all_masks_nothing():
    mask = HeadMask.keep_all(HEADS)

    assert mask.masked == ()
    assert mask.fraction_masked == 0.0
    assert mask.gates == (1.0,) * 8


def test_a_mask_of_no_heads_has_masked_none_of_them():
    assert HeadMask.keep_all(HeadMap([])).fraction_masked == 0.0


def test_equal_masks_are_one_key():
    found = {mask_of({(0, 1)}): "mine"}

    assert found[HeadMask.without(HeadMap([3, 1, 4]), [Head(0, 1)])] == "mine"
    assert mask_of({(0, 2)}) not in found


def test_a_damped_head_is_touched_and_not_masked():
    mask = HeadMask(HeadMap([3]), (0.25, 0.0, 1.0))

    assert mask.masked == ((0, 1),)
    assert mask.touched == ((0, 0), (0, 1))
    assert "masked: L0H1; damped: 1" in repr(mask)


def test_damped_heads_combine_by_the_smaller_and_the_greater_gate():
    a, b = HeadMask(HeadMap([2]), (0.25, 0.5)), HeadMask(HeadMap([2]), (0.75, 0.125))

    assert (a | b).gates == (0.25, 0.125)
    assert (a & b).gates == (0.75, 0.5)
    assert (~a).gates == (0.75, 0.5)
    assert not a <= b
    assert a <= (a | b)


@pytest.mark.parametrize("gate", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_gate_outside_0_to_1_is_refused_with_its_head(gate):
    with pytest.raises(InvalidGate, match=re.escape(f"{gate} for L0H1")):
        HeadMask(HeadMap([2]), (1.0, gate))


def test_gates_must_be_as_many_as_heads():
    with pytest.raises(InvalidGate, match="expected one for each of 8 heads, found 7 of them"):
        HeadMask(HEADS, (1.0,) * 7)


def test_masks_of_different_models_do_not_combine():
    with pytest.raises(MaskOfAnotherModel, match=r"for 2 layers of 2 heads, .* has 3 layers of 3, 1, 4 heads"):
        mask_of(set()) | HeadMask.keep_all(HeadMap([2, 2]))


def test_a_mask_cannot_be_changed():
    mask = mask_of({(0, 1)})

    with pytest.raises(AttributeError):
        mask.gates = (0.0,) * 8


# -- mask files --------------------------------------------------------------------------------------------------


@properties
@given(st.lists(st.sampled_from([0.0, 1.0, 0.1, 0.5, 1 / 3]), min_size=8, max_size=8))
def test_a_mask_survives_json(gates):
    mask = HeadMask(HEADS, tuple(gates))

    again = HeadMask.from_json(mask.to_json(), HEADS)

    assert again == mask
    assert again.gates == tuple(gates)


@properties
@given(st.lists(st.sampled_from([0.0, 1.0, 0.1]), min_size=7, max_size=7))
def test_a_mask_of_stacks_survives_json(gates):
    mask = HeadMask(STACKS, tuple(gates))

    assert HeadMask.from_json(mask.to_json(), STACKS) == mask


def test_mask_json_is_plain_and_readable():
    content = json.loads(HeadMask(HEADS, (0.0, 1, 1, 0.5, 1, 1, 1, 0)).to_json())

    assert content == {
        "schema": "pytest-bertology head mask 1",
        "heads": [3, 1, 4],
        "masked": [[0, 0], [2, 3]],
        "gates": {"L1H0": 0.5},
    }


def test_a_mask_file_written_by_hand_needs_no_schema():
    mask = HeadMask.from_json('{"heads": [3, 1, 4], "masked": [[2, 1], [0, 0]]}')

    assert mask.masked == ((0, 0), (2, 1))


def test_a_mask_file_of_another_model_is_refused_with_both_sides():
    foreign = HeadMask.without(HeadMap([12] * 6), [(0, 1)]).to_json()

    with pytest.raises(MaskOfAnotherModel, match=r"in m\.json.* made for 6 layers of 12 .* has 3 layers of 3, 1, 4"):
        HeadMask.from_json(foreign, HEADS, "m.json")


def test_a_mask_file_that_masks_a_head_outside_its_own_map_is_refused():
    with pytest.raises(UnknownHead, match="no head L0H3"):
        HeadMask.from_json('{"heads": [3, 1, 4], "masked": [[0, 3]]}')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[]", 'must be an object with "heads" and "masked"'),
        ("NaN", 'must be an object with "heads" and "masked"'),
        ('{"heads": [2]}', 'must be an object with "heads" and "masked"'),
        ('{"masked": []}', 'must be an object with "heads" and "masked"'),
        ('{"heads": [2], "masked": {"0": [1]}}', 'must be an object with "heads" and "masked"'),
        ('{"heads": 2, "masked": []}', "the number of heads of each layer"),
        ('{"heads": [-2], "masked": []}', "the number of heads of each layer"),
        ('{"heads": {"encoder": 2}, "masked": []}', "the number of heads of each layer"),
        ('{"heads": [2], "masked": [5]}', '"masked" must list [layer, head] pairs; 5 is none'),
        ('{"heads": [2], "masked": ["L0H1"]}', "'L0H1' is none"),
        ('{"heads": [2], "masked": [], "gates": [0.5]}', '"gates" must map head names'),
        ('{"heads": [2], "masked": [], "gates": {"L0H0": "half"}}', '"gates" must map head names'),
        ('{"heads": [2], "masked": [], "gates": {"L9H9": 0.5}}', "['L9H9']"),
        ('{"heads": [2], "masked": [], "gates": {"L0H0": 1.5}}', "1.5 for L0H0"),
        ('{"heads": [2], "masked": [[0, 0]], "gates": {"L0H0": 0.5}}', "name the same heads: ['L0H0']"),
        ('{"schema": "pytest-bertology head mask 2", "heads": [2], "masked": []}', "head mask 2'; this version reads"),
    ],
)
def test_a_malformed_mask_file_is_refused_with_its_name_and_problem(text, problem):
    with pytest.raises(InvalidMaskFile, match=re.escape(problem)) as caught:
        HeadMask.from_json(text, source="masks/mine.json")

    assert str(caught.value).startswith("masks/mine.json is not a head-mask file")


# -- HeadScores --------------------------------------------------------------------------------------------------


@properties
@given(SCORES, st.integers(0, 8))
def test_top_and_bottom_are_the_greatest_and_the_least(values, k):
    scores = scores_of(*values)

    ordered = sorted(values, reverse=True)
    assert [scores[head] for head in scores.top(k)] == ordered[:k]
    assert [scores[head] for head in scores.bottom(k)] == ordered[::-1][:k]
    assert not set(scores.top(k)) & set(scores.bottom(8 - k))


@properties
@given(TIED)
def test_the_rank_counts_the_heads_that_are_more_important_ties_in_the_maps_order(values):
    scores = scores_of(*values)

    for position, pair in enumerate(PAIRS):
        better = sum(value > values[position] for value in values)
        tied_before = sum(value == values[position] for value in values[:position])
        assert scores.rank(pair) == better + tied_before
    assert sorted(scores.rank(pair) for pair in PAIRS) == list(range(8))


@pytest.mark.parametrize("k", [-1, 9, 1.0, True, "3", None])
def test_a_count_of_heads_that_are_not_there_is_refused(k):
    scores = scores_of(*range(8))

    for selection in (scores.top, scores.bottom):
        with pytest.raises(InvalidArgument, match="a whole number from 0 to 8"):
            selection(k)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_with_its_head(bad):
    with pytest.raises(InvalidScores, match="NaN or infinity for L0H2, L2H0"):
        scores_of(0, 1, bad, 3, bad, 5, 6, 7)


@pytest.mark.parametrize("shape", [(7,), (9,), (2, 4), ()])
def test_scores_must_be_one_number_for_each_head(shape):
    with pytest.raises(InvalidScores, match="one number for each of 8 heads"):
        HeadScores(np.zeros(shape), HEADS, "given")


def test_to_numpy_is_layers_by_heads_with_nan_where_there_is_no_head():
    table = scores_of(*range(8)).to_numpy()

    nan = math.nan
    np.testing.assert_array_equal(table, [[0, 1, 2, nan], [3, nan, nan, nan], [4, 5, 6, 7]])


def test_to_numpy_gives_a_copy():
    scores = scores_of(*range(8))

    scores.to_numpy()[0, 0] = 99.0

    assert scores[0, 0] == 0.0


def test_scores_cannot_be_changed():
    source = np.arange(8.0)
    scores = HeadScores(source, HEADS, "given")

    source[0] = 99.0
    with pytest.raises(ValueError, match="read-only"):
        scores.values[1] = 99.0

    assert scores[0, 0] == 0.0
    with pytest.raises(AttributeError):
        scores.values = source


def test_scores_know_their_heads():
    scores = scores_of(*range(8))

    assert len(scores) == 8
    assert scores[2, 3] == 7.0
    assert scores[Head(1, 0)] == 3.0
    with pytest.raises(UnknownHead):
        scores[1, 1]


@properties
@given(SCORES)
def test_per_layer_normalisation_divides_by_the_layers_l2_norm(values):
    normalized = scores_of(*values).normalized(per_layer=True, min_max=False)

    for start, end in ((0, 3), (3, 4), (4, 8)):
        layer = values[start:end]
        norm = math.sqrt(sum(float(x) ** 2 for x in layer))
        expected = [x / norm if norm else 0.0 for x in layer]
        np.testing.assert_allclose(normalized.values[start:end], expected, rtol=1e-12)


@properties
@given(SCORES)
def test_min_max_normalisation_runs_from_0_to_1(values):
    assume(values.max() > values.min())

    normalized = scores_of(*values).normalized(per_layer=False, min_max=True)

    expected = [(x - min(values)) / (max(values) - min(values)) for x in values]
    np.testing.assert_allclose(normalized.values, expected, rtol=1e-12)
    assert normalized.values.min() == 0.0
    assert normalized.values.max() == 1.0


def test_both_normalisations_are_done_layer_first():
    normalized = HeadScores(np.array([3.0, 4.0, 0.0, 2.0]), HeadMap([2, 2]), "given").normalized()

    np.testing.assert_allclose(normalized.values, [0.6, 0.8, 0.0, 1.0])
    assert normalized.method == "given"


def test_a_layer_of_zeros_stays_zero():
    normalized = HeadScores(np.array([0.0, 0.0, 3.0, 4.0]), HeadMap([2, 2]), "given").normalized(min_max=False)

    np.testing.assert_allclose(normalized.values, [0.0, 0.0, 0.6, 0.8])


def test_min_max_of_equal_scores_is_zero():
    normalized = scores_of(*[5.0] * 8).normalized(per_layer=False)

    assert normalized.values.tolist() == [0.0] * 8


def test_no_normalisation_changes_nothing():
    scores = scores_of(*range(8))

    assert scores.normalized(per_layer=False, min_max=False).values.tolist() == list(range(8))


@properties
@given(TIED, TIED)
def test_rank_correlation_is_spearmans_ties_and_all(one, other):
    assume(np.ptp(one) > 0)
    assume(np.ptp(other) > 0)

    correlation = scores_of(*one).rank_correlation(scores_of(*other))

    assert correlation == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


def test_rank_correlation_sees_the_ranks_alone():
    values = np.array([1, 2, 3, 4, 5, 6, 7, 8.0])

    assert scores_of(*values).rank_correlation(scores_of(*np.exp(values))) == pytest.approx(1.0)
    assert scores_of(*values).rank_correlation(scores_of(*-(values**3))) == pytest.approx(-1.0)


@pytest.mark.parametrize("flat_first", [True, False])
def test_rank_correlation_has_no_value_where_all_scores_are_equal(flat_first):
    flat, rising = HeadScores(np.ones(8), HEADS, "flat"), scores_of(*range(8))
    one, other = (flat, rising) if flat_first else (rising, flat)

    with pytest.raises(UndefinedScore, match="all flat scores are equal"):
        one.rank_correlation(other)


def test_rank_correlation_has_no_value_for_one_head():
    one = HeadScores(np.array([1.0]), HeadMap([1]), "given")

    with pytest.raises(UndefinedScore):
        one.rank_correlation(one)


def test_rank_correlation_is_of_the_same_heads():
    with pytest.raises(MaskOfAnotherModel):
        scores_of(*range(8)).rank_correlation(scores_of(*range(8), heads=HeadMap([4, 4])))


def test_scores_print_their_method_and_best_heads():
    assert repr(scores_of(*range(8))).startswith("HeadScores(given: L2H3 7, L2H2 6, L2H1 5, L2H0 4, L1H0 3 …; 3 layers")
