"""Edge probes find the layer at which a label is written, by the formulas of Tenney et al. 2019.

Oracles: a planted model whose layer is known (`tests/planted_layers.py`); the probe's forward pass in NumPy, in double
precision, item by item; scores counted by scikit-learn; expected layers worked out by hand.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score

from pytest_bertology import Batching, EdgeProbeReport, edge_probe, load_task, save_figure
from pytest_bertology.engine.items import LeftOut
from pytest_bertology.engine.recording import forget_recordings
from pytest_bertology.errors import InvalidArgument, SingleClass, UndefinedScore
from pytest_bertology.measures.edge_data import SpanStates, edge_data
from pytest_bertology.measures.edge_model import EdgeProbes, Judged, _judged, _losses
from pytest_bertology.measures.probing_data import PARTS, probing_data
from tests.planted_layers import COLOURS, LAYERS, planted_layer_model, planted_layer_task
from tests.tiny import tiny_model, tiny_task

QUICK = {"projection": 8, "steps": 100, "seeds": (0, 1)}


@cache
def shared(layer, fading=False):
    return planted_layer_model(layer, fading=fading)


def planted_probe(layer=2, fading=False, tested=60, **options):
    tasks = {"train": planted_layer_task(120, 0), "held_out": planted_layer_task(30, 2)}
    return edge_probe(shared(layer, fading), planted_layer_task(tested, 1), **{**tasks, **QUICK, **options})


@cache
def found(layer=2, fading=False):
    """The same for several tests."""
    return planted_probe(layer, fading)


@pytest.mark.parametrize(("layer", "fading"), [(1, False), (2, True), (3, False), (LAYERS, True)])
def test_the_expected_layer_is_the_one_that_writes_the_label(layer, fading):
    report = found(layer, fading)

    assert report.expected_layer == pytest.approx(layer, abs=0.05)
    assert report.cumulative_scores[layer - 1] == pytest.approx(0.0, abs=0.05)
    assert report.cumulative_scores[layer] == pytest.approx(1.0, abs=0.02)
    chance = report.scores_of("accuracy")[:, layer - 1]
    assert chance == pytest.approx(1 / len(COLOURS), abs=0.1)


@pytest.mark.parametrize("layer", [1, LAYERS])
def test_the_centre_of_gravity_is_the_layer_that_alone_holds_the_label(layer):
    report = planted_probe(layer, True, cumulative=False, projection=16, steps=400, seeds=(0,))

    assert report.centre_of_gravity == pytest.approx(layer, abs=0.4)
    assert np.argmax(report.mixing_weights) == layer
    assert max(report.mixing_weights) > 0.8


def spans_of(rng, items, layers, width):
    """Two spans of 1 to 3 tokens of each item, as the probe reads them, and as a list of (layers, tokens, width)."""
    batches, lists = [], []
    for _ in range(2):
        sizes = rng.integers(1, 4, items)
        each = [rng.normal(size=(layers, size, width)) for size in sizes]
        places = torch.from_numpy(np.repeat(np.arange(items), sizes))
        batches.append(SpanStates(torch.from_numpy(np.concatenate(each, axis=1)), places))
        lists.append(each)
    return batches, lists


def test_the_forward_pass_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    layers, width, size, classes, items, seen = 3, 5, 4, 6, 7, (1, 2, 3)
    probes = EdgeProbes(seen, layers, width, 2, size, np.zeros(classes), seed=0).double()
    with torch.no_grad():
        for parameter in probes.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape)))
    spans, lists = spans_of(rng, items, layers, width)

    logits = probes(spans, items).detach().numpy()

    own = {name: each.detach().numpy() for name, each in probes.named_parameters()}
    for probe, count in enumerate(seen):
        raised = np.exp(own["mix"][probe, :count])
        weights = raised / raised.sum()
        assert probes.weights[probe].detach().numpy() == pytest.approx([*weights, *[0.0] * (layers - count)])
        for item in range(items):
            parts = []
            for place, each in enumerate(lists):
                mixed = own["gamma"][probe] * np.einsum("l,ltd->td", weights, each[item][:count])
                projected = mixed @ own[f"projection.{place}"][probe] + own[f"projection_bias.{place}"][probe]
                scores = np.exp(projected @ own[f"attention.{place}"][probe][:, 0])
                parts.append((scores / scores.sum()) @ projected)
            hidden = np.tanh(np.concatenate(parts) @ own["hidden"][probe] + own["hidden_bias"][probe, 0])
            expected = hidden @ own["output"][probe] + own["output_bias"][probe, 0]
            assert logits[probe, item] == pytest.approx(expected, abs=1e-10)


def test_loss_and_judgements_are_those_of_a_sigmoid_for_each_label():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 50, 4)) * 2.0
    labels = rng.integers(0, 5, 50)  # 4: a label that was not trained on

    losses = _losses(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    hits, predicted, right = _judged(torch.from_numpy(logits), torch.from_numpy(labels))

    truth = labels[:, None] == np.arange(5)
    said = 1.0 / (1.0 + np.exp(-logits))
    nats = -np.where(truth[:, :4], np.log(said), np.log(1.0 - said))
    assert losses == pytest.approx(nats.sum(axis=(1, 2)))
    for probe in range(2):
        positive = np.column_stack([said[probe] > 0.5, np.zeros(50, dtype=bool)])
        f1 = 2 * hits[probe].sum() / (predicted[probe] + 1).sum()
        assert f1 == pytest.approx(f1_score(truth, positive, average="micro"))
        assert (right[probe] == (logits[probe].argmax(axis=-1) == labels)).all()


def report_of(scores, texts=50, **changes):
    """A report of these accuracies (seeds, layers), of 100 items to a text's two."""
    items = 2 * texts
    judged = []
    for row in scores:
        right = np.arange(items)[None] < np.round(np.array(row) * items)[:, None]
        right = right[:, np.random.default_rng(0).permutation(items)]
        weights = np.tile([0.1, 0.2, 0.3, 0.4], (len(row), 1))
        judged.append(Judged(weights, right, right.astype(int), right, np.ones(4), np.ones(4)))
    made = EdgeProbeReport(
        model="m",
        data="d",
        training="t",
        level="word",
        classes=("a", "b"),
        items=items,
        texts=texts,
        trained_on=9,
        layers=(0, 1, 2, 3),
        seeds=tuple(range(len(scores))),
        metric="accuracy",
        confidence=0.95,
        majority_baseline=0.1,
        unseen=0,
        left_out=LeftOut(),
        projection=8,
        cumulative=True,
        _judged=tuple(judged),
        _text_of=np.repeat(np.arange(texts), 2),
        _majority=(np.arange(items) < 0.1 * items).astype(float),
    )
    return replace(made, **changes)


