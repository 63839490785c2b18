"""What was computed is counted here; what is on disk is read with `hashlib` and NumPy alone."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_bertology import Batching, BertologyWarning, HeadMask, ResultStore, evaluate, using_store
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.store import current_store, result_key
from tests.tiny import sentences, tiny_model, tiny_task

KEY = "ab" * 32


class Counted:
    """A computation that counts how often it was asked for."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.times = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.times += 1
        return {"scores": np.full(3, self.value), "counts": np.arange(2)}


def entry(folder: Path) -> Path:
    (found,) = folder.rglob("*.npz")
    return found


def sealed(content: bytes, key: str = KEY) -> bytes:
    """Content as the store keeps it, with a checksum that fits."""
    return hashlib.sha256(key.encode() + b"\n" + content).digest() + content


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# -- in memory ---------------------------------------------------------------------------------------------------


def test_a_result_is_computed_once():
    store, compute = ResultStore(), Counted()

    found = [store.get(KEY, compute)["scores"].tolist() for _ in range(3)]

    assert found == [[1.0] * 3] * 3
    assert compute.times == 1
    assert (store.computed, store.reused) == (1, 2)


def test_each_key_has_its_own_result():
    store = ResultStore()

    store.get("one", Counted(1.0))
    store.get("two", Counted(2.0))

    assert store.get("one", Counted(9.0))["scores"][0] == 1.0
    assert store.get("two", Counted(9.0))["scores"][0] == 2.0


def test_a_result_cannot_be_changed_by_one_who_reads_it():
    store = ResultStore()

    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            store.get(KEY, Counted())["scores"][0] = 9.0


def test_beyond_the_memory_bound_the_least_recently_used_is_forgotten():
    size = 3 * 8 + 2 * 8
    store = ResultStore(memory=2 * size)
    computes = {key: Counted() for key in ("one", "two", "three")}

    for key in ("one", "two", "one", "three"):
        store.get(key, computes[key])
    for key in ("one", "three", "two"):
        store.get(key, computes[key])

    assert {key: compute.times for key, compute in computes.items()} == {"one": 1, "two": 2, "three": 1}


def test_a_result_larger_than_the_memory_bound_is_kept_while_it_is_the_latest():
    store, compute = ResultStore(memory=1), Counted()

    store.get(KEY, compute)
    store.get(KEY, compute)

    assert compute.times == 1


def test_a_computation_that_fails_leaves_nothing_behind(tmp_path):
    store = ResultStore(tmp_path)

    with pytest.raises(ZeroDivisionError):
        store.get(KEY, lambda: {"scores": np.array([1 / 0])})

    assert store.get(KEY, Counted())["scores"][0] == 1.0
    assert store.computed == 1


def test_the_store_in_use_is_the_sessions_again_afterwards():
    outside, inside = current_store(), ResultStore()

    def fail() -> None:
        with using_store(inside):
            assert current_store() is inside
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert current_store() is outside


# -- on disk -----------------------------------------------------------------------------------------------------


def test_a_folder_is_shared_by_stores(tmp_path):
    ResultStore(tmp_path).get(KEY, Counted(7.0))
    second = ResultStore(tmp_path)

    found = second.get(KEY, Counted(9.0))

    assert found["scores"].tolist() == [7.0] * 3
    assert found["counts"].tolist() == [0, 1]
    assert (second.computed, second.reused) == (0, 1)


