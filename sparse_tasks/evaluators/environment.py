"""Software and hardware of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sparse_tasks import __version__
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.records import EnvironmentRecord, HardwareRecord


def environment() -> EnvironmentRecord:
    """Versions and hardware of this machine; nothing that identifies the machine or its user."""
    names = dict.fromkeys(["tokenizers", *(package for engine in ENGINES for package in engine.packages)])
    return EnvironmentRecord(
        sparse_tasks=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: number for name in names if (number := _version(name)) is not None},
        hardware=HardwareRecord(cpu=_cpu(), cores=os.cpu_count() or 1, memory_gib=_memory_gib(), gpus=_gpus()),
    )


_CPUINFO = Path("/proc/cpuinfo")
# Linux's names of the processor flags for multiplication in a type, on x86 and ARM.
_MULTIPLIES = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}


def slow_on_cpu(dtype: str) -> bool:
    """Whether this machine's processor is known to lack instructions for a half-precision type.

    It is then many times slower than float32.
    """
    flags = {flag for line in _cpuinfo() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags) and dtype in _MULTIPLIES and not flags & _MULTIPLIES[dtype]


def share_cpu() -> None:
    """Configure vLLM's CPU build for a machine with other work, unless the user's environment sets it."""
    import psutil

    # By default it claims 90% of the memory, and does not start if that is not free.
    quarter = psutil.virtual_memory().available // 2**30 // 4
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, quarter)))
    # It would keep one core free for a server, half of a small machine.
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    # By default it aborts after a step of five minutes, which is too short on few, busy cores.
    os.environ.setdefault("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", str(24 * 60 * 60))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    named = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    """Linux's description of the processor; empty elsewhere."""
    try:
        return _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, OSError, ValueError):
        return None  # not known on every system


def _gpus() -> list[str]:
    # From the driver: torch would claim memory on each device, and the engine may live in other processes.
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
