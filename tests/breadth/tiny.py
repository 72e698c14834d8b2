"""Tiny checkpoints of random weights, of any architecture that transformers has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

Json = dict[str, Any]

VOCABULARY: Final = 512
LAYERS: Final = 4

_SIZES: Final[Json] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embed_dim"), 128),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "shared_intermediate_size"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("swa_num_attention_heads",), 4),
    **dict.fromkeys(("head_dim", "swa_head_dim", "v_head_dim", "swa_v_head_dim", "qk_nope_head_dim"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"), 2048),
    **dict.fromkeys(("sliding_window", "sliding_window_size"), 64),
    # experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
                     "moe_shared_expert_intermediate_size", "moe_latent_size"), 64),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    # state spaces and linear attention
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 32),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_chunk_size", "chunk_size"), 32),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 64),
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    # images and sound
    **dict.fromkeys(("num_layers", "depth", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 128),
    "image_size": 56, "patch_size": 14,
    # of which prompts have none
    **dict.fromkeys(("image_token_id", "image_token_index"), 0),
    **dict.fromkeys(("video_token_id", "video_token_index", "audio_token_id", "audio_token_index"), 1),
}  # fmt: skip
_STATED: Final = ("num_key_value_heads", "head_dim")  # if others are None, the model has no such part

_LATENT: Final = {"q_lora_rank": 64, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                  "v_head_dim": 128}  # fmt: skip
"""Of latent attention, for which vLLM has kernels of these sizes alone."""

_YARN: Final = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 32,
        "beta_slow": 1,
    }
}
"""Of DeepSeek and its kin, whose plain positions vLLM's CPU build gets wrong."""

_BY_TIME_HEIGHT_AND_WIDTH: Final = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
}
"""Of Qwen-VL and its kin, whose positions are three."""

_CHANGES: Final[dict[str, Json]] = {
    # what vLLM reads, and published configs have
    "AfmoeConfig": {"score_func": "sigmoid", "route_norm": True, "route_scale": 1.0, "n_group": 1, "topk_group": 1},
    "AXK1Config": _YARN | {"first_k_dense_replace": 0, "topk_method": "noaux_tc"},
    "DeepseekV2Config": _YARN | {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "DbrxConfig": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "Glm4MoeConfig": {"head_dim": 32},
    "Glm4MoeLiteConfig": {"first_k_dense_replace": 1},
    "HYV3Config": {"first_k_dense_replace": 1, "expert_hidden_dim": 64, "route_norm": True, "qk_norm": True},
    "Lfm2Config": {
        "layer_types": ["conv", "full_attention"] * 2,
        "block_auto_adjust_ff_dim": False,
        "block_dim": 128,
        "block_ff_dim": 128,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "conv_dim": 128,
        "conv_dim_out": 128,
    },
    "HrmTextConfig": {"num_layers_per_stack": 1, "num_hidden_layers": 2},
    "GPTJConfig": {"rotary_dim": 16},
    "Granite4VisionConfig": {
        "text_config": {"model_type": "granite"},
        "deepstack_layer_map": [[0, 0]],
        "downsample_rate": "1/2",
    },
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"] * 2},
    "Gemma3TextConfig": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "MistralConfig": {"sliding_window": None},
    "DeepseekV3Config": _YARN | {"topk_method": "noaux_tc"},
    "FalconH1Config": {"mamba_d_ssm": 256},
    "Gemma4Config": {
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
        }
    },
    "Gemma3nTextConfig": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 16,
        "hidden_size_per_layer_input": 32,
    },
    "Qwen4ExpTextConfig": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 32,
        "indexer_budget": 256,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 512,
        "output_gate_type": "silu",
    },
    "NemotronHConfig": {"hybrid_override_pattern": "M*M*"},
    # On CPUs vLLM has experts of this alone.
    "MiniMaxM2Config": {"rotary_dim": 32, "scoring_func": "softmax", "use_routing_bias": True},
    "LagunaConfig": {"layer_types": ["sliding_attention", "full_attention"] * 2, "mlp_layer_types": ["dense"] * 4},
    "Llama4TextConfig": {"num_experts_per_tok": 1},
    "LongcatFlashConfig": {
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "zero_expert_type": "identity",
        "zero_expert_num": 2,
        "routed_scaling_factor": 1.0,
        "num_hidden_layers": 4,
    },
    "MiMoV2FlashConfig": {
        "hybrid_layer_pattern": [1, 0, 1, 0],
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "moe_layer_freq": [0, 1, 1, 1],
        "layernorm_epsilon": 1e-5,
        "sliding_window_size": 64,
        "swa_head_dim": 32,
        "swa_v_head_dim": 32,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "add_swa_attention_sink_bias": True,
    },
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"] * 2},
    **dict.fromkeys(
        ("Qwen2VLTextConfig", "Qwen2_5_VLTextConfig", "Qwen3VLTextConfig", "Cosmos3EdgeTextConfig"),
        _BY_TIME_HEIGHT_AND_WIDTH,
    ),
    "Qwen3VLMoeTextConfig": _BY_TIME_HEIGHT_AND_WIDTH | {"norm_topk_prob": True},
    "Ernie4_5_VLMoeTextConfig": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 6, 4]},
        "moe_intermediate_size": [64, 64],
    },
    "CohereCompassTextConfig": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 6, 4]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "CohereCompassConfig": {"tie_word_embeddings": True},
    "Glm4vMoeTextConfig": {"head_dim": 32, "use_qk_norm": False},
    "Glm4vVisionConfig": {"num_heads": 4},
    "Glm4vMoeVisionConfig": {"num_heads": 4},
    "Glm5NextTextConfig": {"num_key_value_heads": 4, "qk_rope_head_dim": 0},
    "NemotronH_Omni_Reasoning_V3_Config": {"vision_config": {"video_temporal_patch_size": 2}},
    "Mamba2Config": {"num_heads": 8, "head_dim": 32},
    "Zamba2Config": {"num_key_value_heads": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
}


