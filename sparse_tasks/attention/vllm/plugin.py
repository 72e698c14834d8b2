"""Entry point of the plugin, which vLLM calls in each of its processes (group ``vllm.general_plugins``)."""

from __future__ import annotations

from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

GPU_BACKEND = "sparse_tasks.attention.vllm.gpu.SparseBackend"
CPU_BACKEND = "sparse_tasks.attention.vllm.cpu.SparseBackend"


def register() -> None:
    """Register the backend as ``CUSTOM``, which engines use only by name."""
    register_backend(AttentionBackendEnum.CUSTOM, CPU_BACKEND if current_platform.is_cpu() else GPU_BACKEND)


def take_the_place_of_cpu_attention() -> None:
    """Replace vLLM's only backend on CPUs, in a worker that runs sparse attention."""
    register_backend(AttentionBackendEnum.CPU_ATTN, CPU_BACKEND)
