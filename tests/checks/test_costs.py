"""Speed and size checks: a planted sleep makes a model slower, and bytes are counted by hand."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import numpy as np
import pytest
import torch

from pytest_bertology import CheckFailed, assert_faster, assert_smaller, load_model
from pytest_bertology.checks import costs
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.timing import Timing
from tests.tiny import tiny_model, tiny_task

QUICK: dict[str, Any] = {"pairs": 6, "warmup": 1, "examples": 4}
SLEEP = 0.02


def sleeping(seed: int = 1):
    model = tiny_model(seed=seed)
    model.model.register_forward_hook(lambda *_: time.sleep(SLEEP))
    return model


def measured(monkeypatch, ratios: list[float]) -> Timing:
    """Have the check find these ratios, of a model that takes a millisecond."""
    seconds = np.full(len(ratios), 0.001)
    found = Timing("lean", "bert", seconds, seconds * ratios, batches=1, examples=4, confidence=0.95)
    monkeypatch.setattr(costs, "timing", lambda *_, **__: found)
    return found


# -- faster ------------------------------------------------------------------------------------------------------


def test_a_model_is_faster_than_one_that_sleeps():
    found = assert_faster(tiny_model(), sleeping(), tiny_task(4), 1.01, **QUICK)

    assert found.lower >= 1.01
    assert found.reference_latency.lower > SLEEP


@pytest.mark.parametrize("task", [tiny_task(4), None])
def test_a_model_that_sleeps_is_not_faster(task):
    with pytest.raises(CheckFailed, match="is not 1 times as fast as its reference"):
        assert_faster(sleeping(), tiny_model(), task, 1.0, **QUICK)


def test_what_counts_is_the_lower_bound_and_not_the_median(monkeypatch):
    found = measured(monkeypatch, [1.1, 1.2, 1.3, 1.4, 1.5])  # five: the bound is the smallest
    model, reference = tiny_model(), tiny_model(seed=1)

    assert assert_faster(model, reference, None, 1.1) is found
    with pytest.raises(CheckFailed):
        assert_faster(model, reference, None, 1.11)


def test_the_failure_shows_ratio_bound_quartiles_and_pairs(monkeypatch):
    measured(monkeypatch, [1.1, 1.2, 1.3, 1.4, 1.5])

    with pytest.raises(CheckFailed) as caught:
        assert_faster(tiny_model(), tiny_model(seed=1), tiny_task(4), 1.25)

    message = " ".join(str(caught.value).split())
    title = "it cannot be told whether lean is 1.25 times as fast as its reference bert: observed 1.3 times"
    assert message.startswith(title)
    assert "lean (float32 on cpu): median 1 ms, quartiles 1 ms to 1 ms per batch, 4000 examples per second" in message
    assert "reference bert: median 1.3 ms, quartiles 1.2 ms to 1.4 ms per batch, 3077 examples" in message
    assert "ratio median 1.300, quartiles 1.200 to 1.400 of 5 pairs, reference by model" in message
    assert "at least 1.1 with 0.95 confidence (order statistic); required: at least 1.25." in message
    assert "The median itself reaches that, but 5 pairs do not establish it" in message
    assert "4 examples in 1 batch" in message


def test_a_plain_failure_asks_for_no_more_pairs(monkeypatch):
    measured(monkeypatch, [0.9] * 6)

    with pytest.raises(CheckFailed) as caught:
        assert_faster(tiny_model(), tiny_model(seed=1), tiny_task(4), 1.0)

    assert "do not establish" not in str(caught.value)


def test_the_verdict_of_a_speed_check_is_heard(monkeypatch):
    measured(monkeypatch, [2.0, 3.0, 4.0, 5.0, 6.0])
    task, heard = tiny_task(4), list[Verdict]()

    with hearing(heard.append):
        assert_faster(tiny_model(), tiny_model(seed=1), task, 1.5)

    assert (heard[0].passed, heard[0].observed, heard[0].required) == (True, 2.0, ">= 1.5")
    assert heard[0].task == task.name
    assert heard[0].details["speedup"] == 4.0
    assert heard[0].details["pairs"] == 5


@pytest.mark.parametrize("at_least", [0, -1.0, math.nan, math.inf, True, "2", None])
def test_a_speed_that_is_none_is_refused(at_least):
    with pytest.raises(InvalidArgument, match="how many times as fast"):
        assert_faster(tiny_model(), tiny_model(seed=1), tiny_task(4), at_least)


def test_too_few_pairs_for_the_confidence_are_refused():
    with pytest.raises(InvalidArgument, match=r"from 7: fewer cannot give 0\.99 confidence"):
        assert_faster(tiny_model(), tiny_model(seed=1), tiny_task(4), 1.0, confidence=0.99, pairs=6)


# -- smaller -----------------------------------------------------------------------------------------------------


def test_half_precision_is_half_the_size():
    half, whole = load_model(tiny_model().model.half()), tiny_model()

    found = assert_smaller(half, whole, 0.5)

    assert found.share == 0.5
    assert found.model.weight_bytes == sum(p.numel() * 2 for p in whole.model.parameters())
    with pytest.raises(CheckFailed):
        assert_smaller(half, whole, 0.4999)


def test_zeros_make_no_model_smaller_and_the_failure_says_so():
    model, reference = tiny_model(), tiny_model(seed=1)
    with torch.no_grad():
        model.model.bert.pooler.dense.weight.zero_()
    count = sum(p.numel() for p in model.model.parameters())

    with pytest.raises(CheckFailed) as caught:
        assert_smaller(model, reference, 0.9)

    message = " ".join(str(caught.value).split())
    assert re.match(r"\S+ takes 100.0% of the bytes of its reference \S+", message)
    assert f"{4 * count:,} bytes, {count:,} parameters" in message
    assert "share 1.0000 of the bytes; required: at most 0.9" in message
    assert "masked heads and zeros are still there" in message


def test_the_verdict_of_a_size_check_is_heard():
    half, whole, heard = load_model(tiny_model().model.half()), tiny_model(), list[Verdict]()

    with hearing(heard.append):
        assert_smaller(half, whole, 0.6)

    assert (heard[0].passed, heard[0].observed, heard[0].required) == (True, 0.5, "<= 0.6")
    assert heard[0].details["reference_weight_bytes"] == 2 * heard[0].details["weight_bytes"]


@pytest.mark.parametrize("at_most", [0, -0.5, math.nan, math.inf, True, "half", None])
def test_a_share_that_is_none_is_refused(at_most):
    with pytest.raises(InvalidArgument, match="a share of the reference's bytes"):
        assert_smaller(tiny_model(), tiny_model(seed=1), at_most)


def test_a_model_is_not_compared_with_itself():
    model = tiny_model()

    with pytest.raises(InvalidArgument, match="another model"):
        assert_smaller(model, model, 0.5)
    with pytest.raises(InvalidArgument, match="load_model"):
        assert_smaller(model, model.model, 0.5)