def test_an_entry_is_a_checksum_and_an_npz_of_exactly_the_arrays(tmp_path):
    ResultStore(tmp_path).get(KEY, Counted(7.0))

    content = entry(tmp_path).read_bytes()

    assert content == sealed(content[32:])
    with np.load(io.BytesIO(content[32:]), allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {"scores": [7.0] * 3, "counts": [0, 1]}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [entry(tmp_path)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: b"garbage" * 50,
        lambda content: sealed(b""),
        lambda content: sealed(b"garbage" * 50),
        lambda content: sealed(b"PK\x03\x04 but no zip file"),
        lambda content: sealed(pickle.dumps({"scores": 9.0})),
        lambda content: sealed(content[32:], "cd" * 32),
        lambda content: content[32:],
    ],
    ids=[
        "empty",
        "short",
        "truncated",
        "last bit",
        "some bit",
        "garbage",
        "hollow",
        "sealed",
        "not zip",
        "pickle",
        "of another key",
        "of another program",
    ],
)
def test_a_damaged_entry_is_computed_again_and_replaced(tmp_path, damage):
    ResultStore(tmp_path).get(KEY, Counted(7.0))
    whole = entry(tmp_path).read_bytes()
    entry(tmp_path).write_bytes(damage(whole))

    with pytest.warns(BertologyWarning, match="is damaged .*; computing it again"):
        found = ResultStore(tmp_path).get(KEY, Counted(8.0))

    assert found["scores"].tolist() == [8.0] * 3
    assert ResultStore(tmp_path).get(KEY, Counted(9.0))["scores"].tolist() == [8.0] * 3


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def test_an_entry_with_pickled_objects_is_never_unpickled(tmp_path):
    trace = tmp_path / "exploded"
    ResultStore(tmp_path / "store").get(KEY, Counted(7.0))
    bomb = np.array([Bomb(trace)], dtype=object)
    entry(tmp_path / "store").write_bytes(sealed(npz(scores=bomb, counts=np.arange(2))))

    with pytest.warns(BertologyWarning, match="damaged"):
        found = ResultStore(tmp_path / "store").get(KEY, Counted(8.0))

    assert found["scores"].tolist() == [8.0] * 3
    assert not trace.exists()


def test_objects_are_not_stored(tmp_path):
    with pytest.raises(TypeError, match="only arrays of numbers can be stored"):
        ResultStore(tmp_path).get(KEY, lambda: {"scores": np.array([object()], dtype=object)})

    assert list(tmp_path.rglob("*.npz")) == []


