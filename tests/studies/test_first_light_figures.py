"""Figures and numbers come from submissions alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import page
import pyarrow.parquet as pq
import pytest
import records

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.evaluators.dataset import open_dataset
from tests.cli.program import run
from tests.evaluators.leaderboard.handed_in import answered
from tests.studies.conftest import FIRST_LIGHT

DOCS = FIRST_LIGHT.parents[1] / "docs" / "findings.md"
HERE = pytest.mark.skipif(not (FIRST_LIGHT / "submissions").is_dir(), reason="a source distribution has no submissions")
RUNS = (
    ("block_sparse", 0.5, {"prefill": 0.45, "decode": 0.0}, (1,)),
    ("block_sparse", 0.8, {"prefill": 0.72, "decode": 0.0}, (1, 2, 3)),
    ("quest", 0.5, {"prefill": 0.0, "decode": 0.5}, ()),
    ("quest", 0.8, {"prefill": 0.0, "decode": 0.8}, (0,)),
    ("snapkv", 0.8, {"prefill": 0.0, "decode": 0.8}, (0, 1)),
)


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Submissions as ``run`` keeps them, of two depths; data sets and runs are deleted."""
    folder = tmp_path_factory.mktemp("first-light")
    for name, depth in (("made-1k", "uniform"), ("made-1k-needle-0.95-1", "0.95-1")):
        tasks = ["ruler_niah_single_1"] + (["ruler_vt", "ruler_fwe"] if depth == "uniform" else [])
        words = [word for task in tasks for word in ("-t", task)]
        made = run(
            "generate", "-l", "1100", *words, "-n", "4", "-w", "1", "--depth", depth, "-o", folder / "data" / name
        )
        assert made.code == 0, made.stderr
        dataset = open_dataset(str(folder / "data" / name))
        runs = [answered(folder / "runs" / name / "dense", dataset)]
        for method, sparsity, measured, wrong in RUNS:
            runs.append(answered(
                folder / "runs" / name / f"{method}-{sparsity}", dataset, attention=method, sparsity=sparsity,
                measured=measured, wrong=wrong,
            ))  # fmt: skip
        target = folder / "submissions" / name
        records.keep_golds(dataset.path, target)
        records.keep_runs(runs[:-1], target / ("prefill.json" if depth == "uniform" else "windows.json"), "Made")
        if depth == "uniform":  # a dense run comes in several submissions
            records.keep_runs([runs[0], runs[-1]], target / "decode.json", "Made again")
            records.keep_runs(runs[:1], target / "ability.json", "Made, dense")
    shutil.rmtree(folder / "data")
    shutil.rmtree(folder / "runs")
    return folder / "submissions"


def test_page_and_figures_come_from_submissions_alone(submissions: Path, tmp_path: Path) -> None:
    target = tmp_path / "docs" / "findings.md"
    target.parent.mkdir()
    target.write_text(f"# Before\n\n{page.BEGIN}\nformer text\n{page.END}\nafter\n", encoding="utf-8")
    page.write(submissions, target, tmp_path / "one", 0.6)
    text = target.read_text(encoding="utf-8")
    assert text.startswith("# Before\n")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "former" not in text
    assert "**In miniature: n=4, not yet the study.**" in text
    assert text.count("| **") == 7
    assert "| acme/small | 1100 | `block_sparse` | 0.8 | 0.720 |" in text
    assert "| acme/small | 1100 | `quest` | 0.8 | 0.800 | 0.95-1 | 0.750 |" in text
    pictures = {path.name: path.read_bytes() for path in (target.parent / "findings").iterdir()}
    assert {"first-light.svg", "windows-small-1100.svg", "small-1100.svg"} == set(pictures)
    page.write(submissions, target, tmp_path / "two", 0.6)
    assert target.read_text(encoding="utf-8") == text
    assert {path.name: path.read_bytes() for path in (target.parent / "findings").iterdir()} == pictures


