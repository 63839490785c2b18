"""Every model type of the installed transformers, tiny, from its configuration class alone.

    model, inputs = build(Entry("bert", "masked-lm"))
    model(**inputs)

The types come from transformers' own tables, so those of a new release show up by themselves. A configuration is made
tiny by the names of its fields (`SIZES`), which the families share; `OWN` holds what a type wants for itself. Weights
are drawn anew: as models initialise them, heads are nearly interchangeable, and layer scales and gates are so close to
zero that a mask which does nothing would pass unnoticed.

Nothing here asks the package where the heads are.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import transformers
from torch import Generator, Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

BATCH, LENGTH, DECODER_LENGTH, OTHER_LENGTH, PADDED = 2, 10, 7, 5, 3
"""Rows, tokens, target tokens, positions that a decoder without an encoder attends to, padding of the second row."""
HEADS, KV_HEADS, HEAD_SIZE, WIDTH, INNER, VOCABULARY, LABELS = 6, 2, 16, 96, 80, 128, 3
WORDS = (10, 95)
"""Ids drawn as text: above the usual special tokens, below those that `_small` puts into the vocabulary."""
KINDS = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION",
    "masked-lm": "MODEL_FOR_MASKED_LM",
    "causal-lm": "MODEL_FOR_CAUSAL_LM",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION",
}
"""Our kinds, and the names of transformers' tables of the classes that do them."""


class Entry(NamedTuple):
    """A model type and what its head does."""

    model_type: str
    kind: str


class CannotBuild(Exception):
    """This model type cannot be made tiny here; the message is the reason."""


def entries() -> list[Entry]:
    """Every model type of every kind that the installed transformers knows."""
    return sorted(Entry(model_type, kind) for kind in KINDS for model_type in _classes(kind))


