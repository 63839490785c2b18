"""A saved model is there whole or not at all, and what comes back is what was saved.

Oracle: plain transformers in a process of its own, and the file system after a process was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file

from pytest_bertology.errors import BertologyError, CannotSave, InvalidArgument, InvalidPlan, ModelNotFound
from pytest_bertology.heads import Neuron
from pytest_bertology.models import load_model, saving
from pytest_bertology.models.plan import ATTRIBUTE
from tests.families import padded_batch, tokenizer, under_test

HEADS = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2)]


@pytest.fixture
def cut():
    return under_test("bert").pruned(HEADS)


@pytest.fixture
def saved(cut, tmp_path):
    return cut.save(tmp_path / "cut")


def logits(model):
    with torch.no_grad():
        return model(**padded_batch(model)).logits


def test_a_saved_model_comes_back_with_tokenizer_and_plan(cut, saved):
    again = load_model(saved)

    assert torch.equal(logits(again.model), logits(cut.model))
    assert again.plan == cut.plan
    assert again.heads == cut.heads
    assert again.tokenizer("ab c").input_ids == tokenizer()("ab c").input_ids


def test_a_model_that_was_not_cut_is_an_ordinary_checkpoint(tmp_path):
    model = under_test("gpt2", "causal-lm")

    model.save(tmp_path / "whole")

    assert ATTRIBUTE not in json.loads((tmp_path / "whole" / "config.json").read_text())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(logits(again), logits(model.model))


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_what_is_saved_can_be_read_by_whom_the_umask_lets(cut, tmp_path):
    before = os.umask(0o022)
    try:
        folder = cut.save(tmp_path / "cut")
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_only_safetensors_are_written(saved):
    assert not [path for path in saved.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    assert (saved / "model.safetensors").is_file()


def test_the_configuration_stays_the_uncut_models_and_names_the_heads_kept(cut, saved):
    config = json.loads((saved / "config.json").read_text())

    assert config["num_attention_heads"] == 4
    assert [layer["kept"] for layer in config[ATTRIBUTE]["layers"]] == [[], [0, 1, 3]]
    assert config[ATTRIBUTE]["weights"].keys() == {"model.safetensors"}


def test_a_base_model_reads_a_cut_classifier(cut, saved):
    base = transformers.AutoModel.from_pretrained(saved)
    batch = padded_batch(cut.model)

    with torch.no_grad():
        assert torch.equal(base(**batch).last_hidden_state, cut.model.bert(**batch).last_hidden_state)


def test_a_cut_model_that_was_trained_and_saved_by_transformers_reloads(cut, saved, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(saved)
    with torch.no_grad():
        model.classifier.weight.add_(1.0)

    model.save_pretrained(tmp_path / "trained")
    again = load_model(tmp_path / "trained")

    assert torch.equal(logits(again.model), logits(model))
    assert again.plan == cut.plan


def test_a_cut_model_reloads_in_another_precision(saved):
    model = transformers.AutoModel.from_pretrained(saved, dtype=torch.float64)

    assert model.encoder.layer[1].attention.self.query.weight.shape == (18, 24)
    assert model.dtype == torch.float64


@pytest.mark.parametrize("encoder", ["cpu", "disk"])
def test_a_cut_model_is_spread_over_devices(cut, saved, tmp_path, encoder):
    places = dict.fromkeys(("bert.embeddings", "bert.encoder", "bert.pooler", "dropout", "classifier"), "cpu")
    places["bert.encoder"] = encoder

    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        saved, device_map=places, offload_folder=tmp_path / "offloaded"
    )

    with torch.no_grad():
        assert torch.equal(model(**padded_batch(cut.model)).logits, logits(cut.model))


@pytest.mark.parametrize("shard", ["2KB"])
def test_a_cut_model_in_several_files_reloads(cut, tmp_path, shard):
    cut.model.save_pretrained(tmp_path / "shards", max_shard_size=shard)

    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(logits(load_model(tmp_path / "shards").model), logits(cut.model))


# -- plans that cannot be right ----------------------------------------------------------------------------------------


def edit(folder, change):
    """Change config.json in place."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


