"""Checks of vLLM's model and configuration before sparse attention starts, with the flag that helps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

import torch

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.kernels.dispatch import takes_head_size
from sparse_tasks.attention.method import Phase, SharedMethod
from sparse_tasks.attention.softmax import what_config_says
from sparse_tasks.attention.vllm.arguments import BACKEND, CONNECTOR, Offer
from sparse_tasks.core.errors import UsageError


def check_config(config: Any, attention: Attention | Offer) -> None:
    """Refuse a configuration that methods do not support.

    Args:
        config: ``vllm.config.VllmConfig``.
        attention: The methods, including those that requests may choose.

    Raises:
        UsageError: The model, or an option, does not go with sparse attention or with a method.
    """
    offer = attention if isinstance(attention, Offer) else Offer(attention)
    _check_model(config)
    cache, parallel = config.cache_config, config.parallel_config
    if config.attention_config.backend is None or config.attention_config.backend.name != BACKEND:
        backend = config.attention_config.backend
        raise UsageError(
            "attention_config.backend",
            getattr(backend, "name", None),
            f'is not the backend of sparse attention; set attention_config={{"backend": "{BACKEND}"}} '
            f"(--attention-backend {BACKEND})",
        )
    if loses_prefixes(config) and cache.enable_prefix_caching:
        raise UsageError(
            "enable_prefix_caching",
            True,
            "gives wrong answers, or fails, in vLLM's CPU build if a model has other kinds of layers beside "
            "attention; set enable_prefix_caching=false (--no-enable-prefix-caching)",
        )
    if config.model_config.use_mla:
        _check_latent(config, attention)
    text = config.model_config.hf_text_config
    softmax = what_config_says(text)  # layers tell for sure, once they are loaded
    offer.check_devices(parallel.tensor_parallel_size)
    for method in attention.methods:
        method.check_softmax(softmax)
        method.in_model(text)
        if cache.enable_prefix_caching and offer.forbids_prefixes(method):
            raise UsageError(
                "enable_prefix_caching",
                True,
                f"does not go with {method.name}: {method.unshared}; set enable_prefix_caching=false "
                "(--no-enable-prefix-caching)",
            )
        # vLLM may still change it, and does for hybrids, so that the worker checks again.
        if cache.block_size is not None and not config.model_config.is_hybrid:
            check_page(method, cache.block_size, frees=offer.free_blocks)
    if cache.cache_dtype not in _CACHED:
        raise UsageError(
            "kv_cache_dtype", cache.cache_dtype, f"is not a type that the kernels read; use {', '.join(_CACHED)}"
        )
    mode = config.compilation_config.cudagraph_mode
    if mode is not None and mode.has_full_cudagraphs():
        raise UsageError(
            "cudagraph_mode",
            mode.name,
            "records attention, whose lists change at each step; set "
            'compilation_config={"cudagraph_mode": "PIECEWISE"}, or enforce_eager=true',
        )
    if config.speculative_config is not None:
        _check_speculation(config, attention)
    _check_transfer(config.kv_transfer_config, offer)
    for name, value in (
        ("pipeline_parallel_size", parallel.pipeline_parallel_size),
        ("decode_context_parallel_size", parallel.decode_context_parallel_size),
        ("prefill_context_parallel_size", parallel.prefill_context_parallel_size),
    ):
        if value > 1:
            raise UsageError(name, value, "splits layers or sequences, which methods need whole; use "
                             "tensor_parallel_size instead")  # fmt: skip
    if parallel.enable_dbo:
        raise UsageError(
            "enable_dbo", True, "cuts a step in two, which sparse attention does not support; leave it out"
        )


def _check_transfer(transfer: Any, offer: Offer) -> None:
    """Refuse connectors other than our own, and our own where it is not needed."""
    ours = transfer is not None and all(getattr(transfer, name, None) == value for name, value in CONNECTOR.items())
    if transfer is not None and not (ours and offer.reports):
        raise UsageError("kv_transfer_config", "given", "brings keys that the methods have not seen; leave it out")
    if offer.reports and not ours:
        remedy = f"needs kv_transfer_config={json.dumps(CONNECTOR)} (--kv-transfer-config), as engine_arguments has it"
        raise UsageError("free_blocks", True, f"with {offer.attention.method} {remedy}")


def _check_speculation(config: Any, attention: Attention | Offer) -> None:
    """Refuse drafts that were not verified to be right, and methods whose state keeps rejected tokens."""
    by, why = config.speculative_config.method, ""
    if by != "ngram":
        why = "drafts by a model, or on the device, which is not supported; use ngram, or leave it out"
    elif config.device_config.device_type != "cpu":
        why = "is supported only in vLLM's CPU build; leave it out"
    elif config.model_config.is_hybrid:
        why = "is not supported if a model has other kinds of layers beside attention; leave it out"
    for method in attention.methods:
        if not why and getattr(method, "each_step", False):
            why = (
                f"does not go with {method.name}, which at each step drops tokens for good by the attention of one "
                "that may be rejected; leave it out, or choose another method"
            )
    if why:
        raise UsageError("speculative_config", by, why)


def _decodes_latents(config: Any) -> bool:
    """Whether vLLM has the attention to latents that methods support."""
    if config.device_config.device_type != "cpu" or torch.cpu.get_capabilities().get("amx_tile"):
        return False
    try:
        return find_spec("vllm.v1.attention.backends.mla.cpu_mla") is not None
    except ModuleNotFoundError:
        return False


def _check_latent(config: Any, attention: Attention | Offer) -> None:
    """Refuse what vLLM does not compute from the cached latents: prompts, and several tokens at once."""
    for method in attention.methods:
        if method.phase is not Phase.DECODE:
            raise UsageError("attention", method.name, "chooses while a prompt is read, when vLLM does not use the "
                             "cached latents (MLA); choose a decoding method (quest), or --engine "
                             "transformers")  # fmt: skip
    if config.speculative_config is not None:
        raise UsageError("speculative_config", config.speculative_config.method, "decodes several tokens at once, "
                         "which vLLM reads as a prompt where attention is latent (MLA); leave it out")  # fmt: skip


def loses_prefixes(config: Any) -> bool:
    """Whether vLLM itself computes cached prefixes wrongly, as its CPU build does with hybrids.

    Args:
        config: ``vllm.config.VllmConfig``.
    """
    return bool(config.model_config.is_hybrid and config.device_config.device_type == "cpu")


def _check_model(config: Any) -> None:
    model, text = config.model_config, config.model_config.hf_text_config
    kind = getattr(text, "model_type", "")
    why: str | None = None
    if model.use_mla and getattr(text, "index_topk", None):
        why = "selects keys with its own indexer, which methods do not support"
    elif model.use_mla and not _decodes_latents(config):
        why = (
            "has latent attention (MLA), which methods support only in vLLM's build for CPUs without AMX (0.32); the "
            "engine transformers runs it (--engine transformers)"
        )
    elif model.use_mla and (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default") == "default":
        # Seen in 0.32: its kernel takes queries beside a single key for others. DeepSeek's own (YaRN) needs no kernel.
        why = (
            "has latent attention (MLA) with plain rotary positions, which vLLM's CPU build computes incorrectly; the "
            "engine transformers runs it (--engine transformers)"
        )
    elif model.is_encoder_decoder:
        why = "has an encoder, whose attention is not causal"
    elif config.scheduler_config.runner_type != "generate":
        why = "is an encoder or pools, and does not generate"
    elif model.is_attention_free:
        why = "has no attention"
    elif getattr(text, "attention_chunk_size", None):
        why = "attends in chunks, which is not causal attention over all keys"
    elif _alibi(text, kind):
        why = "biases scores by distance (ALiBi), which the kernels do not support"
    elif getattr(model, "is_mm_prefix_lm", False):
        why = (
            "has attention in both directions within images, which language_model_only=true, or "
            'limit_mm_per_prompt={"image": 0} with every other kind of input, turns off with vLLM 0.27 or newer'
        )
    elif hasattr(text, "prefix_lm"):  # in vLLM whatever its value
        why = "attends in both directions within a prompt (prefix_lm)"
    elif getattr(config.attention_config, "use_non_causal", False):
        why = "has attention that is not causal (use_non_causal)"
    elif getattr(model, "rswa_window", None) is not None:
        why = "lets generated tokens see only a window and the prompt (rswa_window), which methods do not support"
    elif getattr(config.cache_config, "kv_sharing_fast_prefill", False):
        why = "reads prompts in only some layers (kv_sharing_fast_prefill), which methods do not support"
    elif config.cache_config.sliding_window is not None or not (heads := _heads(text)):
        why = "has a sliding window in every layer, and methods are for layers that see all keys"
    elif len(heads) > 1:
        why = "has layers with different heads, which is not supported"
    if why is not None:
        raise UsageError("model", model.model, f"{why}; choose another model, or --attention dense")
    if config.device_config.device_type != "cpu":  # where twins serve, which take any
        check_head_size(_head_size(model, text))


def _head_size(model: Any, text: Any) -> int:
    """Size of the heads of layers that see all keys, which are alike; with a window they may have others (Gemma 4)."""
    size: int = model.get_head_size()
    if not getattr(text, "is_heterogeneous", False):
        return size
    kinds = getattr(text, "layer_types", None) or [""] * text.num_hidden_layers
    seeing = (layer for layer, kind in zip(text.per_layer_config, kinds, strict=True) if "sliding" not in kind)
    return getattr(next(seeing), "head_dim", None) or size


def _heads(text: Any) -> set[str]:
    """Heads of layers that see all keys, as the config gives them: one element where all layers are alike."""
    count = getattr(text, "num_hidden_layers", 1)
    kinds = getattr(text, "layer_types", None) or [""] * count
    layers = text.per_layer_config if getattr(text, "is_heterogeneous", False) else [text] * count
    if blocks := getattr(text, "block_configs", None):  # of an architecture search, which may drop attention
        layers = [getattr(block, "attention", None) for block in blocks]
    names = {"num_attention_heads", "num_key_value_heads", "head_dim", "n_heads_in_group"}
    names |= {name for name in vars(text) if "heads" in name}

    def size(layer: object, number: int, name: str) -> object:
        value = getattr(layer, name, None)
        return value[number] if isinstance(value, list | tuple) and len(value) == count else value

    return {
        str([size(layer, number, name) for name in sorted(names)])
        for number, (layer, kind) in enumerate(zip(layers, kinds, strict=False))
        if "sliding" not in kind and not getattr(layer, "no_op", False)
    }


def _alibi(text: Any, kind: str) -> bool:
    nested = getattr(text, "attn_config", None)
    of_mpt = nested.get("alibi") if isinstance(nested, dict) else getattr(nested, "alibi", False)
    return bool(
        kind == "bloom"
        or getattr(text, "alibi", False)
        or of_mpt
        or getattr(text, "position_embedding_type", None) == "alibi"
    )


def check_head_size(size: int) -> None:
    """Refuse head sizes that the kernels do not take.

    Raises:
        UsageError: The size is not a multiple of 16 up to 256.
    """
    if not takes_head_size(size):
        remedy = (
            "of layers that see all keys is not a multiple of 16 up to 256, which the kernels need; a CPU takes any"
        )
        raise UsageError("head_size", size, remedy)


def check_page(method: Any, block_size: int, *, frees: bool = False) -> None:
    """Refuse pages that straddle vLLM's blocks and, where these are freed, blocks of a method that take parts of them.

    Raises:
        UsageError: The method's page does not divide the block size, or that does not divide the method's blocks.
    """
    if frees and isinstance(method, SharedMethod) and (block := getattr(method, "block", block_size)) % block_size:
        raise UsageError(
            f"{method.name}.block",
            block,
            f"is not a multiple of vLLM's block size, {block_size}, so few of its blocks would be free; take one "
            f"that is (--set {method.name}.block={block_size}), or other blocks (block_size)",
        )
    page = getattr(method, "page", 1)
    if block_size % page:
        raise UsageError(
            f"{method.name}.page",
            page,
            f"does not divide vLLM's block size, {block_size}; take one that does (--set "
            f"{method.name}.page=16), or other blocks (block_size)",
        )


def check_layer(module: Any) -> None:
    """Refuse an attention layer that is, or may be, more than causal attention over all keys.

    Anything not known to be supported is refused: classes other than vLLM's ``Attention``, and attributes that are
    neither known to leave attention unchanged nor off.

    Args:
        module: A layer of ``vllm.model_executor.layers.attention``, with its ``impl``.

    Raises:
        UsageError: Names the class, or the attribute.
    """
    kind = type(module).__name__
    latent = kind == "MLAAttention"
    if kind != "Attention" and not latent:
        raise UsageError("model", kind, "is not causal attention over all keys")
    if not getattr(module.impl, "may_be_sparse", False):
        raise UsageError("model", type(module.impl).__name__, "is not the plugin's, so no method can run there")
    own = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
    # Of a ``torch.nn.Module``, that much is not among its variables.
    parts = {name: part for of in ("_parameters", "_buffers", "_modules") for name, part in vars(module)[of].items()}
    in_8_bits = getattr(module, "kv_cache_dtype", None) in ("fp8", "fp8_e4m3")
    if in_8_bits and type(parts.get("query_quant")).__name__ == "QuantFP8":
        del parts["query_quant"]
    check_attributes(own | parts, latent=latent)
    if in_8_bits:
        _check_scales(module)
    check_attributes(vars(module.impl), latent=latent)
    if not latent and module.head_size_v != module.head_size:
        raise UsageError("head_size_v", module.head_size_v, f"differs from that of keys, {module.head_size}")


def _check_scales(module: Any) -> None:
    """Refuse scales of a cache in 8 bits that are not one number for a tensor, given with the weights."""
    for name, scale, known in (
        ("_q_scale", module._q_scale, module._q_scale_float),
        ("_k_scale", module._k_scale, module._k_scale_float),
        ("_v_scale", module._v_scale, module._v_scale_float),
    ):
        if scale.numel() != 1 or float(scale) != known:
            raise UsageError(name, scale.tolist(), "is not one scale for a tensor, known as the model is loaded")


def check_cache(spec: Any) -> None:
    """Refuse a layer by its ``KVCacheSpec``, by the same rule as ``check_layer``.

    Raises:
        UsageError: Names the class, or the attribute.
    """
    kind = type(spec).__name__
    if kind not in ("FullAttentionSpec", "MLAAttentionSpec"):
        raise UsageError("model", kind, "is not a cache of causal attention over all keys")
    check_attributes(vars(spec), latent=kind == "MLAAttentionSpec")


def check_attributes(attributes: Mapping[str, Any], *, latent: bool = False) -> None:
    """Refuse attributes, or arguments, of an attention layer that are not known to be supported.

    Args:
        attributes: Values by name. None is off, whatever the name.
        latent: Whether the layer is of latent attention (MLA).

    Raises:
        UsageError: Names the first attribute that is not known, or has a value that is not.
    """
    for name, value in attributes.items():
        if value is None or name in _HANDLED or (latent and name in _OF_LATENTS):
            continue
        allowed = _PLAIN.get(name, ()) + (_PLAIN_OF_LATENTS.get(name, ()) if latent else ())
        plain = isinstance(value, int | float | str | tuple) and value in allowed
        if not plain:
            shown = value if isinstance(value, int | float | str | tuple) else "given"
            raise UsageError(name, shown, "is a part of the model's attention that the kernels do not support")


_CACHED: Final = ("auto", "float32", "float16", "bfloat16", "fp8", "fp8_e4m3")
# Of vLLM 0.26 to 0.32: attributes of attention layers, of their ``impl`` on CPUs and GPUs, and of their caches.
_HANDLED: Final = frozenset({
    "num_heads", "num_kv_heads", "num_queries_per_kv", "head_size", "head_size_v", "scale", "dtype",
    "sinks", "has_sink", "logits_soft_cap",
    # which layer it is, and with which code
    "kv_sharing_target_layer_name",
    "layer_name", "impl", "backend", "attn_backend", "use_direct_call", "isa", "vllm_flash_attn_version", "fa4_hd256",
    "batch_invariant_enabled", "supports_quant_query_input", "use_zentorch_sdpa", "may_be_sparse", "sparse",
    # weights, and scales of caches in 8 bits
    "quant_config", "quant_method", "k_scale", "v_scale", "q_scale", "prob_scale", "_k_scale", "_v_scale", "_q_scale",
    "_prob_scale", "_k_scale_cpu", "_v_scale_cpu", "_k_scale_float", "_v_scale_float", "_q_scale_float",
    "_prob_scale_float", "_o_scale_float", "q_range", "k_range", "v_range",
    # how the cache lies in memory
    "kv_cache", "kv_cache_torch_dtype", "block_size", "page_size_padded", "indexes_kv_by_block_stride",
    "block_stride_alignment", "max_tp_shards", "dcp_sharded",
    # ranks of contexts that are split, of which there is one
    "dcp_rank", "pcp_rank", "total_cp_rank", "need_to_return_lse_for_decode", "dcp_combine", "_dcp_dtype",
    "_dcp_max_num_tokens",
})  # fmt: skip
# And those that leave attention as it is at some values alone.
_PLAIN: Final[Mapping[str, tuple[object, ...]]] = {
    "attn_type": ("decoder",),
    "sliding_window": (-1, (-1, -1)),
    "kv_cache_dtype": _CACHED,
    "kv_quant_mode": (0, 1),  # none, and one scale for a tensor
    "is_fp8_kv_cache": (False, True),
    "tokens_per_state": (1,),
    **dict.fromkeys(("dcp_world_size", "pcp_world_size", "total_cp_world_size"), (1,)),
    **dict.fromkeys(("use_alibi_sqrt", "use_mm_prefix", "mm_prefix_clamp_sliding_window", "non_causal",
                     "calculate_kv_scales"), (False,)),
}  # fmt: skip
# Of latent attention alone.
_OF_LATENTS: Final = frozenset({
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim", "v_head_dim", "kv_b_proj",
    "W_UK_T", "W_UV", "prefill_backend", "_vllm_config", "_chunked_prefill_workspace_size",
    "_decode_concat_quant_fp8_op", "_quant_fp8_op", "cp_kv_cache_interleave_size", "to_rows", "from_rows",
})  # fmt: skip
_PLAIN_OF_LATENTS: Final[Mapping[str, tuple[object, ...]]] = {
    "kv_cache_dtype": ("auto",),
    "cache_dtype_str": ("auto",),
    "cache_role": ("sparse",),  # vLLM's word for a cache of rows, whether or not a model chooses among them
    **dict.fromkeys(("_pad_v", "_use_flashinfer_concat_mla_k", "is_amx_bmm_enabled", "is_aiter_triton_fp4_bmm_enabled",
                     "is_aiter_triton_fp8_bmm_enabled", "use_sparse", "is_index_group_leader",
                     "non_causal_multi_token_decode", "dcp_q_replicate", "use_pcp", "pcp_shard_decode_requests"),
                    (False,)),
}  # fmt: skip
_OF_MODULES: Final = frozenset(vars(torch.nn.Module()))
