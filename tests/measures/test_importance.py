"""Gradient importance is the mean, over examples, of the absolute gradient of each head's gate.

Oracle: a brute-force loop at batch size 1, with gates of its own in forward pre-hooks on the projections, and autograd
through the model's own loss (in double precision through the loss's formula: transformers computes it in single).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import Batching, ResultStore, head_importance, load_model, load_task, using_store
from pytest_bertology.errors import InvalidArgument, NonFinite
from pytest_bertology.tasks import Task
from tests.families import EVERY, VOCABULARY, few, head_size, plain_inputs, projections, task_for, under_test, zeroed

FINE = [(name, kind) for name, kind in EVERY if kind != "masked-lm"]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "kind"), FINE)
def test_importance_is_the_brute_force_of_it(name, kind, dtype):
    model, task = under_test(name, kind, dtype=dtype), task_for(kind)
    expected = _brute_force(model.model, list(plain_inputs(model.model, task)))

    found = head_importance(model, task)

    assert found.method == "gradient"
    assert _close(found, expected, TOLERANCE[dtype])
    assert expected.min() > 1e-6


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_importance_to_a_regression_is_the_brute_force_of_it(name):
    model = under_test(name, dtype=torch.float64, num_labels=1, problem_type="regression")
    task = task_for("sequence-classification")
    task = Task("numbers", "regression", task.texts, tuple(label / 3 for label in task.labels))
    expected = _brute_force(model.model, list(plain_inputs(model.model, task)))

    found = head_importance(model, task)

    assert _close(found, expected, 1e-9)


@pytest.mark.parametrize(("name", "kind"), [("bert", "sequence-classification"), ("llama", "causal-lm")])
@few
@given(data=st.data(), budget=st.integers(1, 200))
def test_importance_depends_neither_on_batches_nor_on_order(name, kind, data, budget):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind, 6)
    expected = _brute_force(model.model, list(plain_inputs(model.model, task)))
    order = data.draw(st.permutations(range(len(task))))

    found = head_importance(model, task.subset(order), batching=Batching(tokens=budget))

    assert _close(found, expected, 1e-9)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in EVERY if pair[0] in ("gpt2", "llama")])
def test_importance_does_not_depend_on_the_padding_side(name, kind):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind)
    expected = _brute_force(model.model, list(plain_inputs(model.model, task)))

    found = head_importance(model, task, batching=Batching(tokens=60, padding_side="left"))

    assert _close(found, expected, 1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_importance_to_a_decoder_classifier_without_padding_token(name):
    model, task = under_test(name, dtype=torch.float64, pad_token_id=None), task_for("sequence-classification")
    expected = _brute_force(model.model, list(plain_inputs(model.model, task)))

    found = head_importance(model, task)

    assert _close(found, expected, 1e-9)


def test_importance_under_a_mask_is_that_of_the_masked_model():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    expected = _brute_force(zeroed(model, [(0, 1), (1, 2)]), list(plain_inputs(model.model, task)))

    with model.masked([(0, 1), (1, 2)]):
        found = head_importance(model, task)

    assert _close(found, expected, 1e-9)
    assert found[0, 1] == found[1, 2] == 0.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("masked", [[], [(0, 1), (1, 2)]])
def test_importance_is_found_where_gradients_are_switched_off(mode, masked):
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    expected = _brute_force(zeroed(model, masked), list(plain_inputs(model.model, task)))

    with mode(), model.masked(masked):
        found = head_importance(model, task)

    assert _close(found, expected, 1e-9)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_weights_gradients_and_modes_are_left_alone(name):
    model, task = under_test(name), task_for("sequence-classification")
    model.model.train()
    model.model.get_input_embeddings().requires_grad_(False)
    projections(model.model)[0].eval()
    inputs = next(plain_inputs(model.model, task))
    model.model(**inputs).loss.backward()
    flags = [parameter.requires_grad for parameter in model.model.parameters()]
    modes = [module.training for module in model.model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.model.parameters()]

    head_importance(model, task)

    assert [parameter.requires_grad for parameter in model.model.parameters()] == flags
    assert [module.training for module in model.model.modules()] == modes
    for parameter, gradient in zip(model.model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
    assert len({gradient is None for gradient in gradients}) == 2


def test_dropout_plays_no_part():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    expected = _brute_force(model.model, list(plain_inputs(model.model, task)))
    model.model.train()

    found = head_importance(model, task)

    assert _close(found, expected, 1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_example(value):
    model, task = under_test("bert"), task_for("sequence-classification")
    others = [text.replace("q", "r") for text in task.texts]
    task = replace(task, texts=(*others[:6], "a q b", *others[7:]))
    with torch.no_grad():
        model.model.get_input_embeddings().weight[VOCABULARY.index("q")] = value

    with pytest.raises(NonFinite, match="example 6 of letters") as error:
        head_importance(model, task)

    assert error.value.what == "the loss"


def test_a_gradient_that_is_not_finite_is_refused_even_where_the_loss_is():
    model = under_test("bert")
    # The root of zero has a value and no slope.
    model.model.classifier.register_forward_pre_hook(lambda module, args: args[0] + 0 * (args[0] * 0).sqrt())

    with pytest.raises(NonFinite, match=r"example [0-9] of letters") as error:
        head_importance(model, task_for("sequence-classification"))

    assert error.value.what == "the gradient of a head's gate"


def test_random_importance_is_drawn_anew_from_its_seed():
    model, task = under_test("bert"), task_for("sequence-classification")

    first, again, other = (head_importance(model, task, "random", seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)
    assert first.method == "random (seed 1)"


def test_an_unknown_method_is_refused():
    with pytest.raises(InvalidArgument, match=r"gradient, gradient_per_token, .*, random"):
        head_importance(under_test("bert"), task_for("sequence-classification"), "gradients")


@pytest.mark.slow
@pytest.mark.assets
def test_importance_on_sst2_is_the_brute_force_of_it(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2", dtype="float64")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(64))
    rows = [
        dict(model.tokenizer(text, return_tensors="pt")) | {"labels": torch.tensor([label])}
        for text, label in zip(task.texts, task.labels, strict=True)
    ]
    expected = _brute_force(model.model, rows)

    found = head_importance(model, task)

    assert _close(found, expected, 1e-9)


@pytest.mark.assets
def test_importance_to_the_stories_language_model_is_the_brute_force_of_it(assets):
    model = load_model(assets / "checkpoints" / "stories260K-hf", dtype="float64")
    texts = load_task(assets / "data" / "sst2" / "dev.tsv").texts[:40]
    ids = [model.tokenizer(text, return_tensors="pt").input_ids for text in texts]
    expected = _brute_force(model.model, [{"input_ids": row, "labels": row} for row in ids])

    found = head_importance(model, Task("sentences", "language-modelling", texts, None))

    assert _close(found, expected, 1e-9)


def _close(found, expected, tolerance):
    return np.allclose(found.to_numpy(), expected, rtol=tolerance, atol=1e-14)


def _brute_force(model, rows):
    """(layers, heads) mean absolute gradient of gates, one example at a time."""
    heads, size, modules = model.config.num_attention_heads, head_size(model), projections(model)
    total = torch.zeros(len(modules), heads, dtype=torch.float64)
    for inputs in rows:
        gates = torch.ones(len(modules), heads, dtype=model.dtype, requires_grad=True)

        def gate(layer, gates=gates):
            return lambda module, args: args[0] * gates[layer].repeat_interleave(size)

        hooks = [module.register_forward_pre_hook(gate(layer)) for layer, module in enumerate(modules)]
        loss = _loss(model, inputs)
        total += torch.autograd.grad(loss, gates)[0].abs()
        for hook in hooks:
            hook.remove()
    return (total / len(rows)).numpy()


def _loss(model, inputs):
    if model.dtype != torch.float64:
        return model(**inputs).loss
    labels = inputs["labels"]
    logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
    if "LM" in type(model).__name__:
        logits, labels = logits[:, :-1], labels[:, 1:]
    if labels.is_floating_point():
        return (logits.squeeze() - labels.squeeze()) ** 2
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