TAMPERED = {
    "kept heads": (lambda c: c[ATTRIBUTE]["layers"][1].update(kept=[0, 1, 2]), "digest"),
    "an edit": (lambda c: c[ATTRIBUTE]["edits"][0].update(index="0-5"), "digest"),
    "schema": (lambda c: c[ATTRIBUTE].update(schema="other"), "schema"),
    "hash of weights": (lambda c: c[ATTRIBUTE]["weights"].update({"model.safetensors": "0" * 64}), "weights"),
    "not a plan": (lambda c: c.update({ATTRIBUTE: [1]}), "schema"),
    "model type": (lambda c: c.update(model_type="roberta"), "model_type is roberta and was bert"),
    "heads of the configuration": (lambda c: c.update(num_attention_heads=2), "num_attention_heads is 2 and was 4"),
}


@pytest.mark.parametrize("what", TAMPERED)
@pytest.mark.parametrize("load", [load_model, transformers.AutoModelForSequenceClassification.from_pretrained])
def test_a_tampered_plan_is_refused(saved, what, load):
    change, reason = TAMPERED[what]
    edit(saved, change)

    with pytest.raises(BertologyError, match=reason):
        load(saved)


def test_a_plan_of_another_checkpoint_is_refused(saved, tmp_path):
    other = under_test("bert", seed=1).pruned(HEADS).save(tmp_path / "other")
    shutil.copy(saved / "config.json", other / "config.json")

    with pytest.raises(InvalidPlan, match="the weights beside it"):
        transformers.AutoModelForSequenceClassification.from_pretrained(other)


def test_a_plan_for_an_uncut_checkpoint_is_refused(saved, tmp_path):
    whole = under_test("bert").save(tmp_path / "whole")
    shutil.copy(saved / "config.json", whole / "config.json")

    with pytest.raises(InvalidPlan, match="the weights beside it"):
        load_model(whole)


def test_damaged_weights_are_refused(saved):
    file = saved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    with pytest.raises((InvalidPlan, ModelNotFound), match="weights"):
        load_model(saved)


def test_a_plan_of_another_cut_is_refused_after_training_too(tmp_path):
    """What transformers saves has no hashes: the seal among the weights is what tells."""
    model = under_test("llama")
    for name, heads in (("one", [(0, 0)]), ("other", [(0, 2)])):
        model.pruned(heads).model.save_pretrained(tmp_path / name)
    shutil.copy(tmp_path / "other" / "config.json", tmp_path / "one" / "config.json")

    with pytest.raises(InvalidPlan, match="were not cut by it"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "one")


@pytest.mark.parametrize("what", ["hashes", "plan and digest"])
def test_a_plan_without_its_hashes_is_held_against_the_seal(saved, what):
    other = under_test("bert").pruned([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]).plan.to_jsonable()

    def change(content):
        content[ATTRIBUTE].pop("weights")
        if what == "plan and digest":
            content[ATTRIBUTE] = other

    edit(saved, change)

    if what == "hashes":
        assert load_model(saved).heads.per_layer == (0, 3)
        return
    with pytest.raises(InvalidPlan, match="were not cut by it"):
        load_model(saved)


def test_two_sets_of_weights_are_refused(cut, saved):
    cut.model.save_pretrained(saved, max_shard_size="2KB")
    cut.model.config.save_pretrained(saved)

    with pytest.raises(ModelNotFound, match="two sets of weights"):
        load_model(saved)


# -- where it is put ---------------------------------------------------------------------------------------------------


