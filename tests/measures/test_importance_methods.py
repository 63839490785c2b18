"""Every importance method is the brute force of its definition, and finds a planted head.

Oracle: loops at batch size 1 over plain transformers models, with gates of their own in forward pre-hooks on the
projections; and planted models, whose working head was set by hand (`tests/planted.py`).
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import (
    Batching,
    Head,
    HeadMask,
    HeadScores,
    ResultStore,
    assert_metric_retained,
    head_importance,
    load_model,
    load_task,
    using_importance_method,
    using_store,
)
from pytest_bertology.errors import (
    BertologyWarning,
    CannotMeasure,
    InvalidArgument,
    InvalidScores,
    MaskNotApplied,
    MaskOfAnotherModel,
    NonFinite,
    UndefinedScore,
)
from pytest_bertology.measures import importance
from pytest_bertology.measures.ordering import ordering_scores
from pytest_bertology.measures.retention import least_important
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.names import IMPORTANCE_METHODS
from tests.families import VOCABULARY, few, head_size, plain_inputs, projections, task_for, under_test, zeroed
from tests.planted import planted_model, planted_task
from tests.tiny import tiny_model, tiny_task

FAMILIES = [
    ("bert", "sequence-classification"),
    ("bert", "token-classification"),
    ("roberta", "sequence-classification"),
    ("gpt2", "causal-lm"),
    ("gpt2", "sequence-classification"),
    ("llama", "causal-lm"),
    ("llama", "token-classification"),
]
MEASURED = [method for method in IMPORTANCE_METHODS if method != "random"]
BY_GATES = ["gradient", "gradient_per_token", "bertology", "taylor", "integrated_gradients", "ablation"]
STEPS = 5
"""Of the rule of integration, in the package and here."""


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(autouse=True)
def _few_steps_miss_something():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integrated gradients", BertologyWarning)
        yield


@pytest.mark.parametrize("method", BY_GATES)
@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_a_method_is_the_brute_force_of_it(name, kind, method):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind, 8)
    expected = brute_force(model.model, list(plain_inputs(model.model, task)), method)

    found = measure(model, task, method)

    assert found.method == method
    assert close(found, expected)
    assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize("method", BY_GATES)
def test_a_method_in_single_precision_is_the_brute_force_of_it(method):
    model, task = under_test("llama", "causal-lm"), task_for("causal-lm", 8)
    expected = brute_force(model.model, list(plain_inputs(model.model, task)), method)

    found = measure(model, task, method)

    assert close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", BY_GATES)
def test_a_method_under_a_mask_is_that_of_the_masked_model(method):
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification", 8)
    expected = brute_force(zeroed(model, [(0, 1), (1, 2)]), list(plain_inputs(model.model, task)), method)

    with model.masked([(0, 1), (1, 2)]):
        found = measure(model, task, method)

    assert close(found, expected)
    assert found[0, 1] == found[1, 2] == 0.0


@pytest.mark.parametrize("method", MEASURED)
@pytest.mark.parametrize(("name", "kind"), [("bert", "sequence-classification"), ("llama", "causal-lm")])
@few
@given(data=st.data(), budget=st.integers(1, 120))
def test_no_method_depends_on_batches_or_order(name, kind, method, data, budget):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind, 5)
    expected = measure(model, task, method, batching=Batching(tokens=1))
    order = data.draw(st.permutations(range(len(task))))

    found = measure(model, task.subset(order), method, batching=Batching(tokens=budget))

    assert close(found, expected.to_numpy())


@pytest.mark.parametrize("method", MEASURED)
@pytest.mark.parametrize(("name", "kind"), [("gpt2", "causal-lm"), ("llama", "sequence-classification")])
def test_no_method_depends_on_the_padding_side(name, kind, method):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind, 6)
    right = measure(model, task, method, batching=Batching(tokens=60))

    left = measure(model, task, method, batching=Batching(tokens=60, padding_side="left"))

    assert close(left, right.to_numpy(), rtol=1e-7)


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_the_sizes_bound_one_another(name, kind):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind, 8)

    per_token, per_example, mean = (
        head_importance(model, task, method).values for method in ("gradient_per_token", "gradient", "taylor")
    )

    assert (per_token >= per_example - 1e-12).all()
    assert (per_example >= np.abs(mean) - 1e-12).all()
    assert (per_token > per_example + 1e-6).any()
    assert (per_example > np.abs(mean) + 1e-6).any()


def test_the_first_order_estimate_is_near_the_rise_where_heads_are_small():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    with torch.no_grad():
        for projection in projections(model.model):
            projection.weight.mul_(1e-3)

    estimate, rise = (head_importance(model, task, method) for method in ("taylor", "ablation"))

    assert np.allclose(estimate.values, rise.values, rtol=0.02, atol=1e-3 * np.abs(rise.values).max())


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_integrated_gradients_add_up_to_the_difference_of_losses(name, kind):
    model, task = under_test(name, kind, dtype=torch.float64), task_for(kind, 6)
    rows = list(plain_inputs(model.model, task))
    opened, closed = (mean_loss(model.model, rows, gate) for gate in (1.0, 0.0))

    found = head_importance(model, task, "integrated_gradients", steps=48)

    assert found.details["loss_open"] == pytest.approx(opened, rel=1e-9)
    assert found.details["loss_closed"] == pytest.approx(closed, rel=1e-9)
    assert found.details["steps"] == 48
    assert found.details["completeness_error"] < 0.02
    assert found.values.sum() == pytest.approx(closed - opened, abs=0.02 * abs(closed) + 1e-3)


def test_more_steps_leave_less_out():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")

    errors = [
        head_importance(model, task, "integrated_gradients", steps=steps).details["completeness_error"]
        for steps in (1, 4, 32)
    ]

    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("again", [False, True])
def test_a_path_of_too_few_points_warns_and_says_so_from_the_store_too(again):
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    if again:
        head_importance(model, task, "integrated_gradients", steps=1)

    with pytest.warns(BertologyWarning, match=r"miss \d+% of .*: raise steps from 1"):
        found = head_importance(model, task, "integrated_gradients", steps=1)

    assert found.details["completeness_error"] > 0.05


def test_completeness_survives_the_store_and_normalising(tmp_path):
    model, task = under_test("bert"), task_for("sequence-classification")
    found = []
    for _ in range(2):
        with using_store(ResultStore(tmp_path)) as store:
            found.append(head_importance(model, task, "integrated_gradients", steps=3))

    assert (store.computed, store.reused) == (0, 1)
    assert found[0].details == found[1].details == found[1].normalized().details
    assert np.array_equal(found[0].values, found[1].values)


def test_the_scripts_importance_is_the_scripts_formula_at_its_batch_size():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    expected = by_script(model.model, list(plain_inputs(model.model, task)), True, True)

    found = head_importance(model, task, "bertology")

    assert close(found, expected)
    assert found.values.min() == 0.0
    assert found.values.max() == 1.0


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("min_max", [False, True])
def test_the_scripts_normalisations_can_be_switched_off(per_layer, min_max):
    model, task = under_test("gpt2", "causal-lm", dtype=torch.float64), task_for("causal-lm")
    expected = by_script(model.model, list(plain_inputs(model.model, task)), per_layer, min_max)

    found = head_importance(model, task, "bertology", per_layer=per_layer, min_max=min_max)

    assert close(found, expected)


def test_the_scripts_importance_of_heads_that_are_all_equal_is_nought_and_no_nan():
    model, task = planted_model(Head(0, 0)), planted_task(4)

    with model.masked([(0, 0)]):
        found = head_importance(model, task, "bertology")

    assert not found.values.any()


def test_any_method_can_be_normalised():
    model, task = under_test("bert"), task_for("sequence-classification")
    plain = head_importance(model, task)

    found = head_importance(model, task, per_layer=True)

    assert np.array_equal(found.values, plain.normalized(per_layer=True, min_max=False).values)


@pytest.mark.parametrize("method", BY_GATES)
@pytest.mark.parametrize("head", [Head(0, 0), Head(1, 2), Head(2, 3)], ids=str)
def test_the_planted_head_is_first_and_the_others_nought(head, method):
    scores = head_importance(planted_model(head), planted_task(12), method)

    assert scores.rank(head) == 0
    assert scores[head] > 1e-3
    assert np.abs(np.delete(scores.values, scores.heads.index(head))).max() < 1e-6


@pytest.mark.parametrize("method", MEASURED)
def test_a_loss_or_state_that_is_not_finite_names_its_example(method):
    model, task = under_test("bert"), task_for("sequence-classification")
    texts = [text.replace("q", "r") for text in task.texts]
    texts[6] = "a q b"
    with torch.no_grad():
        model.model.get_input_embeddings().weight[VOCABULARY.index("q")] = float("nan")

    with pytest.raises(NonFinite, match="example 6 of letters"):
        head_importance(model, type(task)(task.name, task.kind, tuple(texts), task.labels), method)


@pytest.mark.parametrize("method", MEASURED)
def test_the_model_is_left_as_it_was(method):
    model, task = under_test("llama", "causal-lm"), task_for("causal-lm", 4)
    model.model.train()
    hooks = [len(module._forward_pre_hooks) for module in model.model.modules()]

    measure(model, task, method)

    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.model.parameters())
    assert all(module.training for module in model.model.modules())
    assert [len(module._forward_pre_hooks) for module in model.model.modules()] == hooks


@pytest.mark.parametrize("method", ["gradient_per_token", "integrated_gradients", "ablation", "confidence"])
def test_a_result_is_computed_once(method):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    with using_store(ResultStore()) as store:
        first = measure(model, task, method)
        computed = store.computed
        again = measure(model, task, method)
        with model.masked([(0, 0)]):
            masked = measure(model, task, method)

    assert store.computed > computed >= 1
    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, masked.values)


def test_the_kinds_of_gradient_share_one_run():
    model, task = under_test("bert"), task_for("sequence-classification", 4)

    with using_store(ResultStore()) as store:
        for method in ("gradient", "taylor", "bertology"):
            head_importance(model, task, method)

    assert (store.computed, store.reused) == (1, 2)


def test_steps_are_part_of_what_is_stored():
    model, task = under_test("bert"), task_for("sequence-classification", 4)

    found = [head_importance(model, task, "integrated_gradients", steps=steps).details["steps"] for steps in (2, 3)]

    assert found == [2, 3]


@pytest.mark.parametrize("method", ["gradient", "gradient_per_token", "integrated_gradients"])
def test_a_model_that_cannot_tell_examples_apart_is_run_one_by_one(method, monkeypatch):
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification", 5)
    expected = measure(model, task, method)
    monkeypatch.setattr(model, "check", type(model.check)(**{**vars(model.check), "per_example": False}))
    sizes = []
    model.model.register_forward_pre_hook(lambda m, a, k: sizes.append(len(k["input_ids"])), with_kwargs=True)

    found = measure(model, task, method)

    assert set(sizes) == {1}
    assert close(found, expected.to_numpy())


@pytest.mark.parametrize("method", ["gradient", "gradient_per_token", "integrated_gradients"])
def test_a_loss_that_does_not_read_a_layer_is_refused(method):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    model.model.bert.encoder.layer[0].register_forward_hook(lambda module, args, result: args[0])

    with pytest.raises(MaskNotApplied, match=r"layer\.0"):
        head_importance(model, task, method)


@pytest.mark.parametrize("method", ["gradient", "gradient_per_token", "integrated_gradients"])
def test_a_part_that_runs_without_gradients_is_refused(method, monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    layer = model.model.bert.encoder.layer[0]
    plain = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *args, **kwargs: torch.no_grad()(plain)(*args, **kwargs))

    with pytest.raises(CannotMeasure, match=r"layer\.0.* runs it without gradients"):
        head_importance(model, task, method)


def test_an_ablation_that_changes_nothing_is_refused():
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    model.model.bert.register_forward_hook(
        lambda module, args, result: type(result)(last_hidden_state=result[0], pooler_output=result[1] * 0)
    )

    with pytest.raises(MaskNotApplied, match="changes no loss"):
        head_importance(model, task, "ablation")


@pytest.mark.parametrize("method", IMPORTANCE_METHODS)
def test_heads_are_pruned_by_any_method(method):
    model, task = under_test("bert"), task_for("sequence-classification", 6)

    mask, scores = least_important(model, task, 0.25, method)

    assert len(mask.masked) == 2
    assert scores.method.startswith(method)
    assert set(mask.masked) == set(scores.bottom(2))
    norms = [np.linalg.norm(layer) for layer in scores.to_numpy()]
    assert (np.allclose(norms, 1.0)) == (method in ("gradient", "gradient_per_token"))


@pytest.mark.parametrize(
    "given",
    [
        lambda model: list(range(8)),
        lambda model: torch.arange(8.0, requires_grad=True),
        lambda model: np.arange(8).reshape(2, 4),
        lambda model: HeadScores(np.arange(8), model.heads, "another name"),
    ],
    ids=["list", "tensor", "table", "scores"],
)
def test_a_function_of_ones_own_is_a_method(given):
    model, task = under_test("bert"), task_for("sequence-classification", 4)

    def by_number(asked, of):
        assert (asked, of) == (model, task)
        return given(asked)

    found = head_importance(model, task, by_number)
    mask, _ = least_important(model, task, 0.25, by_number)

    assert found.method == "by_number"
    assert found.values.tolist() == list(range(8))
    assert mask.masked == (Head(0, 0), Head(0, 1))


def test_a_name_of_ones_own_holds_for_the_length_of_the_context():
    model = tiny_model()
    task = tiny_task(12, model)

    with using_importance_method("mine", lambda model, task: range(8, 0, -1)):
        found = head_importance(model, task, "mine")
        retained = assert_metric_retained(model, task, prune=0.125, by="mine", tolerance=0.9)

    assert found.method == "mine"
    assert retained.heads == (Head(1, 3),)
    with pytest.raises(InvalidArgument, match=r"confidence, random, a method of your own .*, or a function"):
        head_importance(model, task, "mine")


def test_scores_that_are_all_equal_prune_nothing_but_all():
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    equal = HeadScores(np.ones(8), model.heads, "constant")

    for by in (equal, lambda model, task: [0] * 8):
        with pytest.raises(UndefinedScore, match=r"the ranking .*scores are equal"):
            least_important(model, task, 0.25, by)
        with pytest.raises(UndefinedScore, match=r"the ranking .*scores are equal"):
            ordering_scores(model, task, by, HeadMask.keep_all(model.heads))
    assert len(least_important(model, task, 1.0, equal)[0].masked) == 8
    assert ordering_scores(model, task, lambda model, task: [0] * 8, HeadMask.without(model.heads, [(0, 0)]))[0, 0] == 0


@pytest.mark.parametrize("method", [lambda: [0] * 8, lambda model: [0] * 8, lambda model, task, more: [0] * 8])
def test_a_function_that_does_not_take_a_model_and_a_task_is_refused(method):
    with pytest.raises(InvalidArgument, match=r"called as method\(model, task\)"):
        head_importance(under_test("bert"), task_for("sequence-classification", 4), method)


def test_a_type_error_within_a_method_is_its_own():
    with pytest.raises(TypeError, match="theirs"):
        head_importance(under_test("bert"), task_for("sequence-classification", 4), _failing)


def _failing(model, task):
    raise TypeError("theirs")


def test_the_innermost_context_goes_first():
    model, task = under_test("bert"), task_for("sequence-classification", 4)

    with using_importance_method("mine", lambda model, task: [0] * 8):
        with using_importance_method("mine", lambda model, task: [1] * 8):
            inner = head_importance(model, task, "mine")
        outer = head_importance(model, task, "mine")

    assert (inner[0, 0], outer[0, 0]) == (1, 0)


@pytest.mark.parametrize(("name", "method"), [("gradient", len), ("", len), (3, len), ("mine", "theirs")])
def test_a_name_that_is_taken_or_a_method_that_is_none_is_refused(name, method):
    with pytest.raises(InvalidArgument), using_importance_method(name, method):
        pass


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([1.0, 2.0], r"list of shape \(2,\)"),
        (np.zeros((4, 2)), r"ndarray of shape \(4, 2\)"),
        (None, "it returned None"),
        ([float("nan")] * 8, "the importance method '<lambda>' must give; found NaN"),
        (["high"] * 8, "list"),
        ([0.0] * 7 + [float("inf")], "NaN or infinity for L1H3"),
    ],
)
def test_what_is_not_a_finite_number_per_head_is_refused(given, found):
    with pytest.raises(InvalidScores, match=found):
        head_importance(under_test("bert"), task_for("sequence-classification", 4), lambda model, task: given)


def test_scores_of_another_models_heads_are_refused():
    others = head_importance(planted_model(Head(0, 0)), planted_task(4), "random")

    with pytest.raises(MaskOfAnotherModel):
        head_importance(under_test("bert"), task_for("sequence-classification", 4), lambda model, task: others)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("gradients", {}, "one of gradient, .*, random, .* or a function"),
        (None, {}, "one of gradient"),
        ("taylor", {"steps": 8}, "taylor takes no steps"),
        ("integrated_gradients", {"steps": 0}, "a whole number from 1"),
        ("integrated_gradients", {"steps": 2.5}, "a whole number from 1"),
    ],
)
def test_what_is_not_valid_is_refused(method, options, says):
    with pytest.raises(InvalidArgument, match=says):
        head_importance(under_test("bert"), task_for("sequence-classification", 4), method, **options)


def test_the_documentation_names_every_method():
    assert [name for name in IMPORTANCE_METHODS if f'"{name}"' not in importance.head_importance.__doc__] == []


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("method", BY_GATES)
def test_a_method_on_sst2_is_the_brute_force_of_it(assets, method):
    model = load_model(assets / "checkpoints" / "minilm-sst2", dtype="float64")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(2))
    rows = [
        dict(model.tokenizer(text, return_tensors="pt")) | {"labels": torch.tensor([label])}
        for text, label in zip(task.texts, task.labels, strict=True)
    ]
    expected = brute_force(model.model, rows, method)

    found = measure(model, task, method)

    assert close(found, expected)


@pytest.mark.slow
@pytest.mark.assets
def test_the_default_path_is_complete_on_sst2(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(16))

    found = head_importance(model, task, "integrated_gradients")

    assert found.details["completeness_error"] < 0.05


def measure(model: ModelUnderTest, task, method, **options):
    """With what makes the numbers those of the definition: few steps, nothing normalised."""
    extra = {"steps": STEPS} if method == "integrated_gradients" else {}
    return head_importance(model, task, method, per_layer=False, min_max=False, **extra, **options)


def close(found, expected, rtol=1e-8, atol=1e-12):
    return np.allclose(found.to_numpy(), expected, rtol=rtol, atol=atol)


def brute_force(model, rows, method):
    """(layers, heads), each method by its definition, one example at a time."""
    shape = (len(projections(model)), model.config.num_attention_heads)
    total = np.zeros(shape)
    for inputs in rows:
        if method in ("gradient", "bertology"):
            total += slopes(model, inputs).abs().numpy()
        elif method == "taylor":
            total -= slopes(model, inputs).numpy()
        elif method == "integrated_gradients":
            # Gauss and Legendre's points of [0, 1], written out from their own definition.
            points, weights = np.polynomial.legendre.leggauss(STEPS)
            for point, weight in zip(points / 2 + 0.5, weights / 2, strict=True):
                total -= weight * slopes(model, inputs, point).numpy()
        elif method == "ablation":
            total += rises(model, inputs, shape)
        else:
            total += per_token(model, inputs, shape)
    tokens = sum(row["input_ids"].numel() for row in rows)
    return total / (tokens if method == "bertology" else len(rows))


def slopes(model, inputs, at=1.0):
    gates = torch.full((len(projections(model)), model.config.num_attention_heads), at, dtype=model.dtype)
    gates.requires_grad_(True)
    with gated(model, gates):
        return torch.autograd.grad(loss_of(model, inputs), gates)[0].double()


def rises(model, inputs, shape):
    found = np.zeros(shape)
    with torch.no_grad():
        before = float(loss_of(model, inputs))
        for layer, head in np.ndindex(*shape):
            gates = torch.ones(shape, dtype=model.dtype)
            gates[layer, head] = 0.0
            with gated(model, gates):
                found[layer, head] = float(loss_of(model, inputs)) - before
    return found


def per_token(model, inputs, shape):
    """Every token of every head has a gate of its own: the slopes by all of them."""
    length, size = inputs["input_ids"].shape[1], head_size(model)
    gates = torch.ones(shape[0], length, shape[1], dtype=model.dtype, requires_grad=True)

    def gate(layer):
        return lambda module, args: args[0] * gates[layer].repeat_interleave(size, dim=-1)

    hooks = [module.register_forward_pre_hook(gate(layer)) for layer, module in enumerate(projections(model))]
    found = torch.autograd.grad(loss_of(model, inputs), gates)[0].double()
    for hook in hooks:
        hook.remove()
    return found.abs().sum(dim=1).numpy()


@contextmanager
def gated(model, gates):
    size = head_size(model)

    def gate(layer):
        return lambda module, args: args[0] * gates[layer].repeat_interleave(size)

    hooks = [module.register_forward_pre_hook(gate(layer)) for layer, module in enumerate(projections(model))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mean_loss(model, rows, gate):
    gates = torch.full((len(projections(model)), model.config.num_attention_heads), gate, dtype=model.dtype)
    with torch.no_grad(), gated(model, gates):
        return float(np.mean([float(loss_of(model, inputs)) for inputs in rows]))


def loss_of(model, inputs):
    """The mean cross entropy of one example; transformers' own computes it in single precision."""
    labels = inputs["labels"]
    logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
    if "LM" in type(model).__name__:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def by_script(model, rows, per_layer, min_max):
    """`compute_heads_importance` of run_bertology.py at batch size 1, the gates zeroed of gradients between batches."""
    shape = (len(projections(model)), model.config.num_attention_heads)
    head_importance, tot_tokens = torch.zeros(shape, dtype=torch.float64), 0.0
    head_mask = torch.ones(shape, dtype=model.dtype, requires_grad=True)
    for inputs in rows:
        head_mask.grad = None
        with gated(model, head_mask):
            loss = loss_of(model, inputs)
            loss.backward(inputs=[head_mask])
        head_importance += head_mask.grad.abs().detach()
        tot_tokens += torch.ones_like(inputs["input_ids"]).float().detach().sum().data
    head_importance /= tot_tokens
    if per_layer:
        norm_by_layer = torch.pow(torch.pow(head_importance, 2).sum(-1), 1 / 2)
        head_importance /= norm_by_layer.unsqueeze(-1) + 1e-20
    if min_max:
        head_importance = (head_importance - head_importance.min()) / (head_importance.max() - head_importance.min())
    return head_importance.numpy()
