"""``evaluate``, ``predict`` and ``score``: one run, however it is come by, and one line where it cannot be."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import ROOT, Finished, contents, run, wait_for
from tests.schemas.validation import problems

# The engine gives this many answers and then hangs, so that it can be stopped.
HANGING = """
import os, time
from sparse_tasks.cli.main import main
from sparse_tasks.evaluators.engines.replay import ReplayEngine
generate = ReplayEngine.generate
def hang(self, requests):
    for number, output in enumerate(generate(self, requests)):
        if number == int(os.environ["ANSWERS"]):
            time.sleep(60)
        yield output
ReplayEngine.generate = hang
main()
"""


@pytest.fixture
def evaluate(data: Path, gold: Path, tmp_path: Path) -> Callable[..., Finished]:
    """The command on the right outputs, into ``tmp_path/run``."""

    def call(*options: object, command: str = "evaluate", model: Path = gold) -> Finished:
        return run(command, data, "--engine", "replay", "--model", model, "-o", tmp_path / "run", *options)

    return call


def without_times(folder: Path) -> dict[str, Any]:
    """A run's files; of its record what does not depend on when and by what words it was made."""
    found: dict[str, Any] = contents(folder)
    record = json.loads(found["run.json"])
    return found | {"run.json": {key: record[key] for key in record if key not in ("started", "command_line")}}


def test_a_data_set_is_evaluated(evaluate: Callable[..., Finished], tmp_path: Path) -> None:
    finished = evaluate()
    assert finished.code == 0
    assert sorted(contents(tmp_path / "run")) == ["predictions.jsonl", "result.json", "run.json", "scores.parquet"]
    assert finished.err.startswith("8 samples to answer (")
    assert "replay is starting" in finished.err
    assert finished.out.startswith("gold.jsonl, attention unknown\n")
    assert finished.out.endswith(f"run: {tmp_path / 'run'}\n")
    for task in ("story_multihop", "ruler_niah", "mean of tasks"):
        rows = [row for row in finished.out.splitlines() if task in row]
        assert [("3k" in row, "4k" in row, "1.000" in row) for row in rows] == [
            (True, False, True),
            (False, True, True),
        ]
    assert all(len(row) <= 80 for row in finished.out.splitlines()[:-1])


def test_json_is_the_result_and_repeating_changes_nothing(evaluate: Callable[..., Finished], tmp_path: Path) -> None:
    first = evaluate("--format", "json")
    before = contents(tmp_path)
    second = evaluate("--format", "json")
    assert (second.code, second.out, second.err) == (0, first.out, "")
    assert contents(tmp_path) == before
    printed = first.json()
    assert printed.pop("run") == str(tmp_path / "run")
    assert printed == json.loads((tmp_path / "run/result.json").read_bytes())
    assert problems(printed, "result-1.0") == []
    assert {one["mean"] for one in printed["configs"]} == {1.0}


@pytest.fixture
def wrong(gold: Path, tmp_path: Path) -> Path:
    """Outputs of a model that answers nothing."""
    path = tmp_path / "wrong.jsonl"
    outputs = [json.loads(line) | {"text": "<answer>none</answer>"} for line in gold.read_text().splitlines()]
    path.write_text("".join(json.dumps(output) + "\n" for output in outputs))
    return path


