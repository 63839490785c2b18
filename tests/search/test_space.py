"""The sets that a search may look at, against `itertools.combinations` of the heads that are left."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_bertology import Head, HeadMap, HeadMask, evaluate, load_model
from pytest_bertology.search.space import Space, idle_heads
from tests.families import family, task_for, tokenizer
from tests.planted import planted_model

thorough = settings(max_examples=60, deadline=None, database=None, derandomize=True)


@st.composite
def spaces(draw):
    """A space, and the same in plain words: open heads, idle heads, heads that each layer has to keep."""
    per_layer = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    heads = list(HeadMap(per_layer))
    masked = draw(st.sets(st.sampled_from(heads), max_size=len(heads) - 1))
    left = [head for head in heads if head not in masked]
    idle = draw(st.sets(st.sampled_from(left), max_size=3))
    least = draw(st.integers(0, 2))
    return Space(HeadMask.without(HeadMap(per_layer), masked), least, idle), left, idle if least == 0 else set(), least


def allowed(space, left, start, least):
    """Every set, by its size."""
    found = {}
    for size in range(len(left) + 1):
        for chosen in combinations(left, size):
            gone = set(chosen)
            layers = {head.layer for head in left}
            kept = {layer: sum(h.layer == layer and h not in gone for h in left) for layer in layers}
            lost = {layer: any(h.layer == layer for h in gone) for layer in layers}
            if start <= gone and all(kept[layer] >= least or not lost[layer] for layer in layers):
                found.setdefault(size, set()).add(space.bits(chosen))
    return found


@thorough
@given(spaces())
def test_sets_are_counted_and_found_each_once_at_every_size(made):
    space, left, start, least = made
    expected = allowed(space, left, start, least)

    found = {size: list(space.of_size(size, range(len(space.heads)))) for size in range(space.largest + 1)}

    for size in range(len(left) + 1):
        assert sorted(found.get(size, [])) == sorted(expected.get(size, []))
        assert (space.counts[size] if size <= space.largest else 0) == len(expected.get(size, []))


@thorough
@given(spaces(), st.data())
def test_sets_come_by_the_weight_they_mask(made, data):
    space = made[0]
    weights = data.draw(st.lists(st.integers(0, 9), min_size=len(space.heads), max_size=len(space.heads)))
    size = data.draw(st.integers(0, space.largest))

    totals = [sum(weights[i] for i in space.positions(bits)) for bits in space.of_size(size, weights)]

    assert totals == sorted(totals)


@thorough
@given(spaces())
def test_one_more_is_every_allowed_set_above(made):
    space, left, start, least = made
    expected = allowed(space, left, start, least)
    for size, sets in expected.items():
        for bits in sets:
            above = {other for other in expected.get(size + 1, ()) if other & bits == bits}
            assert set(space.one_more(bits)) == above


@thorough
@given(spaces(), st.data())
def test_a_set_grows_in_the_order_given_as_far_as_layers_allow(made, data):
    space, left, start, least = made
    order = data.draw(st.permutations(range(len(space.heads))))
    count = data.draw(st.integers(0, len(left)))

    grown = space.grown(space.start, order, count)

    size = grown.bit_count()
    assert size == min(space.largest, space.start.bit_count() + count)
    assert grown in allowed(space, left, start, least)[size]


def test_idle_heads_are_those_whose_columns_are_zero():
    model = planted_model(Head(1, 2))

    assert idle_heads(model) == tuple(head for head in model.heads if head != (1, 2))


def test_a_head_that_is_dead_for_another_reason_is_no_idle_head():
    live = family("bert")
    with torch.no_grad():
        values = live.bert.encoder.layer[1].attention.self.value
        values.weight[:6] = 0.0
        values.bias[:6] = 0.0
        live.bert.encoder.layer[0].attention.output.dense.weight[:, 6:12] = 0.0
    model = load_model(live, tokenizer=tokenizer())

    assert set(model.check.dead) == {(0, 1), (1, 0)}
    assert idle_heads(model) == ((0, 1),)


@pytest.mark.parametrize("others", [[], [(0, 2)], [(0, 0), (1, 1), (1, 2)]])
def test_masking_an_idle_head_changes_nothing_bit_for_bit_whatever_else_is_masked(others):
    live = family("bert")
    with torch.no_grad():
        live.bert.encoder.layer[0].attention.output.dense.weight[:, 6:12] = 0.0
    model, task = load_model(live, tokenizer=tokenizer()), task_for("sequence-classification")

    without, together = evaluate(model, task, others), evaluate(model, task, [*others, (0, 1)])

    assert without.losses.tolist() == together.losses.tolist()
