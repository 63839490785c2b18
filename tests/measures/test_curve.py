"""Pruning curves are the scores under masks of the least important heads.

Oracles: heads sorted here by their importance, and copies of the model whose projection columns are zero.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import (
    HeadScores,
    PruningCurve,
    ResultStore,
    head_importance,
    load_model,
    load_task,
    pruning_curve,
    using_store,
)
from pytest_bertology.errors import InvalidArgument, MaskOfAnotherModel, MissingExtra, UndefinedScore
from tests.families import HEADS, LAYERS, few, plain_inputs, task_for, under_test, zeroed

TOTAL = LAYERS * HEADS


@pytest.fixture(scope="module")
def model():
    return under_test("bert")


@pytest.fixture(scope="module")
def task():
    return task_for("sequence-classification", 20)


def accuracy(model, task, heads):
    twin = zeroed(model, heads)
    with torch.no_grad():
        said = [int(twin(**inputs).logits.argmax()) for inputs in plain_inputs(twin, task)]
    return float(np.mean([one == label for one, label in zip(said, task.labels, strict=True)]))


def least_first(model, task, masked=()):
    """Heads by their importance divided by the layer's norm, those already masked left out."""
    with model.masked(masked):
        table = head_importance(model, task).to_numpy()
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    heads = [(layer, head) for layer in range(LAYERS) for head in range(HEADS) if (layer, head) not in masked]
    return sorted(heads, key=lambda head: (table[head], (-head[0], -head[1])))


def test_scores_are_those_of_the_least_important_heads_gone(model, task):
    order = least_first(model, task)

    found = pruning_curve(model, task, fractions=[0, 0.25, 0.5, 0.9, 1])

    assert found.fractions == (0.0, 0.25, 0.5, 0.9, 1.0)
    assert [set(mask.masked) for mask in found.masks] == [set(order[:count]) for count in (0, 2, 4, 7, 8)]
    assert list(found.scores) == [accuracy(model, task, order[:count]) for count in (0, 2, 4, 7, 8)]
    assert found.baseline == accuracy(model, task, [])
    assert (found.metric.name, found.by) == ("accuracy", "gradient")


def test_by_default_the_fractions_are_tenths(model, task):
    found = pruning_curve(model, task)

    assert found.fractions == tuple(tenth / 10 for tenth in range(11))
    assert [len(mask.masked) for mask in found.masks] == [int(tenth / 10 * TOTAL + 0.5) for tenth in range(11)]


def test_ranked_anew_each_head_is_the_least_important_of_the_masked_model(model, task):
    masked = []
    for _ in range(TOTAL):
        masked.append(least_first(model, task, masked)[0])

    found = pruning_curve(model, task, fractions=np.arange(TOTAL + 1) / TOTAL, rerank=True)

    assert [set(mask.masked) for mask in found.masks] == [set(masked[:count]) for count in range(TOTAL + 1)]


def test_steps_rank_anew_between_the_fractions(model, task):
    fine = pruning_curve(model, task, fractions=np.arange(TOTAL + 1) / TOTAL, rerank=True)

    found = pruning_curve(model, task, fractions=[0.5, 1.0], rerank=True, step=1 / TOTAL)

    assert found.masks == (fine.at(0.5).mask, fine.at(1.0).mask)


def test_scores_given_are_used_as_they_are(model, task):
    scores = HeadScores(np.arange(TOTAL)[::-1], model.heads, "mine")

    found = pruning_curve(model, task, scores, fractions=[0.25])

    assert found.masks[0].masked == ((1, 2), (1, 3))
    assert found.by == "mine"


def test_a_method_of_ones_own_may_order_the_heads(model, task):
    def by_place(model, task):
        return np.arange(TOTAL)

    found = pruning_curve(model, task, by_place, fractions=[0.25], rerank=True)

    assert found.masks[0].masked == ((0, 0), (0, 1))
    assert found.by == "by_place, ranked anew"


@few
@given(data=st.data())
def test_masks_are_nested_and_each_layer_keeps_its_least(model, task, data):
    least = data.draw(st.integers(0, HEADS - 1))
    most = LAYERS * (HEADS - least) / TOTAL
    fractions = data.draw(st.lists(st.floats(0, most), min_size=1, max_size=5))
    rerank = data.draw(st.booleans())

    found = pruning_curve(model, task, fractions=fractions, least_per_layer=least, rerank=rerank)

    for small, large in zip(found.masks, found.masks[1:], strict=False):
        assert small <= large
    for fraction, mask in zip(found.fractions, found.masks, strict=True):
        assert len(mask.masked) == int(fraction * TOTAL + 0.5)
        for layer in range(LAYERS):
            assert HEADS - sum(head.layer == layer for head in mask.masked) >= least


