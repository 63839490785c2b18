"""A sweep gives, mask by mask, what the model gives when it runs whole.

Oracles: deep copies of the model with the projection columns of the masked heads zeroed, run by plain transformers one
example at a time; the plain path of the package, bit for bit where batches have the same shape; for mean and resampled
ablation, contexts exchanged by hooks of the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_bertology import Batching, Head, HeadMask, ResultStore, evaluate, load_model, using_store
from pytest_bertology.engine import sweeps
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.resuming import Way, way_of
from pytest_bertology.engine.sweeps import Sweeping
from pytest_bertology.errors import BertologyWarning, InvalidArgument, NonFinite
from pytest_bertology.measures.sweeping import evaluate_masks
from tests.families import (
    EVERY,
    LAYERS,
    family,
    head_size,
    plain_inputs,
    projections,
    task_for,
    tokenizer,
    under_test,
    zeroed,
)
from tests.planted import planted_model, planted_task

ONE_BY_ONE = Batching(tokens=1)


@pytest.fixture(autouse=True)
def _nothing_stored() -> Iterator[None]:
    with using_store(ResultStore()):
        yield


def single(model) -> list[HeadMask]:
    return [HeadMask.without(model.heads, [head]) for head in model.heads]


def way(model, task) -> Way:
    with torch.inference_mode(), model.frozen(), model.exactly(None):
        return way_of(model, encode(model, task))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in EVERY if k != "masked-lm"])
def test_leave_one_out_is_a_model_without_the_head(name, kind):
    model, task = under_test(name, kind), task_for(kind)

    found = evaluate_masks(model, task, single(model))

    for head, outcomes in zip(model.heads, found.variants, strict=True):
        twin = zeroed(model, [head])
        with torch.no_grad():
            losses = [float(twin(**inputs).loss) for inputs in plain_inputs(model.model, task)]
        assert np.allclose(outcomes.losses, losses, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_every_family_is_resumed_stacked_and_narrowed_where_it_can_be(name, kind):
    model, task = under_test(name, kind), task_for(kind)

    found = way(model, task)

    assert found.layers is not None
    assert len(found.layers.blocks) == LAYERS
    assert found.contexts == (True,) * LAYERS
    assert found.stacks
    assert found.narrows == (kind in ("sequence-classification", "masked-lm"))
    assert found.gathers == (kind in ("causal-lm", "masked-lm"))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in EVERY if k == "token-classification"])
def test_a_mask_with_a_batch_for_itself_is_the_plain_path_bit_for_bit(name, kind):
    model, task = under_test(name, kind), task_for(kind)

    found = evaluate_masks(model, task, single(model), batching=ONE_BY_ONE)

    for mask, outcomes in zip(single(model), found.variants, strict=True):
        plain = evaluate(model, task, mask, batching=ONE_BY_ONE)
        assert all(np.array_equal(a, b) for a, b in zip(outcomes.logits, plain.logits, strict=True))
        assert np.array_equal(outcomes.losses, plain.losses)
    assert np.array_equal(found.baseline.losses, evaluate(model, task, batching=ONE_BY_ONE).losses)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_masks_of_many_heads_over_a_base_are_the_plain_path(name, kind):
    model, task = under_test(name, kind), task_for(kind)
    base = HeadMask.without(model.heads, [(0, 1)])
    masks = [base | HeadMask.without(model.heads, [(1, 2)]), HeadMask.only(model.heads, [(0, 0)]), base]
    masks.append(HeadMask(model.heads, tuple(0.25 for _ in model.heads)))
    masks.append(HeadMask.keep_all(model.heads))

    found = evaluate_masks(model, task, masks, base=base)

    for mask, outcomes in zip(masks, found.variants, strict=True):
        plain = evaluate(model, task, mask)
        assert np.allclose(outcomes.losses, plain.losses, atol=4e-6)
        assert np.array_equal(outcomes.raw.predictions, plain.raw.predictions)
        assert outcomes.mask == mask
    assert np.array_equal(found.variants[2].losses, found.baseline.losses)


@pytest.mark.parametrize("tokens", [1, 7, 40, 4096])
def test_results_do_not_depend_on_the_batch_size(tokens):
    model, task = under_test("bert"), task_for("sequence-classification", count=14)
    expected = evaluate_masks(model, task, single(model))

    found = evaluate_masks(model, task, single(model), batching=Batching(tokens=tokens))

    for one, other in zip(found.variants, expected.variants, strict=True):
        assert np.allclose(one.logits, other.logits, atol=4e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_results_do_not_depend_on_the_padding_side(name):
    model, task = under_test(name, "causal-lm"), task_for("causal-lm")
    expected = evaluate_masks(model, task, single(model))

    found = evaluate_masks(model, task, single(model), batching=Batching(padding_side="left"))

    for one, other in zip(found.variants, expected.variants, strict=True):
        assert np.allclose(one.losses, other.losses, atol=1e-5)


def test_a_planted_head_is_the_only_one_whose_absence_changes_anything():
    model, task = planted_model(Head(1, 2)), planted_task()

    found = evaluate_masks(model, task, single(model))

    changed = [outcomes.mask.masked[0] for outcomes in found.variants if outcomes.score != found.baseline.score]
    assert changed == [Head(1, 2)]


def test_masks_in_force_do_not_count():
    model, task = under_test("bert"), task_for("sequence-classification")
    expected = evaluate_masks(model, task, single(model))

    with model.masked([(0, 0)]), using_store(ResultStore()):
        found = evaluate_masks(model, task, single(model))

    assert np.array_equal(found.variants[5].losses, expected.variants[5].losses)


def test_the_model_is_left_as_it_was():
    model, task = under_test("gpt2"), task_for("sequence-classification")
    model.model.train()

    evaluate_masks(model, task, single(model))

    assert model.model.training
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    assert not model.altered()
    assert not any("forward" in vars(module) for module in model.model.modules())


def test_the_same_sweep_is_run_once():
    model, task, store = under_test("bert"), task_for("sequence-classification"), ResultStore()

    with using_store(store):
        one = evaluate_masks(model, task, single(model))
        two = evaluate_masks(model, task, single(model))
        evaluate_masks(model, task, single(model), ablation="mean")

    assert (store.computed, store.reused) == (2, 1)
    assert np.array_equal(one.variants[3].logits, two.variants[3].logits)


class Multiplications(TorchDispatchMode):
    """Counts the multiplications of linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.linear.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            one = args[1] if func is torch.ops.aten.addmm.default else args[0]
            self.count += result.numel() * one.shape[-1]
        return result


