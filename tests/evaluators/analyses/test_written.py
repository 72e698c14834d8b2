"""What answers cost that are right: all tokens written, and all elements read for them, over samples solved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.evaluators.analyses.cost import cost
from sparse_tasks.evaluators.analyses.frames import column_names
from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from sparse_tasks.evaluators.analyses.written import Written, written
from tests.evaluators.example_runs import made_run

TASK = "reason_ledger"


def made(tmp_path: Path, dense: list[float], sparse: list[float]) -> Runs:
    folders = [
        made_run(tmp_path / "dense", {(TASK, 65536): dense}, metric="prefix_fraction"),
        made_run(
            tmp_path / "quest", {(TASK, 65536): sparse}, attention="quest", sparsity=0.9, metric="prefix_fraction"
        ),
    ]
    return read_runs(folders)


def rows(runs: Runs) -> list[dict[str, Any]]:
    table = written(runs)
    assert list(table) == column_names(Written)
    return list(table.to_dict(orient="records"))


def test_unsolved_samples_cost_too(tmp_path: Path) -> None:
    runs = made(tmp_path, [1.0, 1.0, 1.0, 0.5], [1.0, 0.75, 0.5, 0.25])
    dense, sparse = rows(runs)
    assert (dense["run"], dense["n"], dense["solved"], sparse["solved"]) == ("dense", 4, 0.75, 0.25)
    assert dense["tokens"] == sparse["tokens"] > 0
    assert dense["tokens_per_solved"] == pytest.approx(dense["tokens"] * 4 / 3)
    assert sparse["tokens_per_solved"] == pytest.approx(sparse["tokens"] * 4)
    steps = {row.run: row.decode_reads + row.decode_index_reads for row in cost(runs).itertuples()}
    for row in (dense, sparse):
        assert row["reads_per_solved"] == pytest.approx(row["tokens_per_solved"] * steps[row["run"]])
    assert dense["against_dense"] == 1
    # It reads less at each step, and loses more than that.
    assert sparse["against_dense"] == pytest.approx(3 * steps[sparse["run"]] / steps["dense"])
    assert steps[sparse["run"]] < steps["dense"]


def test_without_solutions_there_is_no_cost_per_solution(tmp_path: Path) -> None:
    dense, sparse = rows(made(tmp_path, [1.0, 0.5], [0.75, 0.5]))
    assert math.isnan(sparse["tokens_per_solved"])
    assert math.isnan(sparse["against_dense"])
    assert math.isfinite(dense["reads_per_solved"])


def test_a_model_that_cannot_do_the_task_has_no_row(tmp_path: Path) -> None:
    assert rows(made(tmp_path, [0.0, 0.05], [0.0, 0.0])) == []