def test_saving_over_a_checkpoint_replaces_it_and_keeps_what_is_no_part_of_it(cut, tmp_path):
    folder = under_test("bert").save(tmp_path / "model")
    (folder / "README.md").write_text("a model card")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"stale")

    cut.save(folder)

    assert load_model(folder).heads == cut.heads
    assert (folder / "README.md").read_text() == "a model card"
    assert not list(folder.glob("model-*"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_things_and_a_file_are_not_overwritten(cut, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")

    for name in ("notes", "file"):
        with pytest.raises(CannotSave):
            cut.save(tmp_path / name)
    assert (tmp_path / "notes" / "a.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_of_another_type_is_not_overwritten(cut, tmp_path):
    folder = under_test("llama").save(tmp_path / "llama")

    with pytest.raises(CannotSave, match="it holds a llama checkpoint, and this is a bert"):
        cut.save(folder)
    assert load_model(folder).heads.per_layer == (4, 4)


def test_a_masked_model_is_not_saved(cut, tmp_path):
    with cut.masked([(1, 0)]), pytest.raises(CannotSave, match="mask is in force"):
        cut.save(tmp_path / "cut")


def test_a_model_with_units_masked_or_layers_skipped_is_not_saved(cut, tmp_path):
    with cut.units_masked([Neuron(1, 0)]), pytest.raises(CannotSave, match="units are masked"):
        cut.save(tmp_path / "cut")
    with cut.skipping([0]), pytest.raises(CannotSave, match="layers skipped"):
        cut.save(tmp_path / "cut")
    with cut.masked([]):
        cut.save(tmp_path / "cut")


def test_a_link_is_followed(cut, tmp_path):
    folder = under_test("bert").save(tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")

    cut.save(tmp_path / "latest")

    assert (tmp_path / "latest").is_symlink()
    assert load_model(folder).heads == cut.heads
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "v1"]


def test_what_saves_left_behind_that_were_killed_long_ago_is_removed(cut, tmp_path):
    old, new = tmp_path / ".cut.abc.part", tmp_path / ".cut.def.part"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))

    cut.save(tmp_path / "cut")

    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("folder", [None, 3, ""])
def test_what_is_no_folder_is_told(cut, folder):
    with pytest.raises(InvalidArgument, match="folder"):
        cut.save(folder)


def test_a_parent_that_is_a_file_is_told(cut, tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(CannotSave, match="parent folder cannot be written"):
        cut.save(tmp_path / "file" / "cut")


def test_what_does_not_come_back_is_not_put_in_place(cut, tmp_path, monkeypatch):
    cut.save(tmp_path / "cut")
    before = (tmp_path / "cut" / "model.safetensors").read_bytes()
    original = type(cut.model).from_pretrained

    def damaged(*args, **kwargs):
        model = original(*args, **kwargs)
        with torch.no_grad():
            model.classifier.bias[0] += 1e-7
        return model

    monkeypatch.setattr(type(cut.model), "from_pretrained", damaged)

    with pytest.raises(CannotSave, match=r"classifier\.bias does not come back"):
        cut.save(tmp_path / "cut")
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == before


def test_without_the_systems_exchange_the_folder_is_replaced_too(cut, saved, monkeypatch):
    monkeypatch.setattr(saving, "_exchange", lambda one, other: False)

    cut.save(saved)

    assert load_model(saved).heads == cut.heads
    assert [path.name for path in saved.parent.iterdir()] == ["cut"]


# -- killed ------------------------------------------------------------------------------------------------------------

_WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "shutil.rmtree")


def killed_at(write, model, folder):
    """Save in a process that dies at its `write`-th write; whether it did."""
    child = os.fork()
    if child == 0:
        count = 0

        def audit(event, args):
            nonlocal count
            writes = event in _WRITES and (event != "open" or "w" in str(args[1]) or (args[2] or 0) & os.O_WRONLY)
            if writes and str(folder.parent) in str(args):
                count += 1
                if count > write:
                    os._exit(9)

        try:
            exchange = saving._exchange

            def exchanged(one, other):
                audit("os.rename", (str(one),))
                found = exchange(one, other)
                audit("os.rename", (str(one),))
                return found

            saving._exchange = exchanged
            sys.addaudithook(audit)
            model.save(folder)
        except BaseException:  # noqa: BLE001 - whatever happens, the child must not go on
            os._exit(8)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
@pytest.mark.parametrize("old", ["nothing there", "a checkpoint there"])
def test_a_save_killed_at_any_write_leaves_the_old_or_the_new(tmp_path, old):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process must not wait for threads it does not have
    model = under_test("distilbert")
    cut = model.pruned([(0, 1)])
    seen = set()
    try:
        for write in range(200):
            folder = tmp_path / str(write) / "model"
            folder.parent.mkdir()
            if old == "a checkpoint there":
                model.save(folder)
            killed = killed_at(write, cut, folder)
            if folder.exists():
                seen.add(load_model(folder).heads.describe())
            else:
                seen.add("nothing")
            if not killed:
                break
    finally:
        torch.set_num_threads(threads)

    before = "nothing" if old == "nothing there" else "2 layers of 4 heads"
    assert write > 5
    assert seen == {before, "2 layers of 3, 4 heads"}


@pytest.mark.slow
def test_a_save_killed_from_outside_leaves_the_old_or_the_new(tmp_path):
    folder = under_test("bert").save(tmp_path / "model")
    script = (
        "import sys; from pytest_bertology.models import load_model\n"
        "model = load_model(sys.argv[1]); cut = model.pruned([(0, 1)]); print('ready', flush=True)\n"
        "while True: cut.save(sys.argv[1]); model.save(sys.argv[1])"
    )
    for wait in (0.02, 0.11, 0.23):
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

        assert load_model(folder).heads.describe() in ("2 layers of 4 heads", "2 layers of 3, 4 heads")
        saved = under_test("bert").save(folder)
        assert load_file(saved / "model.safetensors")
