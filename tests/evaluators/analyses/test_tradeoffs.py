"""Methods by task: differences to dense attention, and ranks among those of the same sparsity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from sparse_tasks.evaluators.analyses.tradeoffs import task_tradeoffs
from sparse_tasks.evaluators.statistics import difference_interval, macro
from tests.evaluators.example_runs import made_run

Scores = dict[tuple[str, int], list[float]]
PLACES = [(task, length) for length in (1024, 2048) for task in ("ruler_niah", "ruler_vt")]
GOOD_AT = {"quest": "ruler_niah", "snapkv": "ruler_vt"}


def scores(kept: dict[str, float], n: int = 40, seed: int = 0) -> Scores:
    """Right or wrong, with a share by task; the same samples are hard for all methods."""
    rng = np.random.default_rng(seed)
    return {(task, length): (rng.random(n) < kept[task]).astype(float).tolist() for task, length in PLACES}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    made_run(tmp_path / "runs" / "dense", scores({"ruler_niah": 1.0, "ruler_vt": 0.95}))
    for method, task in GOOD_AT.items():
        kept = {"ruler_niah": 0.3, "ruler_vt": 0.3} | {task: 0.9}
        made_run(tmp_path / "runs" / method, scores(kept), attention=method, sparsity=0.9)
    made_run(
        tmp_path / "runs" / "quest5", scores({"ruler_niah": 1.0, "ruler_vt": 0.9}), attention="quest", sparsity=0.5
    )
    return read_runs([tmp_path / "runs"])


def row(table: pd.DataFrame, attention: str, task: str | None, length: float, asked: float = 0.9) -> dict[str, Any]:
    same_task = table["task"].isna() if task is None else table["task"] == task
    same_length = table["length"].isna() if math.isnan(length) else table["length"] == length
    found = table[(table["attention"] == attention) & (table["asked"] == asked) & same_task & same_length]
    assert len(found) == 1
    return dict(found.iloc[0])


def test_each_task_has_its_own_best_method(runs: Runs) -> None:
    table = task_tradeoffs(runs)
    for method, task in GOOD_AT.items():
        other = next(name for name in GOOD_AT if name != method)
        for length in (1024, 2048, math.nan):
            best, worst = row(table, method, task, length), row(table, other, task, length)
            assert (best["rank"], best["rank_low"], best["rank_high"]) == (1, 1, 1)
            assert (worst["rank"], worst["rank_low"], worst["rank_high"]) == (2, 2, 2)
    # Their averages are equal, which hides the difference.
    average = row(table, "quest", None, math.nan)
    assert (average["rank_low"], average["rank_high"]) == (1, 2)


def test_means_over_lengths_and_tasks_join_their_intervals(runs: Runs) -> None:
    table = task_tradeoffs(runs)
    samples = runs.samples[runs.samples["run"] == "quest"]
    parts = []
    for _, cell in samples.groupby(["task", "length"], observed=True):
        differences = (cell["score"] - cell["dense"]).tolist()
        parts.append((float(np.mean(differences)), difference_interval(differences)))
    mean, interval = macro(parts)
    found = row(table, "quest", None, math.nan)
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((mean, interval.low, interval.high))
    assert found["n"] == 160
    assert row(table, "quest", "ruler_vt", math.nan)["n"] == row(table, "quest", None, 1024)["n"] == 80


def test_any_order_of_rows_gives_the_same(runs: Runs) -> None:
    shuffled = Runs(runs.runs[::-1], runs.samples.sample(frac=1, random_state=3))
    assert_frame_equal(task_tradeoffs(shuffled), task_tradeoffs(runs), check_exact=True)


def test_without_a_dense_run_there_are_ranks_and_no_differences(runs: Runs, tmp_path: Path) -> None:
    table = task_tradeoffs(read_runs([tmp_path / "runs" / "quest", tmp_path / "runs" / "snapkv"]))
    assert table[["difference", "low", "high"]].isna().all(axis=None)
    assert table["rank"].notna().all()


def test_no_method_wins_the_mean_by_leaving_out_what_is_hard(tmp_path: Path) -> None:
    easy, hard = ("ruler_niah", 1024), ("ruler_vt", 1024)
    made_run(tmp_path / "runs" / "quest", {easy: [1.0] * 5, hard: [0.0] * 5}, attention="quest", sparsity=0.5)
    made_run(tmp_path / "runs" / "snapkv", {easy: [0.5] * 5}, attention="snapkv", sparsity=0.5)
    table = task_tradeoffs(read_runs([tmp_path / "runs"]))
    assert row(table, "quest", None, 1024, 0.5)["score"] == 1.0
    assert row(table, "quest", None, 1024, 0.5)["rank"] == 1
    assert row(table, "quest", "ruler_vt", 1024, 0.5)["rank"] == 1


def test_methods_without_a_common_task_have_no_mean_and_a_note(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "quest", {PLACES[0]: [1.0]}, attention="quest", sparsity=0.5)
    made_run(tmp_path / "runs" / "snapkv", {PLACES[1]: [1.0]}, attention="snapkv", sparsity=0.5)
    table = task_tradeoffs(read_runs([tmp_path / "runs"]))
    assert table["task"].notna().all()
    assert table.attrs["notes"] == ("acme/small at 0.5: quest, snapkv share no task at a length; no mean over tasks",)


def test_methods_that_were_given_budgets_have_no_rank(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "dense", {PLACES[0]: [1.0, 1.0]})
    for tokens in (64, 128):
        arguments = {"quest.tokens": tokens}
        made_run(tmp_path / "runs" / f"q{tokens}", {PLACES[0]: [1.0, 0.5]}, attention="quest", arguments=arguments)
    table = task_tradeoffs(read_runs([tmp_path / "runs"]))
    assert len(table) == 2 * 4
    assert table["rank"].isna().all()
    assert set(table["difference"]) == {-0.25}


def test_a_method_that_answered_fewer_samples_is_ranked_by_those(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "quest", {PLACES[0]: [1.0, 0.5, 0.0, 0.0]}, attention="quest", sparsity=0.5)
    made_run(tmp_path / "runs" / "snapkv", {PLACES[0]: [0.5, 0.5]}, attention="snapkv", sparsity=0.5)
    table = task_tradeoffs(read_runs([tmp_path / "runs"]))
    found = row(table, "snapkv", "ruler_niah", 1024, 0.5)
    assert (found["n"], found["score"], found["rank"]) == (2, 0.5, 1)


def test_dense_runs_alone_give_an_empty_table(tmp_path: Path) -> None:
    made_run(tmp_path / "dense", scores({"ruler_niah": 1.0, "ruler_vt": 1.0}))
    table = task_tradeoffs(read_runs([tmp_path / "dense"]))
    assert table.empty
    assert "rank_high" in table
