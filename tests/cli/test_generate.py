"""What generate prints, and what it leaves alone."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_tasks.generators.estimate import Estimate
from sparse_tasks.generators.task import TASKS
from tests.cli.program import ROOT, contents, run
from tests.example_tokenizers import CHAT

FEW = ["-t", "ruler_niah", "-n", "2", "-w", "1"]


def test_summary_names_every_task_and_length(tmp_path: Path) -> None:
    finished = run("generate", "-l", "4k", "-l", "3k", "-t", "ruler_niah", "-t", "story_multihop", "-n", "1", "-w", "1",
                   "-o", tmp_path / "data")  # fmt: skip
    assert finished.code == 0
    assert finished.err == ""
    assert finished.out.startswith(f"{tmp_path}/data\n")
    for task in ("ruler_niah", "story_multihop"):
        for length in ("3,072", "4,096"):
            assert re.search(rf"{task} +{length} +1 +{length[0]},\d\d\d +\d+\.\d KiB", finished.out)
    total = sum(int(found.replace(",", "")) for found in re.findall(r",\d\d\d +1 +([\d,]+) ", finished.out))
    assert re.search(rf"all +4 +{total:,} ", finished.out)
    assert re.search(rf"Made {total:,} tokens in \d+\.\d s \([\d,]+ tokens/s\)\.", finished.out)
    assert f"data = load_dataset('{tmp_path}/data', 'story_multihop_3k', split='test')" in finished.out


def test_only_json_is_on_standard_output(tmp_path: Path) -> None:
    finished = run(
        "generate", "-l", "2k", *FEW, "--depth", "0.5", "-t", "ruler_vt", "-o", tmp_path / "data", "--format", "json"
    )
    assert finished.code == 2  # named by itself, a task that has no depth is an error
    finished = run("generate", "-l", "3k", "-t", "ruler", "-n", "2", "-w", "1", "--depth", "0.5", "--format", "json",
                   "-o", tmp_path / "data")  # fmt: skip
    made = [task.name for task in TASKS if "ruler" in task.groups() and "corpus" not in task.texts]
    result = finished.json()
    assert finished.code == 0
    # Decisions are reported, but elsewhere.
    notes = [line for line in finished.err.splitlines() if not line.startswith("generating: ")]  # where it takes long
    assert all(note.startswith("note: left out for want of the corpus qa_") for note in notes[:-3])
    assert notes[-3:] == [
        f"note: --depth does not steer {name}: its evidence is everywhere"
        for name in ("ruler_cwe", "ruler_fwe", "ruler_vt")
    ]
    assert result["output"] == str(tmp_path / "data")
    assert [config["task"] for config in result["configs"]] == made
    assert {config["samples"] for config in result["configs"]} == {2}
    assert result["total"]["samples"] == 2 * len(made) == 22
    assert result["total"]["tokens"] == result["tokens_made"] == sum(config["tokens"] for config in result["configs"])
    files = list((tmp_path / "data").glob("*/*.parquet"))
    assert result["total"]["bytes"] == sum(file.stat().st_size for file in files)
    assert re.fullmatch(r"[0-9a-f]{64}", result["fingerprint"])
    assert result["seconds"] > 0


@pytest.mark.parametrize("format", ["human", "json"])
def test_dry_run_reports_and_writes_nothing(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "data"
    if format == "human":
        times = {("ruler_niah", 8192): 2.0, ("ruler_niah", 2**20): 250.0}
        expected = Estimate(times, seconds=252.0, low=210.0, high=600.0, free=0.5)
        monkeypatch.setattr("sparse_tasks.generators.estimate.estimate", lambda *_: expected)
    finished = run("generate", "-l", "1M", "-l", "8k", "-t", "ruler_niah", "-n", "50", "-w", "2", "-o", output,
                   "--dry-run", "--format", format)  # fmt: skip
    assert finished.code == 0
    assert finished.err == ""
    assert contents(tmp_path) == {}
    if format == "human":
        assert "(not written)" in finished.out
        assert re.search(r"ruler_niah +1,048,576 +50 +52,428,800 ", finished.out)
        time = r"\d+(\.\d)? (s|min)"
        assert re.search(
            rf"With 2 workers about {time}: {time} to {time}(, if other programs .* cores)?\.$", finished.out
        )
        return
    plan = finished.json()
    assert plan["output"] == str(output)
    assert plan["workers"] == 2
    assert [(config["length"], config["samples"], config["tokens"]) for config in plan["configs"]] == [
        (8192, 50, 50 * 8192),
        (2**20, 50, 50 * 2**20),
    ]
    assert 0 < plan["configs"][0]["seconds"] < plan["configs"][1]["seconds"]
    assert 0 < plan["total"]["low"] < plan["total"]["seconds"] < plan["total"]["high"]
    assert plan["total"]["samples"] == 100
    assert plan["total"]["tokens"] == 50 * (8192 + 2**20)


def test_folder_is_named_after_the_lengths_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Made " in run("generate", "-l", "2500", "-l", "2k", *FEW).out
    assert [path.name for path in tmp_path.iterdir()] == ["sparse-tasks-2k-2500"]
    again = run("generate", "-l", "2500", "-l", "2k", *FEW).out
    assert "Made " not in again
    assert "Everything was already there." in again


def test_settings_of_a_group_and_of_a_task_and_a_folder_of_any_name(tmp_path: Path) -> None:
    # Rich would treat brackets as a style, and :boom: as an emoji.
    output = tmp_path / "[bold]data[/b] :boom: ż"
    settings = ["--set", "story.locale=pl_PL", "--set", "story_multihop.hops=2", "--set", "story.distractors=1"]
    arguments = ["-l", "4k", "-t", "story_multihop", "-n", "1", "-w", "1", "-o", output, "--preset", "hard", *settings]
    assert run("generate", *arguments).out.startswith(f"{output}\n")
    assert run("validate", output, "-w", "1").out.startswith(f"{output}: valid")
    shown = run("show", output, "story_multihop", "0", "--format", "json").json()
    for words in ('"locale": "pl_PL"', '"hops": 2', '"distractors": 1'):
        assert words in shown["params"]


def test_tokenizer_and_template_of_the_user(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    (tmp_path / "chat.jinja").write_text(CHAT.replace("assistant", "model"))
    folder = tokenizer_folders["unigram"]
    finished = run("generate", "-l", "6k", *FEW, "--tokenizer", folder, "--chat-template", tmp_path / "chat.jinja",
                   "-o", tmp_path / "data")  # fmt: skip
    assert finished.code == 0
    elsewhere = run("validate", tmp_path / "data", "-w", "1")
    assert elsewhere.says("tokenizer", "'unigram'", "--tokenizer")
    assert elsewhere.code == 2
    assert run("validate", tmp_path / "data", "-w", "1", "--tokenizer", folder / "tokenizer.json").code == 0


def test_progress_with_tokens_per_second_is_for_terminals(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "sparse_tasks", "generate", "-l", "2k", "-t", "ruler_niah", "-n", "40", "-w", "1", "-o",
         tmp_path / "data"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal closes with the program
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    out, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    text = shown.decode()
    assert re.search(r"ruler_niah 2,048.*\d+/40 samples.* [\d,]+ tok/s", text)
    assert "40/40 samples" in text
    assert "\x1b" not in out
    assert "ruler_niah" in out
    # The bar makes room for the result.
    assert text.endswith(("\x1b[2K", "\x1b[?25h")) or "\x1b[1A\x1b[2K" in text
