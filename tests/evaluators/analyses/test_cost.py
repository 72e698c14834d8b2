"""What runs cost: the formulas with what was measured, and nothing made up where nothing was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.evaluators.analyses.cost import Cost, cost
from sparse_tasks.evaluators.analyses.frames import column_names
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.costs import (
    attention_share,
    decode_reads,
    index_flops,
    index_reads,
    kv_share,
    prefill_flops,
)
from tests.evaluators.example_runs import LLAMA_8B, made_run

SCORES = {("ruler_vt", 65536): [1.0, 0.5], ("story_multihop", 65536): [1.0], ("ruler_vt", 16384): [1.0, 0.0]}


def rows(*folders: Path) -> list[dict[str, Any]]:
    table = cost(read_runs(folders))
    assert list(table) == column_names(Cost)
    return list(table.to_dict(orient="records"))


def test_a_dense_run_follows_the_formulas(tmp_path: Path) -> None:
    short, long = rows(made_run(tmp_path / "dense", SCORES))
    assert (short["length"], long["length"]) == (16384, 65536)
    assert long["run"] == long["attention"] == "dense"
    assert (long["model"], long["asked"], long["tokens"]) == ("acme/small", 0.0, 65526)
    assert long["density_prefill"] == long["density_decode"] == 1
    assert long["prefill_flops"] == long["prefill_flops_dense"] == prefill_flops(LLAMA_8B, 65526)
    assert long["decode_reads"] == long["decode_reads_dense"] == decode_reads(LLAMA_8B, 65526)
    assert long["prefill_index_flops"] == long["decode_index_reads"] == 0
    assert long["prefill_speedup"] == long["decode_speedup"] == 1
    assert long["attention_share"] == attention_share(LLAMA_8B, 65526)
    assert long["kv_share"] == kv_share(LLAMA_8B, 65526)


def test_a_sparse_run_costs_by_what_was_measured_not_by_what_was_asked(tmp_path: Path) -> None:
    measured = {"prefill": 0.85, "decode": 0.7}
    folder = made_run(
        tmp_path / "sparse", SCORES, attention="vertical_slash+quest", sparsity=0.9, measured=measured
    )  # fmt: skip
    row = rows(folder)[1]
    assert row["asked"] == 0.9
    assert row["density_prefill"] == pytest.approx(0.15)
    flops, reads = prefill_flops(LLAMA_8B, 65526, 0.15), decode_reads(LLAMA_8B, 65526, 0.3)
    looked = index_flops(Attention.parse("vertical_slash", sparsity=0.9), LLAMA_8B, 65526)
    read = index_reads(Attention.parse("quest", sparsity=0.9), LLAMA_8B, 65526)
    assert (row["prefill_index_flops"], row["decode_index_reads"]) == (looked, read)
    assert row["prefill_flops"] == pytest.approx(flops)
    assert row["prefill_speedup"] == pytest.approx(prefill_flops(LLAMA_8B, 65526) / (flops + looked))
    assert row["decode_speedup"] == pytest.approx(decode_reads(LLAMA_8B, 65526) / (reads + read))
    assert 1 < row["prefill_speedup"] < 1 / (1 - row["attention_share"])
    assert 1 < row["decode_speedup"] < 1 / (1 - row["kv_share"])


def test_budgets_that_were_given_are_those_of_the_index(tmp_path: Path) -> None:
    arguments = {"page": "32", "token_budget": 1024}
    row = rows(made_run(tmp_path / "q", SCORES, attention="quest", arguments=arguments, measured={"decode": 0.98}))[1]
    assert math.isnan(row["asked"])
    assert row["attention"] == "quest (page=32, token_budget=1024)"
    assert row["decode_index_reads"] == index_reads(Attention.parse("quest", arguments={"page": 32}), LLAMA_8B, 65526)


def test_without_a_shape_the_row_has_no_cost(tmp_path: Path) -> None:
    table = cost(read_runs([made_run(tmp_path / "bare", SCORES, shape=None)]))
    assert list(table["density_prefill"]) == [1, 1]
    assert table.loc[:, "prefill_flops":].isna().all(axis=None)
    (note,) = table.attrs["notes"]
    assert note.startswith("bare: the sizes of the model are not known")


def test_without_measurements_there_is_no_cost(tmp_path: Path) -> None:
    table = cost(read_runs([made_run(tmp_path / "q", SCORES, attention="quest", sparsity=0.9, measured={})]))
    assert table[["density_prefill", "prefill_flops", "decode_reads", "decode_speedup"]].isna().all(axis=None)
    assert table["prefill_flops_dense"].notna().all()
    (note,) = table.attrs["notes"]
    assert note.startswith("q: what attention computed was not measured")


def test_a_third_party_method_has_no_speedup(tmp_path: Path) -> None:
    table = cost(read_runs([made_run(tmp_path / "t", SCORES, attention="theirs", sparsity=0.5)]))
    assert table["prefill_flops"].notna().all()
    assert table[["prefill_index_flops", "prefill_speedup", "decode_speedup"]].isna().all(axis=None)
    (note,) = table.attrs["notes"]
    assert note.startswith("theirs: the index cost of the method is not known")
