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
    """Versions and hardware of this machine; nothing that names the machine or its user."""
    names = dict.fromkeys(["tokenizers", *(package for engine in ENGINES for package in engine.packages)])
    return EnvironmentRecord(
        sparse_tasks=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: number for name in names if (number := _version(name)) is not None},
        hardware=HardwareRecord(cpu=_cpu(), cores=os.cpu_count() or 1, memory_gib=_memory_gib(), gpus=_gpus()),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


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
