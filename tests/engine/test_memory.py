"""Out of memory: a model that fails on batches of more than so many tokens must give what it gives without failing.

Oracle: the same measures without the fault. It is put in from outside, in the forward of the model's class (which
nothing in the package sees) or as a hook of the user's (which makes the package leave its short cuts).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.memory import allowed, note_batch, out_of_memory, within_memory
from pytest_bertology.engine.recording import forget_recordings, record
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.errors import BertologyWarning, OutOfMemory, TooMuchMemory
from pytest_bertology.measures.attention import attention_statistics
from pytest_bertology.measures.attention_maps import AttentionMaps
from pytest_bertology.measures.constant_attention import constant_attention
from pytest_bertology.measures.distances import attention_distance, hidden_state_distance, logit_distance
from pytest_bertology.measures.divergence import head_divergence
from pytest_bertology.measures.evaluation import evaluate
from pytest_bertology.measures.hidden_states import HiddenStates
from pytest_bertology.measures.importance import head_importance
from pytest_bertology.measures.pattern_mass import pattern_mass
from pytest_bertology.measures.sensitivity import gradient_importance
from pytest_bertology.models import ModelUnderTest
from tests.tiny import tiny_model, tiny_task

TOKENS = 512
FITS = 120
"""Of the 24 sentences of the tiny task, some 190 tokens, the first batch fails and half of it does not."""
CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
CLOSE = 2e-6


@pytest.fixture
def model() -> ModelUnderTest:
    return tiny_model()


@pytest.fixture
def task(model):
    return tiny_task(24, model)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Nothing is found that was computed before."""
    forget_recordings()
    with using_store(ResultStore()):
        yield


class Fault:
    """Makes BERT's forward fail on more than `fits` tokens; counts how often it did."""

    def __init__(self, patch: pytest.MonkeyPatch, model: ModelUnderTest, error: Callable[[str], Exception]) -> None:
        self.fits, self.failed, self.seen = 10**9, 0, []
        kind = type(model.model)
        whole = kind.forward

        @functools.wraps(whole)
        def forward(module, *args, **kwargs):
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            self.seen.append(ids.numel())
            if ids.numel() > self.fits:
                self.failed += 1
                raise error(f"{CPU} {ids.numel()} bytes")
            return whole(module, *args, **kwargs)

        patch.setattr(kind, "forward", forward)


@pytest.fixture
def fault(monkeypatch, model) -> Fault:
    return Fault(monkeypatch, model, torch.OutOfMemoryError)


MEASURES: dict[str, Callable] = {
    "evaluate": lambda model, task: evaluate(model, task).raw.logits,
    "evaluate, losses": lambda model, task: evaluate(model, task).losses,
    "gradient": lambda model, task: gradient_importance(model, task).values,
    "token gradient": lambda model, task: head_importance(model, task, "gradient_per_token").values,
    "ablation": lambda model, task: head_importance(model, task, "ablation").values,
    "confidence": lambda model, task: head_importance(model, task, "confidence").values,
    "attention statistics": lambda model, task: attention_statistics(model, task).entropy.values,
    "divergence": lambda model, task: head_divergence(model, task).sum,
    "pattern": lambda model, task: pattern_mass(model, task, "previous").values,
    "constant attention": lambda model, task: constant_attention(model, task).tables[0],
    "attention maps": lambda model, task: np.concatenate([m.ravel() for m in AttentionMaps(model, task)[1]]),
    "hidden states": lambda model, task: np.concatenate(HiddenStates(model, task)[2]),
    "logit distance": lambda model, task: logit_distance(model, tiny_model(seed=1), task).cross_entropy,
    "attention distance": lambda model, task: attention_distance(model, tiny_model(seed=1), task).overall,
    "state distance": lambda model, task: hidden_state_distance(model, tiny_model(seed=1), task).overall,
    "recorded states": lambda model, task: recorded(model, task),
}


def recorded(model, task):
    texts = read_texts(model, task)
    units = [[np.array([at]) for at in range(len(texts.ids(index)))] for index in range(len(texts))]
    return record(model, texts, units, what="a test").vectors(2)


@pytest.mark.parametrize("name", MEASURES)
def test_half_the_batch_gives_what_the_whole_gives(name, model, task, fault):
    measure = MEASURES[name]
    expected = np.asarray(measure(model, task))
    forget_recordings()
    with using_store(ResultStore()):
        fault.fits = FITS
        with pytest.warns(BertologyWarning, match="did not fit in memory") as told:
            found = np.asarray(measure(model, task))

    assert fault.failed == 1
    assert len([each for each in told if "did not fit" in str(each.message)]) == 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * max(1.0, float(np.abs(expected).max())))


