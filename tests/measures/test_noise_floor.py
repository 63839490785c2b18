"""The noise floor beside what plain transformers code does: other batches, padding, backends and dtypes, by hand.

Nothing of the engine is used for the oracle: the tokenizer pads, the model runs, numbers are compared. Floors that
follow from margins are worked out by hand.
"""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

import pytest_bertology.measures.noise_floor as noise
from pytest_bertology.checks.layers import assert_layers_droppable
from pytest_bertology.checks.retention import assert_metric_retained
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.errors import InvalidArgument, ToleranceBelowNoise
from pytest_bertology.measures.evaluation import evaluate
from pytest_bertology.measures.noise_floor import NoiseFloors, check_above_noise, noise_floor, refusing_below_noise
from pytest_bertology.measures.noise_passes import Measured, Pass, Variant, attending_by
from pytest_bertology.measures.noise_report import FACTORS
from pytest_bertology.models import load_model
from pytest_bertology.tasks import load_task
from tests.tiny import LABELS, sentences, tiny_model, tiny_task

KINDS = {
    "sequence-classification": ("bert", "accuracy"),
    "token-classification": ("bert", "accuracy"),
    "regression": ("bert", "loss"),
    "masked-lm": ("bert", "accuracy"),
    "causal-lm": ("gpt2", "perplexity"),
}


def task_of(kind, n=12):
    texts = sentences(n)
    if kind == "sequence-classification":
        return tiny_task(n)
    if kind == "token-classification":
        words = [text.split() for text in texts]
        return load_task({"tokens": words, "tags": [[LABELS[len(w) % 2] for w in each] for each in words]})
    if kind == "regression":
        return load_task({"text": texts, "label": [0.3 * at for at in range(n)]}, metric="loss")
    return load_task({"text": texts})