def test_runs_that_are_restored_make_the_same_submission(submissions: Path, tmp_path: Path) -> None:
    kept = submissions / "made-1k" / "prefill.json"
    labels = ["dense", "block_sparse-0.5", "block_sparse-0.8", "quest-0.5", "quest-0.8"]
    places = [tmp_path / "runs" / label for label in labels]
    planned = {place.name: [place] for place in places[:3]}
    records.restore(kept, planned, tmp_path / "runs")
    assert [(place / "comparison.json").is_file() for place in places] == [False, True, True, True, True]
    records.keep_runs(places, tmp_path / "again.json", "Made")
    was, is_now = (json.loads(path.read_bytes())["runs"] for path in (kept, tmp_path / "again.json"))
    assert is_now == was
    before = (places[0] / "result.json").stat().st_mtime_ns
    records.restore(kept, planned, tmp_path / "runs")
    assert (places[0] / "result.json").stat().st_mtime_ns == before


def test_a_submission_by_other_rules_of_scoring_is_scored_again(submissions: Path, tmp_path: Path) -> None:
    shutil.copytree(submissions / "made-1k", tmp_path / "made-1k")
    path = tmp_path / "made-1k" / "prefill.json"
    assert not records.rescore(path)
    kept = path.read_bytes()
    content = json.loads(kept)
    for config in content["runs"][1]["result"]["configs"]:
        config["mean"] = 0.125
    path.write_text(json.dumps(content), encoding="utf-8")
    assert records.rescore(path)
    assert path.read_bytes() == kept


def test_golds_of_other_data_are_refused(submissions: Path, tmp_path: Path) -> None:
    shutil.copytree(submissions / "made-1k", tmp_path / "made-1k")
    path = tmp_path / "made-1k" / records.GOLDS
    table = pq.read_table(path)
    answers = table["answers"].to_pylist()[::-1]
    pq.write_table(table.set_column(table.column_names.index("answers"), "answers", [answers]), path)
    with pytest.raises(DataError, match="of other data"):
        records.unpack([tmp_path / "made-1k" / "prefill.json"], tmp_path / "runs")


def test_a_page_without_markers_is_left_alone(submissions: Path, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="lacks the markers"):
        page.write(submissions, tmp_path / "page.md", tmp_path / "scratch", 0.6)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == "mine"


@HERE
def test_the_page_in_docs_was_made_from_the_submissions_here() -> None:
    assert records.digest(FIRST_LIGHT / "submissions") in DOCS.read_text(encoding="utf-8")


@HERE
@pytest.mark.nightly  # scores all outputs again, which takes a minute
def test_the_page_in_docs_is_that_of_the_submissions_here(tmp_path: Path) -> None:
    target = tmp_path / "findings.md"
    shutil.copy(DOCS, target)
    page.write(FIRST_LIGHT / "submissions", target, tmp_path / "scratch")
    assert target.read_text(encoding="utf-8") == DOCS.read_text(encoding="utf-8")
    for path in (tmp_path / "findings").iterdir():  # other versions of matplotlib draw other bytes
        assert (DOCS.parent / "findings" / path.name).is_file()


def test_steps_are_counted_up_to_the_first_mistake(submissions: Path, tmp_path: Path) -> None:
    figure = tmp_path / "steps.svg"
    program = [sys.executable, str(FIRST_LIGHT / "steps"), "--submissions", str(submissions), "--data", "made-1k"]
    options = ["--task", "ruler_fwe", "--part", "prefill.json", "--sparsity", "0.5", "0.8", "--figure", str(figure)]
    options += ["--attention", "block_sparse", "quest"]
    out = subprocess.run([*program, *options], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[2:] == [
        "| dense | 1.00 | 1.00 | 1.00 |",
        "| `block_sparse`, sparsity 0.5 | 0.75 | 0.75 | 0.75 |",
        "| `quest`, sparsity 0.5 | 1.00 | 1.00 | 1.00 |",
        "| `block_sparse`, sparsity 0.8 | 0.25 | 0.25 | 0.25 |",
        "| `quest`, sparsity 0.8 | 0.75 | 0.75 | 0.75 |",
    ]
    assert "<svg" in figure.read_text(encoding="utf-8")
