"""Times in pairs: bounds against exact binomial probabilities by `math.comb`, speed against a planted sleep."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import ModelUnderTest, load_model, timing
from pytest_bertology.engine.progress import reporting_to
from pytest_bertology.errors import InvalidArgument, NonFinite
from pytest_bertology.measures.timing import Timing
from pytest_bertology.statistics import median_bounds, pairs_needed
from tests.tiny import tiny_model, tiny_task

SLEEP = 0.02


@contextmanager
def slowed(model: ModelUnderTest) -> Iterator[None]:
    handle = model.model.register_forward_hook(lambda *_: time.sleep(SLEEP))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def calls_of(model: ModelUnderTest, name: str, log: list[tuple[str, Any]]) -> Iterator[None]:
    def note(module: object, args: object, kwargs: dict[str, Any]) -> None:
        log.append((name, kwargs["input_ids"].tolist()))

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


# -- bounds ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.floats(0.5, 0.999))
def test_the_bounds_are_the_tightest_order_statistics_that_keep_the_confidence(n, confidence):
    values = np.random.default_rng(n).permutation(n).astype(float)
    at_least = [sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n for k in range(1, n + 1)]
    ranks = [k for k, chance in enumerate(at_least, 1) if chance >= confidence - 1e-12]

    lower, upper = median_bounds(values, confidence)

    if not ranks:
        assert (lower, upper) == (-math.inf, math.inf)
        assert n < pairs_needed(confidence)
    else:
        assert lower == max(ranks) - 1
        assert upper == n - max(ranks)
        assert n >= pairs_needed(confidence)


@pytest.mark.parametrize(("confidence", "needed"), [(0.5, 1), (0.75, 2), (0.9, 4), (0.95, 5), (0.99, 7)])
def test_so_many_pairs_are_needed(confidence, needed):
    assert pairs_needed(confidence) == needed
    assert 1 - 0.5**needed >= confidence > 1 - 0.5 ** (needed - 1) or needed == 1


def test_the_bound_covers_the_median_as_often_as_it_says():
    drawn = np.random.default_rng(0).lognormal(0.2, 1.0, size=(4000, 11))

    covered = np.mean([median_bounds(row, 0.9)[0] <= math.exp(0.2) for row in drawn])

    assert covered > 0.9 - 0.015


def test_ratios_latency_and_throughput_are_of_the_times_measured():
    found = Timing("a", "b", np.array([1.0, 2.0, 4.0, 8.0]), np.full(4, 4.0), batches=2, examples=8, confidence=0.75)

    assert found.ratios.tolist() == [4.0, 2.0, 1.0, 0.5]
    assert found.speedup == 1.5
    assert (found.lower, found.upper) == (0.5, 4.0)  # the second smallest is below the median with 11/16 only
    assert found.latency == (0.875, 1.5, 2.5)
    assert found.reference_latency == (2.0, 2.0, 2.0)
    assert found.throughput.median == np.median([8.0, 4.0, 2.0, 1.0])
    assert found.reference_throughput.median == 2.0


# -- measuring ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["task", "sample", "inputs"])
def test_a_model_that_sleeps_is_told_to_be_slower(where):
    model, reference = tiny_model(seed=0), tiny_model(seed=1)
    options = {"task": {"task": tiny_task(8)}, "sample": {}, "inputs": {"inputs": model.sample()}}[where]

    with slowed(reference):
        found = timing(model, reference, **options, pairs=7, warmup=1)

    assert found.lower > 1.0
    assert found.reference_latency.lower > SLEEP
    assert found.batches == 1


def test_the_two_run_the_same_batches_in_turns():
    model, reference, task = tiny_model(seed=0), tiny_model(seed=1), tiny_task(12)
    log: list[tuple[str, Any]] = []

    with calls_of(model, "model", log), calls_of(reference, "reference", log):
        found = timing(model, reference, task, pairs=6, warmup=2, examples=4, tokens=1)

    assert (found.batches, found.examples, len(found.seconds)) == (4, 4, 6)
    ours, theirs = ([rows for name, rows in log if name == who] for who in ("model", "reference"))
    assert ours == theirs == ours[:4] * 9  # a pass that looks for NaN, two to warm up, six that count
    passes = [log[i][0] for i in range(0, len(log), 4)]
    assert all(log[i][0] == passes[i // 4] for i in range(len(log)))
    pairs = [tuple(passes[i : i + 2]) for i in range(0, len(passes), 2)]
    assert all(set(pair) == {"model", "reference"} for pair in pairs)
    assert sum(pair[0] == "model" for pair in pairs[3:]) == 3


def test_the_examples_are_drawn_by_the_seed():
    model, reference, task = tiny_model(seed=0), tiny_model(seed=1), tiny_task(24)
    drawn = []
    for seed in (0, 0, 1):
        log: list[tuple[str, Any]] = []
        with calls_of(model, "model", log):
            timing(model, reference, task, pairs=5, warmup=1, examples=4, seed=seed)
        drawn.append(log)

    assert drawn[0] == drawn[1] != drawn[2]


def test_progress_counts_the_examples_of_all_passes():
    shown: list[Any] = []

    @contextmanager
    def reporter(title: str, total: int) -> Iterator[Any]:
        shown.append(total)
        yield shown.append

    with reporting_to(reporter):
        timing(tiny_model(), tiny_model(seed=1), tiny_task(4), pairs=5, warmup=1)

    assert shown == [48, 8, 16, 24, 32, 40, 48]


def test_timing_leaves_mode_and_gradients_as_they_were():
    model, reference = tiny_model(), tiny_model(seed=1)
    model.model.train()

    timing(model, reference, tiny_task(4), pairs=5, warmup=1)

    assert model.model.training
    assert all(parameter.requires_grad for parameter in model.model.parameters())


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pairs": 4}, "pairs=4 .* from 5: fewer cannot give 0.95 confidence"),
        ({"pairs": 6, "confidence": 0.99}, "from 7: fewer cannot give 0.99"),
        ({"pairs": True}, "pairs=True"),
        ({"warmup": 0}, "warmup=0 .* from 1"),
        ({"examples": 0}, "examples=0"),
        ({"examples": 2.0}, "examples=2.0"),
        ({"tokens": 0}, "tokens=0"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"confidence": math.nan}, "confidence=nan"),
        ({"inputs": {"input_ids": torch.ones(1, 3)}}, "one of task and inputs"),
    ],
)
def test_numbers_that_cannot_serve_are_refused(options, match):
    with pytest.raises(InvalidArgument, match=match):
        timing(tiny_model(), tiny_model(seed=1), tiny_task(4), **options)


def test_a_model_is_not_timed_against_itself():
    model = tiny_model()

    with pytest.raises(InvalidArgument, match=r"reference=.*another model"):
        timing(model, model, tiny_task(4))


@pytest.mark.parametrize("inputs", [{}, torch.ones(1, 3), "text"])
def test_inputs_that_are_none_are_refused(inputs):
    with pytest.raises(InvalidArgument, match="the keyword inputs of one forward pass"):
        timing(tiny_model(), tiny_model(seed=1), inputs=inputs)


def test_a_masked_model_is_not_timed():
    model, reference = tiny_model(), tiny_model(seed=1)

    with model.masked([(0, 0)]), pytest.raises(InvalidArgument, match="takes its time all the same"):
        timing(model, reference, tiny_task(4))


def test_samples_of_other_shapes_are_not_compared():
    longer = load_model(tiny_model(seed=1).model, sample={"input_ids": torch.full((1, 9), 7)})

    with pytest.raises(InvalidArgument, match="inputs that both models read, or a task"):
        timing(tiny_model(), longer)


@pytest.mark.parametrize(("model", "reference"), [("./folder", None), (None, "./folder")])
def test_what_is_no_loaded_model_is_refused(model, reference):
    with pytest.raises(InvalidArgument, match="load_model"):
        timing(model or tiny_model(), reference or tiny_model(), tiny_task(4))


def test_a_model_that_gives_nan_is_not_timed():
    broken = tiny_model()
    with torch.no_grad():
        broken.model.classifier.weight.fill_(math.nan)

    with pytest.raises(NonFinite, match="batch 0 of"):
        timing(broken, tiny_model(seed=1), tiny_task(4))