def test_the_error_of_the_cpu_s_allocator_is_one_of_memory(model, task, monkeypatch):
    expected = evaluate(model, task).raw
    fault = Fault(monkeypatch, model, RuntimeError)
    fault.fits = FITS

    with using_store(ResultStore()), pytest.warns(BertologyWarning, match="alloc_cpu"):
        found = evaluate(model, task).raw

    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=CLOSE)
    assert found.predictions.tolist() == expected.predictions.tolist()


def test_a_hook_of_the_user_s_that_fails_is_met_alike(model, task):
    def refuse(module, args, kwargs):
        if kwargs["input_ids"].numel() > FITS:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    expected = evaluate(model, task), head_importance(model, task, "ablation")
    handle = model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        with pytest.warns(BertologyWarning, match="Tried to allocate 20 MiB"):
            found = evaluate(model, task), head_importance(model, task, "ablation")
    finally:
        handle.remove()

    np.testing.assert_allclose(found[0].losses, expected[0].losses, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(found[1].values, expected[1].values, rtol=0, atol=CLOSE)


def test_what_was_seen_to_fit_is_where_later_computations_begin(model, task, fault):
    fault.fits = FITS
    with pytest.warns(BertologyWarning, match="an evaluation of") as told:
        evaluate(model, task)
    fault.seen.clear()

    evaluate(model, task, [(0, 1)])  # without a warning, which would be an error

    assert fault.failed == 1
    assert 0 < max(fault.seen) <= FITS
    assert max(fault.seen) <= int(str(told[0].message).split("at most ")[1].split()[0])


def test_a_budget_that_was_given_is_halved_too_and_named(model, task, fault):
    fault.fits = 40

    with pytest.warns(BertologyWarning, match=r"a batch of \d+ tokens .* at most 3\d tokens"):
        evaluate(model, task, batching=Batching(tokens=64))

    assert fault.failed == 1


def test_a_second_time_is_an_error_that_says_what_to_do(model, task, fault):
    fault.fits = 20

    with (
        pytest.warns(BertologyWarning),
        pytest.raises(OutOfMemory, match="longest example until then had 8 tokens") as caught,
    ):
        evaluate(model, task)

    assert fault.failed == 2
    assert caught.value.what == "an evaluation"
    assert 80 < caught.value.budget <= 120
    assert isinstance(caught.value, MemoryError)


def test_an_example_that_does_not_fit_alone_is_an_error_at_once(model, task, fault):
    fault.fits = 8

    with pytest.raises(OutOfMemory, match="not even one example at a time"):
        evaluate(model, task, batching=Batching(tokens=1))

    assert fault.failed == 1


def test_a_result_is_stored_once_and_masks_stay_in_force(model, task, fault):
    store = ResultStore()
    with model.masked([(0, 1)]):
        expected = evaluate(model, task)
        fault.fits = FITS
        with using_store(store):
            with pytest.warns(BertologyWarning):
                found = evaluate(model, task)
            again = evaluate(model, task)

    assert store.computed == 1
    assert found.mask.masked == expected.mask.masked
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0, atol=CLOSE)
    assert again.losses.tolist() == found.losses.tolist()


def test_what_failed_holds_no_memory_when_it_is_computed_again():
    class Large:
        pass

    alive = []

    def compute() -> int:
        held = Large()
        alive.append(weakref.ref(held))
        note_batch(4, 10)
        if len(alive) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert alive[0]() is None
        return allowed(TOKENS)

    with pytest.warns(BertologyWarning):
        found = within_memory("a test", Large(), compute)

    assert found == 20
    assert allowed(TOKENS) == TOKENS


def test_the_innermost_computation_is_the_one_that_is_repeated():
    model, ran = tiny_model(), {"outer": 0, "inner": 0}

    def inner() -> int:
        ran["inner"] += 1
        note_batch(2, 10)
        if ran["inner"] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ran["inner"]

    def outer() -> int:
        ran["outer"] += 1
        return within_memory("inner", model, inner)

    with pytest.warns(BertologyWarning, match="inner of"):
        found = within_memory("outer", model, outer)

    assert found == 2
    assert ran == {"outer": 1, "inner": 2}


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), TooMuchMemory("maps", 2, 1, "Ask for less."), ValueError("CUDA error")]
)
def test_other_errors_are_left_as_they_are(error):
    def compute() -> None:
        note_batch(2, 10)
        raise error

    assert not out_of_memory(error)
    with pytest.raises(type(error)) as caught:
        within_memory("a test", tiny_model(), compute)
    assert caught.value is error


def test_an_error_of_memory_before_any_batch_is_left_as_it_is():
    def compute() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory("a test", tiny_model(), compute)
