"""Published data sets are read by the libraries they were made for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import snapshot_download

from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from tests.cli.program import ROOT, run
from tests.hub.server import FakeHub, environment

# Of huggingface_hub 2.4, which hands files to its HTTP client in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

NAME = "my-name/sparse-tasks-3k"
READ = """
import json
from datasets import load_dataset

name, configs = "my-name/sparse-tasks-3k", {configs!r}
ids = {{config: load_dataset(name, config, split="test")["id"][:] for config in configs}}
streamed = {{config: [row["id"] for row in load_dataset(name, config, split="test", streaming=True)]
            for config in configs}}
folder = load_dataset(name, data_dir="3072", split="test")
branch = load_dataset(name, "3k", split="test", revision="v2")
print(json.dumps({{"ids": ids, "streamed": streamed, "folder": folder["id"][:], "columns": folder.column_names,
                  "branch": branch["id"][:]}}))
"""


@pytest.fixture
def published(hub: FakeHub, data: Dataset) -> FakeHub:
    for revision in ((), ("--revision", "v2")):
        assert run("publish", data.path, NAME, "-w", "1", *revision).code == 0
    return hub


def python(script: str, hub: FakeHub, folder: Path) -> str:
    """Output of a script that knows the Hub from its environment alone."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment(hub, folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_datasets_loads_and_streams_every_configuration(published: FakeHub, data: Dataset, tmp_path: Path) -> None:
    head = yaml.safe_load((data.path / "README.md").read_text().split("---\n")[1])
    evaluation = yaml.safe_load(published.repos[NAME].files()["eval.yaml"])
    configs = {config["config_name"] for config in head["configs"]} | {task["config"] for task in evaluation["tasks"]}
    read: dict[str, Any] = json.loads(python(READ.format(configs=sorted(configs)), published, tmp_path))
    rows = list(data.rows(data.select()))
    for config in configs:
        task, _, length = config.rpartition("_")
        expected = {
            row["id"] for row in rows if row["task"] in (task or row["task"]) and f"{row['length'] // 1024}k" == length
        }
        assert set(read["ids"][config]) == set(read["streamed"][config]) == expected
    of_3k = {row["id"] for row in rows if row["length"] == 3072}
    assert set(read["folder"]) == set(read["branch"]) == of_3k
    # What kvpress reads.
    assert {"context", "question", "answer_prefix", "answer", "task", "max_new_tokens"} <= set(read["columns"])
    assert any(status == 206 for _, _, status in published.requests)


def test_the_published_data_set_is_valid_and_can_be_evaluated(
    published: FakeHub, data: Dataset, tmp_path: Path
) -> None:
    folder = snapshot_download(NAME, repo_type="dataset", local_dir=tmp_path / "copy")
    assert (tmp_path / "copy" / "eval.yaml").is_file()
    assert run("validate", folder, "-w", "1").out.startswith(f"{folder}: valid (")
    opened = open_dataset(f"{NAME}@v2")
    assert opened.revision == published.repos[NAME].refs["v2"]
    assert opened.sha256 == data.sha256
    assert list(opened.rows(opened.select())) == list(data.rows(data.select()))
    # A copy that was fetched can be published elsewhere, or again.
    assert "nothing to do" in run("publish", folder, NAME, "-w", "1").out


def test_what_the_documentation_exports_for_other_tools_is_there(
    published: FakeHub, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    commands = re.findall(r"^sparse-tasks (export .+?) +# (.+)$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    for command, files in commands:
        done = run(*command.split())
        assert done.code == 0, done.err
        assert set(files.split(", ")) <= set(done.out.split())
    # Scores of gold answers by them are tested where the exports are.
    lines = (tmp_path / "OUT" / "3072" / "vt" / "validation.jsonl").read_text().splitlines()
    rows = list(data.rows(data.select(["ruler_vt"], ["3k"])))
    assert [json.loads(line)["outputs"] for line in lines] == [row["answers"] for row in rows]
