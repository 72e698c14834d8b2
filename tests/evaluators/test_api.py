"""Evaluation from Python, with the defaults of the command line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.cli.evaluate import evaluate as command
from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.api import compare, evaluate, load_run
from sparse_tasks.evaluators.dataset import Dataset


def test_a_run_is_made_loaded_and_compared(tmp_path: Path, dataset: Dataset, rows: list[dict[str, Any]]) -> None:
    outputs = tmp_path / "outputs.jsonl"
    lines = [{"id": row["id"], "text": f"<answer>{row['answer']}</answer>"} for row in rows]
    outputs.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    made = evaluate(dataset.path, outputs, engine="replay", limit=1, output=tmp_path / "run")
    assert {config.mean for config in made.result.configs} == {1.0}
    assert load_run(tmp_path / "run").result == made.result
    assert {row.difference for row in compare(tmp_path / "run", tmp_path / "run").rows} == {0.0}
    with pytest.raises(UsageError, match="cannot be read"):
        load_run(tmp_path / "nowhere")


def test_defaults_match_the_command_line() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (evaluate, command))
    for name in ours.keys() & theirs.keys():
        assert ours[name].default == theirs[name].default, name