def multiplications(model, task, masks, sweeping: Sweeping) -> int:
    way(model, task)  # found out once, and not counted
    with Multiplications() as counter, using_store(ResultStore()):
        evaluate_masks(model, task, masks, sweeping=sweeping)
    return counter.count


@pytest.mark.parametrize(("kind", "share"), [("token-classification", 0.62), ("sequence-classification", 0.5)])
def test_leave_one_out_computes_about_half(kind, share):
    model = under_test("bert", kind, num_hidden_layers=6, intermediate_size=96)
    task = task_for(kind, count=6, longest=12)

    ours = multiplications(model, task, single(model), Sweeping(verify=0))
    naive = multiplications(model, task, single(model), Sweeping(plain=True))

    assert ours < share * naive


def test_a_language_models_output_is_computed_at_judged_tokens_only():
    model, task = under_test("bert", "masked-lm", vocab_size=2000), task_for("masked-lm", count=6, longest=12)
    masks = [HeadMask.without(model.heads, [(0, 0)])]

    ours = multiplications(model, task, masks, Sweeping(verify=0))
    naive = multiplications(model, task, masks, Sweeping(plain=True))

    assert ours < 0.4 * naive


@pytest.mark.parametrize("memory", [1, 30_000, 200_000])
def test_little_memory_changes_no_result(memory):
    model, task = under_test("bert", num_hidden_layers=4), task_for("sequence-classification")
    expected = evaluate_masks(model, task, single(model))

    found = evaluate_masks(model, task, single(model), sweeping=Sweeping(memory=memory))

    for one, other in zip(found.variants, expected.variants, strict=True):
        assert np.allclose(one.logits, other.logits, atol=4e-6)


