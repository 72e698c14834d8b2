"""Small models whose layers are of several kinds (attention beside state spaces, linear attention, convolutions)."""

from __future__ import annotations

from typing import Any, Final

_SHAPE: Final = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "max_position_embeddings": 4096, "num_hidden_layers": 4}  # fmt: skip
_WITH_SIZE: Final = _SHAPE | {"head_dim": 64}
_MAMBA: Final = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 32, "mamba_n_groups": 1,
                 "mamba_chunk_size": 64}  # fmt: skip
_DELTA: Final = {"linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_key_head_dim": 64,
                 "linear_value_head_dim": 64}  # fmt: skip

HYBRIDS: Final[dict[str, tuple[str, dict[str, Any], int]]] = {
    "Qwen3Next": ("Qwen3NextConfig", _WITH_SIZE | _DELTA | {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64}, 1),
    "Qwen3_5": ("Qwen3_5TextConfig", _WITH_SIZE | _DELTA, 1),
    "NemotronH": ("NemotronHConfig", _WITH_SIZE | {
        "hybrid_override_pattern": "M*M*", "mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 32,
        "n_groups": 1, "chunk_size": 64}, 2),
    "Jamba": ("JambaConfig", _SHAPE | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts": 2, "num_experts_per_tok": 1, "mamba_dt_rank": 16}, 2),
    "FalconH1": ("FalconH1Config", _WITH_SIZE | _MAMBA | {"mamba_d_ssm": 512}, 4),
    "Lfm2": ("Lfm2Config", _SHAPE | {
        "layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False, "conv_L_cache": 3,
        # of published configs, and read by vLLM
        "block_dim": 256, "block_ff_dim": 256, "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0,
        "conv_dim": 256, "conv_dim_out": 256}, 2),
    "GraniteMoeHybrid": ("GraniteMoeHybridConfig", _SHAPE | _MAMBA | {
        "layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 128, "num_local_experts": 0,
        "num_experts_per_tok": 0, "attention_multiplier": 0.125}, 2),
    "OlmoHybrid": ("OlmoHybridConfig", _SHAPE | _DELTA | {
        "layer_types": ["linear_attention", "full_attention"] * 2, "pad_token_id": None, "eos_token_id": 0}, 2),
}  # fmt: skip
"""Config class, its settings, and layers with attention, by the name of the model's class before ``ForCausalLM``."""
