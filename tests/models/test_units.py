"""Neurons and dimensions inside heads, masked and cut.

Oracle: weights set to zero by hand on a deep copy, by the names that each family has for them.
"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology.errors import (
    CutDiffers,
    InvalidArgument,
    MaskNotApplied,
    MaskOfAnotherThread,
    NotAUnit,
    UnknownUnit,
)
from pytest_bertology.heads import Dimension, Head, Neuron
from pytest_bertology.models import load_model, units
from pytest_bertology.models.edits import Rows
from tests.families import few, padded_batch, under_test

WIDTH = 6
ATTENTION = {"bert": "bert.encoder.layer.{}.attention", "llama": "model.layers.{}.self_attn"}
QUERY = {"bert": "self.query", "llama": "q_proj"}
KEY = {"bert": "self.key", "llama": "k_proj"}
OUT = {"bert": "output.dense", "llama": "o_proj"}
READER = {"bert": "bert.encoder.layer.{}.output.dense", "llama": "model.layers.{}.mlp.down_proj"}
SHARED = {"bert": 1, "llama": 2}
"""Query heads to a key-value head."""


def zeroed(name, model, chosen):
    """A copy with the weights of these units zero."""
    twin = copy.deepcopy(model.model)
    with torch.no_grad():
        for unit in chosen:
            if isinstance(unit, Neuron):
                twin.get_submodule(READER[name].format(unit.layer)).weight[:, unit.neuron] = 0.0
                continue
            attention = twin.get_submodule(ATTENTION[name].format(unit.layer))
            place = unit.head * WIDTH + unit.dimension
            if unit.part == "vo":
                attention.get_submodule(OUT[name]).weight[:, place] = 0.0
                continue
            rows = [(attention.get_submodule(QUERY[name]), place)]
            group = unit.head // SHARED[name]
            sharing = range(group * SHARED[name], (group + 1) * SHARED[name])
            if all(unit._replace(head=head) in chosen for head in sharing):
                rows.append((attention.get_submodule(KEY[name]), group * WIDTH + unit.dimension))
            for module, row in rows:
                module.weight[row] = 0.0
                if module.bias is not None:
                    module.bias[row] = 0.0
    return twin


def logits(model):
    with torch.no_grad():
        return model(**padded_batch(model)).logits


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_masked_and_cut_units_are_zeroed_weights(name):
    model = under_test(name)
    every = list(model.units())

    @few
    @given(chosen=st.sets(st.sampled_from(every), min_size=1, max_size=60))
    def holds(chosen):
        cut = model.without_units(chosen)
        with model.units_masked(chosen):
            masked = logits(model.model)

        expected = logits(zeroed(name, model, chosen))
        assert torch.allclose(masked, expected, rtol=0, atol=1e-5)
        assert torch.allclose(logits(cut.model), expected, rtol=0, atol=1e-5)
        assert cut.model.num_parameters() < model.model.num_parameters()

    holds()


def test_units_are_counted():
    found = under_test("llama").units()

    assert found.neurons_of == {(None, 0): 32, (None, 1): 32}
    assert found.dimensions_of["qk"] == found.dimensions_of["vo"] == {Head(i, j): 6 for i in range(2) for j in range(4)}
    assert len(found) == len(list(found)) == 64 + 2 * 48
    assert (
        found.describe()
        == "2 feed-forward layers of 32 neurons; 8 heads of 6 qk dimensions; 8 heads of 6 vo dimensions"
    )


def test_a_neuron_takes_its_rows_and_its_column_along():
    model = under_test("llama")

    mlp = model.without_units([Neuron(0, 3), Neuron(0, 31)]).model.model.layers[0].mlp

    assert mlp.gate_proj.weight.shape == mlp.up_proj.weight.shape == (30, 20)
    assert mlp.down_proj.weight.shape == (20, 30)


def test_a_dimension_that_heads_share_goes_when_all_of_them_lose_it():
    model = under_test("llama")
    one, both = [Dimension(0, 0, "vo", 2)], [Dimension(0, head, "vo", 2) for head in (0, 1)]

    rows = [
        model.without_units(chosen).model.model.layers[0].self_attn.v_proj.weight.shape[0] for chosen in (one, both)
    ]

    assert rows == [12, 11]


def test_a_head_without_values_needs_no_queries():
    model = under_test("bert")
    values = [Dimension(0, 1, "vo", d) for d in range(6)]

    cut = model.without_units(values).model.bert.encoder.layer[0].attention.self

    assert [m.weight.shape[0] for m in (cut.query, cut.key, cut.value)] == [18, 18, 18]


def test_heads_are_cut_after_units_and_units_after_heads():
    model = under_test("llama")
    chosen = [Neuron(1, 5), Dimension(0, 2, "vo", 1), Dimension(1, 0, "qk", 4), Dimension(1, 1, "qk", 4)]
    twin = zeroed("llama", model, chosen)
    with torch.no_grad():
        twin.model.layers[0].self_attn.o_proj.weight[:, 18:] = 0.0

    first = model.without_units(chosen).pruned([(0, 3)])
    second = model.pruned([(0, 3)]).without_units(chosen)

    for cut in (first, second):
        assert torch.allclose(logits(cut.model), logits(twin), rtol=0, atol=1e-5)
        assert cut.heads.per_layer == (3, 4)
    # A value row that two heads share stays when one loses the dimension, and is not looked for when the other goes.
    assert first.model.num_parameters() - second.model.num_parameters() == 20


def test_a_model_without_units_reloads(tmp_path):
    model = under_test("bert")
    cut = model.without_units([*model.units().neurons[:40], Dimension(1, 2, "vo", 0), Dimension(1, 2, "qk", 0)])

    cut.save(tmp_path / "cut")

    assert torch.equal(logits(load_model(tmp_path / "cut").model), logits(cut.model))


def test_all_neurons_of_a_layer_can_go():
    model = under_test("bert")
    chosen = [unit for unit in model.units().neurons if unit.layer == 0]

    cut = model.without_units(chosen)

    assert torch.allclose(logits(cut.model), logits(zeroed("bert", model, chosen)), rtol=0, atol=1e-5)
    assert cut.model.bert.encoder.layer[0].output.dense.weight.numel() == 0


def test_the_mask_is_gone_after_its_context_and_results_are_not_kept():
    model = under_test("bert")
    plain = logits(model.model)

    with model.units_masked([Neuron(0, 0)]):
        assert model.altered()
        assert not torch.equal(logits(model.model), plain)

    assert torch.equal(logits(model.model), plain)
    assert not model.altered()


def test_another_thread_is_told():
    from concurrent.futures import ThreadPoolExecutor

    model = under_test("bert")

    with model.units_masked([Neuron(0, 0)]), ThreadPoolExecutor(1) as pool, pytest.raises(MaskOfAnotherThread):
        pool.submit(logits, model.model).result()


def test_a_mask_that_the_model_runs_past_is_an_error():
    model = under_test("bert")
    layer = model.model.bert.encoder.layer[0]

    def replaced():
        with model.units_masked([Neuron(0, 0)]):
            layer.output.dense = torch.nn.Linear(32, 24)
            logits(model.model)

    with pytest.raises(MaskNotApplied, match=r"layer.0.output.dense was never called"):
        replaced()


@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        ([], InvalidArgument),
        ([(0, 1)], NotAUnit),
        ([Neuron(0, 99)], UnknownUnit),
        ([Neuron(5, 0)], UnknownUnit),
        ([Dimension(0, 0, "vv", 0)], UnknownUnit),
        ([Dimension(0, 0, "qk", 6)], UnknownUnit),
        ([Neuron(0.5, 1)], NotAUnit),
    ],
)
def test_what_is_no_unit_is_refused(chosen, error):
    model = under_test("bert")

    with pytest.raises(error):
        model.without_units(chosen)


def test_a_wrong_cut_is_caught(monkeypatch):
    model = under_test("bert")
    right = units._edits

    def wrong(live, found):
        for edit in right(live, found):
            yield Rows(edit.module, tuple(range(31))) if isinstance(edit, Rows) else edit

    monkeypatch.setattr(units, "_edits", wrong)

    with pytest.raises(CutDiffers):
        model.without_units([Neuron(0, 3)])
