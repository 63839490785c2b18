"""Every model type of the installed transformers, tiny, from its configuration class alone."""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

BATCH, LENGTH, DECODER_LENGTH, PADDED = 2, 10, 7, 3
HEADS, KV_HEADS, HEAD_SIZE, WIDTH, INNER, VOCABULARY, LABELS = 6, 2, 16, 96, 80, 128, 3
KINDS = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION",
    "masked-lm": "MODEL_FOR_MASKED_LM",
    "causal-lm": "MODEL_FOR_CAUSAL_LM",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION",
}


def _named(value: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), value)


LAYERS = [
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "encoder_num_hidden_layers",
    "decoder_num_hidden_layers",
    "depth",
    "num_blocks",
    "speech_encoder_layers",
    "t2u_encoder_layers",
    "t2u_decoder_layers",
    "num_entity_layers",
]
KV_NAMES = [
    "num_key_value_heads",
    "encoder_num_key_value_heads",
    "decoder_num_key_value_heads",
    "swa_num_key_value_heads",
    "num_kv_heads",
]
SIZES: dict[str, int] = {
    **_named(
        WIDTH,
        """hidden_size d_model n_embd dim emb_dim embed_dim d_embed decoder_hidden_size word_embed_proj_dim
        encoder_hidden_dim encoder_hidden_size n_embed adapter_hidden_size text_hidden_size projection_dim
        projection_size output_hidden_size pooler_output_size vision_hidden_size""",
    ),
    **_named(
        HEADS,
        """num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads
        attention_heads decoder_num_attention_heads encoder_num_attention_heads num_encoder_attention_heads
        num_decoder_attention_heads swa_num_attention_heads num_self_attention_heads num_cross_attention_heads
        speech_encoder_attention_heads t2u_encoder_attention_heads t2u_decoder_attention_heads""",
    ),
    **_named(HEAD_SIZE, "head_dim d_kv kv_channels attention_head_dim d_head swa_head_dim v_head_dim global_head_dim"),
    **_named(
        INNER,
        """intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim mlp_dim ffn_hidden_size d_inner
        decoder_intermediate_size dense_intermediate_size intermediate_size_mlp encoder_intermediate_size
        prefix_dense_intermediate_size hidden_dim dff dim_ff feed_forward_size speech_encoder_intermediate_size
        t2u_encoder_ffn_dim t2u_decoder_ffn_dim""",
    ),
    **_named(
        32,
        """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size
        moe_shared_expert_intermediate_size shared_experts_intermediate_size classifier_proj_size image_size
        q_lora_rank entity_emb_size audio_hidden_size""",
    ),
    **_named(
        4,
        """num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads
        num_conv_pos_embedding_groups mamba_d_conv sliding_window sliding_window_size""",
    ),
    **_named(
        2,
        """num_experts_per_tok num_experts_per_token moe_k moe_topk top_k_experts index_n_heads linear_num_heads
        linear_num_key_heads n_mamba_heads mamba_expand global_attn_every_n_layers n_relations""",
    ),
    **_named(
        1, "n_group topk_group n_groups num_expert_group n_shared_experts num_shared_experts moe_num_shared_experts"
    ),
    **_named(
        0, "num_mtp_modules num_nextn_predict_layers max_window_layers num_kv_shared_layers first_k_dense_replace"
    ),
    **_named(
        16,
        """kv_lora_rank qk_nope_head_dim o_lora_rank index_head_dim linear_key_head_dim linear_value_head_dim
        linear_head_dim mamba_d_head mamba_head_dim mamba_headdim mamba_chunk_size query_pre_attn_scalar
        max_source_positions num_mel_bins""",
    ),
    **_named(
        8,
        """qk_rope_head_dim index_topk mamba_d_state state_size ssm_state_size patch_size laurel_rank
        hidden_size_per_layer_input num_conv_pos_embeddings""",
    ),
    **_named(12, "mamba_n_heads mamba_num_heads"),
    **_named(VOCABULARY, "vocab_size vocab_size_per_layer_input src_vocab_size tgt_vocab_size decoder_vocab_size"),
    "qk_head_dim": 24,
    "num_hash_buckets": 64,
    "entity_vocab_size": 30,
}
OWN: dict[str, dict[str, Any]] = {}


class Entry(NamedTuple):
    """A model type and what its head does."""

    model_type: str
    kind: str


class CannotBuild(Exception):
    """This model type cannot be made tiny here; the message is the reason."""


def entries() -> list[Entry]:
    """Every model type of every kind that the installed transformers knows."""
    return sorted(Entry(name, kind) for kind in KINDS for name in _classes(kind))