def test_a_folder_that_cannot_be_written_warns_and_still_answers(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store, compute = ResultStore(tmp_path / "file"), Counted(7.0)

    with pytest.warns(BertologyWarning, match="could not be stored in"):
        found = store.get(KEY, compute)

    assert found["scores"].tolist() == [7.0] * 3
    assert store.get(KEY, compute)["scores"].tolist() == [7.0] * 3
    assert compute.times == 1


def test_a_write_that_fails_leaves_no_file_behind(tmp_path, monkeypatch):
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(BertologyWarning, match="the disk is full"):
        ResultStore(tmp_path).get(KEY, Counted())

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_processes_that_write_one_key_at_once_leave_a_readable_entry(tmp_path):
    script = f"""
import sys, numpy as np
from pathlib import Path
from pytest_bertology.engine.store import ResultStore
print("ready", flush=True)
for _ in range(100):
    ResultStore(Path({str(tmp_path)!r}))._write({KEY!r}, {{"scores": np.full(20_000, 1.0)}})
"""
    other = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout is not None
    other.stdout.readline()
    seen = []
    while other.poll() is None:  # a damaged entry would warn, and a warning is an error here
        ResultStore(tmp_path)._write(KEY, {"scores": np.full(20_000, 2.0)})
        seen.append(set(ResultStore(tmp_path).get(KEY, Counted(9.0))["scores"].tolist()))
    _, complaint = other.communicate()

    assert (other.returncode, complaint) == (0, "")
    assert len(seen) > 5
    assert [values for values in seen if values not in ({1.0}, {2.0})] == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [entry(tmp_path)]


# -- with a model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def forwards(model, monkeypatch):
    """How many forward passes the model has made; counted in its class, for a hook would keep the store away."""
    passes: list[int] = []
    forward = type(model.model).forward

    def counting(self, *args, **kwargs):
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", counting)
    return passes


def test_a_model_with_someones_hook_is_run_and_not_looked_up(model):
    task = tiny_task(8)
    plain = evaluate(model, task)
    handle = model.model.classifier.register_forward_hook(lambda module, args, logits: -logits)

    hooked = evaluate(model, task)

    handle.remove()
    assert (hooked.logits == -plain.logits).all()
    assert (evaluate(model, task).logits == plain.logits).all()


def test_an_evaluation_runs_the_model_once_whatever_the_metric(model, forwards):
    task = tiny_task(8)

    with using_store(ResultStore()):
        first = evaluate(model, task)
        ran = len(forwards)
        again = evaluate(model, task.with_metric("f1"))

    assert ran > 0
    assert len(forwards) == ran
    assert again.raw.logits is first.raw.logits
    assert (first.metric.name, again.metric.name) == ("accuracy", "f1")


def test_an_evaluation_is_run_once_for_two_sessions_with_a_folder(model, forwards, tmp_path):
    with using_store(ResultStore(tmp_path)):
        first = evaluate(model, tiny_task(8), [(0, 1)])
    ran = len(forwards)

    with using_store(ResultStore(tmp_path)):
        second = evaluate(model, tiny_task(8), [(0, 1)])

    assert len(forwards) == ran
    np.testing.assert_array_equal(first.logits, second.logits)
    assert second.score == first.score


def keys_of(model, task, mask=None, batching=None, what="evaluation"):
    return result_key(what, model, encode(model, task), mask, batching or Batching())


def test_the_key_is_the_same_for_the_same_and_for_another_metric(model):
    task, keep = tiny_task(8), HeadMask.keep_all(model.heads)

    key = keys_of(model, task)

    assert keys_of(model, tiny_task(8)) == key
    assert keys_of(model, task.with_metric("f1")) == key
    assert keys_of(model, replace(task, name="renamed")) == key
    assert keys_of(model, task, keep) == key
    assert keys_of(tiny_model(), task) == key


def test_the_key_changes_with_all_that_a_result_depends_on(model):
    task, heads = tiny_task(8), model.heads
    half = HeadMask(heads, (0.5, *[1.0] * 7))
    relabelled = replace(task, labels=tuple(reversed(task.labels)))
    reworded = replace(task, texts=(*task.texts[:-1], sentences(9)[-1]))

    keys = [
        keys_of(model, task),
        keys_of(model, task, HeadMask.without(heads, [(0, 0)])),
        keys_of(model, task, HeadMask.without(heads, [(0, 1)])),
        keys_of(model, task, half),
        keys_of(model, task.subset(range(7))),
        keys_of(model, relabelled),
        keys_of(model, reworded),
        keys_of(model, task, batching=Batching(tokens=7)),
        keys_of(model, task, what="gradient importance"),
        keys_of(tiny_model(seed=1), task),
    ]

    assert len(set(keys)) == len(keys)


def test_the_key_changes_with_a_single_weight_and_back():
    model, task = tiny_model(), tiny_task(8)
    before = keys_of(model, task)
    weight = model.model.bert.encoder.layer[1].output.dense.weight

    with torch.no_grad():
        weight[0, 0] += 1.0
    changed = keys_of(model, task)
    with torch.no_grad():
        weight[0, 0] -= 1.0

    assert changed != before


def test_a_weight_changed_behind_autograds_back_is_seen():
    model, task = tiny_model(), tiny_task(8)
    before = evaluate(model, task).losses.copy()

    model.model.classifier.weight.data.mul_(-1.0)

    assert not np.allclose(evaluate(model, task).losses, before)


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 1e-3), ("pad_token_id", 1)])
def test_the_key_changes_with_the_configuration(name, value):
    model, task = tiny_model(), tiny_task(8)
    before = keys_of(model, task)

    setattr(model.model.config, name, value)

    assert keys_of(model, task) != before


def test_the_key_changes_with_the_dtype():
    model, task = tiny_model(), tiny_task(8)
    before = keys_of(model, task)

    model.model.double()

    assert keys_of(model, task) != before
