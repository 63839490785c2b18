"""The memory of a sweep is bounded by a setting, however large the data set is: measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("resource")

SETTING = 64 * 2**20
_SWEEP = """
import json, resource, sys
import torch
from pytest_bertology import HeadMask, Sweeping
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import Encoded, Example
from pytest_bertology.engine.sweeps import sweep
from tests.families import under_test

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
model = under_test("bert", hidden_size=128, num_hidden_layers=6, intermediate_size=128)
examples = [Example(tuple(5 + (i * 7 + j) % 40 for j in range(32)), None, i % 3) for i in range(int(sys.argv[1]))]
masks = [HeadMask.keep_all(model.heads)] + [HeadMask.without(model.heads, [(layer, 0)]) for layer in (0, 2, 4)]

def run(count):
    encoded = Encoded("sequence-classification", tuple(examples[:count]), 3, ())
    return sweep(model, encoded, masks, Batching(), "letters", sweeping=Sweeping(memory=int(sys.argv[2])))

run(2)  # what is loaded and allocated once
before = peak()
run(len(examples))
print(json.dumps(peak() - before))
"""


def growth(examples: int) -> int:
    """Bytes by which a process grows while it sweeps so many examples of 32 tokens."""
    command = [sys.executable, "-c", _SWEEP, str(examples), str(SETTING)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def test_twenty_times_the_data_stays_within_the_setting():
    """All recorded states of 800 examples would take 150 MB."""
    assert growth(40) <= SETTING
    assert growth(800) <= SETTING
