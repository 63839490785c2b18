"""Cutting a model takes the memory of the model and of the cut one, and little besides.

Oracle: the most memory that the operating system has seen the process hold, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SLACK = 0.25
"""What the allocator may take besides, as a share of the cut model's bytes."""
ACTIVATIONS = 8 << 20
"""Bytes for a run of the model, and for what Python itself holds."""

SCRIPT = """
import gc, json, random
from pathlib import Path

import torch
import transformers
from pytest_bertology import load_model


def held(peak):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM" if peak else "VmRSS"))


def bytes_of(model):
    return sum(p.numel() * p.element_size() for p in model.model.parameters())


def measured(live):
    ids = torch.arange(1, 17).reshape(2, 8)
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if live.config.is_encoder_decoder:
        sample["decoder_input_ids"] = ids
    model = load_model(live.eval(), sample=sample)
    heads = random.Random(0).sample(list(model.heads), round(0.75 * len(model.heads)))
    gc.collect()
    before = held(peak=False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    cut = model.pruned(heads)
    return {"whole": bytes_of(model), "cut": bytes_of(cut), "added": held(peak=True) - before}


torch.set_num_threads(1)
names = "bert gpt2 llama t5".split()
shared = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
bert = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 64, "vocab_size": 100}
sizes = {
    "bert": ("BertForSequenceClassification", bert | {"num_hidden_layers": 24}),
    "gpt2": ("GPT2LMHeadModel", shared | {"n_embd": 1024, "n_head": 16, "n_layer": 6, "n_inner": 64}),
    "llama": ("LlamaForCausalLM", shared | bert | {"num_key_value_heads": 8, "num_hidden_layers": 6}),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 100, "d_model": 1024, "num_heads": 16, "d_kv": 64, "d_ff": 64, "num_layers": 3}
        | {"num_decoder_layers": 2, "decoder_start_token_id": 0},
    ),
}
found = {}
for name, (kind, values) in sizes.items():
    kind = getattr(transformers, kind)
    found[name] = measured(kind(kind.config_class(**values)))
    gc.collect()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    # what is freed goes back to the system at once, and nothing is reused unseen
    own = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_cutting_adds_the_cut_model_and_no_second_copy(measured, family):
    found = measured[family]

    assert found["cut"] < 0.4 * found["whole"]
    assert found["added"] <= (1 + SLACK) * found["cut"] + ACTIVATIONS, found


def test_the_largest_of_them_has_a_hundred_million_numbers(measured):
    assert measured["bert"]["whole"] > 4 * 100e6
