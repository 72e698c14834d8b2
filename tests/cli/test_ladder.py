"""``compare --ladder``: where a run loses, by the levels of its questions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from sparse_tasks.core.turns import request_id
from sparse_tasks.evaluators.dataset import open_dataset
from tests.cli.program import run
from tests.schemas.validation import problems

SAMPLES = 12
TASKS = ("ladder_multihop", "ladder_filtering")


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder") / "data"
    options = ["--preset", "ladder", "-l", "3500", "-n", SAMPLES, "-w", "1", "-o", folder]
    named = [word for task in TASKS for word in ("-t", task)]
    small = ["--set", "ladder.distractors=0", "--set", "ladder.events=2", "--set", "ladder.gifts=2"]
    assert run("generate", *named, *options, *small).code == 0
    return folder


def answered(
    data: Path, folder: Path, wrong: Collection[str], method: str = "dense", said: str = "<answer>wrong</answer>"
) -> Path:
    """A run that gets these levels of every question wrong, and says this instead."""
    dataset, outputs = open_dataset(str(data)), folder.with_suffix(".jsonl")
    with outputs.open("w", encoding="utf-8") as file:
        for row in dataset.rows(dataset.select(), ["id", "turns"]):
            for number, turn in enumerate(row["turns"]):
                text = said if turn["level"] in wrong else f"<answer>{turn['answer']}</answer>"
                line = {"id": request_id(row["id"], number), "text": text}
                file.write(json.dumps(line) + "\n")
    arguments = ["--engine", "replay", "-m", outputs, "--engine-arg", "model=acme", "-a", method]
    arguments += [] if method == "dense" else ["-s", "0.9"]
    assert run("evaluate", data, *arguments, "-o", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def dense(ladder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answered(ladder, tmp_path_factory.mktemp("runs") / "dense", ())


def test_a_run_is_compared_with_itself_over_the_levels(ladder: Path, tmp_path: Path) -> None:
    folder = answered(ladder, tmp_path / "run", ("retrieve", "all"))
    found = run("compare", folder, "--ladder", "--format", "json").json()
    assert [(one["length"], one["task"], one["n"]) for one in found["ladders"]] == [
        (3500, task, SAMPLES) for task in sorted(TASKS)
    ]
    for one in found["ladders"]:
        assert {rung["rung"]: rung["mean"] for rung in one["rungs"]} == {
            "given": 1.0, "retrieve": 0.0, "two_prompts": 0.0, "all": 0.0,
        }  # fmt: skip
        steps = {(step["rung"], step["less"]): step["difference"] for step in one["steps"]}
        assert steps == {("two_prompts", "given"): -1.0, ("all", "two_prompts"): 0.0, ("all", "given"): -1.0}
        assert one["steps"][0]["p_holm"] < 0.01
    out = run("compare", folder, "--ladder").out
    assert "two prompts - given" in out
    assert all(len(line) <= 80 for line in out.splitlines()[1:])


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (("retrieve", "all"), "B loses in retrieval"),
        (("given", "compute", "all"), "B loses in reasoning"),
        (("given", "retrieve", "compute", "all"), "B loses in retrieval and in reasoning"),
        (("all",), "B loses in doing both, in neither alone"),
        (("compute",), "B loses in doing both, in neither alone"),
        ((), "no loss of B is sure"),
    ],
)
def test_a_loss_is_located(ladder: Path, dense: Path, tmp_path: Path, wrong: tuple[str, ...], verdict: str) -> None:
    folder = answered(ladder, tmp_path / "run", wrong, "snapkv")
    finished = run("compare", dense, folder, "--ladder")
    assert (finished.code, finished.err) == (0, "")
    for task in TASKS:
        assert f"{task} (3500): {verdict}." in finished.out
    found = run("compare", dense, folder, "--ladder", "--format", "json").json()
    del found["run_a"], found["run_b"]
    assert problems(found, "comparison-1.0") == []
    assert len(found["rows"]) == 4 * len(TASKS)
    assert found["averages"] == []


def test_no_conclusion_from_tasks_the_model_cannot_do(ladder: Path, tmp_path: Path) -> None:
    wrong = ("given", "retrieve", "compute", "all")
    nothing, sparse = answered(ladder, tmp_path / "nothing", wrong), answered(ladder, tmp_path / "b", wrong, "snapkv")
    out = run("compare", nothing, "--ladder").out
    assert "below 0.1 on every task" in out
    assert "two prompts - given" not in out
    assert [one["unable"] for one in run("compare", nothing, "--ladder", "--format", "json").json()["ladders"]] == [
        True
    ] * len(TASKS)
    # A sparse run alone does not show what its model can do.
    assert "two prompts - given" in run("compare", sparse, "--ladder").out
    out = run("compare", nothing, sparse, "--ladder").out
    assert all(f"{task} (3500): unable, so nothing is said." in out for task in TASKS)


@pytest.mark.parametrize(("said", "share"), [("I do not know", 1.0), ("<answer>brass bell</answer>", 0.0)])
def test_unparsed_answers_are_reported(ladder: Path, tmp_path: Path, said: str, share: float) -> None:
    folder = answered(ladder, tmp_path / "run", ("given",), said=said)
    found = run("compare", folder, "--ladder", "--format", "json").json()["ladders"]
    assert {one["task"]: one["unparsed"] for one in found}["ladder_multihop"] == share
    assert f"{share:.0%}" in run("compare", folder, "--ladder").out


def test_levels_are_listed_in_order(ladder: Path, dense: Path, tmp_path: Path) -> None:
    out = run("compare", dense, answered(ladder, tmp_path / "run", ("all",), "snapkv"), "--ladder").out
    rows = [line.split("  ")[0] for line in out.splitlines() if re.match(r"given|retrieve|two prompts|all", line)]
    assert rows == ["given", "retrieve", "two prompts", "all"] * len(TASKS)
    assert all(f"length 3500, {task}" in out for task in TASKS)
    assert all(len(line) <= 80 for line in out.splitlines()[2:])


def test_runs_without_levels_are_refused(data: Path, dense: Path, tmp_path: Path) -> None:
    dataset, outputs = open_dataset(str(data)), tmp_path / "outputs.jsonl"
    texts = [{"id": row["id"], "text": "x"} for row in dataset.rows(dataset.select(), ["id"])]
    outputs.write_text("".join(json.dumps(line) + "\n" for line in texts), encoding="utf-8")
    assert run("evaluate", data, "--engine", "replay", "-m", outputs, "-o", tmp_path / "plain").code == 0
    for others in ([], [tmp_path / "plain"]):
        refused = run("compare", tmp_path / "plain", *others, "--ladder")
        assert refused.code == 2
        assert "has no questions in levels" in refused.err
    for arguments, words in (
        ([dense], "is one run; name a second"),
        ([dense, dense, "--ladder", "--repeat", dense], "cannot be combined with --ladder"),
        ([dense, "--ladder", "--level", "1"], "must be in (0, 1)"),
    ):
        refused = run("compare", *arguments)
        assert (refused.code, words in refused.err) == (2, True)


def test_exports_report_that_they_only_have_the_first_question(ladder: Path, tmp_path: Path) -> None:
    done = run("export", ladder, "--to", "lm_eval_task", "-o", tmp_path / "exported")
    assert done.code == 0
    assert "only the first is exported" in done.err
