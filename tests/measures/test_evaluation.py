"""Scores, losses and predictions are those of the model itself.

Oracle: a plain transformers loop, one example at a time, with the model's own loss on the labels passed to it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import Batching, HeadMask, ResultStore, evaluate, load_model, load_task, using_store
from pytest_bertology.engine.encoding import encode
from pytest_bertology.errors import BertologyWarning, NonFinite, UndefinedScore
from pytest_bertology.tasks import Task
from tests.families import (
    EVERY,
    LABELS,
    POSITIONS,
    VOCABULARY,
    few,
    plain_inputs,
    projections,
    task_for,
    texts,
    under_test,
    zeroed,
)

FINE = [(name, kind) for name, kind in EVERY if kind != "masked-lm"]
CLASSIFIERS = [(name, kind) for name, kind in FINE if kind != "causal-lm"]


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.mark.parametrize(("name", "kind"), FINE)
def test_losses_are_the_models_own(name, kind):
    model, task = under_test(name, kind), task_for(kind)

    found = evaluate(model, task)

    assert np.allclose(found.losses, _plain(model.model, task).losses, atol=1e-5)
    assert len(found) == len(task)


@pytest.mark.parametrize(("name", "kind"), CLASSIFIERS)
def test_predictions_and_accuracy_are_the_models_own(name, kind):
    model, task = under_test(name, kind), task_for(kind, 20)
    plain = _plain(model.model, task)

    found = evaluate(model, task)

    assert [np.atleast_1d(p).tolist() for p in found.predictions] == plain.predictions
    assert [np.atleast_1d(p).tolist() for p in found.labels] == plain.labels
    assert found.score == np.mean(np.equal(np.concatenate(plain.predictions), np.concatenate(plain.labels)))
    assert 0 < found.score < 1
    assert found.metric.name == "accuracy"


@pytest.mark.parametrize(("name", "kind"), CLASSIFIERS)
def test_logits_are_the_models_own(name, kind):
    model, task = under_test(name, kind), task_for(kind)

    found = evaluate(model, task)

    for ours, theirs in zip(found.logits, _plain(model.model, task).logits, strict=True):
        assert np.allclose(np.atleast_2d(ours), theirs, atol=1e-5)
        assert theirs.shape[-1] == LABELS


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_perplexity_is_that_of_all_predicted_tokens(name):
    model, task = under_test(name, "causal-lm"), task_for("causal-lm")
    plain = _plain(model.model, task)
    tokens = [len(model.tokenizer(text).input_ids) - 1 for text in task.texts]

    found = evaluate(model, task)

    assert found.metric.name == "perplexity"
    assert found.score == pytest.approx(np.exp(np.average(plain.losses, weights=tokens)), rel=1e-5)
    assert found.rescored("loss").score == pytest.approx(np.log(found.score), rel=1e-6)
    assert found.logits is None


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_masked_tokens_are_judged_by_the_models_own_loss(name):
    model, task = under_test(name, "masked-lm"), task_for("masked-lm")

    found = evaluate(model, task)

    for example, loss, guess in zip(encode(model, task).examples, found.losses, found.predictions, strict=True):
        ids, labels = torch.tensor([example.ids]), torch.tensor([example.labels])
        with torch.no_grad():
            plain = model.model(ids, labels=labels)
        assert loss == pytest.approx(float(plain.loss), abs=1e-5)
        assert guess.tolist() == plain.logits.argmax(-1)[labels != -100].tolist()


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_regression_is_judged_by_squared_error_and_correlation(name):
    model = under_test(name, num_labels=1, problem_type="regression")
    labels = tuple(float(x) for x in np.random.default_rng(0).normal(size=12))
    task = Task("numbers", "regression", tuple(texts(12)), labels)
    plain = _plain(model.model, task)

    found = evaluate(model, task)

    values = np.concatenate(plain.logits).ravel()
    assert np.allclose(found.losses, plain.losses, atol=1e-5)
    assert np.allclose(found.predictions, values, atol=1e-5)
    assert found.score == pytest.approx(np.corrcoef(values, labels)[0, 1], abs=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_pairs_are_read_as_pairs(name):
    model, single = under_test(name), task_for("sequence-classification")
    pairs = tuple(zip(single.texts, texts(10, seed=5), strict=True))
    task = replace(single, texts=pairs, pairs=True)

    found = evaluate(model, task)

    assert np.allclose(found.losses, _plain(model.model, task).losses, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), FINE)
@few
@given(heads=st.sets(st.sampled_from([(layer, head) for layer in range(2) for head in range(4)]), min_size=1))
def test_results_under_a_mask_are_those_of_zeroed_columns(name, kind, heads):
    model, task = under_test(name, kind), task_for(kind, 4)

    found = evaluate(model, task, mask=heads)

    assert np.allclose(found.losses, _plain(zeroed(model, heads), task).losses, atol=1e-5)
    assert found.mask.masked == model.heads.select(heads)


def test_a_mask_in_force_and_a_mask_given_act_together():
    model, task = under_test("bert"), task_for("sequence-classification", 6)

    with model.masked([(0, 1)]):
        found = evaluate(model, task, mask=[(1, 2)])
        around = evaluate(model, task)

    assert np.allclose(found.losses, _plain(zeroed(model, [(0, 1), (1, 2)]), task).losses, atol=1e-5)
    assert np.allclose(around.losses, _plain(zeroed(model, [(0, 1)]), task).losses, atol=1e-5)
    assert found.mask.masked == ((0, 1), (1, 2))


def test_fractions_in_force_and_given_multiply():
    model, task = under_test("bert"), task_for("sequence-classification", 6)
    half = HeadMask(model.heads, (0.5,) * len(model.heads))
    twin = zeroed(model, [])
    with torch.no_grad():
        for projection in projections(twin):
            projection.weight *= 0.25

    with model.masked(half):
        found = evaluate(model, task, mask=half)

    assert np.allclose(found.losses, _plain(twin, task).losses, atol=1e-5)


def test_dropout_is_off_and_the_mode_is_left_as_it_was():
    model, task = under_test("bert"), task_for("sequence-classification")
    plain = _plain(model.model, task)
    model.model.train()

    found = evaluate(model, task)

    assert np.allclose(found.losses, plain.losses, atol=1e-5)
    assert all(module.training for module in model.model.modules())
    assert all(parameter.requires_grad for parameter in model.model.parameters())


@pytest.mark.parametrize(("name", "kind"), [("bert", "sequence-classification"), ("llama", "causal-lm")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_example(name, kind, value):
    model, task = under_test(name, kind), task_for(kind)
    others = [text.replace("q", "r") for text in task.texts]
    task = replace(task, texts=(*others[:6], "a q b", *others[7:]))
    with torch.no_grad():
        model.model.get_input_embeddings().weight[VOCABULARY.index("q")] = value

    with pytest.raises(NonFinite, match="example 6 of letters") as error:
        evaluate(model, task)

    assert error.value.what == "the loss"


def test_a_logit_that_is_not_finite_is_refused_even_where_the_loss_is():
    model, task = under_test("bert"), task_for("sequence-classification")
    task = replace(task, labels=tuple(index % 2 for index in range(10)))
    with torch.no_grad():
        model.model.classifier.bias[2] = -float("inf")

    with pytest.raises(NonFinite, match="a logit is not a finite number at example"):
        evaluate(model, task)


@pytest.mark.parametrize(("name", "kind"), [("bert", "sequence-classification"), ("llama", "causal-lm")])
def test_a_text_that_is_too_long_is_cut_with_a_warning(name, kind):
    model, task = under_test(name, kind), task_for(kind)
    task = replace(task, texts=(*task.texts[:3], "a " * 50, *task.texts[4:]))
    cut = replace(task, texts=(*task.texts[:3], "a " * (POSITIONS - 2), *task.texts[4:]))

    with pytest.warns(BertologyWarning, match="1 of 10 examples of letters are longer than"):
        found = evaluate(model, task)

    assert found.truncated == (3,)
    assert np.allclose(found.losses, _plain(model.model, cut).losses, atol=1e-5)


def test_texts_that_fit_do_not_warn(recwarn):
    found = evaluate(under_test("bert"), task_for("sequence-classification"))

    assert found.truncated == ()
    assert not recwarn.list


def test_a_score_that_has_no_value_is_an_error_only_when_it_is_read():
    model = under_test("bert", num_labels=1, problem_type="regression")
    with torch.no_grad():
        model.model.classifier.weight.zero_()

    found = evaluate(model, Task("numbers", "regression", ("a", "b", "c"), (0.0, 1.0, 2.0)))

    assert np.allclose(found.losses, (found.predictions - [0.0, 1.0, 2.0]) ** 2)
    with pytest.raises(UndefinedScore, match="all predictions are equal"):
        _ = found.score


@few
@given(positions=st.lists(st.integers(0, 9), min_size=1))
def test_a_resampled_score_is_that_of_the_repeated_examples(positions):
    for kind in ("sequence-classification", "token-classification"):
        model, task = under_test("bert", kind), task_for(kind)
        plain = _plain(model.model, task)
        guesses, labels = (np.concatenate([rows[i] for i in positions]) for rows in (plain.predictions, plain.labels))

        found = evaluate(model, task).resampled(np.array(positions))

        assert found == pytest.approx(np.mean(guesses == labels))


@pytest.mark.parametrize("kind", ["sequence-classification", "regression"])
def test_a_model_in_double_precision_is_judged_in_double_precision(kind):
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    if kind == "regression":
        model = under_test("bert", dtype=torch.float64, num_labels=1, problem_type="regression")
        task = Task("numbers", kind, task.texts, tuple(label / 3 for label in task.labels))

    found = evaluate(model, task, batching=Batching(tokens=50))

    assert np.allclose(found.losses, _plain(model.model, task).losses, atol=1e-12, rtol=0)


@pytest.mark.assets
def test_minilm_on_sst2_is_right_788_times_of_872(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv")

    found = evaluate(model, task)

    losses, predictions = _in_sorted_batches(model, task)
    assert np.allclose(found.losses, losses, atol=1e-4)
    assert found.predictions.tolist() == predictions
    assert (int(found.right.sum()), len(found)) == (788, 872)


@pytest.mark.assets
def test_stories_language_model_has_its_own_loss(assets):
    model = load_model(assets / "checkpoints" / "stories260K-hf")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(60))
    task = Task("sentences", "language-modelling", task.texts, None)

    found = evaluate(model, task)

    for text, loss in zip(task.texts, found.losses, strict=True):
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            assert loss == pytest.approx(float(model.model(ids, labels=ids).loss), abs=1e-4)


class _Plain:
    def __init__(self):
        self.losses, self.predictions, self.labels, self.logits = [], [], [], []


def _plain(model, task):
    """The plain loop: per example the loss, and predictions, labels and logits of its items."""
    found = _Plain()
    for inputs in plain_inputs(model, task):
        with torch.no_grad():
            result = model(**inputs)
        judged = inputs["labels"] != -100
        logits = result.logits[judged] if inputs["labels"].ndim == 2 else result.logits
        found.losses.append(float(result.loss))
        found.labels.append(inputs["labels"][judged].tolist())
        found.predictions.append(logits.argmax(-1).tolist())
        found.logits.append(logits.numpy())
    return found


def _in_sorted_batches(model, task):
    """The plain loop in batches of sixteen texts of like length, padded by the tokenizer."""
    order = sorted(range(len(task)), key=lambda index: len(task.texts[index]))
    losses, predictions = np.zeros(len(task)), [0] * len(task)
    for start in range(0, len(task), 16):
        chosen = order[start : start + 16]
        inputs = model.tokenizer([task.texts[i] for i in chosen], padding=True, return_tensors="pt")
        labels = torch.tensor([task.labels[i] for i in chosen])
        with torch.no_grad():
            logits = model.model(**inputs).logits
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        for index, loss, row in zip(chosen, each.tolist(), logits, strict=True):
            losses[index], predictions[index] = loss, int(row.argmax())
    return losses, predictions
