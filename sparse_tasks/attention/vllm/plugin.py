"""Entry point of the plugin, which vLLM calls in each of its processes (group ``vllm.general_plugins``)."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import parent_process

from sparse_tasks.attention.vllm.interface import importing

with importing():
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

GPU_BACKEND = "sparse_tasks.attention.vllm.gpu.SparseBackend"
CPU_BACKEND = "sparse_tasks.attention.vllm.cpu.SparseBackend"
CPU_LATENT_BACKEND = "sparse_tasks.attention.vllm.latent.LatentBackend"
_WATCHER = "sparse-tasks: ends with the parent"


def register() -> None:
    """Register the backend as ``CUSTOM``, which engines use only by name, and end its processes with their parent."""
    if not any(thread.name == _WATCHER for thread in threading.enumerate()):
        _watch()
        os.register_at_fork(after_in_child=_watch)  # a forked engine has the plugin already, and is not asked again
    register_backend(AttentionBackendEnum.CUSTOM, CPU_BACKEND if current_platform.is_cpu() else GPU_BACKEND)


def take_the_place_of_cpu_attention() -> None:
    """Replace vLLM's backends on CPUs, in a worker that runs sparse attention: vLLM offers no choice there."""
    register_backend(AttentionBackendEnum.CPU_ATTN, CPU_BACKEND)
    if (latent := getattr(AttentionBackendEnum, "CPU_MLA", None)) is not None:  # vLLM 0.26 may lack it
        register_backend(latent, CPU_LATENT_BACKEND)


def _watch() -> None:
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), name=_WATCHER, daemon=True).start()


def _end_with_parent(origin: int) -> None:
    """End this process within a second of its parent, however that ended: vLLM's engine and workers would go on.

    Args:
        origin: The process that this one was forked from, which may be a fork server instead of its parent.
    """
    time.sleep(0.5)  # a forked process does not know its parent at once
    parent = parent_process()
    if parent is None:
        return  # vLLM did not start it
    while os.getppid() == origin and parent.is_alive():
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
