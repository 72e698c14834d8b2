"""``compare``: two scored runs over the same samples, side by side; anything else is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparse_tasks.evaluators.dataset import open_dataset
from tests.cli.program import contents, run
from tests.schemas.validation import problems


def evaluated(data: Path, folder: Path, wrong: int, *options: object) -> Path:
    """A run whose first answers are wrong, of every task and length."""
    dataset = open_dataset(str(data))
    outputs = folder.with_suffix(".jsonl")
    with outputs.open("w", encoding="utf-8") as file:
        for row in dataset.rows(dataset.select(), ["id", "index", "answer"]):
            text = "<answer>wrong</answer>" if row["index"] < wrong else f"<answer>{row['answer']}</answer>"
            file.write(json.dumps({"id": row["id"], "text": text}) + "\n")
    assert run("evaluate", data, "--engine", "replay", "-m", outputs, "-o", folder, *options).code == 0
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run without a mistake, and one with a mistake in two."""
    root = tmp_path_factory.mktemp("compare")
    return evaluated(data, root / "dense", 0), evaluated(data, root / "sparse", 1)


def test_two_runs_are_shown_side_by_side(runs: tuple[Path, Path]) -> None:
    before = [contents(folder) for folder in runs]
    finished = run("compare", *runs)
    assert (finished.code, finished.err) == (0, "")
    lines = finished.out.splitlines()
    assert lines[0] == f"A: {runs[0]} (dense.jsonl, attention unknown)"
    assert lines[1] == f"B: {runs[1]} (sparse.jsonl, attention unknown)"
    for task in ("story_multihop", "ruler_niah", "mean of tasks"):
        found = [line for line in lines if task in line]
        assert len(found) == 2
        assert all("1.000" in line and "0.500" in line and "-0.500" in line for line in found)
    assert all(len(line) <= 80 for line in lines[2:])
    # Two pairs cannot show anything.
    assert all(line.endswith(" -") for line in lines if "ruler_niah" in line)
    assert [contents(folder) for folder in runs] == before


def test_json_is_the_comparison(runs: tuple[Path, Path]) -> None:
    found = run("compare", *runs, "--level", "0.9", "--format", "json").json()
    assert (found.pop("run_a"), found.pop("run_b")) == (str(runs[0]), str(runs[1]))
    assert problems(found, "comparison-1.0") == []
    assert found["level"] == 0.9
    assert [(row["length"], row["task"]) for row in found["rows"]] == [
        (length, task) for length in (3072, 4096) for task in ("ruler_niah", "story_multihop")
    ]
    assert {row["difference"] for row in found["rows"]} == {-0.5}
    assert [average["n"] for average in found["averages"]] == [4, 4]
    mirrored = run("compare", runs[1], runs[0], "--format", "json").json()
    assert {row["difference"] for row in mirrored["rows"]} == {0.5}


def test_runs_over_other_samples_are_compared_only_with_common(
    runs: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    part = evaluated(data, tmp_path / "part", 0, "--limit", "1")
    finished = run("compare", runs[0], part)
    assert finished.says("sample", "4 samples are only in run a", "--common")
    assert finished.code == 2
    common = run("compare", runs[0], part, "--common")
    assert common.code == 0
    assert "Left out: 4 samples that only A has, 0 that only B has." in common.out


def test_bad_input_is_one_line(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    predicted = tmp_path / "run"
    outputs = runs[0].with_suffix(".jsonl")
    assert run("predict", data, "--engine", "replay", "-m", outputs, "-o", predicted).code == 0
    for pair in ((runs[0], predicted), (tmp_path / "nowhere", runs[0]), (data, runs[0])):
        finished = run("compare", *pair)
        assert finished.says("run", "holds no result.json", "evaluate or score")
        assert finished.code == 2
    finished = run("compare", *runs, "--level", "95")
    assert finished.says("level", "95", "(0, 1)")
    assert finished.code == 2
