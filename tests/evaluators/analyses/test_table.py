"""Runs become one table, and each sparse sample has its dense partner."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.json import to_json
from sparse_tasks.evaluators.analyses.analysis import ANALYSES, Analysis
from sparse_tasks.evaluators.analyses.table import COLUMNS, read_runs
from sparse_tasks.evaluators.results import SCORES_SCHEMA, compare_runs
from sparse_tasks.evaluators.runs import COMPARISON
from tests.evaluators.example_runs import LLAMA_8B, made_run

Refused = Callable[..., Any]
DENSE = {("story_multihop", 1024): [1.0, 0.0, 1.0], ("ruler_vt", 1024): [0.5, 1.0]}
SPARSE = {("story_multihop", 1024): [1.0, 0.0, 0.0], ("ruler_vt", 1024): [0.25, 1.0]}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A folder with a dense run and two sparse ones."""
    made_run(tmp_path / "sweep" / "dense", DENSE)
    made_run(tmp_path / "sweep" / "quest-0.5", DENSE, attention="quest", sparsity=0.5)
    made_run(tmp_path / "sweep" / "quest-0.9", SPARSE, attention="quest", sparsity=0.9, measured={"decode": 0.89})
    return tmp_path / "sweep"


def test_a_folder_of_runs_stands_for_all_of_them(sweep: Path) -> None:
    table = read_runs([sweep])
    assert [run.name for run in table.runs] == ["dense", "quest-0.5", "quest-0.9"]
    assert [run.label for run in table.runs] == ["dense", "quest 0.5", "quest 0.9"]
    assert list(table.samples) == list(COLUMNS)
    assert len(table.samples) == 15
    assert table["quest-0.9"].shape == LLAMA_8B


def test_each_sample_knows_what_dense_attention_scored(sweep: Path) -> None:
    samples = read_runs([sweep]).samples
    of_it = samples[samples["run"] == "quest-0.9"]
    assert list(of_it["score"]) == [1.0, 0.0, 0.0, 0.25, 1.0]
    assert list(of_it["dense"]) == [1.0, 0.0, 1.0, 0.5, 1.0]
    assert set(of_it["decode_sparsity"]) == {0.89}
    assert of_it["prefill_sparsity"].isna().all()
    assert set(samples[samples["run"] == "dense"]["prefill_sparsity"]) == {0.0}


def test_without_a_dense_run_there_are_no_dense_scores(sweep: Path) -> None:
    samples = read_runs([sweep / "quest-0.5"]).samples
    assert samples["dense"].isna().all()


def test_what_a_model_cannot_do_is_known_to_all_its_runs(tmp_path: Path) -> None:
    hard, easy = ("story_multihop", 1024), ("ruler_vt", 1024)
    dense = made_run(tmp_path / "dense", {hard: [0.0] * 19 + [1.0], easy: [1.0] * 20})
    sparse = made_run(tmp_path / "quest", {hard: [1.0] * 20, easy: [0.0] * 20}, attention="quest", sparsity=0.5)
    runs = read_runs([dense, sparse])
    assert set(runs.samples["unable"][runs.samples["task"] == "story_multihop"]) == {True}
    assert set(runs.able["task"]) == {"ruler_vt"}
    assert set(runs.able["run"]) == {"dense", "quest"}
    assert len(runs.inability()) == 1
    assert runs.inability()[0].startswith("unable: story_multihop (1k). ")
    # Unknown without its dense run.
    alone = read_runs([sparse])
    assert (len(alone.able), alone.inability()) == (40, [])
    (sparse / COMPARISON).write_bytes(to_json(compare_runs(dense, sparse)))
    assert set(read_runs([sparse]).able["task"]) == {"ruler_vt"}


def test_no_analysis_says_anything_where_a_model_can_do_nothing(tmp_path: Path) -> None:
    zeros = {("ruler_vt", length): [0.0] * 20 for length in (1024, 2048)}
    made_run(tmp_path / "dense", zeros)
    for sparsity in (0.5, 0.9):
        made_run(tmp_path / f"quest-{sparsity}", zeros, attention="quest", sparsity=sparsity)
    analysis = Analysis(read_runs([tmp_path]))
    for name in ANALYSES[1:]:
        assert all(table.empty for _, table in analysis.tables(name))
        assert analysis.notes(name) == ("the model can do none of the tasks; there is nothing to conclude",)
    assert len(analysis.cost) == 6  # what attention computed is known all the same


def test_a_dense_run_over_other_data_or_of_another_model_is_no_partner(sweep: Path, tmp_path: Path) -> None:
    made_run(tmp_path / "other", DENSE, dataset_sha256="e" * 64)
    made_run(tmp_path / "large", DENSE, model="acme/large")
    samples = read_runs([sweep / "quest-0.5", tmp_path / "other", tmp_path / "large"]).samples
    assert samples[samples["run"] == "quest-0.5"]["dense"].isna().all()


def test_runs_of_one_name_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    folders = [made_run(tmp_path / model / "dense", DENSE, model=model) for model in ("small", "large")]
    assert [run.name for run in read_runs(folders).runs] == ["small/dense", "large/dense"]


def test_budgets_instead_of_a_sparsity_have_a_name_and_no_number(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "q", SPARSE, attention="quest", arguments={"quest.tokens": 512})
    (run,) = read_runs([folder]).runs
    assert (run.label, run.target) == ("quest (tokens=512)", None)
    assert np.isnan(read_runs([folder]).samples["asked"]).all()


def test_two_dense_runs_of_one_model_are_refused(sweep: Path, tmp_path: Path, refused: Refused) -> None:
    again = made_run(tmp_path / "again", DENSE)
    with refused(UsageError, "runs", "again", "second dense run", "dense"):
        read_runs([sweep, again])


def test_folders_that_are_not_runs_are_refused(sweep: Path, tmp_path: Path, refused: Refused) -> None:
    with refused(UsageError, "runs", "holds no result.json"):
        read_runs([tmp_path])
    with refused(UsageError, "runs", "cannot be read"):
        read_runs([tmp_path / "nowhere"])
    with refused(UsageError, "runs", "named twice"):
        read_runs([sweep, sweep / "dense"])
    with refused(UsageError, "runs", "holds none"):
        read_runs([])
    (sweep / "dense" / "run.json").unlink()
    with refused(UsageError, "runs", "holds no run.json"):
        read_runs([sweep])


@pytest.mark.parametrize("score", [1.5, -0.1, math.nan])
def test_scores_outside_0_and_1_are_refused(tmp_path: Path, refused: Refused, score: float) -> None:
    folder = made_run(tmp_path / "run", DENSE)
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    table[0]["score"] = score
    pq.write_table(pa.Table.from_pylist(table, schema=SCORES_SCHEMA), folder / "scores.parquet")
    with refused(DataError, "score", "not in [0, 1]"):
        read_runs([folder])