def test_results_that_differ_from_the_plain_path_are_not_believed(monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification")
    expected = evaluate_masks(model, task, single(model), sweeping=Sweeping(plain=True))
    resumed = sweeps.resumed

    @contextmanager
    def wrong(model, layers, recording, *args, **options):
        recording.results = [None if r is None else 1.5 * r for r in recording.results]
        with resumed(model, layers, recording, *args, **options):
            yield

    way(model, task)
    monkeypatch.setattr(sweeps, "resumed", wrong)
    masks = single(model)[::-1]  # the one that is verified starts at the second layer
    with pytest.warns(BertologyWarning, match="run one by one: run together, they differ by"):
        found = evaluate_masks(model, task, masks, sweeping=Sweeping(verify=3))

    for one, other in zip(found.variants[::-1], expected.variants, strict=True):
        assert np.array_equal(one.logits, other.logits)


def test_a_model_that_takes_no_shortened_examples_is_run_whole():
    model, task = under_test("bert"), task_for("sequence-classification", longest=12)
    task = task.subset([i for i, text in enumerate(task.texts) if len(tokenizer()(text).input_ids) > 9])
    forward = type(model.model).forward

    class Long(type(model.model)):
        def forward(self, input_ids=None, **inputs):
            if input_ids.shape[1] < 10:
                raise ValueError("too short")
            return forward(self, input_ids=input_ids, **inputs)

    model.model.__class__ = Long

    found = evaluate_masks(model, task, single(model))

    assert "it fails on examples cut short (ValueError: too short)" in way(model, task).reason
    assert np.allclose(found.variants[0].logits, evaluate(model, task, single(model)[0]).logits, atol=4e-6)


def test_what_fails_when_run_together_is_run_one_by_one(monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification")
    expected = evaluate_masks(model, task, single(model), sweeping=Sweeping(plain=True))

    def broken(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(sweeps, "resumed", broken)
    with pytest.warns(BertologyWarning, match=r"they fail \(RuntimeError: shapes do not match\)"):
        found = evaluate_masks(model, task, single(model))

    assert np.array_equal(found.variants[2].logits, expected.variants[2].logits)


def test_a_model_that_hands_more_than_states_from_layer_to_layer_is_run_whole():
    class Remembering(nn.Module):
        """A layer that also adds what the layer below computed last, which no input of it shows."""

        last: torch.Tensor | None = None

        def __init__(self, layer, below):
            super().__init__()
            self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output
            self.layer, self.below = [layer], below

        def forward(self, states, *args, **kwargs):
            made = self.layer[0](states, *args, **kwargs)
            self.last = made
            return made if self.below is None else made + 0.1 * self.below.last.tanh()

    model = family("bert", num_hidden_layers=3)
    below = None
    for index, layer in enumerate(model.bert.encoder.layer):
        below = model.bert.encoder.layer[index] = Remembering(layer, below)
    loaded, task = load_model(model, tokenizer=tokenizer()), task_for("sequence-classification")

    found = evaluate_masks(loaded, task, single(loaded))

    assert way(loaded, task).layers is None
    assert "gives other results" in way(loaded, task).reason
    for mask, outcomes in zip(single(loaded), found.variants, strict=True):
        assert np.allclose(outcomes.logits, evaluate(loaded, task, mask).logits, atol=4e-6)


def test_a_model_with_hooks_of_others_is_run_whole():
    model, task = under_test("bert"), task_for("sequence-classification")
    calls = []
    model.model.bert.encoder.layer[0].register_forward_hook(lambda *_: calls.append(1))

    evaluate_masks(model, task, single(model), batching=Batching(tokens=4096), sweeping=Sweeping(verify=0))

    assert "hooks of others" in way(model, task).reason
    assert len(calls) >= 2


def test_near_ties_are_decided_by_the_example_alone():
    model, task = under_test("bert", num_labels=2), task_for("sequence-classification")
    with torch.no_grad():  # both logits are the same number, but for noise far below a tie's limit
        model.model.classifier.weight[1] = model.model.classifier.weight[0] * (1 + 1e-6)
        model.model.classifier.bias.zero_()
    task = type(task)("ties", task.kind, task.texts, tuple(label % 2 for label in task.labels))

    found = evaluate_masks(model, task, single(model))

    for mask, outcomes in zip(single(model), found.variants, strict=True):
        assert np.array_equal(outcomes.logits, evaluate(model, task, mask, batching=ONE_BY_ONE).logits)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_example():
    model, task = under_test("bert"), task_for("sequence-classification")
    sick = int(tokenizer()(task.texts[4]).input_ids[1])
    others = [i for i, text in enumerate(task.texts) if sick in tokenizer()(text).input_ids]
    with torch.no_grad():
        model.model.bert.embeddings.word_embeddings.weight[sick] = float("nan")

    with pytest.raises(NonFinite, match=rf"example ({'|'.join(map(str, others))}) of letters"):
        evaluate_masks(model, task, single(model))


@contextmanager
def exchanged(model, layer: int, head: int, contexts: torch.Tensor) -> Iterator[None]:
    """One head's slice of what its projection receives, replaced."""
    size = head_size(model)
    part = slice(head * size, (head + 1) * size)

    def replace(module, args):
        context = args[0].clone()
        context[..., part] = contexts[..., part]
        return (context, *args[1:])

    hook = projections(model)[layer].register_forward_pre_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def received(model, inputs) -> list[torch.Tensor]:
    """What each projection receives when plain transformers runs one example."""
    found = []
    hooks = [p.register_forward_pre_hook(lambda m, a: found.append(a[0].clone())) for p in projections(model)]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_ablation_to_the_mean_puts_the_heads_mean_in_its_place(name):
    model, task = under_test(name), task_for("sequence-classification")
    inputs = list(plain_inputs(model.model, task))
    contexts = [received(model.model, each) for each in inputs]

    found = evaluate_masks(model, task, single(model), ablation="mean")

    for head, outcomes in zip(model.heads, found.variants, strict=True):
        mean = torch.cat([each[head.layer][0] for each in contexts]).mean(dim=0)
        with torch.no_grad(), exchanged(model.model, head.layer, head.head, mean):
            losses = [float(model.model(**each).loss) for each in inputs]
        assert np.allclose(outcomes.losses, losses, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_resampled_ablation_takes_the_head_of_another_example_of_like_length(name):
    model, task = under_test(name), task_for("sequence-classification", count=7)
    inputs = list(plain_inputs(model.model, task))
    contexts = [received(model.model, each) for each in inputs]
    lengths = [each["input_ids"].shape[1] for each in inputs]

    found = evaluate_masks(model, task, single(model), ablation="resample")

    for at, each in enumerate(inputs):
        near = sorted(abs(lengths[at] - other) for i, other in enumerate(lengths) if i != at)[: len(inputs) // 2 + 1]
        donors = []
        for other in range(len(inputs)):
            turns = torch.arange(lengths[at]) % lengths[other]
            losses = []
            for head in model.heads:
                taken = contexts[other][head.layer][:, turns]
                with torch.no_grad(), exchanged(model.model, head.layer, head.head, taken):
                    losses.append(float(model.model(**each).loss))
            if np.allclose([outcomes.losses[at] for outcomes in found.variants], losses, atol=1e-5):
                donors.append(other)
        assert len(donors) == 1
        assert donors[0] != at
        assert abs(lengths[donors[0]] - lengths[at]) <= near[-1]


def test_resampling_does_not_depend_on_the_order_of_the_examples():
    model, task = under_test("bert"), task_for("sequence-classification", count=9)
    turned = type(task)("turned", task.kind, task.texts[::-1], task.labels[::-1])

    one = evaluate_masks(model, task, single(model), ablation="resample", seed=3)
    two = evaluate_masks(model, turned, single(model), ablation="resample", seed=3)

    for a, b in zip(one.variants, two.variants, strict=True):
        assert np.allclose(a.losses, b.losses[::-1], atol=4e-6)


def test_an_unknown_ablation_is_refused():
    model, task = under_test("bert"), task_for("sequence-classification")

    with pytest.raises(InvalidArgument, match="one of zero, mean, resample"):
        evaluate_masks(model, task, single(model), ablation="median")


def test_resampling_from_one_example_is_refused():
    model, task = under_test("gpt2", "causal-lm"), task_for("causal-lm", count=1)

    with pytest.raises(InvalidArgument, match="there is one example and no other"):
        evaluate_masks(model, task, single(model), ablation="resample")


@pytest.mark.parametrize("options", [{"memory": 0}, {"verify": -1}, {"memory": 1.5}])
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(InvalidArgument):
        Sweeping(**options)


@pytest.mark.gpu
def test_a_sweep_on_a_gpu_is_that_on_a_cpu():
    model, task = under_test("bert"), task_for("sequence-classification")
    expected = evaluate_masks(model, task, single(model))
    model.model.cuda()

    found = evaluate_masks(model, task, single(model))

    for one, other in zip(found.variants, expected.variants, strict=True):
        assert np.allclose(one.logits, other.logits, atol=1e-4)
