"""What the tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_tasks.evaluators.dataset import open_dataset
from tests.cli.program import keep_tokenizers, run


@pytest.fixture(autouse=True, scope="package")
def kept_tokenizers() -> Iterator[None]:
    with keep_tokenizers():
        yield


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TERMINAL_WIDTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished data set; read-only."""
    folder = tmp_path_factory.mktemp("cli") / "data"
    arguments = ["-l", "3k", "-l", "4k", "-t", "story_multihop", "-t", "ruler_niah", "-n", "2", "-w", "1"]
    assert run("generate", *arguments, "-o", folder).code == 0
    return folder


@pytest.fixture(scope="package")
def gold(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of a perfect model, in another order than the data set's."""
    path = tmp_path_factory.mktemp("outputs") / "gold.jsonl"
    dataset = open_dataset(str(data))
    outputs = [
        {"id": row["id"], "text": f"<answer>{row['answer']}</answer>", "finish_reason": "stop", "output_tokens": 9}
        for row in dataset.rows(dataset.select(), ["id", "answer"])
    ]
    path.write_text("".join(json.dumps(output) + "\n" for output in reversed(outputs)))
    return path