def settings(kind: type[PreTrainedConfig]) -> Json:
    """Sizes of a config, and of those within it."""
    chosen = {
        field.name: _SIZES[field.name]
        for field in dataclasses.fields(kind)
        if field.name in _SIZES and (field.default is not None or field.name in _STATED)
    }
    if any(field.name == "kv_lora_rank" for field in dataclasses.fields(kind)):
        chosen |= {name: size for name, size in _LATENT.items() if hasattr(kind, name)}
    for name in kind.sub_configs:
        part = getattr(kind(), name, None)
        if isinstance(part, PreTrainedConfig):
            chosen[name] = {"model_type": part.model_type, **settings(type(part))}
    return merged(chosen, _CHANGES.get(kind.__name__, {}))


def merged(given: Json, changes: Json) -> Json:
    """Settings with changes, of parts too."""
    parts = {name: merged(given[name], value) for name, value in changes.items()
             if isinstance(value, dict) and isinstance(given.get(name), dict)}  # fmt: skip
    return given | changes | parts


def make(source: str, folder: Path, *, architecture: str | None = None, **changes: Any) -> PreTrainedModel:
    """Save a model of transformers with random weights that make attention matter, in float32.

    Args:
        source: Its class.
        folder: Where to.
        architecture: The class that its ``config.json`` names, if it is another one.
        changes: Of its settings.
    """
    kind = getattr(transformers, source)
    torch.manual_seed(0)
    config = kind.config_class(**merged(settings(kind.config_class), changes))
    model = kind(config).float()
    with torch.no_grad():
        for module in model.modules():
            scatter(module)
    model.generation_config = GenerationConfig()
    model.config.architectures = [architecture or source]
    model.save_pretrained(folder)
    return model


def scatter(module: torch.nn.Module) -> None:
    """Weights of a module with which what it adds is as large as what it gets."""
    for name, weight in module.named_parameters(recurse=False):
        if name == "sinks":
            weight.copy_(torch.linspace(-3, 6, len(weight)))
        elif weight.ndim > 2 or (weight.ndim == 2 and name == "weight"):
            weight.normal_(0, weight.shape[-1] ** -0.5)
