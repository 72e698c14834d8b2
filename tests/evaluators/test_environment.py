"""What a run ran on is recorded by what decides about numbers, and by nothing that names a machine or a person."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from sparse_tasks import __version__
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.environment import environment, slow_on_cpu
from sparse_tasks.evaluators.runs import checked

NVIDIA = "NVIDIA H100 80GB HBM3, 81559 MiB, 550.54.15"


def test_it_matches_the_schema() -> None:
    found = environment()
    assert checked(found, "environment") == found
    assert (found.sparse_tasks, found.python) == (__version__, platform.python_version())
    assert found.packages["tokenizers"] == version("tokenizers")
    assert found.hardware.cores == os.cpu_count()
    assert found == environment()


def test_it_identifies_neither_machine_nor_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "brainbox-17")
    monkeypatch.setattr(platform, "node", lambda: "brainbox-17")
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, "/home/ada-lovelace")
    text = json.dumps(to_builtins(environment()))
    for name in ("brainbox", "ada-lovelace", os.uname().nodename, platform.release(), platform.version()):
        assert name not in text
    assert f'"{getpass.getuser()}"' not in text


def test_missing_packages_are_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ENGINES:
        monkeypatch.setattr(engine, "packages", ("no-such-package-at-all",))
    assert list(environment().packages) == ["tokenizers"]


def test_devices_come_from_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{NVIDIA}'\necho\necho '{NVIDIA}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = environment()
    assert found.hardware.gpus == [NVIDIA] * 2
    assert checked(found, "environment") == found


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), subprocess.CalledProcessError(9, "nvidia-smi"), subprocess.TimeoutExpired("n", 30)]
)
def test_a_driver_that_does_not_answer_means_no_device(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert environment().hardware.gpus == []


def test_a_system_without_information_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*arguments: object, **options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", nothing)
    monkeypatch.delattr(os, "sysconf")
    found = environment()
    assert checked(found, "environment") == found
    assert found.hardware.memory_gib is None
    assert found.hardware.cpu


@pytest.mark.parametrize(
    ("cpuinfo", "slow"),
    [
        ("flags\t\t: fpu avx2 fma\nmodel name\t: bf16\n", {"bfloat16", "float16"}),
        ("flags\t\t: avx512f avx512_bf16\n", {"float16"}),
        ("flags\t\t: amx_bf16 amx_fp16 amx_tile\n", set()),
        ("Features\t: fp asimd asimdhp\n", {"bfloat16"}),
        ("Features\t: fp asimd asimdhp bf16\n", set()),
        ("nothing that is known\n", set()),
        (None, set()),  # another system
    ],
)
def test_types_that_the_processor_has_no_instructions_for_are_known(
    cpuinfo: str | None, slow: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr("sparse_tasks.evaluators.environment._CPUINFO", tmp_path / "cpuinfo")
    assert {dtype for dtype in ("float32", "bfloat16", "float16") if slow_on_cpu(dtype)} == slow