def test_layers_and_intervals_are_those_worked_out_by_hand():
    report = report_of([[0.5, 0.6, 0.9, 0.9], [0.5, 0.7, 0.8, 0.9]])

    # seed 0: (1·0.1 + 2·0.3 + 3·0) / 0.4 = 1.75; seed 1: (0.2 + 0.2 + 0.3) / 0.4 = 1.75
    assert report.by_seed("expected_layer") == pytest.approx((1.75, 1.75))
    assert report.gains == pytest.approx((0.15, 0.2, 0.05))
    assert report.centre_of_gravity == pytest.approx(0.2 + 0.6 + 1.2)
    half = stats.t.ppf(0.975, 1) * 0.05  # two seeds 0.1 apart: deviation 0.1/√2, of the mean 0.05
    assert report.cumulative_intervals[1] == pytest.approx((0.65 - half, 0.65 + half))
    assert report.score == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([[0.5, 0.6, 0.6, 0.5]], "that may be nothing"),
        ([[0.5, 0.9, 0.9, 0.4]], "that may be nothing"),
        ([[0.5, 0.5, 0.5, 0.51]], "by the choice of 50 texts"),
        ([[0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.9]], "over 2 seeds"),
    ],
    ids=["no gain", "a loss", "less than texts move it", "less than seeds move it"],
)
def test_there_is_no_expected_layer_where_layers_may_add_nothing(scores, reason):
    report = report_of(scores)

    assert reason in report.undefined
    with pytest.raises(UndefinedScore, match="the expected layer of d"):
        _ = report.expected_layer
    assert "undefined" in report.table()
    assert "undefined" in repr(report)


def test_the_noise_of_texts_is_that_of_a_bootstrap_over_them():
    """Of 200 texts of three items each, by micro-F1, where several labels or none are predicted."""
    rng = np.random.default_rng(3)
    texts = np.repeat(np.arange(200), 3)
    ease = rng.random(200)[texts]
    hits = rng.random((2, 600)) < np.stack([0.3 * ease, 0.4 + 0.5 * ease])
    predicted = hits + rng.integers(0, 2, (2, 600))
    judged = Judged(np.full((2, 2), 0.5), hits, predicted, hits, np.ones(2), np.ones(2))
    report = report_of([[0.5] * 4], _judged=(judged,), _text_of=texts, metric="f1", layers=(0, 1))

    drawn = []
    for _ in range(2000):
        items = (rng.integers(0, 200, 200)[:, None] * 3 + np.arange(3)).ravel()
        scores = 2 * hits[:, items].sum(axis=1) / (predicted[:, items] + 1).sum(axis=1)
        drawn.append(scores[1] - scores[0])
    assert report._gain_error() == pytest.approx(stats.t.ppf(0.975, 199) * np.std(drawn), rel=0.06)


