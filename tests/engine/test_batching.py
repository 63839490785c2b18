"""Batches change nothing but the speed: every example once, its own results, in the task's order.

Oracle: plain transformers, one example at a time.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import Batching, ResultStore, evaluate, using_store
from pytest_bertology.engine import batching as batching_module
from pytest_bertology.engine.batching import batches, collate, plan
from pytest_bertology.engine.encoding import Encoded, Example, encode, max_length
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.tasks import Task
from tests.families import EVERY, FAMILIES, POSITIONS, few, plain_inputs, task_for, under_test

shared = cache(under_test)
FINE = [(name, kind) for name, kind in EVERY if kind != "masked-lm"]


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


def _encoded(lengths):
    return Encoded("sequence-classification", tuple(Example((7,) * n, None, 0) for n in lengths), 3, ())


@few
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), budget=st.integers(1, 120))
def test_a_plan_holds_each_example_once_the_shortest_first(lengths, budget):
    groups = plan(shared("bert"), _encoded(lengths), Batching(tokens=budget))

    flat = [position for group in groups for position in group]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[position] for position in flat] == sorted(lengths)


@few
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), budget=st.integers(1, 120))
def test_a_plan_fills_the_budget_and_keeps_within_it(lengths, budget):
    groups = plan(shared("bert"), _encoded(lengths), Batching(tokens=budget))

    for group, after in zip(groups, [*groups[1:], None], strict=True):
        padded = len(group) * max(lengths[position] for position in group)
        assert padded <= budget or len(group) == 1
        assert after is None or (len(group) + 1) * lengths[after[0]] > budget


def test_an_example_larger_than_the_budget_runs_alone():
    groups = plan(shared("bert"), _encoded([3, 30, 3, 31]), Batching(tokens=10))

    assert groups == [(0, 2), (1,), (3,)]


def test_a_plan_for_some_examples_holds_those():
    groups = plan(shared("bert"), _encoded([3, 5, 4, 2, 9]), Batching(tokens=8), positions=[4, 2, 0])

    assert groups == [(0, 2), (4,)]


def test_batches_of_a_language_model_leave_room_for_its_logits(monkeypatch):
    model = shared("llama", "causal-lm")
    encoded = encode(model, task_for("causal-lm"))
    monkeypatch.setattr(batching_module, "_LOGITS", 4 * model.model.config.vocab_size * 30)

    sizes = [batch.inputs["input_ids"].shape for batch in batches(model, encoded, Batching())]

    assert all(rows * tokens <= 30 or rows == 1 for rows, tokens in sizes)
    assert sum(rows for rows, _ in sizes) == 10


@pytest.mark.parametrize(("name", "kind"), FINE)
@few
@given(data=st.data(), budget=st.integers(1, 200))
def test_results_are_each_examples_own_in_the_tasks_order(name, kind, data, budget):
    losses, task = _alone(name, kind)
    order = data.draw(st.permutations(range(len(task))))

    found = evaluate(shared(name, kind), task.subset(order), batching=Batching(tokens=budget))

    assert np.allclose(found.losses, losses[list(order)], atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), FINE)
def test_the_default_batches_give_each_examples_own_results(name, kind):
    losses, task = _alone(name, kind)

    assert np.allclose(evaluate(shared(name, kind), task).losses, losses, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in EVERY if pair[0] in ("gpt2", "llama")])
def test_padding_on_the_left_gives_a_decoder_the_same_results(name, kind):
    losses, task = _alone(name, kind)

    found = evaluate(shared(name, kind), task, batching=Batching(tokens=100, padding_side="left"))

    assert np.allclose(found.losses, losses, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_padding_on_the_left_is_refused_where_the_first_position_is_pooled(name):
    with pytest.raises(InvalidArgument, match="gives other results under left padding"):
        evaluate(shared(name), task_for("sequence-classification"), batching=Batching(padding_side="left"))


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_padding_on_the_left_gives_an_encoders_tokens_the_same_results(name):
    losses, task = _alone(name, "token-classification")

    found = evaluate(shared(name, "token-classification"), task, batching=Batching(padding_side="left"))

    assert np.allclose(found.losses, losses, atol=1e-5)


@pytest.mark.parametrize(("tokens", "side"), [(0, "right"), (-1, "left"), (8, "both")])
def test_impossible_batching_is_refused(tokens, side):
    with pytest.raises(InvalidArgument, match=r"tokens=|padding_side="):
        Batching(tokens=tokens, padding_side=side)


@pytest.mark.parametrize(("side", "expected"), [("right", [5, 6, 1, 1]), ("left", [1, 1, 5, 6])])
def test_padding_is_the_models_own_padding_id(side, expected):
    model = shared("roberta")

    batch = collate(model, [Example((5, 6), (0, 1), 2), Example((7, 8, 9, 10), (0, 0, 1, 1), 0)], (4, 2), side)

    mask = [int(token != 1) for token in expected]
    assert model.tokenizer.pad_token_id == 0
    assert batch.positions == (4, 2)
    assert batch.inputs["input_ids"].tolist() == [expected, [7, 8, 9, 10]]
    assert batch.inputs["attention_mask"].tolist() == [mask, [1, 1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1, 0, 0] if side == "right" else [0, 0, 0, 1], [0, 0, 1, 1]]
    assert batch.labels.tolist() == [2, 0]


def test_padding_without_an_id_of_the_models_is_the_tokenizers():
    model = under_test("gpt2", "causal-lm", pad_token_id=None)
    model.tokenizer.pad_token = "z"

    batch = collate(model, [Example((5,), None, (-100,)), Example((6, 7), None, (7, -100))], (0, 1))

    assert batch.inputs["input_ids"].tolist() == [[5, model.tokenizer.pad_token_id], [6, 7]]
    assert batch.labels.tolist() == [[-100, -100], [7, -100]]


def test_near_ties_are_decided_by_the_example_alone():
    model, task = under_test("bert"), task_for("sequence-classification", 12)
    classifier = model.model.classifier
    with torch.no_grad():
        classifier.weight[1] = classifier.weight[0]
        classifier.bias.copy_(torch.tensor([0.0, 3e-5, 0.0]))
        logits = torch.cat([model.model(**inputs).logits for inputs in plain_inputs(model.model, task)])
        classifier.bias[2] -= (logits[:, 2] - logits[:, 0]).median() + 0.01
    alone = _predictions(model.model, task)
    sizes = []

    def disturb(module, args, result):
        """What batching might do to a logit, larger than the margin."""
        if len(result.logits) > 1:
            result.logits[:, 0] += 6e-5
        sizes.append(len(result.logits))

    model.model.register_forward_hook(disturb)
    found = evaluate(model, task, batching=Batching(tokens=10**4))

    assert set(alone) == {1, 2}
    assert found.predictions.tolist() == alone
    assert sizes == [12] + [1] * alone.count(1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_reads_as_many_tokens_as_it_has_positions(name):
    model = shared(name)
    fitting = Task("fits", "sequence-classification", ("a " * (POSITIONS - 2), "b"), (0, 1))
    cut = replace(fitting, texts=("a " * (POSITIONS - 1), "b"))

    assert max_length(model) == POSITIONS
    assert encode(model, fitting).truncated == ()
    assert encode(model, cut).truncated == (0,)
    assert np.isfinite(evaluate(model, fitting).losses).all()


def test_as_many_words_as_positions_reserve_no_position():
    model = under_test("bert", max_position_embeddings=58)
    assert model.model.config.vocab_size == 58

    assert max_length(model) == 58


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_classifier_without_padding_token_runs_one_by_one(name):
    model, task = under_test(name, pad_token_id=None), task_for("sequence-classification")
    sizes = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )

    found = evaluate(model, task)

    assert sizes == [1] * len(task)
    assert np.allclose(found.losses, _losses(model.model, task), atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_masked_positions_do_not_depend_on_neighbours(name):
    model, task = shared(name, "masked-lm"), task_for("masked-lm", 12)

    together = encode(model, task).examples

    backwards = encode(model, task.subset(range(11, -1, -1))).examples
    assert backwards == together[::-1]
    assert [encode(model, task.subset([index])).examples[0] for index in range(12)] == list(together)


def test_masked_positions_are_ordinary_tokens_about_one_in_seven():
    model, task = shared("bert", "masked-lm"), task_for("masked-lm", 40, longest=12)

    for text, example in zip(task.texts, encode(model, task).examples, strict=True):
        ids = model.tokenizer(text).input_ids
        masked = [at for at, label in enumerate(example.labels) if label != -100]
        assert 0 not in masked
        assert len(ids) - 1 not in masked
        assert len(masked) == max(1, round(0.15 * (len(ids) - 2)))
        assert [example.labels[at] for at in masked] == [ids[at] for at in masked]
        assert list(example.ids) == [4 if at in masked else token for at, token in enumerate(ids)]


def test_token_labels_stand_at_the_first_sub_token_of_each_word():
    model = shared("bert", "token-classification")
    task = Task("words", "token-classification", (("abc", "d"), ("ef",)), ((2, 0), (1,)))

    first, second = encode(model, task).examples

    #                   [CLS]    a  ##b ##c  d [SEP]
    assert first.ids == (2, 5, 32, 33, 8, 3)
    assert first.labels == (-100, 2, -100, -100, 0, -100)
    assert second.labels == (-100, 1, -100, -100)


@cache
def _alone(name, kind):
    """Each example's loss by itself, and the task."""
    task = task_for(kind)
    return _losses(shared(name, kind).model, task), task


def _losses(model, task):
    with torch.no_grad():
        return np.array([float(model(**inputs).loss) for inputs in plain_inputs(model, task)])


def _predictions(model, task):
    with torch.no_grad():
        return [int(model(**inputs).logits.argmax()) for inputs in plain_inputs(model, task)]
