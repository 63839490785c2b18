"""Probes against a planted model, and against scikit-learn on the hidden states of the plain model in float64."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pytest_bertology import Batching, ResultStore, load_task, probe, using_store
from pytest_bertology.engine.recording import forget_recordings
from pytest_bertology.errors import InvalidArgument, SingleClass, UndefinedScore
from pytest_bertology.measures.probe_linear import SKLEARN, TORCH, Split, linear_probe, standardised
from pytest_bertology.measures.probing_data import HELD_OUT, PARTS, TESTED, TRAIN
from tests.planted_layers import LAYERS, planted_layer_model, planted_layer_task
from tests.tiny import tiny_model

K = 2
TASK = planted_layer_task(240, seed=1)


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield
    forget_recordings()


@pytest.fixture(scope="module")
def model():
    return planted_layer_model(K)


@pytest.fixture(scope="module")
def report(model):
    with using_store(ResultStore()):
        return probe(model, TASK)


@pytest.fixture(scope="module")
def noisy():
    """A model and labels that no probe finds perfectly."""
    words = ("a", "the", "film", "plot", "was", "good")
    texts = [random.Random(index).choices(words, k=6) for index in range(60)]
    labels = [[str(len(set(words[max(0, at - 2) : at + 1]))) for at in range(len(words))] for words in texts]
    return tiny_model("token-classification"), load_task({"tokens": texts, "labels": labels})


def chance(report):
    """The best that knowing nothing allows, and room for a probe that learned noise."""
    return report.majority_baseline + 0.05


def control_chance(report):
    """The same for labels drawn by type: the share of the commonest among what is judged."""
    control = report.probing.parts[TESTED].control
    return np.bincount(control).max() / len(control) + 0.05


def test_the_label_is_found_from_the_planted_layer_on(report):
    assert report.layers == tuple(range(LAYERS + 1))
    assert all(score <= chance(report) for score in report.scores[:K])
    assert report.scores[K:] == (1.0,) * (LAYERS + 1 - K)
    assert report.best_layer == K
    assert [report.beats_majority(layer) for layer in report.layers] == [False] * K + [True] * (LAYERS + 1 - K)


def test_control_task_and_random_weights_are_at_chance(report):
    assert max(report.control_scores) <= control_chance(report)
    assert max(report.random_scores) <= chance(report)
    assert min(report.selectivity[K:]) >= 0.5
    assert report.at(K).selectivity.interval[0] > 0.4


def test_a_hidden_layer_finds_the_same():
    found = probe(planted_layer_model(1), TASK, [0, 1], "mlp", random_model=False)

    assert found.scores[0] <= chance(found)
    assert found.scores[1] == 1.0
    assert found.control_scores[1] <= control_chance(found)
    with pytest.raises(UndefinedScore, match="random_model was False"):
        _ = found.random_scores


def test_where_later_layers_take_the_label_out_they_are_at_chance():
    found = probe(planted_layer_model(K, fading=True), TASK, control=False, random_model=False)

    assert [score == 1.0 for score in found.scores] == [layer == K for layer in found.layers]


def plain_states(model, data, layer):
    """For each part, the hidden state of each word's only token: of the plain model, one text at a time, float64."""
    plain = copy.deepcopy(model.model).double()
    found = {}
    for part in PARTS:
        items = data.parts[part].items
        states = []
        for text in items.texts:
            with torch.no_grad():
                hidden = plain(**model.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            states.append(hidden[layer][0, 1:-1].numpy())
        found[part] = np.concatenate(states)
    return found


@pytest.mark.parametrize("layer", [0, 2])
def test_predictions_are_those_of_scikit_learn_on_the_plain_model(noisy, layer):
    model, task = noisy
    found = probe(model, task, [layer], control=False, random_model=False)

    states = plain_states(model, found.probing, layer)
    mean, deviation = states[TRAIN].mean(axis=0), states[TRAIN].std(axis=0)
    labels = {part: found.probing.parts[part].labels for part in PARTS}
    vectors = {part: (each - mean) / deviation for part, each in states.items()}
    curve = found.at(layer).curve
    losses, rights, scores = [], [], []
    for penalty in curve.steps:
        strength = 1.0 / (penalty * len(labels[TRAIN]))
        plain = LogisticRegression(C=strength, tol=1e-9, solver="newton-cg", max_iter=1000)
        plain.fit(vectors[TRAIN], labels[TRAIN])
        shares = plain.predict_log_proba(vectors[HELD_OUT])
        losses.append(-shares[np.arange(len(shares)), labels[HELD_OUT]].mean())
        rights.append(plain.score(vectors[TRAIN], labels[TRAIN]))
        scores.append(plain.predict(vectors[TESTED]))

    assert curve.held_out_losses == pytest.approx(losses, abs=1e-3)
    assert curve.chosen == int(np.argmin(np.round(losses, 5)))
    assert curve.train_right[curve.chosen] == rights[curve.chosen]
    expected = scores[curve.chosen]
    assert found.scores == (float((expected == labels[TESTED]).mean()),)
    assert found.predictions(layer) == tuple(found.probing.classes[each] for each in expected)


def problem(seed, classes, items=400, width=12):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(items, width)) * np.geomspace(0.01, 30.0, width) + 5.0
    logits = standardised(vectors)[0] @ draw.normal(size=(width, classes)) + draw.gumbel(size=(items, classes))
    labels = logits.argmax(axis=1)
    parts = standardised(vectors[: items // 2], vectors[items // 2 : -100], vectors[-100:])
    return Split(parts[0], labels[: items // 2], parts[1], labels[items // 2 : -100], parts[2])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_torch_and_scikit_learn_find_the_same(classes):
    split = problem(classes, classes)

    ours, theirs = (linear_probe(split, "it", backend=backend) for backend in (SKLEARN, TORCH))

    assert np.array_equal(ours["predictions"], theirs["predictions"])
    assert np.array_equal(ours["held_out"], theirs["held_out"])
    assert ours["curve"][:, :5] == pytest.approx(theirs["curve"][:, :5], abs=2e-4)


def test_two_classes_are_fitted_as_scikit_learn_fits_them():
    split = problem(0, 2)
    found = linear_probe(split, "it")

    penalty = found["curve"][int(found["chosen"]), 0]
    plain = LogisticRegression(C=1.0 / (penalty * len(split.labels)), tol=1e-10, max_iter=10_000)
    plain.fit(split.train.astype(float), split.labels)

    assert np.array_equal(found["predictions"], plain.predict(split.tested))


def test_what_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr("pytest_bertology.measures.probe_linear._ALLOWED", 0.0)

    with pytest.raises(UndefinedScore, match="did not converge: a slope of"):
        linear_probe(problem(0, 3), "it")


def test_constant_dimensions_say_nothing():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(50, 4)).astype(np.float32)
    vectors[:, 1] = 7.0
    vectors[:, 2] = 100.0 + 1e-5 * draw.normal(size=50)

    train, other = standardised(vectors, vectors + 1.0)

    assert np.isfinite(train).all()
    assert np.isfinite(other).all()
    assert not train[:, 1:3].any()
    assert not other[:, 1:3].any()
    assert train[:, [0, 3]].std(axis=0) == pytest.approx(1.0)


def four_digits(report):
    numbers = [*report.scores, *report.control_scores, *report.random_scores]
    return (
        [round(each, 4) for each in numbers],
        report.best_layer,
        report.table().split("\n")[1:],
    )  # the first names the data


def test_batch_size_padding_order_and_threads_change_nothing(noisy):
    model, task = noisy
    expected = four_digits(probe(model, task, [0, 2]))
    order = random.Random(3).sample(range(len(task.texts)), len(task.texts))
    threads = torch.get_num_threads()
    try:
        for changed, batching, used in (
            (task, Batching(tokens=1), threads),
            (task.subset(order), Batching(tokens=64, padding_side="left"), threads + 1),
        ):
            torch.set_num_threads(used)
            with using_store(ResultStore()), threadpool_limits(used):
                forget_recordings()
                assert four_digits(probe(model, changed, [0, 2], batching=batching)) == expected
    finally:
        torch.set_num_threads(threads)


def test_a_second_call_fits_nothing_and_random_state_is_left_alone(model, monkeypatch):
    before, own = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = [probe(model, TASK, [K], kind, learning_curve=[0.3]) for kind in ("linear", "mlp")]
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(own, np.random.get_state()[1])
    for name in ("linear_probe", "unquiet_probe", "mlp_probe", "with_random_weights"):
        monkeypatch.delattr(f"pytest_bertology.measures.probing.{name}")

    again = [probe(model, TASK, [K], kind, learning_curve=[0.3]) for kind in ("linear", "mlp")]

    assert [each.table() for each in again] == [each.table() for each in first]


def test_under_a_mask_another_model_is_probed(model, report):
    with model.masked([(K - 1, 0)]):
        masked = probe(model, TASK, [K], random_model=False)
        again = probe(model, TASK, [K])

    assert masked.scores[0] <= chance(masked)
    assert again.scores == masked.scores
    assert again.at(K).random_score == report.at(K).random_score
    assert report.at(K).score == 1.0


def test_more_text_to_learn_from_is_told_apart(noisy):
    model, task = noisy
    found = probe(model, task, [1], control=False, random_model=False, learning_curve=(0.5, 0.1))

    sizes = list(found.learning_curve(1))
    assert sizes == sorted(sizes)
    assert len(sizes) == 3
    assert sizes[-1] == found.trained_on
    assert found.learning_curve(1)[found.trained_on] == found.scores[0]


def test_other_metrics_have_intervals_too(noisy):
    model, task = noisy
    columns = {"tokens": list(task.texts), "labels": [list(each) for each in task.labels]}
    found = probe(model, load_task(columns, metric="f1_macro"), [1], random_model=False)
    plain = probe(model, task, [1], random_model=False)

    each = found.at(1)
    assert found.predictions(1) == plain.predictions(1)
    assert each.interval[0] < each.score < each.interval[1]
    assert each.selectivity.interval[0] < each.selectivity.value < each.selectivity.interval[1]
    assert each.lead_over_majority.value == pytest.approx(each.score - found.majority_baseline)
    assert each.majority < each.score


def test_items_of_unseen_labels_count_as_wrong(noisy):
    model, task = noisy
    labels = [list(each) for each in task.labels]
    texts = [list(each) for each in task.texts]
    judged = load_task({"tokens": texts[:20], "labels": [["new", *each[1:]] for each in labels[:20]]})
    found = probe(model, judged, [1], train=load_task({"tokens": texts[20:], "labels": labels[20:]}), control=False)

    assert found.probing.unseen == 20
    assert "20 judged items have a label that is not trained on" in found.table()
    assert found.by_label(1)["new"] == 0.0
    assert len(found.right(1)) == 120


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kind", "deep"),
        ("layers", [9]),
        ("layers", "some"),
        ("backend", "jax"),
        ("control", 1),
        ("random_model", None),
        ("confidence", 1.0),
        ("learning_curve", (1.5,)),
        ("learning_curve", 0.5),
        ("seed", -1),
    ],
)
def test_arguments_that_mean_nothing_are_refused(model, argument, value):
    with pytest.raises(InvalidArgument, match=argument):
        probe(model, TASK, **{argument: value})


def test_data_of_one_label_is_refused(model):
    with pytest.raises(SingleClass):
        probe(model, load_task({"tokens": [["blue1"], ["red1"], ["green2"]], "labels": [["a"], ["a"], ["a"]]}))