def test_masks_in_force_stay_and_do_not_count(model, task):
    with model.masked([(0, 0), (1, 1)]):
        found = pruning_curve(model, task, fractions=[0, 0.25])
        defaults = pruning_curve(model, task)

    assert found.masks[0].masked == ((0, 0), (1, 1))
    assert found.scores[0] == accuracy(model, task, [(0, 0), (1, 1)])
    assert len(found.masks[1].masked) == 4
    assert found.baseline == accuracy(model, task, [])
    assert defaults.fractions == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)[: len(defaults)]
    assert len(defaults.masks[-1].masked) == TOTAL


def made(scores, baseline=0.9, metric="accuracy"):
    from pytest_bertology import HeadMap, HeadMask
    from pytest_bertology.tasks.metrics import METRICS

    heads = HeadMap([10])
    counts = range(len(scores))
    masks = tuple(HeadMask.without(heads, [(0, head) for head in range(count)]) for count in counts)
    fractions = tuple(count / 10 for count in counts)
    return PruningCurve(fractions, tuple(scores), masks, METRICS[metric], baseline, "gradient", "sst2")


def test_the_largest_fraction_within_a_tolerance_looks_past_dips():
    curve = made([0.9, 0.85, 0.89, 0.5])

    assert curve.largest_within(0.01) == 0.2
    assert curve.largest_within(0.0) == 0.0
    assert curve.largest_within(0.4) == 0.3
    assert curve.largest_within(0.012, relative=True) == 0.2
    assert curve.largest_within(0.011, relative=True) == 0.0
    assert made([0.5, 0.5]).largest_within(0.1) == 0.0


def test_of_a_loss_the_drop_is_the_rise():
    curve = made([1.0, 1.25, 2.0], baseline=1.0, metric="loss")

    assert curve.largest_within(0.25) == 0.1
    assert [point.drop for point in curve.points] == [0.0, 0.25, 1.0]


def test_a_relative_tolerance_of_a_baseline_of_zero_is_undefined():
    with pytest.raises(UndefinedScore):
        made([0.0, 0.0], baseline=0.0).largest_within(0.1, relative=True)


def test_a_point_is_found_by_its_fraction_and_others_are_named():
    curve = made([0.9, 0.85, 0.89, 0.5])

    assert curve.at(0.1 + 0.2).score == 0.5
    assert curve.at(0.1).drop == pytest.approx(0.05)
    with pytest.raises(InvalidArgument, match=r"a measured one: 0, 0\.1, 0\.2, 0\.3"):
        curve.at(0.25)


def test_the_table_shows_every_point():
    lines = made([0.9, 0.85]).table().splitlines()

    assert lines[0].split() == ["fraction", "heads", "accuracy", "drop"]
    assert [line.split() for line in lines[1:]] == [
        ["0.00%", "0", "0.9000", "0.0000"],
        ["10.00%", "1", "0.8500", "0.0500"],
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"by": "gradients"}, "gradient"),
        ({"fractions": []}, "fractions of the heads"),
        ({"fractions": 0.3}, "fractions=0.3 is not valid: expected fractions of the heads"),
        ({"fractions": [0.1, 1.1]}, "fractions of the heads"),
        ({"fractions": [True]}, "fractions of the heads"),
        ({"fractions": ["0.1"]}, "fractions of the heads"),
        ({"fractions": [1.0], "least_per_layer": 1}, "fractions up to 0.75: 6 of 8 heads"),
        ({"least_per_layer": 4}, "from 0 to 3"),
        ({"least_per_layer": -1}, "from 0 to 3"),
        ({"step": 0.1}, "rerank=True"),
        ({"step": 0.0, "rerank": True}, "a share of the heads"),
    ],
)
def test_bad_arguments_are_refused(model, task, options, expected):
    with pytest.raises(InvalidArgument, match=expected):
        pruning_curve(model, task, **options)


def test_scores_that_are_given_cannot_be_ranked_anew_or_be_of_other_heads(model, task):
    own = HeadScores(np.arange(TOTAL), model.heads, "mine")
    other = under_test("bert", num_hidden_layers=3)

    with pytest.raises(InvalidArgument, match="cannot be computed again"):
        pruning_curve(model, task, own, rerank=True)
    with pytest.raises(MaskOfAnotherModel):
        pruning_curve(other, task, own)


def test_a_drawing_holds_the_curve_and_the_baseline():
    pytest.importorskip("matplotlib")

    ax = made([0.9, 0.85]).plot()

    assert ax.lines[0].get_xydata().tolist() == [[0.0, 0.9], [10.0, 0.85]]
    assert set(ax.lines[1].get_ydata()) == {0.9}


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(MissingExtra, match=r'pip install "pytest-bertology\[figures\]"'):
        made([0.9, 0.85]).plot()


@pytest.mark.slow
@pytest.mark.assets
def test_the_curves_of_minilm_on_sst2_are_the_known_ones(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv")

    with using_store(ResultStore()):
        normalised = pruning_curve(model, task, fractions=[0.5])
        plain = pruning_curve(model, task, head_importance(model, task), fractions=[0.9])

    assert [round(872 * score) for score in normalised.scores] == [782]
    assert [round(872 * score) for score in plain.scores] == [444]
    assert round(872 * plain.baseline) == 788
