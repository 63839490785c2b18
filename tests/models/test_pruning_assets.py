"""Real checkpoints, cut: as small as the shapes say, and what the masked model is, sentence by sentence.

Oracle: the bytes of safetensors files, read by hand; plain transformers, in a process that knows this package by one
import; and scores that were measured before this package could cut (../shared/assets/README.md).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from pytest_bertology import evaluate, head_importance, load_model, load_task
from pytest_bertology.measures.cost import size

pytestmark = [pytest.mark.slow, pytest.mark.assets]
HIDDEN, WIDTH, FLOAT32 = 384, 32, 4
SEAL = 16
"""Bytes among the weights that say which plan they were cut by."""
PER_HEAD = FLOAT32 * (4 * WIDTH * HIDDEN + 3 * WIDTH)
"""Bytes of one head of minilm-sst2: rows of query, key and value with their biases, columns of the projection."""


@pytest.fixture(scope="module")
def checkpoint(assets):
    return assets / "checkpoints" / "minilm-sst2"


@pytest.fixture(scope="module")
def dev(assets):
    return assets / "data" / "sst2" / "dev.tsv"


@pytest.fixture(scope="module")
def whole(checkpoint):
    return load_model(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def heads(whole, dev):
    """The least important half, by gradients, each layer divided by its norm."""
    return head_importance(whole, load_task(dev)).normalized().bottom(36)


@pytest.fixture(scope="module")
def saved(whole, heads, tmp_path_factory):
    return whole.pruned(heads).save(tmp_path_factory.mktemp("saved") / "cut")


@pytest.fixture(scope="module")
def reloaded(saved, dev):
    """What plain transformers makes of the folder, in a process of its own: see PLAIN."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(saved), str(dev)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, dev = sys.argv[1:]
try:
    AutoModelForSequenceClassification.from_pretrained(folder)
    alone = "loaded"
except RuntimeError as error:
    alone = str(error)

import pytest_bertology.models

model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
rows = [line.rstrip("\\n").split("\\t") for line in open(dev, encoding="utf-8")][1:]
logits = []
with torch.inference_mode():
    for start in range(0, len(rows), 32):
        batch = tokenizer([text for text, _ in rows[start : start + 32]], padding=True, return_tensors="pt")
        logits += model(**batch).logits.tolist()
