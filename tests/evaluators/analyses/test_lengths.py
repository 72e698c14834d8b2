"""What is lost of dense scores, by length."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from sparse_tasks.evaluators.analyses.lengths import length_effects
from sparse_tasks.evaluators.analyses.table import Runs, read_runs
from tests.evaluators.example_runs import made_run

Scores = dict[tuple[str, int], list[float]]
DENSE: Scores = {
    ("ruler_vt", 1024): [1.0, 1.0, 1.0, 1.0],
    ("story_multihop", 1024): [0.5, 0.5],
    ("ruler_vt", 2048): [1.0, 0.5, 1.0, 0.5],
}
SPARSE: Scores = {
    ("ruler_vt", 1024): [1.0, 0.0, 1.0, 0.0],
    ("story_multihop", 1024): [0.5, 0.25],
    ("ruler_vt", 2048): [1.0, 0.5, 0.75, 0.25],
}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    made_run(tmp_path / "runs" / "dense", DENSE)
    made_run(tmp_path / "runs" / "quest", SPARSE, attention="quest", sparsity=0.9, measured={"decode": 0.88})
    made_run(tmp_path / "runs" / "snapkv", DENSE, attention="snapkv", sparsity=0.5)
    return read_runs([tmp_path / "runs"])


def test_each_task_has_the_same_weight_and_dense_runs_have_no_row(runs: Runs) -> None:
    table = length_effects(runs)
    assert [(row.attention, row.asked, row.length) for row in table.itertuples()] == [
        ("quest", 0.9, 1024), ("quest", 0.9, 2048), ("snapkv", 0.5, 1024), ("snapkv", 0.5, 2048),
    ]  # fmt: skip
    short = table.iloc[0]
    assert (short["dense"], short["sparse"]) == (0.75, 0.4375)  # of (1, .5) and of (.5, .375), not of six samples
    assert short["relative_error"] == pytest.approx(0.3125 / 0.75)
    assert (short["tasks"], short["n"]) == (2, 6)
    assert (table["low"] <= table["relative_error"]).all()
    assert (table["relative_error"] <= table["high"]).all()
    assert table.attrs["notes"] == ()


def test_measured_sparsity_stands_beside_the_asked_one(runs: Runs) -> None:
    quest = length_effects(runs).iloc[0]
    assert quest["decode_sparsity"] == pytest.approx(0.88)
    assert math.isnan(quest["prefill_sparsity"])


def test_any_order_of_rows_gives_the_same(runs: Runs) -> None:
    shuffled = Runs(runs.runs[::-1], runs.samples.sample(frac=1, random_state=3))
    assert_frame_equal(length_effects(shuffled), length_effects(runs), check_exact=True)


def test_without_a_dense_run_there_is_no_error_and_a_note(runs: Runs, tmp_path: Path) -> None:
    table = length_effects(read_runs([tmp_path / "runs" / "quest"]))
    assert table["sparse"].tolist() == [0.4375, 0.625]
    assert table[["dense", "relative_error", "low", "high"]].isna().all(axis=None)
    note = "acme/small: no dense run over the same samples to compare with (quest 0.9 at 1k, quest 0.9 at 2k)"
    assert table.attrs["notes"] == (note,)


def test_dense_scores_of_0_give_no_error_and_no_warning(tmp_path: Path) -> None:
    zero: Scores = {("ruler_vt", 1024): [0.0] * 5, ("ruler_vt", 2048): [0.0] * 4 + [0.25]}
    # The model can do the task, but not one of the samples that the sparse run answered.
    made_run(tmp_path / "runs" / "dense", {key: [*scores, 1.0] for key, scores in zero.items()})
    made_run(tmp_path / "runs" / "quest", zero, attention="quest", sparsity=0.9)
    table = length_effects(read_runs([tmp_path / "runs"]))
    assert math.isnan(table["relative_error"][0])
    assert table["relative_error"][1] == 0
    assert (
        table.attrs["notes"][0] == "acme/small: dense attention scores 0, so there is nothing to lose (quest 0.9 at 1k)"
    )


def test_a_sample_that_two_runs_answered_counts_once(runs: Runs, tmp_path: Path) -> None:
    worse = {key: [0.0] * len(scores) for key, scores in SPARSE.items()}
    made_run(tmp_path / "again" / "quest", worse, attention="quest", sparsity=0.9)
    table = length_effects(read_runs([tmp_path / "runs", tmp_path / "again"]))
    assert (table["sparse"][0], table["n"][0]) == (0.4375 / 2, 6)


def test_runs_over_different_data_sets_add_up(runs: Runs, tmp_path: Path) -> None:
    other: Scores = {("ruler_cwe", 1024): [1.0, 1.0]}
    made_run(tmp_path / "more" / "dense2", other, dataset_sha256="e" * 64)
    made_run(tmp_path / "more" / "q", other, attention="quest", sparsity=0.9, dataset_sha256="e" * 64)
    table = length_effects(read_runs([tmp_path / "runs", tmp_path / "more"]))
    assert (table["tasks"][0], table["n"][0]) == (3, 8)
    assert table["dense"][0] == pytest.approx((1 + 0.5 + 1) / 3)


def test_only_what_both_answered_is_compared(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "dense", {("ruler_vt", 1024): [1.0, 1.0]})
    made_run(tmp_path / "runs" / "quest", {("ruler_vt", 1024): [0.5, 1.0, 0.0, 0.0]}, attention="quest", sparsity=0.9)
    row = length_effects(read_runs([tmp_path / "runs"])).iloc[0]
    assert (row["n"], row["sparse"], row["relative_error"]) == (2, 0.75, 0.25)


def test_budgets_instead_of_a_sparsity_have_rows_of_their_own(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "dense", DENSE)
    for tokens in (64, 128):
        made_run(tmp_path / "runs" / f"q{tokens}", SPARSE, attention="quest", arguments={"quest.tokens": tokens})
    table = length_effects(read_runs([tmp_path / "runs"]))
    assert len(table) == 4
    assert table["asked"].isna().all()
    assert table["attention"].nunique() == 2


def test_dense_runs_alone_give_an_empty_table(tmp_path: Path) -> None:
    made_run(tmp_path / "dense", DENSE)
    table = length_effects(read_runs([tmp_path / "dense"]))
    assert isinstance(table, pd.DataFrame)
    assert table.empty
    assert "relative_error" in table