def build(entry: Entry, layers: int = 2) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model in eval mode with weights that matter, and the keyword inputs of one forward pass."""
    cls = _model_class(entry)
    config = _configuration(entry, cls, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(config).float().eval()
    _redraw(model)
    return model, _inputs(entry, model)


def _classes(kind: str) -> dict[str, Any]:
    return getattr(modeling_auto, f"{KINDS[kind]}_MAPPING_NAMES")


def _model_class(entry: Entry) -> type[PreTrainedModel]:
    names = _classes(entry.kind)[entry.model_type]
    return getattr(transformers, names if isinstance(names, str) else names[0])


def _configuration(entry, cls, layers):
    base = CONFIG_MAPPING[entry.model_type]
    try:
        default = base()
    except Exception:
        default = base(**OWN[entry.model_type])
    config = _tiny(default, layers)
    config = next(c for c in _parts(config) if isinstance(c, cls.config_class))
    if entry.kind == "causal-lm" and hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config


def _parts(config):
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)


def _tiny(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    changes: dict[str, Any] = {"num_labels": LABELS}
    fields = {name: field.default for name, field in type(config).__dataclass_fields__.items()}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            changes[name] = _tiny(value, layers)
        elif name in fields:
            changes |= _smaller(name, value, fields[name], layers)
    if "qk_rope_head_dim" in fields and "num_key_value_heads" in changes:
        changes["num_key_value_heads"] = HEADS
    changes |= OWN.get(config.model_type, {})
    if "pad_token_id" in fields and changes.get("pad_token_id", config.pad_token_id) is None:
        changes["pad_token_id"] = 0
    return type(config)(**changes)


def _smaller(name: str, value: Any, default: Any, layers: int) -> dict[str, Any]:
    if name in KV_NAMES and isinstance(value, int):
        return {name: min(value, KV_HEADS)}
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(v, str) for v in value)
        and name in ("layer_types", "mlp_layer_types", "layers_block_type", "block_types")
    ):
        kinds = sorted(dict.fromkeys(value), key="full_attention".__eq__)
        return {name: [*(kinds[i % len(kinds)] for i in range(layers - 1)), kinds[-1]]}
    if name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
        return {name: {**value, "mrope_section": [2, 3, 3]}}
    if name.endswith(("_token_id", "_index", "_token_ids")) and isinstance(value, int) and not 0 <= value < VOCABULARY:
        return {name: 0 if name == "pad_token_id" else 100 + sum(map(ord, name)) % 20}
    if default is None or isinstance(value, bool):
        return {}
    if name in ("image_size", "patch_size") and isinstance(value, (list, tuple)):
        return {name: type(value)([SIZES[name]] * len(value))}
    if not isinstance(value, int):
        return {}
    if name in LAYERS:
        return {name: layers}
    return {name: SIZES[name]} if name in SIZES else {}


def _redraw(model: PreTrainedModel) -> None:
    """Draw the weights anew, so that every head matters and no activation dies away."""
    generator, seen = torch.Generator().manual_seed(1), set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_floating_point() and id(parameter) not in seen:
                    seen.add(id(parameter))
                    _redraw_one(module, name, parameter, torch.randn(parameter.shape, generator=generator))


def _redraw_one(module, name, parameter, noise) -> None:
    if isinstance(module, nn.Embedding):
        parameter.copy_(noise)
        if module.padding_idx is not None:
            parameter[module.padding_idx] = 0
    elif name == "bias" and parameter.ndim == 1:
        parameter.copy_(0.1 * noise)
    elif isinstance(module, Conv1D):
        parameter.copy_(noise / math.sqrt(parameter.shape[0]))
    elif name == "weight" and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        parameter.copy_(noise / math.sqrt(parameter[0].numel()))
    elif name == "weight" and parameter.ndim == 1:
        parameter.copy_(1 + 0.1 * noise)
    elif parameter.ndim > 1 and parameter.shape[0] > 1 and "bias" not in name and "table" not in name:
        parameter.copy_(noise / math.sqrt(max(parameter.shape[1:])))
    else:
        parameter.add_(0.5 * noise)


def _inputs(entry: Entry, model: PreTrainedModel) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    config, known = model.config, inspect.signature(model.forward).parameters
    if entry.kind == "image-classification":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 64)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(vision, "num_channels", 3)
        name = "pixel_values" if "pixel_values" in known else model.main_input_name
        return {name: torch.randn(BATCH, channels, height, width, generator=draw)}
    if entry.kind == "audio-classification":
        if model.main_input_name == "input_values":
            return {"input_values": torch.randn(BATCH, 400, generator=draw)}
        bins = getattr(config, "feature_projection_input_dim", None) or getattr(config, "num_mel_bins", 80)
        return {"input_features": torch.randn(BATCH, 40, bins, generator=draw)}
    ids = torch.randint(10, 95, (BATCH, LENGTH), generator=draw)
    inputs = {"input_ids" if "input_ids" in known else model.main_input_name: ids}
    if "attention_mask" in known:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][1, -PADDED:] = 0
        text = config.get_text_config()
        ids[1, -PADDED:] = getattr(text, "pad_token_id", None) or 0
        if entry.kind == "sequence-classification" and config.is_encoder_decoder:
            ids[0, -1] = ids[1, -PADDED - 1] = config.eos_token_id
    if entry.kind == "seq2seq-lm" and "decoder_input_ids" in known:
        inputs["decoder_input_ids"] = torch.randint(10, 95, (BATCH, DECODER_LENGTH), generator=draw)
    return inputs
