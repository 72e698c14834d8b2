"""The plugin: what vLLM calls in each of its processes as it starts (entry point group ``vllm.general_plugins``)."""

from __future__ import annotations

from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

__all__ = ["GPU_BACKEND", "register"]

GPU_BACKEND = "sparse_tasks.attention.vllm.gpu.SparseBackend"
CPU_BACKEND = "sparse_tasks.attention.vllm.cpu.SparseBackend"


def register() -> None:
    """Give the backend a name, ``CUSTOM``, that nothing uses unless it is asked for."""
    register_backend(AttentionBackendEnum.CUSTOM, CPU_BACKEND if current_platform.is_cpu() else GPU_BACKEND)


def take_the_place_of_cpu_attention() -> None:
    """On a CPU vLLM has one backend, whichever is asked for; a worker that runs sparse attention replaces it."""
    register_backend(AttentionBackendEnum.CPU_ATTN, CPU_BACKEND)
