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


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    script = Path(__file__).with_name("compile_only.py")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", script], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["failed"] == {}
    assert {name.removeprefix("sparse_tasks.attention.kernels.").partition(".")[2] for name in result["compiled"]} >= (
        launched() - ALONE
    )