def build(entry: Entry, layers: int = 2) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model in eval mode with weights that matter, and the keyword inputs of one forward pass.

    Text is a batch of two, the second row shorter and padded on the right. `layers` counts those of each stack; models
    of several stages have one or two layers in each. Raises CannotBuild, and leaves the random state as it was.
    """
    names = _classes(entry.kind)[entry.model_type]
    cls = getattr(transformers, names if isinstance(names, str) else names[0])
    try:
        config = _configuration(entry, cls, layers)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = cls(config).float().eval()
    except ImportError as error:
        packages = sorted(set(re.findall(r"requires the (\S+) library", str(error)))) or [str(error)]
        raise CannotBuild(f"needs the packages {', '.join(packages)}") from error
    except Exception as error:
        reason = BROKEN.get(entry.model_type) or f"{type(error).__name__}: {error}".splitlines()[-1].strip()
        raise CannotBuild(f"its configuration cannot be made tiny: {reason}") from error
    _redraw(model)
    return model, _inputs(entry, model)


def _classes(kind: str) -> dict[str, str | tuple[str, ...]]:
    return getattr(modeling_auto, f"{KINDS[kind]}_MAPPING_NAMES")


BROKEN = dict.fromkeys(
    ("gemma4_assistant", "gemma4_unified_assistant"),
    "all its layers must reuse keys of another model, and transformers 5.23 then misses the layer that makes them",
)
"""Types whose own error would not say why."""


# Configurations


def _configuration(entry: Entry, cls: type[PreTrainedModel], layers: int) -> PreTrainedConfig:
    """The tiny configuration of this type, or the part of it that this class takes."""
    whole = _tiny(CONFIG_MAPPING[entry.model_type](), layers)
    config = next((part for part in _parts(whole) if isinstance(part, cls.config_class)), whole)
    if entry.kind == "causal-lm" and hasattr(config, "is_decoder"):
        config.is_decoder = True
    if entry.model_type == "encoder-decoder":
        config.decoder.is_decoder = config.decoder.add_cross_attention = True
    return config


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)


def _tiny(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """This configuration, and those inside it, with the sizes below; what it computes, it computes from them."""
    fields = _fields(type(config))
    changes: dict[str, Any] = {"num_labels": LABELS}
    for name, default in fields.items():
        value = vars(config).get(config.attribute_map.get(name, name))
        smaller = _small(name, value, default, layers)
        if smaller is not None:
            changes[name] = smaller
    if "qk_rope_head_dim" in fields:  # multi-head latent attention: each head has keys and values of its own
        changes |= {name: HEADS for name in KV_NAMES if name in changes}
    elif "head_dim" in fields:
        changes["head_dim"] = HEAD_SIZE
    own = OWN.get(config.model_type, {})
    changes |= {name: value(layers) if callable(value) else value for name, value in own.items()}
    if "pad_token_id" in fields and changes.get("pad_token_id", config.pad_token_id) is None:
        changes["pad_token_id"] = 0
    return type(config)(**changes)


def _fields(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """What a configuration class can be given, and the defaults; older transformers say it in `__init__`."""
    declared = getattr(cls, "__dataclass_fields__", None)
    if declared is not None:
        return {name: field.default for name, field in declared.items()}
    given = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.default for p in given if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"}


def _small(name: str, value: Any, default: Any, layers: int) -> Any:
    """What this field is in a tiny configuration; None: leave it, or let the configuration compute it."""
    if isinstance(value, PreTrainedConfig):
        return _tiny(value, layers)
    if name in PATTERNS and value and isinstance(value[0], str):
        return _pattern(value, layers)
    if name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
        return {**value, "mrope_section": SECTIONS}
    if name in ("image_size", "patch_size") and isinstance(value, (list, tuple)):
        return type(value)([SIZES[name]] * len(value))
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if name in KV_NAMES:
        return min(value, KV_HEADS)
    if name.endswith(("_token_id", "_index", "_token_ids")) and not 0 <= value < VOCABULARY:
        return 0 if name == "pad_token_id" else 100 + sum(map(ord, name)) % 20
    if default is None:
        return None
    return layers if name in LAYERS.split() else SIZES.get(name)


def _pattern(names: Iterable[str], layers: int) -> list[str]:
    """A layer of each kind in turn, full attention last: a tiny hybrid must keep an attention layer."""
    kinds = sorted(dict.fromkeys(names), key="full_attention".__eq__)
    return [*(kinds[layer % len(kinds)] for layer in range(layers - 1)), kinds[-1]]


def _each(*names: str) -> Callable[[int], list[str]]:
    return lambda layers: _pattern(names, layers)


PATTERNS = ("layer_types", "mlp_layer_types", "layers_block_type", "block_types")
"""Fields with a name per layer."""
LAYERS = """num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers
    num_decoder_layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers num_blocks depth"""
KV_NAMES = ("num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads")
NAMES: dict[int, str] = {
    WIDTH: """hidden_size d_model n_embd dim emb_dim embed_dim decoder_hidden_size encoder_hidden_size projection_dim
        audio_hidden_size embedding_size backbone_hidden_size hidden_size_global adapter_in_dim adapter_out_dim
        adapter_input_size out_hidden_size output_dim ext_pw_out_channel depthwise_separable_out_channel""",
    HEADS: """num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads
        attention_heads num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads
        num_self_attention_heads num_cross_attention_heads speech_encoder_attention_heads
        t2u_encoder_attention_heads t2u_decoder_attention_heads""",
    HEAD_SIZE: """head_dim d_kv kv_channels attention_head_size d_head swa_head_dim v_head_dim kv_lora_rank
        qk_nope_head_dim o_lora_rank index_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
        mamba_d_head mamba_head_dim mamba_chunk_size query_pre_attn_scalar max_source_positions num_mel_bins
        feature_projection_input_dim dim_head rel_extent""",
    INNER: """intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim mlp_dim ffn_hidden_size d_inner
        dense_intermediate_size intermediate_size_mlp hidden_dim dff dim_ff feed_forward_size
        speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim""",
    VOCABULARY: """vocab_size vocab_size_per_layer_input src_vocab_size tgt_vocab_size audio_vocab_size t2u_vocab_size
        char_vocab_size unit_hifi_gan_vocab_size pronunciation_vocab_size shape_vocab_size""",
    64: """max_position_embeddings n_positions n_ctx max_target_positions max_seq_len max_2d_position_embeddings
        max_encoder_position_embeddings max_decoder_position_embeddings num_hash_buckets num_position_embeddings""",
    32: """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size
        moe_shared_expert_intermediate_size shared_experts_intermediate_size classifier_proj_size image_size
        q_lora_rank entity_emb_size entity_vocab_size downsample_hidden_size nemo_conv_channels output_channels""",
    12: "mamba_n_heads mamba_num_heads",
    8: """qk_rope_head_dim index_topk mamba_d_state state_size ssm_state_size patch_size laurel_rank
        hidden_size_per_layer_input num_conv_pos_embeddings keep_window_size""",
    4: """num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads zero_expert_num
        num_conv_pos_embedding_groups mamba_d_conv sliding_window sliding_window_size attention_window
        attention_window_size attention_chunk_size window_size local_attention local_attention_window_len""",
    2: """num_experts_per_tok moe_k moe_topk index_n_heads linear_num_heads linear_num_key_heads n_mamba_heads
        mamba_expand global_attn_every_n_layers""",
    1: "n_group topk_group n_groups n_shared_experts num_shared_experts moe_num_shared_experts",
    0: "num_nextn_predict_layers max_window_layers num_kv_shared_layers",
}
SIZES = {name: size for size, names in NAMES.items() for name in names.split()}
"""What these fields are in every configuration that gives them a number of its own."""

SECTIONS = [2, 3, 3]
ROPE = {"rope_type": "default", "rope_theta": 1e4}
ZAMBA = {"num_hidden_layers": lambda layers: 2 * layers}  # its hybrid layers share weights: there must be two of them
ZAMBA |= {"layers_block_type": lambda layers: ["linear_attention", "hybrid"] * layers}
BLOCKS = {"block_size": 2, "num_random_blocks": 1}
SOUND = {"conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
SWIN = {"embed_dim": 48, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4, "patch_size": 4}
STAGES = {"depths": (1, 1, 1, 1), "hidden_sizes": (16, 32, 48, 96)}
PYRAMID = {**STAGES, "num_attention_heads": (1, 2, 3, 6)}
OWN: dict[str, dict[str, Any]] = {
    # text
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": BLOCKS,
    "bigbird_pegasus": BLOCKS,
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "bros": {"hidden_size": 128, "num_attention_heads": 8},
    "canine": {"local_transformer_stride": 8},
    "codegen": {"n_head": 8, "n_embd": 128, "rotary_dim": 8},
    "cohere_compass_text": {"layer_types": _each("sliding_attention", "full_attention")}
    | {"rope_parameters": {"sliding_attention": {**ROPE, "mrope_section": SECTIONS}, "full_attention": None}},
    "dbrx": {"attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8.0, "rope_theta": 1e4}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"head_dim": 24, "swa_head_dim": 24, "swa_num_attention_heads": 4, "swa_v_head_dim": 16}
    | {"swa_num_key_value_heads": 4, "swa_q_lora_rank": 32, "swa_kv_lora_rank": 16, "swa_qk_nope_head_dim": 16},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": 32},
    "esmc": {"num_key_value_heads": HEADS},
    "falcon_h1": {"mamba_d_ssm": 192},
    "funnel": {"block_sizes": lambda layers: [1] * layers, "num_decoder_layers": 1},
    "gemma3n_text": {"intermediate_size": INNER},
    "gemma4_text": {"global_head_dim": 24},
    "gemma4_unified_text": {"global_head_dim": 24},
    "gpt_neo": {"attention_types": lambda layers: [[_pattern(["global", "local"], layers), 1]]},
    "gptj": {"rotary_dim": 8},
    "granite_speech": {"window_size": 15},
    "granite_speech_plus": {"window_size": 15},
    "granitemoehybrid": {"layer_types": _each("linear_attention", "full_attention")},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 6},
    "laguna": {"num_attention_heads_per_layer": lambda layers: [HEADS] * layers},
    "layoutlmv3": {"coordinate_size": 16, "shape_size": 16, "input_size": 32},
    "lfm2": {"layer_types": _each("conv", "full_attention")},
    "lfm2_moe": {"layer_types": _each("conv", "full_attention"), "num_dense_layers": 1},
    "longcat_flash": {"head_dim": 8},
    "longt5": {"local_radius": 3, "global_block_size": 4},
    "mamba2": {"num_heads": 12, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    "markuplm": {"max_depth": 5, "xpath_unit_hidden_size": 8},
    "mimo_v2_flash": {"head_dim": 24, "num_attention_heads": 8},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": WIDTH},
    "nemotron": {"num_key_value_heads": KV_HEADS},
    "pegasus_x": {"block_size": 4, "num_global_tokens": 3},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 6}
    | {"indexer_compress_ratio": 2, "hc_lowrank": 16},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [32, 64], "axial_pos_shape": [4, 16], "num_buckets": 4, "hash_seed": 0}
    | {"local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "attn_layers": _each("local", "lsh")},
    "roc_bert": {"pronunciation_embed_dim": 32, "shape_embed_dim": 32},
    "t5": {"decoder_start_token_id": 0},
    "xlstm": {"hidden_size": 128, "num_heads": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {**ZAMBA, "mamba_dt_rank": 6},
    "zamba2": {**ZAMBA, "n_mamba_heads": 12},
    "zaya": {"num_experts_per_tok": 1},
    # images, large enough that attention has several keys in every stage
    "bit": {**STAGES, "embedding_size": 16, "num_groups": 8},
    "convnext": {**STAGES, "image_size": 64, "patch_size": 4},
    "convnextv2": {**STAGES, "image_size": 64, "patch_size": 4},
    "cvt": {"embed_dim": (16, 48, 96), "num_heads": (1, 3, 6), "depth": (1, 2, 3)},
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "focalnet": {"embed_dim": 24, "depths": (1, 1, 1, 1)},
    "hgnet_v2": {"depths": (1, 1, 1, 1), "embedding_size": 16, "stem_channels": (3, 8, 16)}
    | {"stage_in_channels": (16, 16, 32, 48), "stage_mid_channels": (8, 8, 16, 16), "stage_num_blocks": (1, 1, 1, 1)}
    | {"stage_out_channels": (16, 32, 48, 64), "hidden_sizes": (16, 32, 48, 64), "stage_numb_of_layers": (2, 2, 2, 2)},
    "hiera": {"embed_dim": 16, "depths": (1, 1, 1, 1), "image_size": (64, 64), "patch_size": (7, 7)},
    "levit": {"image_size": 128, "patch_size": 16, "hidden_sizes": (48, 64, 96), "num_attention_heads": (3, 4, 6)}
    | {"depths": (1, 1, 1)},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"image_size": 128, "patch_size": 2, "hidden_sizes": (48, 72, 96), "num_attention_heads": HEADS}
    | {"neck_hidden_sizes": (16, 16, 24, 24, 32, 32, 64)},
    "mobilevitv2": {"image_size": 64, "patch_size": 2, "width_multiplier": 0.25, "n_attn_blocks": (1, 1, 1)},
    "perceiver": {"d_latents": WIDTH, "num_latents": 12, "num_self_attends_per_block": lambda layers: layers}
    | {"qk_channels": WIDTH, "v_channels": WIDTH},
    "poolformer": STAGES,
    "pp_lcnet": {"scale": 0.25, "class_expand": 64},
    "pvt": {**PYRAMID, "image_size": 64},
    "pvt_v2": {**PYRAMID, "image_size": (64, 64)},
    "regnet": {**STAGES, "embedding_size": 16, "groups_width": 8},
    "resnet": {**STAGES, "embedding_size": 16},
    "segformer": PYRAMID,
    "shieldgemma2": {"mm_tokens_per_image": 4, "yes_token_index": 11, "no_token_index": 12},
    "siglip2_vision_model": {"num_patches": 16},
    "swiftformer": {"embed_dims": (16, 24, 32, 48), "depths": (1, 1, 1, 2), "image_size": 64},
    "swin": SWIN,
    "swinv2": {**SWIN, "pretrained_window_sizes": (0, 0)},
    "textnet": {"hidden_sizes": (16, 16, 24, 24, 32), "conv_layer_kernel_sizes": [[[3, 3]]] * 4}
    | {"stem_out_channels": 16, "conv_layer_strides": [[1], [2], [2], [2]]},
    # sound
    "audio-spectrogram-transformer": {"max_length": 24, "frequency_stride": 8, "time_stride": 8},
    **dict.fromkeys(("data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2"), SOUND),
    **dict.fromkeys(("wav2vec2-conformer", "wavlm"), SOUND),
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2, "depths": (1, 1, 1, 1, 1, 1, 1)},
}
"""What a type wants for itself, by the type of the (sub-)configuration; a function is given the number of layers."""


# Weights


def _redraw(model: PreTrainedModel) -> None:
    """Draw the weights anew, so that every head matters and no activation dies away or grows out of hand."""
    generator, seen = Generator().manual_seed(1), set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_floating_point() and id(parameter) not in seen:  # tied weights: the first use decides
                    seen.add(id(parameter))
                    _redraw_one(module, name, parameter, torch.randn(parameter.shape, generator=generator))


def _redraw_one(module: nn.Module, name: str, parameter: Tensor, noise: Tensor) -> None:
    if isinstance(module, nn.Embedding):
        parameter.copy_(noise)
        if module.padding_idx is not None:
            parameter[module.padding_idx] = 0
    elif name == "bias" and parameter.ndim == 1:
        parameter.copy_(0.1 * noise)
    elif name == "weight" and parameter.ndim == 1:  # a norm
        parameter.copy_(1 + 0.1 * noise)
    elif name == "weight" and isinstance(module, nn.modules.conv._ConvNd):
        parameter.copy_(noise * math.sqrt(2 / parameter[0].numel()))
    elif name == "weight" and isinstance(module, Conv1D):
        parameter.copy_(noise / math.sqrt(parameter.shape[0]))
    elif parameter.ndim > 1 and parameter.shape[0] > 1 and "bias" not in name and "table" not in name:
        parameter.copy_(noise / math.sqrt(max(parameter.shape[1:])))  # a matrix, or one for each expert
    else:  # layer scales, gates, sinks, position biases, class tokens, decays: near what they mean to be
        parameter.add_(0.5 * noise)


# Inputs


def _inputs(entry: Entry, model: PreTrainedModel) -> dict[str, Any]:
    draw = Generator().manual_seed(0)
    if entry.kind == "image-classification":
        inputs = _image(model, draw)
    elif entry.kind == "audio-classification":
        inputs = _sound(model, draw)
    else:
        inputs = _text(entry, model, draw)
    return inputs | _more(entry.model_type, model.config, inputs, draw)


def _image(model: PreTrainedModel, draw: Generator) -> dict[str, Any]:
    if model.config.model_type == "imagegpt":  # reads clusters of colours
        return {"input_ids": _ids(LENGTH, draw)}
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", 64)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    known = inspect.signature(model.forward).parameters
    name = "pixel_values" if "pixel_values" in known else model.main_input_name
    return {name: torch.randn(BATCH, getattr(config, "num_channels", 3), height, width, generator=draw)}


def _sound(model: PreTrainedModel, draw: Generator) -> dict[str, Any]:
    config, shape = model.config, (200,)
    if config.model_type == "audio-spectrogram-transformer":
        shape = (config.max_length, config.num_mel_bins)
    elif config.model_type == "whisper":
        shape = (config.num_mel_bins, 2 * config.max_source_positions)
    elif model.main_input_name == "input_features":
        shape = (LENGTH, config.feature_projection_input_dim)
    return {model.main_input_name: torch.randn(BATCH, *shape, generator=draw)}


def _text(entry: Entry, model: PreTrainedModel, draw: Generator) -> dict[str, Any]:
    config, known = model.config, inspect.signature(model.forward).parameters
    length = 2 * LENGTH if getattr(config, "attention_type", None) == "block_sparse" else LENGTH  # else it turns dense
    inputs = _padded(_ids(length, draw), getattr(config.get_text_config(), "pad_token_id", None))
    ids = inputs["input_ids"]
    if entry.kind == "sequence-classification" and config.is_encoder_decoder:  # these read where the text ends
        ids[0, -1] = ids[1, -PADDED - 1] = config.eos_token_id
    if entry.kind == "seq2seq-lm":
        inputs["decoder_input_ids"] = _ids(DECODER_LENGTH, draw)
    corner, size = torch.randint(0, 8, (2, BATCH, length, 2), generator=draw)
    inputs["bbox"] = torch.cat([corner, corner + size], dim=-1)
    return {name: value for name, value in inputs.items() if name in known}


def _ids(length: int, draw: Generator, rows: int = BATCH) -> Tensor:
    return torch.randint(*WORDS, (rows, length), generator=draw)


def _padded(ids: Tensor, padding: int | None) -> dict[str, Any]:
    attention = torch.ones_like(ids)
    ids[1, -PADDED:], attention[1, -PADDED:] = padding or 0, 0
    return {"input_ids": ids, "attention_mask": attention}


def _more(model_type: str, config: PreTrainedConfig, inputs: dict[str, Any], draw: Generator) -> dict[str, Any]:
    """What this type wants besides, or instead."""
    match model_type:
        case "blt":  # its configuration has no layers to make a cache for
            return {"use_cache": False}
        case "bros":
            return {"bbox": inputs["bbox"] / 16}
        case "layoutlmv3":
            return {"pixel_values": torch.randn(BATCH, 3, config.input_size, config.input_size, generator=draw)}
        case "mllama":
            return {"cross_attention_states": torch.randn(BATCH, OTHER_LENGTH, WIDTH, generator=draw)}
        case "musicgen":
            states = torch.randn(BATCH, OTHER_LENGTH, WIDTH, generator=draw)
            return {"input_ids": _ids(LENGTH, draw, BATCH * config.num_codebooks), "encoder_hidden_states": states}
        case "musicgen_melody":
            return {"input_ids": _ids(LENGTH, draw, BATCH * config.num_codebooks)}
        case "shieldgemma2":
            ids = _ids(LENGTH, draw)
            ids[:, : config.mm_tokens_per_image] = config.image_token_index
            image = (ids == config.image_token_index).long()
            return _padded(ids, config.text_config.pad_token_id) | {"token_type_ids": image}
        case "siglip2":
            vision, mask = config.vision_config, torch.ones(BATCH, config.vision_config.num_patches, dtype=torch.long)
            mask[1, -4:] = 0
            pixels = torch.randn(*mask.shape, vision.num_channels * vision.patch_size**2, generator=draw)
            sides = torch.tensor([[4, 4], [3, 4]])
            return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": sides}
        case "trocr":
            return {"encoder_hidden_states": torch.randn(BATCH, OTHER_LENGTH, WIDTH, generator=draw)}
        case "voxtral_realtime":
            shape = (config.audio_config.num_mel_bins, 2 * config.downsample_factor * LENGTH)
            return {"input_features": torch.randn(BATCH, *shape, generator=draw)}
    return {}