labels = [int(label) for _, label in rows]
print(json.dumps({"alone": alone, "logits": logits, "labels": labels, "pytest": "pytest" in sys.modules}))
"""


def test_the_file_is_smaller_by_what_was_cut_to_the_byte(whole, heads, checkpoint, saved):
    before, old = contents(checkpoint / "model.safetensors")
    after, new = contents(saved / "model.safetensors")
    plan = load_model(saved).plan

    assert sorted(plan.removed) == sorted(heads)
    assert 36 * PER_HEAD == 7_091_712
    assert data_bytes(old) - data_bytes(new) == 36 * PER_HEAD - SEAL
    assert (before - headers(checkpoint)) - (after - headers(saved)) == 36 * PER_HEAD - SEAL
    assert size(whole).weight_bytes - size(load_model(saved)).weight_bytes == 36 * PER_HEAD - SEAL


def test_every_layer_has_the_shapes_that_its_plan_says(saved):
    _, header = contents(saved / "model.safetensors")
    config = json.loads((saved / "config.json").read_text())

    for index, layer in enumerate(config["pytest_bertology"]["layers"]):
        attention = f"bert.encoder.layer.{index}.attention"
        numbers = WIDTH * len(layer["kept"])
        for name in ("query", "key", "value"):
            assert header[f"{attention}.self.{name}.weight"]["shape"] == [numbers, HIDDEN]
            assert header[f"{attention}.self.{name}.bias"]["shape"] == [numbers]
        assert header[f"{attention}.output.dense.weight"]["shape"] == [HIDDEN, numbers]
        assert header[f"{attention}.output.dense.bias"]["shape"] == [HIDDEN]


def test_what_was_not_cut_is_in_the_file_bit_for_bit(checkpoint, saved):
    _, old = contents(checkpoint / "model.safetensors")
    _, new = contents(saved / "model.safetensors")
    same = [name for name in old if old[name]["shape"] == new[name]["shape"]]

    assert new.keys() - old.keys() == {"bert.pytest_bertology_plan.seal"}
    assert not old.keys() - new.keys()
    assert all(".attention." in name for name in old.keys() - set(same))
    for name in same:
        assert tensor_bytes(checkpoint, old[name]) == tensor_bytes(saved, new[name]), name


def test_plain_transformers_loads_it_after_one_import_and_refuses_it_before(reloaded):
    assert "ignore_mismatched_sizes" in reloaded["alone"]
    assert not reloaded["pytest"]
    assert len(reloaded["logits"]) == 872


def test_reloaded_predictions_are_the_masked_models_on_all_of_dev(whole, heads, dev, reloaded):
    with whole.masked(heads):
        masked = evaluate(whole, load_task(dev))

    logits = np.array(reloaded["logits"])
    assert np.array_equal(logits.argmax(1), masked.predictions)
    assert np.allclose(logits, masked.logits, rtol=0, atol=1e-4)


def test_reloaded_accuracy_is_that_measured_before(reloaded):
    right = np.array(reloaded["logits"]).argmax(1) == np.array(reloaded["labels"])

    assert int(right.sum()) == 782


def test_the_cut_model_measured_by_this_package_has_the_same_accuracy(saved, dev):
    assert evaluate(load_model(saved), load_task(dev)).score == 782 / 872


# -- grouped-query attention -------------------------------------------------------------------------------------------

IRREGULAR = [(0, 1), (1, 2), (1, 3), *((2, head) for head in range(7)), *((3, head) for head in range(8)), (4, 0)]
"""Of eight heads in pairs: one of a pair, a whole pair, all but one, all, the first of all."""
PROMPTS = ("Once upon a time", "The little dog", "One day, a girl named Lily")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_cut_story_teller_writes_what_the_masked_one_writes(assets, tmp_path, prompt):
    model = load_model(assets / "checkpoints" / "stories260K-hf", device="cpu")
    model.pruned(IRREGULAR).save(tmp_path / "cut")
    cut = load_model(tmp_path / "cut")
    inputs = model.tokenizer(prompt, return_tensors="pt")

    with model.masked(IRREGULAR):
        expected, scores = written(model, inputs)
    tokens, own = written(cut, inputs)
    plain, _ = written(model, inputs)

    assert tokens.shape[1] == inputs["input_ids"].shape[1] + 60
    assert torch.equal(tokens, expected)
    assert torch.allclose(own, scores, rtol=1e-5, atol=1e-4)
    assert not torch.equal(plain, expected)


@pytest.mark.parametrize("seed", range(3))
def test_any_half_of_the_story_tellers_heads_can_be_cut(assets, seed):
    model = load_model(assets / "checkpoints" / "stories260K-hf", device="cpu")
    heads = random.Random(seed).sample(list(model.heads), 20)
    inputs = model.tokenizer(PROMPTS[0], return_tensors="pt")

    with model.masked(heads):
        expected, scores = written(model, inputs)
    tokens, own = written(model.pruned(heads), inputs)

    assert torch.equal(tokens, expected)
    assert torch.allclose(own, scores, rtol=1e-5, atol=1e-4)


def written(model, inputs):
    """Sixty tokens, the likeliest each time, with cache; and the logits they were chosen by."""
    with torch.no_grad():
        found = model.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=60,
            min_new_tokens=60,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return found.sequences, torch.cat(found.logits)


# -- safetensors, by hand ----------------------------------------------------------------------------------------------


def contents(file):
    """The file's size in bytes, and its header: name to dtype, shape and place.

    Transformers 5.1 writes the names that norms had before.
    """
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    found = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): entry for name, entry in header.items()}
    return file.stat().st_size, found


def headers(folder):
    """Bytes before the data: the header's length, in eight bytes, and the header."""
    with (folder / "model.safetensors").open("rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def data_bytes(header):
    """Bytes of all tensors, from their shapes."""
    return sum({"F32": FLOAT32, "U8": 1}[entry["dtype"]] * int(np.prod(entry["shape"])) for entry in header.values())


def tensor_bytes(folder, entry):
    start, end = entry["data_offsets"]
    with (folder / "model.safetensors").open("rb") as stream:
        stream.seek(headers(folder) + start)
        return stream.read(end - start)