def plain(model, texts, tokenizer, groups, side="right", width=None):
    """(texts, outputs) logits of a classifier, batch by batch as the tokenizer pads them."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    found = {}
    padding = {"padding": "max_length", "max_length": width} if width else {"padding": True}
    with torch.no_grad():
        for group in groups:
            batch = tokenizer([texts[at] for at in group], return_tensors="pt", **padding)
            found.update(zip(group, model(**batch).logits.double(), strict=True))
    return torch.stack([found[at] for at in range(len(texts))]).numpy()


def by_length(task, tokenizer):
    """All texts in one batch, the shortest first, as the usual pass over few of them has it."""
    return [sorted(range(len(task)), key=lambda at: (len(tokenizer(task.texts[at])["input_ids"]), at))]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def task(model):
    return tiny_task(16, model)


@pytest.fixture(scope="module")
def floor(model, task):
    return noise_floor(model, task)


@pytest.mark.slow
def test_each_setting_is_what_plain_transformers_code_gives_for_it(model, task, floor):
    tokenizer, usual = model.tokenizer, by_length(task, model.tokenizer)
    before = plain(model.model, task.texts, tokenizer, usual)
    longest = max(len(tokenizer(text)["input_ids"]) for text in task.texts)
    with torch.no_grad():
        eager = copy.deepcopy(model.model)
        eager.set_attn_implementation("eager")
    after = {
        "one example at a time": plain(model.model, task.texts, tokenizer, [[at] for at in range(len(task))]),
        "8 more on the right": plain(model.model, task.texts, tokenizer, usual, width=longest + 8),
        "eager for sdpa": plain(eager, task.texts, tokenizer, usual),
        "float64": plain(copy.deepcopy(model.model).double(), task.texts, tokenizer, usual),
        "bfloat16": plain(copy.deepcopy(model.model).bfloat16(), task.texts, tokenizer, usual),
    }
    found = {each.setting: each.logits for each in floor.settings if each.setting in after}

    expected = {setting: float(np.abs(logits - before).max()) for setting, logits in after.items()}

    assert found == pytest.approx(expected, rel=0, abs=1e-12)
    assert all(found.values())


def test_left_padding_is_measured_where_the_tokenizer_may_pad_there():
    model = tiny_model("causal-lm", "gpt2")
    floor = noise_floor(model, task_of("causal-lm"), factors=["padding"])

    assert [each.setting for each in floor.factor("padding")] == ["8 more on the right", "8 more on the left"]
    assert floor.left_out == ()


def test_left_padding_is_left_out_where_a_model_reads_its_first_token(floor):
    assert [name for name, _ in floor.left_out] == ["padding, 8 more on the left"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_has_a_floor(kind):
    family, metric = KINDS[kind]
    model, task = tiny_model(kind, family), task_of(kind).with_metric(metric)

    found = noise_floor(model, task, factors=["batch", "dtype"])

    assert found.score == pytest.approx(evaluate(model, task).score, abs=1e-6)
    assert {each.factor for each in found.settings} == {"batch", "dtype"}
    assert 0.0 < found.factor("batch")[0].logits < 1e-4 < found.factor("dtype")[1].logits
    assert (found.floor > 0.0) == (metric != "accuracy")
    assert found.items == sum(len(np.atleast_1d(each)) for each in evaluate(model, task).labels)


def test_masks_in_force_are_in_force_in_copies_too(model, task):
    with model.masked([(0, 1), (1, 2)]):
        found = noise_floor(model, task.with_metric("loss"), factors=["dtype", "batch"])
        expected = evaluate(model, task.with_metric("loss")).score

    assert found.score == pytest.approx(expected, abs=1e-6)
    assert abs(found.factor("dtype")[0].change) < 1e-5
    assert abs(found.score - evaluate(model, task.with_metric("loss")).score) > 1e-3


def test_nothing_is_stored_and_all_is_as_before(model, task):
    store, threads, drawn = ResultStore(), torch.get_num_threads(), torch.random.get_rng_state()
    python = random.getstate()
    digest, hooks = model.digest(), sum(len(module._forward_pre_hooks) for module in model.model.modules())
    with using_store(store):
        noise_floor(model, task)

    assert (store.computed, store.reused) == (0, 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert random.getstate() == python
    assert model.digest() == digest
    assert sum(len(module._forward_pre_hooks) for module in model.model.modules()) == hooks


def test_the_attention_implementation_is_put_back_after_an_error(model):
    def fail():
        raise KeyError(model.model.config._attn_implementation)

    with pytest.raises(KeyError, match="eager"), attending_by(model.model, "eager"):
        fail()

    assert model.model.config._attn_implementation == "sdpa"


def test_threads_are_put_back_after_an_error(model, task, monkeypatch):
    monkeypatch.setattr("pytest_bertology.measures.noise_passes.judge", _failing_with_threads)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found = noise_floor(model, task, factors=["threads"])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)

    assert ("threads, 2 threads for 1", "RuntimeError: no threads") in found.left_out


def _failing_with_threads(*arguments, **options):
    from pytest_bertology.engine.objectives import judge

    if torch.get_num_threads() > 1:
        raise RuntimeError("no threads")
    return judge(*arguments, **options)


def made(margins, moved, labels, losses=0.0):
    """Passes of a binary classifier: its margins by hand, and another pass whose first logit is `moved` further."""
    margins, labels = np.array(margins), np.array(labels)
    logits = np.stack([np.maximum(margins, 0.0), np.maximum(-margins, 0.0)], axis=1)
    predictions, empty = (margins < 0).astype(int), np.zeros((len(margins), 0))
    usual = Pass(
        np.full(len(margins), 0.5),
        np.ones(len(margins)),
        labels,
        predictions,
        1 - predictions,
        np.abs(margins),
        logits,
        empty,
    )
    other = copy.copy(usual)
    object.__setattr__(other, "logits", logits + np.array([moved, 0.0]))
    object.__setattr__(other, "losses", usual.losses + losses)
    return Measured(usual, (Variant("batch", "shuffled", other),), ())


def judged(model, found, metric="accuracy"):
    task = tiny_task(len(found.usual.labels)).with_metric(metric)
    return noise._judged(model, task, encode(model, task), found)


def test_predictions_near_a_tie_count_as_if_they_turned(model):
    # Right, right, wrong, right, wrong, of which the second, third and fourth are within 2 · 0.05 of a tie.
    found = judged(model, made([1.0, 0.09, -0.02, 0.1, -2.0], 0.05, [0, 0, 0, 0, 0]))

    (setting,) = found.settings
    assert (setting.near, setting.change, setting.changed) == (3, 0.0, 0)
    assert found.score == pytest.approx(3 / 5)
    assert setting.implied == pytest.approx(2 / 5)  # two right ones turn wrong, which is more than one wrong one right
    assert found.floor == found.least_tolerance == pytest.approx(2 / 5)


def test_of_losses_the_greatest_change_counts_for_all(model):
    found = judged(model, made([1.0, 1.0], 0.01, [0, 0], losses=0.125), "loss")

    assert found.settings[0].change == pytest.approx(0.125)
    assert found.floor == pytest.approx(0.125)


def test_less_precise_dtypes_do_not_count_and_more_precise_ones_are_told_as_rounding(model, task, floor):
    by_loss = noise_floor(model, task.with_metric("loss"))
    dtypes = {each.setting: each for each in by_loss.dtypes}

    assert [each.setting for each in by_loss.settings if each.finer] == ["float64"]
    assert by_loss.rounding == dtypes["float64"].floor > 0.0
    assert by_loss.least_tolerance == max(by_loss.floor, by_loss.rounding) < dtypes["bfloat16"].floor
    assert by_loss.floor == max(each.floor for each in by_loss.settings if each.factor != "dtype")
    assert "(does not count)" in floor.table()
    assert len(floor.table().splitlines()) == 2 + len(floor.settings) + len(floor.left_out) + 1


def test_a_half_precision_model_is_rounded_by_what_float32_changes():
    model = tiny_model()
    model.model.to(torch.bfloat16)
    half = load_model(model.model, kind="sequence-classification", tokenizer=model.tokenizer)

    found = noise_floor(half, tiny_task(16).with_metric("loss"), factors=["dtype"])

    assert found.dtype == "bfloat16"
    assert [(each.setting, each.finer) for each in found.settings] == [("float32", True)]
    assert found.floor == 0.0
    assert found.least_tolerance == found.rounding > 1e-5


def near_ties(seed):
    """A model all of whose examples are nearly ties, and a task of its own predictions one text at a time."""
    model = tiny_model(seed=seed)
    with torch.no_grad():
        weight, bias = model.model.classifier.weight, model.model.classifier.bias
        weight[1] = weight[0] + 2e-7 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(seed))
        bias[1] = bias[0]
    texts = sentences(40)
    alone = plain(model.model, texts, model.tokenizer, [[at] for at in range(len(texts))])
    return model, load_task({"text": texts, "label": [LABELS[at] for at in alone.argmax(axis=1)]})


def shuffles(count, n, seed=0):
    generator = random.Random(seed)
    for _ in range(count):
        order, size = list(range(n)), generator.randint(1, n)
        generator.shuffle(order)
        yield [order[at : at + size] for at in range(0, n, size)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_the_floor_is_above_what_re_batching_does_to_a_model_full_of_ties(seed):
    model, task = near_ties(seed)
    labels = np.array([LABELS.index(label) for label in task.labels])

    found = noise_floor(model, task)

    scores = []
    for groups in shuffles(20, len(task)):
        logits = plain(model.model, task.texts, model.tokenizer, groups)
        scores.append(float((logits.argmax(axis=1) == labels).mean()))
    moved = max(abs(score - found.score) for score in scores)
    assert 0.0 < moved <= found.floor


@pytest.mark.slow
@pytest.mark.assets
def test_the_floor_is_above_what_re_batching_does_to_minilm(assets):
    folder = assets / "checkpoints" / "minilm-sst2"
    model = load_model(folder)
    whole = load_task(assets / "data" / "sst2" / "dev.tsv")
    short = sorted(range(len(whole)), key=lambda at: len(whole.texts[at]))[:48]
    texts, names = [whole.texts[at] for at in short], [str(whole.labels[at]) for at in short]
    task = load_task({"text": texts, "label": [int(name) for name in names]}).with_metric("loss")
    known = torch.tensor([int(name) for name in names])

    found = noise_floor(model, task, factors=["batch", "padding"])

    assert model.model.config.num_labels == 2
    moved, logits = [], []
    usual = plain(model.model, texts, model.tokenizer, by_length(task, model.tokenizer))
    for groups in shuffles(20, len(texts)):
        other = plain(model.model, texts, model.tokenizer, groups)
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(other), known)
        moved.append(abs(float(loss) - found.score))
        logits.append(float(np.abs(other - usual).max()))
    assert 0.0 < max(moved) <= found.floor < 1e-4
    assert max(logits) <= 2 * max(each.logits for each in found.settings)


@pytest.mark.parametrize("factors", [(), ("batch", "weather"), "weather"])
def test_factors_that_are_none_are_refused(model, task, factors):
    with pytest.raises(InvalidArgument, match="batch, padding, attention, threads, dtype"):
        noise_floor(model, task, factors=factors)


def test_a_factor_is_asked_for_by_name(floor):
    assert [each.factor for each in floor.factor("attention")] == ["attention"]
    with pytest.raises(InvalidArgument):
        floor.factor("weather")


def test_it_is_made_of_primitives_for_reports(floor):
    import json

    assert json.loads(json.dumps(floor.to_jsonable()))["settings"][0]["setting"] == "one example at a time"
    assert {each.factor for each in floor.settings} == set(FACTORS)


@pytest.fixture
def counted(monkeypatch):
    """Counts how often floors are measured."""
    calls = []
    whole = noise.measured

    def measured(*arguments):
        calls.append(arguments[0].name)
        return whole(*arguments)

    monkeypatch.setattr(noise, "measured", measured)
    return calls


def test_checks_refuse_a_tolerance_below_the_floor_and_say_what_makes_it(model, task, counted):
    with refusing_below_noise() as floors:
        with pytest.raises(ToleranceBelowNoise) as caught:
            assert_metric_retained(model, task, heads=[(0, 1)], metric="loss", tolerance=1e-8)
        with pytest.raises(ToleranceBelowNoise):
            assert_layers_droppable(model, task, [1], metric="loss", tolerance=0.0)
        assert_metric_retained(model, task, heads=[(0, 1)], metric="loss", tolerance=50.0)
        assert_metric_retained(model, task, heads=[(0, 1)], tolerance=0.99)

    (by_loss, by_accuracy) = floors.floors.values()
    assert len(counted) == 1
    assert (by_loss.metric, by_accuracy.metric) == ("loss", "accuracy")
    assert caught.value.floor == by_loss.least_tolerance
    assert by_loss.worst is not None
    assert by_loss.worst.setting in str(caught.value)
    assert f"Allow at least {by_loss.least_tolerance:.3g}" in str(caught.value)
    check_above_noise(model, task.with_metric("loss"), 0.0)  # nothing is refused outside


def test_a_relative_tolerance_is_compared_in_units_of_the_metric(model, task, counted):
    task = task.with_metric("loss")
    with refusing_below_noise() as floors:
        found = floors.of(model, task)
        check_above_noise(model, task, found.least_tolerance)
        check_above_noise(model, task, 1.01 * found.least_tolerance / found.score, relative=True)
        with pytest.raises(ToleranceBelowNoise, match="relative"):
            check_above_noise(model, task, 0.99 * found.least_tolerance / found.score, relative=True)

    assert len(counted) == 1


def test_the_floor_of_a_check_is_that_of_the_model_as_trained(model, task, counted):
    heard = []
    floors = NoiseFloors(heard=heard.append)
    with refusing_below_noise(floors):
        check_above_noise(model, task, 0.5)
        with model.masked([(0, 1)]):
            check_above_noise(model, task, 0.5)
    with refusing_below_noise(floors):
        check_above_noise(model, task, 0.5)

    assert len(counted) == len(heard) == 1
    assert heard[0].score == evaluate(model, task).score
