"""Discovery on architectures of every shape, on inputs made up from their configurations.

Oracle: the places, head counts and widths that each architecture's own source gives, written down here; and zeroed
columns of a deep copy for what the gates do.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from pytest_bertology import BertologyWarning, Head, HeadMask, load_model
from pytest_bertology.errors import CannotGate, CannotSample, NoAttentionHeads, UnknownHead
from pytest_bertology.models.sampling import repeat_row
from tests.families import redraw

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # in older transformers
OLD = Version(transformers.__version__) < Version("5.20")
TEXT = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
DECODER = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {"image_size": 32, "patch_size": 8, "num_labels": 3}
SOUND = {"conv_dim": (8, 8), "conv_kernel": (4, 4), "conv_stride": (4, 4), "num_feat_extract_layers": 2}
SOUND |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}


@dataclass(frozen=True)
class Known:
    """What an architecture's source says of its attention."""

    name: str
    config: dict[str, Any]
    sites: tuple[str, ...]
    heads: tuple[int, ...] = (4, 4)
    kv_heads: int = 4
    width: int = 6
    found: str = "interface"
    stacks: tuple[str | None, ...] = (None, None)
    calls: int = 1

    def model(self):
        """The model, every weight drawn anew."""
        model = getattr(transformers, self.name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            built = model(model.config_class(**self.config))
        return redraw(built, 0).eval()


def _layers(path: str, count: int = 2) -> tuple[str, ...]:
    return tuple(path.format(layer) for layer in range(count))


SEQ2SEQ = ("encoder", "encoder", "decoder", "decoder", "cross", "cross")
STACKS = ((4,) * 6, SEQ2SEQ)
BART = {"vocab_size": 60, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40}
BART_SITES = (
    *_layers("model.encoder.layers.{}.self_attn.out_proj"),
    *_layers("model.decoder.layers.{}.self_attn.out_proj"),
    *_layers("model.decoder.layers.{}.encoder_attn.out_proj"),
)
T5 = {"vocab_size": 60, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}
T5_SITES = (
    *_layers("encoder.block.{}.layer.0.SelfAttention.o"),
    *_layers("decoder.block.{}.layer.0.SelfAttention.o"),
    *_layers("decoder.block.{}.layer.1.EncDecAttention.o"),
)
GPT = {
    "vocab_size": 60,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

KNOWN = [
    Known("BartForConditionalGeneration", BART, BART_SITES, heads=STACKS[0], stacks=SEQ2SEQ),
    Known("BartForSequenceClassification", BART, BART_SITES, heads=STACKS[0], stacks=SEQ2SEQ),
    Known("T5ForConditionalGeneration", T5, T5_SITES, heads=STACKS[0], stacks=SEQ2SEQ),
    Known("T5EncoderModel", T5, T5_SITES[:2]),
    Known("AlbertForMaskedLM", {**TEXT, "embedding_size": 16},
          ("albert.encoder.albert_layer_groups.0.albert_layers.0.attention.dense",), heads=(4,), stacks=(None,),
          calls=2),
    Known("MistralForCausalLM", {**DECODER, "num_key_value_heads": 2, "head_dim": 8},
          _layers("model.layers.{}.self_attn.o_proj"), kv_heads=2, width=8),
    Known("GPTBigCodeForCausalLM", {**GPT, "multi_query": True}, _layers("transformer.h.{}.attn.c_proj"), kv_heads=1),
    Known("GPTNeoXForCausalLM", DECODER, _layers("gpt_neox.layers.{}.attention.dense")),
    Known("Phi3ForCausalLM", {**DECODER, "num_key_value_heads": 2}, _layers("model.layers.{}.self_attn.o_proj"),
          kv_heads=2),
    Known("DeepseekV3ForCausalLM", {**DECODER, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
          "qk_nope_head_dim": 6, "v_head_dim": 10, "first_k_dense_replace": 2, "num_key_value_heads": 4},
          _layers("model.layers.{}.self_attn.o_proj"), width=10),
    Known("JambaForCausalLM", {**DECODER, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
          "expert_layer_period": 8, "expert_layer_offset": 7, "num_key_value_heads": 2, "mamba_d_state": 4,
          "mamba_dt_rank": 4, "use_mamba_kernels": False},
          ("model.layers.1.self_attn.o_proj", "model.layers.3.self_attn.o_proj"), kv_heads=2),
    Known("BitNetForCausalLM", {**DECODER, "num_key_value_heads": 2},
          _layers("model.layers.{}.self_attn.attn_sub_norm"), kv_heads=2),
    Known("BloomForCausalLM", {"vocab_size": 60, "hidden_size": 24, "n_layer": 2, "n_head": 4},
          _layers("transformer.h.{}.self_attention.dense"), kv_heads=0, found="function"),
    Known("FalconForCausalLM", {**DECODER, "new_decoder_architecture": False, "multi_query": True},
          _layers("transformer.h.{}.self_attention.dense"), kv_heads=1, found="function"),
    Known("GPTJForCausalLM", {**GPT, "rotary_dim": 4}, _layers("transformer.h.{}.attn.out_proj"), kv_heads=0,
          found="function"),
    Known("GPTNeoForCausalLM", {"vocab_size": 60, "hidden_size": 24, "num_layers": 2, "num_heads": 4,
          "attention_types": [[["global", "local"], 1]], "window_size": 4},
          _layers("transformer.h.{}.attn.attention.out_proj"), kv_heads=0, found="function"),
    Known("MptForCausalLM", {"vocab_size": 60, "d_model": 24, "n_layers": 2, "n_heads": 4},
          _layers("transformer.blocks.{}.attn.out_proj"), kv_heads=0, found="function"),
    Known("MPNetForMaskedLM", TEXT, _layers("mpnet.encoder.layer.{}.attention.attn.o"), kv_heads=0, found="function"),
    Known("DebertaV2ForSequenceClassification", {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
          _layers("deberta.encoder.layer.{}.attention.output.dense"), kv_heads=0, found="function"),
    Known("XLMWithLMHeadModel", {"vocab_size": 60, "emb_dim": 24, "n_layers": 2, "n_heads": 4},
          _layers("transformer.attentions.{}.out_lin"), kv_heads=0, found="function"),
    Known("SqueezeBertForMaskedLM", {**TEXT, "embedding_size": 24},
          _layers("transformer.encoder.layers.{}.post_attention.conv1d"), kv_heads=0, found="function"),
    Known("ConvBertForMaskedLM", {**TEXT, "embedding_size": 24, "hidden_size": 48, "num_attention_heads": 8},
          _layers("convbert.encoder.layer.{}.attention.output.dense"), kv_heads=0, found="function"),
    Known("LongformerForMaskedLM", {**TEXT, "attention_window": [4, 4], "pad_token_id": 1},
          _layers("longformer.encoder.layer.{}.attention.output.dense"), kv_heads=0, found="function"),
    Known("FunnelForMaskedLM", {"vocab_size": 60, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 24,
          "n_head": 4, "d_head": 6, "d_inner": 32}, ("funnel.encoder.blocks.0.0.attention.post_proj",
          "funnel.encoder.blocks.1.0.attention.post_proj", "funnel.decoder.layers.0.attention.post_proj"),
          heads=(4, 4, 4), kv_heads=0, found="function", stacks=(None,) * 3),
    Known("ViTForImageClassification", {**TEXT, **IMAGE}, _layers("vit.layers.{}.attention.o_proj")),
    Known("Wav2Vec2ForSequenceClassification", {**TEXT, **SOUND},
          _layers("wav2vec2.encoder.layers.{}.attention.out_proj")),
]  # fmt: skip
each = pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)


@pytest.mark.skipif(OLD, reason="older versions of transformers have other names")
@each
def test_heads_are_where_the_source_has_them(known):
    model = load_model(known.model(), kind="encoder")

    sites = model.sites
    assert tuple(site.name for site in sites) == known.sites
    assert tuple(site.heads for site in sites) == known.heads
    assert tuple(site.stack for site in sites) == known.stacks
    assert {(site.kv_heads, site.width, site.found, site.calls) for site in sites} == {
        (known.kv_heads, known.width, known.found, known.calls)
    }
    assert model.check.dead == ()
    assert model.ungated == ()


@each
def test_examples_can_have_masks_of_their_own(known):
    model = load_model(known.model(), kind="encoder")
    sample = repeat_row(model.model, 3)
    heads = [list(model.heads)[1], list(model.heads)[-1]]
    gates = [torch.ones(3, site.heads) for site in model.sites]
    for row, head in enumerate(heads):
        for gate, site in zip(gates, model.sites, strict=True):
            if (site.layer, site.stack) == (head.layer, head.stack):
                gate[row + 1, head.head] = 0.0

    with torch.no_grad(), model.gated(gates):
        together = model.model(**sample)[0]

    assert model.check.per_example
    with torch.no_grad():
        assert torch.allclose(together[0], model.model(**sample)[0][0], atol=1e-5)
        for row, head in enumerate(heads):
            with model.masked([head]):
                assert torch.allclose(together[row + 1], model.model(**sample)[0][0], atol=1e-4, rtol=1e-4)


def _columns(module):
    """A projection's weight with its inputs first."""
    weight = module.weight
    return weight if isinstance(module, transformers.pytorch_utils.Conv1D) else weight.transpose(0, 1)


@each
def test_a_masked_head_is_as_zeroed_columns(known):
    if known.name.startswith("BitNet"):
        pytest.skip("its columns are behind a norm: see test_heads_before_a_norm_are_as_zeroed_values")
    model = load_model(known.model(), kind="encoder")
    site = model.sites[-1]
    twin = copy.deepcopy(model.model)
    with torch.no_grad():
        _columns(twin.get_submodule(site.name))[2 * site.width : 3 * site.width] = 0.0
    sample = model.sample()

    with torch.no_grad(), model.masked([(site.layer, 2, site.stack)]):
        masked = model.model(**sample)[0]

    with torch.no_grad():
        assert torch.allclose(masked, twin(**sample)[0], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(masked, model.model(**sample)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sharpness", [1.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["BloomForCausalLM", "GPTJForCausalLM", "SqueezeBertForMaskedLM", "DeepseekV3ForCausalLM"]
)
def test_half_precision_is_proven_too(name, dtype, sharpness):
    live = next(known for known in KNOWN if known.name == name).model()
    with torch.no_grad():
        for path, parameter in live.named_parameters():
            if any(part in path for part in ("query", "q_proj", "q_b_proj")):
                parameter.mul_(sharpness)

    model = load_model(live.to(dtype), kind="encoder")

    assert model.heads.per_layer == (4, 4)
    assert model.check.per_example


def test_heads_before_a_norm_are_as_zeroed_values():
    known = next(known for known in KNOWN if known.name.startswith("BitNet"))
    model = load_model(known.model())
    twin = copy.deepcopy(model.model)
    with torch.no_grad():
        twin.model.layers[1].self_attn.v_proj.weight[6:12] = 0.0
    sample = model.sample()

    with torch.no_grad(), model.masked([(1, 2), (1, 3)]):
        masked = model.model(**sample).logits

    with torch.no_grad():
        assert torch.allclose(masked, twin(**sample).logits, atol=1e-5)
        assert not torch.allclose(masked, model.model(**sample).logits, atol=1e-2)
    assert model.check.joint == tuple(site.name for site in model.sites)


def test_layers_may_have_different_numbers_of_heads():
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, window_size=4, embed_dim=12, depths=[1, 1, 1], num_heads=[2, 3, 4], num_labels=3
    )
    model = load_model(redraw(transformers.SwinForImageClassification(config), 0).eval())

    assert model.heads.per_layer == (2, 3, 4)
    assert [site.width for site in model.sites] == [6, 8, 12]


def test_sizes_of_attention_are_found_where_the_source_reduces_keys():
    config = transformers.SegformerConfig(
        num_labels=3,
        depths=[1, 1],
        num_encoder_blocks=2,
        hidden_sizes=[12, 24],
        num_attention_heads=[2, 4],
        sr_ratios=[2, 1],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        image_size=32,
    )
    model = load_model(redraw(transformers.SegformerForImageClassification(config), 0).eval())

    assert model.heads.per_layer == (2, 4)


def test_two_streams_of_attention_in_one_layer_have_projections_of_their_own():
    config = transformers.LiltConfig(**TEXT, channel_shrink_ratio=2, max_2d_position_embeddings=32)
    model = load_model(redraw(transformers.LiltForTokenClassification(config), 0).eval())

    assert [site.name.removeprefix("lilt.encoder.layer.") for site in model.sites] == [
        "0.attention.output.dense",
        "0.attention.layout_output.dense",
        "1.attention.output.dense",
        "1.attention.layout_output.dense",
    ]
    assert [site.width for site in model.sites] == [6, 3, 6, 3]


@pytest.mark.skipif(OLD, reason="older versions of transformers cannot build this configuration")
def test_an_activation_before_the_projection_is_where_gates_act():
    config = transformers.LevitConfig(
        image_size=32,
        hidden_sizes=[24, 36],
        num_attention_heads=[2, 3],
        depths=[1, 1],
        key_dim=[8, 8],
        drop_path_rate=0,
        mlp_ratio=[2, 2],
        attention_ratio=[2, 2],
        down_ops=[["Subsample", 8, 3, 2, 2, 2], [""]],
    )
    model = load_model(redraw(transformers.LevitForImageClassification(config), 0).eval())

    assert model.heads.per_layer == (2, 3, 3)
    assert {type(site.projection).__name__ for site in model.sites} == {"Hardswish"}


def _llava():
    vision = {"model_type": "clip_vision_model", **TEXT, "image_size": 16, "patch_size": 8, "num_hidden_layers": 3}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config={"model_type": "llama", **DECODER}, image_token_index=50
    )
    return redraw(transformers.LlavaForConditionalGeneration(config), 0).eval()


def test_a_tower_that_the_sample_does_not_run_is_told():
    model = load_model(_llava(), kind="causal-lm")

    assert model.heads.per_layer == (4, 4)
    assert model.not_run == ("model.vision_tower", "model.multi_modal_projector")


def test_a_tower_that_the_sample_runs_is_a_stack_of_its_own():
    ids = torch.tensor([[7, 50, 50, 50, 50, 9]])
    sample = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}

    model = load_model(_llava(), kind="causal-lm", sample=sample)

    assert model.heads.describe() == "vision: 3 layers of 4 heads; 2 layers of 4 heads"
    assert model.check.silent == tuple(Head(2, head, "vision") for head in range(4))  # LLaVA reads the last but one
    assert (0, 1) in model.heads
    assert (1, 3, "vision") in model.heads
    mask = HeadMask.without(model.heads, [(0, 1), (1, 3, "vision")])
    assert HeadMask.from_json(mask.to_json(), model.heads) == mask
    with torch.no_grad(), model.masked([(1, 3, "vision")]):
        masked = model.model(**model.sample()).logits
    with torch.no_grad():
        assert not torch.allclose(masked, model.model(**model.sample()).logits, atol=1e-4)


