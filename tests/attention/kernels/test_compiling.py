"""Guards that kernels compile for a Hopper GPU: the interpreter of other tests takes what the compiler does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_tasks.attention.kernels import gluon, triton

ALONE = {"page_summaries._build"}  # launched by no method in serving


def launched() -> set[str]:
    """Kernels that the project launches, as ``module.name``."""
    files = [file for folder in (triton, gluon) for file in Path(folder.__path__[0]).glob("*.py")]
    return {f"{file.stem}.{name}" for file in files for name in re.findall(r"\b(_\w+)\[\(", file.read_text())}


def compiled(folder: Path, *arguments: str) -> list[str]:
    """Kernels that compile, by the script; none fails."""
    pytest.importorskip("triton")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("compile_only.py"), *arguments],
        env=os.environ | {"TRITON_CACHE_DIR": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["failed"] == {}
    names: list[str] = result["compiled"]
    return names


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["large", "more"])  # heads of 256 numbers are those of Qwen3-Next, Qwen3.5 and Gemma 3
def test_other_sizes_and_types_compile(kind: str, tmp_path: Path) -> None:
    assert {name.rpartition(".")[2] for name in compiled(tmp_path, kind)} >= {"_attend", "_kernel", "_score"}


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path: Path) -> None:
    names = compiled(tmp_path)
    assert {name.removeprefix("sparse_tasks.attention.kernels.").partition(".")[2] for name in names} >= (
        launched() - ALONE
    )
