"""`inspect` prints the head map of a model, from a folder, a bare configuration or a live model, or says why not.

Oracle: the configurations the models are made from.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from packaging.version import Version

from pytest_bertology import inspection
from pytest_bertology.__main__ import main
from pytest_bertology.errors import CannotGate, ModelNotFound, NoWeights
from pytest_bertology.inspection import inspect_model
from tests.families import family, redraw, under_test

BLOOM = {"vocab_size": 60, "hidden_size": 24, "n_layer": 2, "n_head": 4, "architectures": ["BloomForCausalLM"]}
LLAMA = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
LLAMA |= {"num_key_value_heads": 2, "architectures": ["LlamaForCausalLM"]}

BERT_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
WHISPER = {"vocab_size": 60, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
WHISPER |= {"decoder_attention_heads": 4, "num_mel_bins": 8, "max_source_positions": 12, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}


@pytest.fixture
def folder(tmp_path):
    """A folder to save configurations and models in, by name."""

    def save(what, name="model"):
        what.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def test_a_checkpoint_is_proven_on_its_own_weights(folder):
    found = inspect_model(folder(family("llama", "causal-lm")))

    assert (found.architecture, found.kind, found.weights, found.proven) == (
        "LlamaForCausalLM",
        "causal-lm",
        "checkpoint",
        True,
    )
    assert [(s.layer, s.heads, s.kv_heads, s.width, s.cut) for s in found.sites] == [
        (0, 4, 2, 6, "yes"),
        (1, 4, 2, 6, "yes"),
    ]
    assert [site.gated_at for site in found.sites] == [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)]


@pytest.mark.parametrize("as_file", [False, True], ids=["folder", "file"])
def test_a_bare_configuration_is_proven_on_random_weights(as_file, folder):
    path = folder(transformers.LlamaConfig(**LLAMA))
    state = torch.get_rng_state()

    found = inspect_model(path + "/config.json" if as_file else path)

    assert (found.architecture, found.weights, found.proven) == ("LlamaForCausalLM", "random", True)
    assert found.heads.per_layer == (4, 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_left_alone_when_only_the_configuration_is_asked_for(folder):
    assert inspect_model(folder(family("bert")), config_only=True).weights == "random"


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"), reason="older transformers do not run on the meta device"
)
def test_a_large_configuration_runs_on_the_meta_device(folder):
    path = folder(transformers.LlamaConfig(architectures=["LlamaForCausalLM"], num_key_value_heads=8))

    found = inspect_model(path)

    assert found.parameters > 5e9
    assert (found.weights, found.proven) == ("none", False)
    assert {(site.heads, site.kv_heads, site.width, site.cut) for site in found.sites} == {(32, 8, 128, "unknown")}
    assert any("meta device" in line for line in found.lines())


def test_a_large_configuration_that_needs_weights_is_refused(folder):
    path = folder(transformers.BloomConfig(**{**BLOOM, "hidden_size": 4096, "n_layer": 30, "n_head": 32}))

    with pytest.raises(CannotGate, match="billion parameters are too many for random weights"):
        inspect_model(path)


def test_key_value_heads_are_counted_where_the_model_does_not_show_them(folder):
    config = transformers.BloomConfig(**BLOOM)

    assert [site.kv_heads for site in inspect_model(folder(config)).sites] == [4, 4]


def test_heads_normalised_together_cannot_be_cut():
    config = transformers.Olmo2Config(**LLAMA, pad_token_id=0)
    found = inspect_model(redraw(transformers.Olmo2ForCausalLM(config), 0).eval())

    assert {site.cut for site in found.sites} == {
        "no rows belong to one head alone: heads are normalised or computed together"
    }


def test_heads_read_by_a_norm_cannot_be_cut():
    config = transformers.BitNetConfig(**LLAMA, pad_token_id=0)
    found = inspect_model(redraw(transformers.BitNetForCausalLM(config), 0).eval())

    assert {site.cut for site in found.sites} == {
        "its heads are read by a BitNetRMSNorm, which does not take them one by one"
    }


def test_pickled_weights_are_not_replaced_by_random_ones(folder, tmp_path):
    path = folder(transformers.LlamaConfig(**LLAMA))
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")

    with pytest.raises(NoWeights):
        inspect_model(path)


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")

    with pytest.raises(ModelNotFound, match="neither a folder nor a configuration"):
        inspect_model(tmp_path / "model.safetensors")


def test_the_command_prints_the_map(folder, capsys):
    assert (
        main(["inspect", folder(transformers.T5Config(vocab_size=60, d_model=24, d_kv=6, num_layers=2, num_heads=4))])
        == 0
    )

    text = capsys.readouterr().out
    assert "24 heads: encoder: 2 layers of 4 heads; decoder: 2 layers of 4 heads; cross: 2 layers of 4 heads" in text
    assert "decoder.block.1.layer.1.EncDecAttention.o" in text
    assert "gates proven on random weights" in text


def test_the_command_prints_json(folder, capsys):
    assert main(["inspect", "--json", folder(family("gpt2"))]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["heads"] == [4, 4]
    assert found["sites"][0]["gated_at"] == "transformer.h.0.attn.c_proj"


def test_the_command_tells_why_a_model_is_refused(folder, capsys):
    path = folder(transformers.MambaConfig(vocab_size=60, hidden_size=24, num_hidden_layers=1, state_size=4))

    assert main(["inspect", path]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("NoAttentionHeads: no attention heads were seen in MambaModel")


def test_shared_layers_and_idle_heads_are_told(folder):
    config = transformers.AlbertConfig(
        vocab_size=60,
        embedding_size=16,
        hidden_size=24,
        num_attention_heads=4,
        intermediate_size=32,
        num_hidden_layers=3,
    )
    model = redraw(transformers.AlbertModel(config), 0).eval()
    with torch.no_grad():
        model.encoder.albert_layer_groups[0].albert_layers[0].attention.dense.weight[:, :6] = 0.0

    lines = inspect_model(folder(model)).lines()

    assert any("share weights" in line for line in lines)
    assert any(line == "dead (they write nothing) on the sample: L0H0" for line in lines)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from pytest_bertology.__main__ import main\n"
        "try: main(['inspect', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "broken",
    [
        {"num_hidden_layers": "two"},
        {"num_attention_heads": 0},
        {"vocab_size": -4},
        {"torch_dtype": "float99"},
        {"architectures": "LlamaForCausalLM", "hidden_size": 0},
    ],
    ids=str,
)
def test_a_broken_configuration_is_one_message(broken, tmp_path, capsys):
    config = json.loads(transformers.LlamaConfig(**LLAMA).to_json_string(use_diff=False))
    (tmp_path / "config.json").write_text(json.dumps({**config, **broken}))

    status = main(["inspect", str(tmp_path)])

    captured = capsys.readouterr()
    assert (status, captured.out) == (1, "")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "config", "stacks"),
    [
        ("WhisperForConditionalGeneration", WHISPER, {"encoder", "decoder", "cross"}),
        ("T5EncoderModel", {"vocab_size": 60, "d_model": 24, "d_kv": 6, "num_layers": 2, "num_heads": 4}, {None}),
        ("BertForQuestionAnswering", {key: LLAMA[key] for key in BERT_KEYS}, {None}),
    ],
)
def test_a_checkpoint_is_loaded_as_the_class_it_was_saved_as(name, config, stacks, folder):
    architecture = getattr(transformers, name)
    path = folder(redraw(architecture(architecture.config_class(**config)), 0).eval())

    found = inspect_model(path)

    assert (found.architecture, found.weights) == (name, "checkpoint")
    assert {site.stack for site in found.sites} == stacks
    assert inspect_model(path, config_only=True).heads == found.heads


def test_layers_with_tied_weights_can_only_be_cut_together():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    model.model.layers[1].self_attn.o_proj.weight = model.model.layers[0].self_attn.o_proj.weight

    assert {site.cut for site in inspect_model(redraw(model, 0).eval()).sites} == {
        "only together: its weights are tied to another layer's"
    }


@pytest.mark.parametrize("weights", ["checkpoint", "configuration", "large configuration"])
def test_a_cut_checkpoint_is_shown_as_it_is(tmp_path, monkeypatch, weights):
    folder = under_test("bert").pruned([(0, 0), (0, 1), (0, 2), (0, 3), (1, 2)]).save(tmp_path / "cut")
    if weights == "large configuration":
        monkeypatch.setattr(inspection, "_PROVEN", 0)

    found = inspect_model(folder if weights == "checkpoint" else folder / "config.json")

    assert [(site.layer, site.heads) for site in found.sites] == [(1, 3)]
    assert "cut: 5 heads are gone, L0H0 L0H1 L0H2 L0H3 L1H2" in found.lines()