def test_a_head_without_its_stack_is_told_which_there_are():
    model = load_model(KNOWN[0].model())

    with pytest.raises(UnknownHead, match=r'Name the stack too, for example \(0, 1, "encoder"\)'):
        model.masked([(0, 1)]).__enter__()
    assert model.heads[0] == Head(0, 0, "encoder")


def test_attention_that_no_gate_reaches_beside_gated_heads_is_warned_of():
    config = transformers.SiglipVisionConfig(**{key: TEXT[key] for key in TEXT if key != "vocab_size"}, **IMAGE)
    live = redraw(transformers.SiglipVisionModel(config), 0).eval()

    with pytest.warns(BertologyWarning, match="head.attention"):
        model = load_model(live, kind="encoder")

    assert model.heads.per_layer == (4, 4)
    assert [name.split(".")[-2:] for name, _ in model.ungated] == [["head", "attention"]]


REFUSED = [
    ("WavLMForSequenceClassification", {**TEXT, **SOUND}, CannotGate, "without a call of a module"),
    ("DiffLlamaForCausalLM", {**DECODER, "num_key_value_heads": 2}, CannotGate, "do not arrive side by side"),
    ("XLNetLMHeadModel", {"vocab_size": 60, "d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 32}, CannotGate,
     "projected by a function"),
    ("MambaForCausalLM", {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4},
     NoAttentionHeads, "no attention heads were seen"),
    ("FNetForMaskedLM", {key: TEXT[key] for key in TEXT if key != "num_attention_heads"}, NoAttentionHeads,
     "no attention heads were seen"),
    ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
     NoAttentionHeads, "no attention heads were seen"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "error", "reason"), REFUSED, ids=lambda value: value if str(value).isalnum() else ""
)
def test_what_cannot_be_gated_exactly_is_refused_with_the_reason(name, config, error, reason):
    model = Known(name, config, ()).model()

    with pytest.raises(error, match=reason):
        load_model(model, kind="encoder")