def test_the_order_of_data_and_the_size_of_batches_change_nothing():
    tested, train = planted_layer_task(40, 1), planted_layer_task(60, 0)
    options = {**QUICK, "steps": 60, "seeds": (0,)}
    first = edge_probe(shared(2, False), tested, train=train, **options)
    forget_recordings()
    turned = [
        load_task({"tokens": [list(x) for x in task.texts][::-1], "labels": [list(x) for x in task.labels][::-1]})
        for task in (tested, train)
    ]

    second = edge_probe(shared(2, False), turned[0], train=turned[1], batching=Batching(tokens=30), **options)

    assert second.cumulative_scores == pytest.approx(first.cumulative_scores, abs=5e-5)
    assert second.mixing_weights == pytest.approx(first.mixing_weights, abs=5e-5)


def test_a_seed_gives_the_same_whatever_others_there_are_and_leaves_the_generators_alone():
    expected_layers = found().by_seed("centre_of_gravity")
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)

    with torch.inference_mode():
        alone = planted_probe(seeds=(1,))

    assert (torch.rand(3) == expected[0]).all()
    assert (np.random.rand(3) == expected[1]).all()
    assert alone.by_seed("centre_of_gravity")[0] == expected_layers[1]
    assert alone.centre_interval is None
    assert alone.expected_interval is None
    assert "no intervals" in alone.table()


def test_memory_for_a_few_items_at_a_time_gives_the_same(monkeypatch):
    expected = planted_probe(steps=40)
    monkeypatch.setattr("pytest_bertology.measures.edge_model._MEMORY", 2**14)

    assert planted_probe(steps=40).mixing_weights == pytest.approx(expected.mixing_weights, abs=1e-4)


def test_the_states_of_all_tokens_of_spans_are_read(tmp_path):
    """Whole texts: a span of all tokens but [CLS] and [SEP], as transformers gives their states."""
    model, task = tiny_model(), tiny_task(24)
    data = probing_data(model, task)

    states = edge_data(model, data, "all", what="test", stack=None, batching=Batching())

    for part in PARTS:
        items = np.arange(len(data.parts[part]))[::-1].copy()
        (span,) = states.read(part, items, torch.device("cpu"))
        for place, item in enumerate(items):
            inputs = model.tokenizer(data.parts[part].items.texts[item], return_tensors="pt")
            with torch.no_grad():
                hidden = torch.stack(model.model(**inputs, output_hidden_states=True).hidden_states)[:, 0, 1:-1]
            assert (span.states[:, span.places == place] * states.scale).numpy() == pytest.approx(
                hidden.numpy(), abs=1e-5
            )
        assert sum(len(chunk) for chunk in states.chunks(part, items, 9)) == len(items)


def test_a_selection_of_layers_is_mixed_and_added_up():
    report = planted_probe(3, layers=[0, 2, 4])

    assert report.layers == (0, 2, 4)
    assert report.expected_layer == pytest.approx(4.0, abs=0.05)
    assert len(report.mixing_weights) == 3


def test_without_cumulative_probes_there_is_no_expected_layer():
    report = planted_probe(cumulative=False)

    assert report.mixing_weights == pytest.approx(found().mixing_weights, abs=1e-3)
    with pytest.raises(UndefinedScore, match="cumulative was False"):
        _ = report.expected_layer
    assert "gain" not in report.table()


def test_the_table_says_what_was_found_and_the_figure_is_drawn(tmp_path):
    table = found().table()

    assert "micro-F1 1.0000 [" in table
    assert "expected layer 2.00 [" in table
    assert "95% intervals over seeds 0, 1" in table
    assert save_figure(found(), tmp_path / "edge.png").stat().st_size > 5000
    save_figure(replace(found(), cumulative=False), tmp_path / "weights.png")
    save_figure(report_of([[0.5, 0.6, 0.6, 0.5]]), tmp_path / "undefined.png")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (0, 0)}, "seeds"),
        ({"seeds": "01"}, "seeds"),
        ({"metric": "auc"}, "metric"),
        ({"projection": 0}, "projection"),
        ({"steps": 5}, "steps"),
        ({"confidence": 1.0}, "confidence"),
        ({"cumulative": 1}, "cumulative"),
        ({"layers": [2]}, "layers"),
        ({"layers": [0, 9]}, "layers"),
    ],
)
def test_arguments_that_are_none_are_named(options, named):
    with pytest.raises(InvalidArgument, match=f"{named}="):
        planted_probe(**options)


def test_labels_that_are_all_the_same_are_refused():
    tokens = [["red1", "blue2", "red3"], ["blue2", "red1", "red1"], ["green1", "red1", "blue9"]]

    with pytest.raises(SingleClass):
        edge_probe(shared(2, False), load_task({"tokens": tokens, "labels": [["a"] * 3] * 3}), **QUICK)
