"""Checkpoints load whole or not at all, and every way to fail says which it was.

Oracle: what was saved into the folder by plain transformers, byte by byte where it is damaged on purpose.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from pytest_bertology import HeadMap, evaluate, load_model
from pytest_bertology.errors import (
    IncompleteCheckpoint,
    InvalidArgument,
    ModelNotFound,
    NoTokenizer,
    NoWeights,
    UnknownKind,
)
from pytest_bertology.names import KINDS
from tests.families import EVERY, FAMILIES, HEADS, LAYERS, family, padded_batch, task_for, tokenizer


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of a BERT sequence classifier, with its tokenizer."""
    return _save(family("bert"), tmp_path / "release-candidate")


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_checkpoint_is_of_the_kind_it_was_saved_as(name, kind, tmp_path):
    saved = family(name, kind)

    model = load_model(_save(saved, tmp_path / "model"))

    assert (model.kind, model.name) == (kind, "model")
    assert type(model.model) is type(saved)
    assert model.heads == HeadMap([HEADS] * LAYERS)
    assert not model.model.training
    assert _same_weights(model.model, saved)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_live_model_is_of_its_own_kind(name, kind):
    assert load_model(family(name, kind)).kind == kind


@pytest.mark.parametrize("name", FAMILIES)
def test_a_live_model_without_a_head_is_an_encoder(name):
    model = load_model(family(name).base_model)

    assert model.kind == "encoder"
    assert model.heads == HeadMap([HEADS] * LAYERS)


def test_a_subclass_of_a_known_model_is_of_its_kind():
    model = family("bert")
    model.__class__ = type("InHouseClassifier", (type(model),), {})

    assert load_model(model).kind == "sequence-classification"


@pytest.mark.parametrize("architectures", [None, [], ["InHouseThing"]])
def test_a_kind_that_cannot_be_told_is_asked_for(folder, architectures):
    _configure(folder, architectures=architectures)

    with pytest.raises(UnknownKind, match="cannot be told") as error:
        load_model(folder)

    assert error.value.kinds == KINDS
    assert load_model(folder, kind="sequence-classification").kind == "sequence-classification"


def test_an_unknown_kind_is_refused_and_the_known_are_named(folder):
    with pytest.raises(UnknownKind, match=r"'classifier' is not a kind of model.*sequence-classification"):
        load_model(folder, kind="classifier")


def test_an_unknown_hub_name_offline_fails_at_once():
    start = time.monotonic()

    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE forbids asking the hub") as error:
        load_model("nobody/no-such-model")

    assert error.value.source == "nobody/no-such-model"
    assert time.monotonic() - start < 5


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face cache that holds `us/release`; returns the folder of its files."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--us--release"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    return _save(family("bert"), repository / "snapshots" / revision)


def test_a_hub_name_is_read_from_the_cache_offline(hub):
    model = load_model("us/release")

    assert (model.name, model.kind) == ("us/release", "sequence-classification")
    assert _same_weights(model.model, family("bert"))
    assert model.needs_tokenizer()("ab").input_ids == tokenizer()("ab").input_ids


def test_pickled_weights_of_a_hub_name_are_not_read(hub):
    (hub / "model.safetensors").unlink()
    torch.save(family("bert").state_dict(), hub / "pytorch_model.bin")

    with pytest.raises(ModelNotFound, match="us/release"):
        load_model("us/release")


@pytest.mark.parametrize("source", ["./no-such-folder", "/no/such/folder", "~/model", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(source):
    with pytest.raises(ModelNotFound, match="there is no such folder"):
        load_model(source)


def test_a_weights_file_is_not_a_folder(folder):
    with pytest.raises(ModelNotFound, match="give the folder"):
        load_model(folder / "model.safetensors")


def test_a_folder_without_a_configuration_says_so(folder):
    (folder / "config.json").unlink()

    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "no-such-type"}', "{}"])
def test_a_broken_configuration_is_not_blamed_on_the_hub(folder, text):
    (folder / "config.json").write_text(text)

    with pytest.raises(ModelNotFound) as error:
        load_model(folder, kind="sequence-classification")

    assert "the hub" not in error.value.reason.lower()
    assert "huggingface" not in error.value.reason.lower()


def test_a_folder_without_weights_lists_what_it_holds(folder):
    (folder / "model.safetensors").unlink()

    with pytest.raises(NoWeights, match=r"save_pretrained") as error:
        load_model(folder)

    assert "config.json" in error.value.found


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(family("bert").state_dict(), folder / "pytorch_model.bin")

    with pytest.raises(NoWeights, match="pickled weights can run code"):
        load_model(folder)


@pytest.mark.parametrize("damage", ["cut short", "no header", "empty"])
def test_damaged_weights_are_told(folder, damage):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[:-100], "no header": b"\xff" * 64 + whole[64:], "empty": b""}[damage])

    with pytest.raises(ModelNotFound) as error:
        load_model(folder)

    assert "damaged" in error.value.reason


