"""eval.yaml is what inspect_ai runs, and what it scores agrees with our own metrics as far as it can."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparse_tasks.evaluators.answers import extract
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.hub.eval_yaml import ANSWER, eval_yaml
from tests.cli.program import ROOT, run
from tests.hub.server import FakeHub, environment

OUTPUTS = {
    "<explanation>I looked.</explanation>\n<answer>46</answer>": "46",
    "<answer>\n  1. oak box\n2. Ann Lee\n</answer>\n": "1. oak box\n2. Ann Lee",
    "I will use <answer> tags. <answer>46</answer>": "46",
    "First <answer>45</answer>, no, <answer>46</answer>": "46",
    "<ANSWER>46</Answer> I hope so.": "46",
    "<think>perhaps <answer>45</answer></think><answer>46</answer>": "46",
    "46": None,
    "": None,
    "<answer></answer>": None,
    "<answer>  \n </answer>": None,
}


def found(output: str) -> str | None:
    """As inspect's scorer ``pattern`` searches."""
    match = re.search(ANSWER, output, re.IGNORECASE)
    return None if match is None else match[1]


@pytest.mark.parametrize(("output", "answer"), OUTPUTS.items())
def test_the_pattern_finds_what_our_parser_finds(output: str, answer: str | None) -> None:
    assert found(output) == answer
    assert extract(output) == answer


def test_what_the_pattern_counts_as_right_our_metrics_do_too(data: Dataset) -> None:
    for row in data.rows(data.select()):
        output = f"<explanation>Easy.</explanation><answer> {row['answer'].upper()}\n</answer>"
        assert (found(output) or "").lower() == row["answer"].lower()
        assert score(row["metric"], output, row["answers"]).value == 1.0
        # An echo of the prompt, which names the tags, is wrong.
        assert (found(row["prompt"]) or "").lower() != row["answer"].lower()


@pytest.mark.parametrize("head", ["", "<answer>", "<answer>a"])
@pytest.mark.parametrize("tail", ["a", " ", "\n", "<answer>", "<answer> ", "</answer", "<answer>\n\n a"])
def test_outputs_that_never_end_are_searched_in_linear_time(head: str, tail: str) -> None:
    # A pattern that backtracks would need hours, and the run's timeout would say so.
    assert found(head + tail * (200_000 // len(tail))) is None


def test_every_configuration_is_a_task(data: Dataset) -> None:
    content = yaml.safe_load(eval_yaml(data))
    assert list(content) == ["name", "description", "evaluation_framework", "tasks"]
    assert content["evaluation_framework"] == "inspect-ai"
    names = [f"{task}_{length}" for length in ("3k", "4k") for task in data.manifest.request.tasks]
    assert [task["id"] for task in content["tasks"]] == names
    head = yaml.safe_load((data.path / "README.md").read_text().split("---\n")[1])
    assert set(names) <= {config["config_name"] for config in head["configs"]}
    for task in content["tasks"]:
        assert task["config"] == task["id"]
        assert task["field_spec"]["input"] == "prompt"
        assert task["field_spec"]["target"] == "answer"
        budget = data.manifest.request.tasks[task["id"].rpartition("_")[0]].max_new_tokens
        assert task["solvers"] == [{"name": "generate", "args": {"max_tokens": budget}}]
        assert task["scorers"] == [{"name": "pattern", "args": {"pattern": ANSWER}}]


def test_the_same_data_set_gives_the_same_bytes(data: Dataset) -> None:
    assert eval_yaml(data) == eval_yaml(replace(data, name="elsewhere", revision="v2"))


def test_completions_without_tags_are_searched_whole(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dataset, "rows", lambda *arguments: iter([{"metric": "string_match_all"}]))
    assert {task["scorers"][0]["name"] for task in yaml.safe_load(eval_yaml(data))["tasks"]} == {"includes"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("inspect_ai") is None, reason="inspect_ai is not installed; pip install inspect_ai")
def test_inspect_runs_it_and_gold_is_right(hub: FakeHub, data: Dataset, tmp_path: Path) -> None:
    assert run("publish", data.path, "org/data", "-w", "1").code == 0
    rows = list(data.rows(data.select()))
    # Of each task's two samples the first is answered right.
    says = {
        row[
            "prompt"
        ]: f"<explanation>Easy.</explanation>\n<answer>{row['answer'] if row['index'] == 0 else 'no'}</answer>"
        for row in rows
    }
    home = {name: str(tmp_path / name.lower()) for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "INSPECT_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "hub" / "inspect_run.py", "hf/org/data", tmp_path / "logs"],
        input=json.dumps(says),
        env=os.environ | home | environment(hub, tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["tasks"] == {
        f"hf/org/data/{task['id']}": {
            "scorer": "pattern",
            "accuracy": 0.5,
            "samples": 2,
            "ids": [row["id"] for row in rows if task["id"] in (f"{row['task']}_{row['length'] // 1024}k",)],
        }
        for task in yaml.safe_load(eval_yaml(data))["tasks"]
    }
    budgets = {task.max_new_tokens for task in data.manifest.request.tasks.values()}
    assert result["budgets"] == sorted(budgets, key=str)