def test_a_model_that_needs_inputs_of_its_own_says_which():
    model = Known("VisualBertForMultipleChoice", {**TEXT, "visual_embedding_dim": 8}, ()).model()
    model.main_input_name = "points"

    with pytest.raises(CannotSample, match="'points', which is neither tokens, pixels nor sound"):
        load_model(model, kind="encoder")


BIG_BIRD = {**TEXT, "attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1, "pad_token_id": 0}


def test_block_sparse_attention_is_run_on_an_input_long_enough_to_stay_so():
    model = load_model(Known("BigBirdForMaskedLM", BIG_BIRD, ()).model())

    assert model.heads.per_layer == (4, 4)
    assert {type(site.projection).__name__ for site in model.sites} == {"Linear"}
    assert model.model.bert.attention_type == "block_sparse"
    assert len(model.sites[0].taps) == 5


def test_a_model_that_exchanges_its_modules_on_the_sample_is_refused():
    live = Known("BigBirdForMaskedLM", BIG_BIRD, ()).model()

    with pytest.raises(CannotSample, match="exchanged modules of its own"):
        load_model(live, sample={"input_ids": torch.tensor([[7, 8, 9, 10, 11]])})


def test_a_model_that_fails_on_made_up_inputs_says_so_and_asks_for_others():
    model = Known("BrosForTokenClassification", TEXT, ()).model()

    with pytest.raises(CannotSample, match=r"fails on inputs made up.*You have to specify bbox.*sample="):
        load_model(model)


def test_a_model_that_fails_on_the_given_sample_says_so():
    with pytest.raises(CannotSample, match=r"fails on the sample given \(IndexError"):
        load_model(KNOWN[4].model(), sample={"input_ids": torch.tensor([[10**6]])})


def test_several_end_tokens_are_no_obstacle():
    model = Known("LlamaForCausalLM", {**DECODER, "eos_token_id": [2, 3]}, ()).model()

    assert load_model(model).heads.per_layer == (4, 4)


def test_a_model_of_characters_without_a_vocabulary_is_sampled():
    config = {**TEXT, "local_transformer_stride": 4, "num_hash_buckets": 16, "num_hash_functions": 2}
    config = {key: value for key, value in config.items() if key != "vocab_size"}

    assert load_model(Known("CanineForTokenClassification", config, ()).model()).heads.per_layer == (4,) * 4


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertLMHeadModel"])
def test_a_decoders_attention_to_given_states_is_a_stack_of_its_own(name):
    config = {**GPT, "add_cross_attention": True} if name.startswith("GPT2") else {**TEXT, "add_cross_attention": True}
    live = Known(name, {**config, "is_decoder": True}, ()).model()
    states = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[7, 8, 9], [10, 11, 12]])

    with_states = load_model(live, sample={"input_ids": ids, "encoder_hidden_states": states})

    assert with_states.heads.describe() == "2 layers of 4 heads; cross: 2 layers of 4 heads"
    assert [site.name for site in with_states.sites[:2]] == [site.name for site in load_model(live).sites]
    with pytest.raises(CannotSample, match="the same length"):
        load_model(live, sample={"input_ids": ids, "encoder_hidden_states": states[:, :3].contiguous()})


def test_a_hint_names_a_head_that_there_is():
    model = load_model(Known("BartForConditionalGeneration", {**BART, "decoder_attention_heads": 2}, ()).model())

    with pytest.raises(UnknownHead, match=r'\(0, 3, "encoder"\)'):
        model.masked([(0, 3)]).__enter__()
    with pytest.raises(UnknownHead) as error:
        model.masked([(5, 7)]).__enter__()
    assert "for example" not in str(error.value)