def test_each_model_answers_each_data_set(data: Path, gold: Path, wrong: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    command = ["evaluate", data, other, "--engine", "replay", "-m", gold, "-m", wrong, "-o", tmp_path / "runs"]
    names = [f"{model}-{of}" for model in ("gold.jsonl", "wrong.jsonl") for of in ("data", "other")]
    finished = run(*command)
    assert finished.code == 0
    assert [line for line in finished.out.splitlines() if line.startswith("run: ")] == [
        f"run: {tmp_path / 'runs' / name}" for name in names
    ]
    again = run(*command, "--format", "json").json()
    assert [Path(one["run"]).name for one in again] == names
    assert [one["averages"][0]["mean"] for one in again] == [1, 1, 0, 0]
    answered = run(*command, "--no-score", "--format", "json").json()
    assert answered == [{"run": str(tmp_path / "runs" / name), "predictions": 8} for name in names]


def test_two_runs_never_share_a_folder(data: Path, gold: Path, tmp_path: Path) -> None:
    same = shutil.copytree(data, tmp_path / "elsewhere" / "data")
    finished = run("evaluate", data, same, "--engine", "replay", "-m", gold, "-o", tmp_path / "runs")
    assert finished.code == 2
    assert finished.says("output", "gold.jsonl-data", "one at a time")
    assert not (tmp_path / "runs").exists()


def test_the_record_has_the_command_line(evaluate: Callable[..., Finished], tmp_path: Path, data: Path) -> None:
    assert evaluate("-t", "ruler_niah", "-l", "4k", "--limit", "1", "--seed", "7", "--temperature", "0.5").code == 0
    record = json.loads((tmp_path / "run/run.json").read_bytes())
    assert problems(record, "run-1.0") == []
    assert record["command_line"][:2] == ["evaluate", str(data)]
    assert record["dataset"]["samples"] == 1
    assert (record["dataset"]["tasks"], record["dataset"]["lengths"]) == (["ruler_niah"], [4096])
    # Outputs made elsewhere were not sampled here, whatever the options.
    assert record["sampling"] == {"temperature": None, "seed": None, "max_new_tokens": None}
    assert record["attention"]["method"] == "unknown"


@pytest.mark.parametrize("given", [("dense", 0.0), ("quest", 0.9)])
def test_attention_of_replayed_outputs_is_a_label(
    evaluate: Callable[..., Finished], tmp_path: Path, given: tuple[str, float]
) -> None:
    method, sparsity = given
    options = [] if method == "dense" else ["-s", str(sparsity)]
    finished = evaluate("-a", method, *options, "--engine-arg", "model=acme/small")
    assert "acme/small, attention " + method in finished.out
    assert "(nominal)" in finished.out
    record = json.loads((tmp_path / "run/run.json").read_bytes())
    assert problems(record, "run-1.0") == []
    assert record["attention"] == {"method": method, "sparsity": sparsity, "arguments": {}, "nominal": True}
    assert record["model"]["name"] == "acme/small"


def test_a_file_has_the_outputs_of_one_attention(evaluate: Callable[..., Finished]) -> None:
    assert evaluate("-a", "quest,snapkv", "-s", "0.9").says("is a sweep", "name one")


def test_predict_and_score_equal_evaluate(evaluate: Callable[..., Finished], tmp_path: Path) -> None:
    assert evaluate().code == 0
    (tmp_path / "run").rename(tmp_path / "at once")
    predicted = evaluate(command="predict")
    assert predicted.out == f"{tmp_path / 'run'}: 8 predictions\nnext: sparse-tasks score {tmp_path / 'run'}\n"
    assert sorted(contents(tmp_path / "run")) == ["predictions.jsonl", "run.json"]
    again = evaluate("--format", "json", command="predict")
    assert again.json() == {"run": str(tmp_path / "run"), "predictions": 8}
    scored = run("score", tmp_path / "run")
    assert scored.code == 0
    assert "1.000" in scored.out
    assert scored.err == ""
    assert without_times(tmp_path / "run") == without_times(tmp_path / "at once")


def test_a_run_gets_a_default_name(data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", data, "--engine", "replay", "-m", gold).out.endswith("run: runs/gold.jsonl-data\n")
    assert (tmp_path / "runs/gold.jsonl-data/result.json").is_file()


def test_a_moved_data_set_can_be_given_to_score(
    evaluate: Callable[..., Finished], tmp_path: Path, data: Path, gold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "here/data")
    monkeypatch.chdir(tmp_path / "here")
    assert run("predict", "data", "--engine", "replay", "-m", gold, "-o", tmp_path / "run").code == 0
    monkeypatch.chdir(tmp_path)
    assert run("score", "run").says("data", "'data'")
    assert run("score", "run", "--data", data).code == 0


def test_an_incomplete_run_is_not_scored(evaluate: Callable[..., Finished], tmp_path: Path) -> None:
    assert evaluate(command="predict").code == 0
    path = tmp_path / "run/predictions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[2:]))
    finished = run("score", tmp_path / "run")
    assert finished.says("2 of 8 predictions are missing", "complete the run: sparse-tasks predict")
    assert finished.code == 1
    assert evaluate().code == 0


def test_missing_outputs_are_reported_in_one_line(data: Path, gold: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    part.write_text("".join(gold.read_text().splitlines(keepends=True)[:5]))
    finished = run("evaluate", data, "--engine", "replay", "-m", part, "-o", tmp_path / "run")
    assert finished.code == 2
    assert finished.out == ""
    assert finished.err.splitlines()[-1].startswith(f"error: {part} has no output for 3 of the samples, ")


# --- stopping -------------------------------------------------------------------------------------------------------


def started(folder: Path, answers: int, *arguments: object) -> subprocess.Popen[str]:
    """The program with a hanging engine, in a separate process."""
    script = folder / "hanging.py"
    script.write_text(HANGING)
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "ANSWERS": str(answers)},
        start_new_session=True,
    )


def answers(folder: Path) -> int:
    path = folder / "predictions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_repeatedly_ends_with_the_same_files(
    evaluate: Callable[..., Finished], data: Path, gold: Path, tmp_path: Path
) -> None:
    assert evaluate().code == 0
    folder = tmp_path / "killed"
    arguments = ["evaluate", data, "--engine", "replay", "--model", gold, "-o", folder]
    for goal, more in ((1, 1), (6, 5)):
        process = started(tmp_path, more, *arguments)
        wait_for(lambda goal=goal, process=process: answers(folder) >= goal or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert answers(folder) == goal
        assert not (folder / "result.json").exists()
    finished = run(*arguments)
    assert finished.code == 0
    assert "already answered" in finished.err
    assert without_times(folder) == without_times(tmp_path / "run")


def test_ctrl_c_adds_one_line_and_the_next_run_resumes(data: Path, gold: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["evaluate", data, "--engine", "replay", "--model", gold, "-o", folder]
    process = started(tmp_path, 1, *arguments)
    wait_for(lambda: answers(folder) >= 1)
    other = run(*arguments)
    assert other.says("another run is writing to", str(folder))
    assert other.code == 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    go_on = shlex.join(["sparse-tasks", *map(str, arguments)])
    reported = f"interrupted; kept in {folder}: 1 of 8 answers; resume with: {go_on}"
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", reported)
    assert len(err.splitlines()) == 3
    assert sorted(contents(folder)) == ["predictions.jsonl", "run.json"]
    assert run(*arguments).code == 0


# --- bad input ------------------------------------------------------------------------------------------------------


def test_another_run_in_the_folder_is_one_line_and_unchanged(
    evaluate: Callable[..., Finished], tmp_path: Path, gold: Path
) -> None:
    assert evaluate().code == 0
    before = contents(tmp_path)
    for options, name in ((["--max-new-tokens", "1"], "sampling.max_new_tokens"), (["--limit", "1"], "dataset.limit")):
        finished = evaluate(*options)
        assert finished.says("output", "holds another run", name, "--output")
        assert finished.code == 2
    other = tmp_path / "other" / gold.name
    other.parent.mkdir()
    other.write_text(gold.read_text() + "\n")
    assert evaluate(model=other).says("output", "model.sha256")
    shutil.rmtree(other.parent)
    assert contents(tmp_path) == before