def test_a_tensor_that_is_missing_is_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["bert.encoder.layer.1.attention.self.value.weight"]
    save_file(weights, path, {"format": "pt"})

    with pytest.raises(IncompleteCheckpoint, match="random") as error:
        load_model(folder)

    assert error.value.missing == ("bert.encoder.layer.1.attention.self.value.weight",)
    assert error.value.mismatched == ()


def test_a_missing_head_is_named(tmp_path):
    folder = _save(family("bert", "masked-lm"), tmp_path / "mlm")

    with pytest.raises(IncompleteCheckpoint, match="BertForSequenceClassification") as error:
        load_model(folder, kind="sequence-classification")

    assert {"classifier.weight", "classifier.bias"} <= set(error.value.missing)


def test_weights_of_other_shapes_are_named(folder):
    _configure(folder, id2label={str(i): f"LABEL_{i}" for i in range(7)}, label2id={f"LABEL_{i}": i for i in range(7)})

    with pytest.raises(IncompleteCheckpoint, match="other shapes") as error:
        load_model(folder)

    assert set(error.value.mismatched) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("dtype", ["float31", "int8", "double"])
def test_an_unknown_dtype_is_refused(folder, dtype):
    with pytest.raises(InvalidArgument, match=r"dtype=.*float64"):
        load_model(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", ""])
def test_an_unknown_device_is_refused(folder, device):
    with pytest.raises(InvalidArgument, match="device="):
        load_model(folder, device=device)
    with pytest.raises(InvalidArgument, match="device="):
        load_model(family("bert"), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(InvalidArgument, match="no CUDA device"):
        load_model(folder, device="cuda")


@pytest.mark.parametrize("dtype", ["float64", torch.float64])
def test_weights_can_be_read_as_float64(folder, dtype):
    model = load_model(folder, dtype=dtype)

    assert model.dtype == "float64"
    assert all(p.dtype == torch.float64 for p in model.model.parameters())
    assert _same_weights(model.model, family("bert", dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_the_dtype_they_were_saved_in(tmp_path, dtype):
    saved = family("bert", dtype=dtype)

    model = load_model(_save(saved, tmp_path / "model"))

    assert model.model.dtype == dtype
    assert _same_weights(model.model, saved)


def test_weights_in_several_files_are_read(tmp_path):
    saved = family("bert")
    saved.save_pretrained(tmp_path, max_shard_size="20KB")

    model = load_model(tmp_path)

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert _same_weights(model.model, saved)


@pytest.mark.parametrize("training", [True, False])
def test_a_live_model_is_used_as_it_is(training):
    live = family("bert").train(training)
    live.bert.eval()
    live.classifier.weight.requires_grad_(False)
    modes = [module.training for module in live.modules()]

    model = load_model(live)

    assert model.model is live
    assert [module.training for module in live.modules()] == modes
    assert [p for p in live.parameters() if not p.requires_grad] == [live.classifier.weight]


def test_a_live_model_is_not_converted_behind_its_owners_back():
    live = family("bert")

    with pytest.raises(InvalidArgument, match="convert it first"):
        load_model(live, dtype="float64")
    assert load_model(live, dtype="float32", device="cpu").model is live


def test_a_live_model_is_not_moved_behind_its_owners_back():
    with pytest.raises(InvalidArgument, match="move it first"):
        load_model(family("bert"), device="meta")


def test_an_encoder_is_read_from_a_classifier(folder):
    model = load_model(folder, kind="encoder")

    with torch.no_grad():
        states = model.model(**padded_batch(model.model)).last_hidden_state
        expected = family("bert").bert(**padded_batch(model.model)).last_hidden_state
    assert torch.equal(states, expected)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_is_read_from_a_checkpoint_without_a_pooler(name, tmp_path):
    saved = family(name, "masked-lm")

    model = load_model(_save(saved, tmp_path / "mlm"), kind="encoder")

    assert model.model.pooler is None
    with torch.no_grad():
        states = model.model(**padded_batch(saved)).last_hidden_state
        expected = saved.base_model(**padded_batch(saved)).last_hidden_state
    assert torch.equal(states, expected)


def test_an_encoder_that_lacks_more_than_its_pooler_is_refused(tmp_path):
    folder = _save(family("bert", "masked-lm"), tmp_path / "mlm")
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["bert.embeddings.word_embeddings.weight"]
    save_file(weights, path, {"format": "pt"})

    with pytest.raises(IncompleteCheckpoint, match="word_embeddings"):
        load_model(folder, kind="encoder")


@pytest.mark.parametrize("model_type", ["bert", "in-house"])
def test_code_in_a_checkpoint_is_not_run(folder, model_type):
    (folder / "code.py").write_text(f"open({str(folder / 'was_run')!r}, 'w')\n{_CODE}")
    mapping = {"AutoConfig": "code.InHouseConfig", "AutoModelForSequenceClassification": "code.InHouse"}
    _configure(folder, auto_map=mapping, model_type=model_type)

    if model_type == "bert":
        assert type(load_model(folder).model).__name__ == "BertForSequenceClassification"
    else:
        with pytest.raises(ModelNotFound):
            load_model(folder)

    assert not (folder / "was_run").exists()


_CODE = """
from transformers import BertConfig, BertForSequenceClassification
class InHouseConfig(BertConfig): model_type = "in-house"
class InHouse(BertForSequenceClassification): config_class = InHouseConfig
"""


def test_a_missing_tokenizer_is_an_error_only_when_text_is_read(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    model = load_model(folder)
    batch = padded_batch(model.model)

    with torch.no_grad(), model.masked([(0, 1)]):
        model.model(**batch)
    with pytest.raises(NoTokenizer, match="release-candidate") as error:
        evaluate(model, task_for("sequence-classification"))

    assert str(folder) in error.value.reason


def test_a_tokenizer_is_loaded_from_where_it_is_said_to_be(folder, tmp_path):
    elsewhere = tmp_path / "tokenizer"
    elsewhere.mkdir()
    for path in folder.glob("tokenizer*"):
        shutil.move(path, elsewhere)

    for source in (folder, family("bert")):
        model = load_model(source, tokenizer=str(elsewhere))

        assert model.needs_tokenizer()("ab").input_ids == tokenizer()("ab").input_ids


def test_loading_prints_nothing(folder, capfd):
    load_model(folder)

    assert capfd.readouterr() == ("", "")


def test_a_copy_is_independent_and_keeps_tokenizer_kind_and_sample():
    sample = {"input_ids": torch.tensor([[5, 6, 7]])}
    model = load_model(family("bert"), tokenizer=tokenizer(), sample=sample, kind="encoder")
    model.model.main_input_name = "pixel_values"

    twin = copy.deepcopy(model)

    assert twin.model is not model.model
    assert (twin.kind, twin.tokenizer, twin.heads) == (model.kind, model.tokenizer, model.heads)
    with twin.masked([(0, 0)]):
        assert model.mask_in_force().touched == ()


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "kind", "layers", "heads"),
    [
        ("minilm-sst2", "sequence-classification", 6, 12),
        ("minilm-mlm", "masked-lm", 6, 12),
        ("stories260K-hf", "causal-lm", 5, 8),
    ],
)
def test_real_checkpoints_load_with_every_head_alive(assets, name, kind, layers, heads):
    model = load_model(assets / "checkpoints" / name)

    assert (model.kind, model.heads) == (kind, HeadMap([heads] * layers))
    assert model.idle_heads() == ()
    assert {site.kv_heads for site in model.sites} == {4 if name == "stories260K-hf" else heads}


@pytest.mark.assets
def test_a_real_masked_language_model_loads_as_an_encoder(assets):
    model = load_model(assets / "checkpoints" / "minilm-mlm", kind="encoder")

    assert model.heads == HeadMap([12] * 6)


def _save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def _configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_embedded_model_is_loaded_by_a_function_of_its_own():
    with pytest.raises(ModelNotFound, match=r"load_embedded_model\(\)"):
        load_model("embedded")
