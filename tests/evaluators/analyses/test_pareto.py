"""The frontier of score and cost, how sure it is, and what the cost of a dense run buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sparse_tasks.evaluators.analyses.cost import cost
from sparse_tasks.evaluators.analyses.pareto import iso_cost, pareto
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.statistics import (
    difference_interval,
    frontier_shares,
    macro,
    mean_interval,
)
from tests.evaluators.example_runs import LLAMA_8B, made_run

VT, HOP = ("ruler_vt", 65536), ("story_multihop", 65536)
SMALL = structs.replace(LLAMA_8B, layers=8, dense_layers=8)
Bernoulli = Callable[[float, int], list[float]]


@pytest.fixture
def draw() -> Bernoulli:
    """Scores of 0 and 1 with a mean."""
    generator = np.random.default_rng(7)
    return lambda mean, n: [float(one) for one in generator.random(n) < mean]


def shares(costs: Sequence[float], *cells: tuple[Sequence[int], Any], **options: Any) -> list[float]:
    return [share for _, share in frontier_shares(costs, cells, **options)]


def by_run(table: pd.DataFrame, phase: str = "decode") -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in table[table["phase"] == phase].to_dict(orient="records")}


def test_clearly_different_points_have_a_certain_frontier(draw: Bernoulli) -> None:
    good, bad = draw(0.9, 200), draw(0.3, 200)
    assert shares([1, 2], ([0, 1], np.transpose([good, bad]))) == [1, 0]
    assert shares([1, 2], ([0, 1], np.transpose([bad, good]))) == [1, 1]
    assert shares([1, 1], ([0, 1], np.transpose([bad, good]))) == [0, 1]


def test_the_same_samples_are_drawn_for_points_of_a_cell_and_others_for_other_cells(draw: Bernoulli) -> None:
    base = np.asarray(draw(0.5, 100))
    better = base.copy()
    better[np.flatnonzero(base == 0)[:3]] = 1  # as good on every sample, and better on three
    paired = shares([1, 2], ([0, 1], np.column_stack([base, better])))
    apart = shares([1, 2], ([0], base[:, None]), ([1], better[:, None]))
    assert paired[1] == pytest.approx(1 - (1 - 3 / 100) ** 100, abs=0.03)
    assert 0.5 < apart[1] < 0.8


def test_a_missing_sample_is_not_zero() -> None:
    scores = np.asarray([[1.0, 1.0], [1.0, math.nan], [1.0, math.nan], [1.0, math.nan]])
    assert frontier_shares([1, 1], [([0, 1], scores)]) == [(True, 1.0), (True, 1.0)]


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(points=POINTS)
def test_the_frontier_is_what_no_point_beats(points: list[tuple[int, int]]) -> None:
    costs, scores = [float(price) for price, _ in points], [score / 5 for _, score in points]
    found = frontier_shares(costs, [(range(len(points)), np.asarray([scores]))], resamples=3)
    for number, (price, score) in enumerate(points):
        beaten = any(p <= price and s >= score and (p, s) != (price, score) for p, s in points)
        assert found[number] == (not beaten, float(not beaten))  # one sample, so all resamples are equal


@pytest.mark.parametrize(
    ("costs", "cells"),
    [
        ([1, math.nan], [([0, 1], [[1.0, 1.0]])]),
        ([1, 2], [([0], [[1.0]])]),
        ([1, 2], [([0, 1], [[1.0, math.nan]])]),
    ],
)
def test_a_point_without_cost_or_score_is_refused(costs: list[float], cells: list[Any]) -> None:
    with pytest.raises(ValueError, match="each"):
        frontier_shares(costs, cells)


@pytest.fixture
def sweep(tmp_path: Path, draw: Bernoulli) -> Path:
    """A dense run, one that is as good for less, one that is bad, and one that is sparse while it reads the prompt."""
    base = {VT: draw(0.8, 100), HOP: draw(0.7, 60)}
    made_run(tmp_path / "runs" / "dense", base)
    decode = {"prefill": 0.0}
    made_run(tmp_path / "runs" / "quest-0.5", base, attention="quest", sparsity=0.5, measured={**decode, "decode": 0.5})
    bad = {key: draw(0.2, len(scores)) for key, scores in base.items()}
    made_run(tmp_path / "runs" / "sparq-0.4", bad, attention="sparq", sparsity=0.4, measured={**decode, "decode": 0.4})
    lines = {"prefill": 0.9, "decode": 0.0}
    made_run(tmp_path / "runs" / "vs-0.9", base, attention="vertical_slash", sparsity=0.9, measured=lines)
    return tmp_path / "runs"


def test_each_phase_compares_dense_runs_and_those_that_are_sparse_in_it(sweep: Path) -> None:
    table = pareto(read_runs([sweep]))
    assert list(by_run(table, "prefill")) == ["vs-0.9", "dense"]
    assert list(by_run(table)) == ["quest-0.5", "sparq-0.4", "dense"]
    assert table.attrs["notes"] == ()


def test_scores_and_costs_are_those_of_their_modules(sweep: Path) -> None:
    runs = read_runs([sweep])
    row, price = by_run(pareto(runs))["sparq-0.4"], cost(runs).set_index("run").loc["sparq-0.4"]
    assert row["cost"] == price["decode_reads"] + price["decode_index_reads"]
    samples = runs.samples[runs.samples["run"] == "sparq-0.4"]
    tasks = [of_it["score"].tolist() for _, of_it in samples.groupby("task", observed=True)]
    mean, interval = macro([(sum(scores) / len(scores), mean_interval(scores)) for scores in tasks])
    assert (row["score"], row["low"], row["high"]) == pytest.approx((mean, interval.low, interval.high))
    assert (row["length"], row["model"], row["attention"], row["asked"]) == (65536, "acme/small", "sparq", 0.4)


def test_only_tasks_that_all_have_are_compared_and_the_others_named(sweep: Path) -> None:
    decode = {"prefill": 0.0, "decode": 0.9}
    made_run(sweep / "one", {VT: [1.0, 0.0]}, attention="quest", sparsity=0.9, measured=decode)
    runs = read_runs([sweep])
    table = pareto(runs)
    assert by_run(table)["one"]["score"] == 0.5
    dense = runs.samples[(runs.samples["run"] == "dense") & (runs.samples["task"] == "ruler_vt")]
    assert by_run(table)["dense"]["score"] == pytest.approx(dense["score"].mean())
    assert table.attrs["notes"] == ("decode at 64k: left out, for not all runs have them: story_multihop",)
    assert iso_cost(runs).attrs["notes"] == table.attrs["notes"]


def test_runs_without_a_task_in_common_are_not_compared(sweep: Path) -> None:
    made_run(sweep / "other", {("ruler_niah", 65536): [1.0]}, model="acme/other")
    table = pareto(read_runs([sweep]))
    assert table.empty
    assert "decode at 64k: no task that all runs have, and so nothing to compare" in table.attrs["notes"]


def test_runs_without_a_cost_are_left_out_and_named(sweep: Path) -> None:
    base = {VT: [1.0], HOP: [1.0]}
    made_run(sweep / "bare", base, model="acme/bare", shape=None)
    made_run(sweep / "theirs", base, attention="theirs", sparsity=0.5)
    made_run(sweep / "unmeasured", base, attention="quest", sparsity=0.7, measured={})
    table = pareto(read_runs([sweep]))
    assert set(table["run"]) == {"dense", "quest-0.5", "sparq-0.4", "vs-0.9"}
    assert table.attrs["notes"] == tuple(
        f"{phase}: left out, for their cost is not known: bare, theirs, unmeasured" for phase in ("prefill", "decode")
    )


def test_it_is_the_same_in_any_order_of_runs(sweep: Path) -> None:
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    for analysis in (pareto, iso_cost):
        pd.testing.assert_frame_equal(analysis(read_runs(folders)), analysis(read_runs(folders[::-1])))


def test_a_large_sparse_model_beats_a_small_dense_one_at_its_cost(tmp_path: Path, draw: Bernoulli) -> None:
    small, large = {VT: draw(0.4, 100)}, {VT: draw(0.8, 100)}
    made_run(tmp_path / "runs" / "small", small)
    made_run(
        tmp_path / "runs" / "large-sparse",
        large,
        attention="streaming_llm+quest",
        sparsity=0.95,
        measured={"prefill": 0.9, "decode": 0.95},
        model="acme/large",
        shape=structs.replace(LLAMA_8B, layers=36, dense_layers=36),
    )
    runs = read_runs([tmp_path / "runs"])
    table = iso_cost(runs)
    (row,) = table[table["phase"] == "prefill"].to_dict(orient="records")
    assert (row["budget_of"], row["best"], row["model"]) == ("small", "large-sparse", "acme/large")
    assert row["cost"] < row["budget"]
    assert row["gain"] == pytest.approx(row["score"] - np.mean(small[VT]))
    assert 0 < row["low"] < row["gain"] < row["high"]


def test_the_gain_over_the_same_samples_is_paired(sweep: Path, draw: Bernoulli) -> None:
    runs = read_runs([sweep])
    samples = runs.samples[runs.samples["run"] == "dense"]
    better = {
        key: [max(one, float(number % 10 == 0)) for number, one in enumerate(samples[samples["task"] == key[0]].score)]
        for key in (VT, HOP)
    }
    made_run(
        sweep / "better", better, attention="quest", sparsity=0.6, measured={"prefill": 0.0, "decode": 0.6}
    )  # fmt: skip
    table = iso_cost(read_runs([sweep]))
    (row,) = table[table["phase"] == "decode"].to_dict(orient="records")
    assert (row["best"], row["paired"], row["asked"]) == ("better", True, 0.6)
    tasks = [np.subtract(better[key], samples[samples["task"] == key[0]].score) for key in (VT, HOP)]
    # Three runs might have been chosen.
    gain, interval = macro([(float(one.mean()), difference_interval(one, 1 - 0.05 / 3)) for one in tasks])
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((gain, interval.low, interval.high))


def test_the_gain_over_other_samples_is_that_of_independent_means(tmp_path: Path, draw: Bernoulli) -> None:
    first, second = draw(0.3, 80), draw(0.6, 50)
    runs = read_runs(
        [
            made_run(tmp_path / "large", {VT: first}, model="acme/large"),
            made_run(tmp_path / "small", {VT: second}, model="acme/small", shape=SMALL, dataset_sha256="e" * 64),
        ]
    )
    table = iso_cost(runs)
    (row,) = table[(table["phase"] == "decode") & (table["budget_of"] == "large")].to_dict(orient="records")
    one, other = mean_interval(second), mean_interval(first)
    gain = np.mean(second) - np.mean(first)
    low = gain - math.hypot(np.mean(second) - one.low, other.high - np.mean(first))
    high = gain + math.hypot(one.high - np.mean(second), np.mean(first) - other.low)
    assert (row["best"], row["paired"]) == ("small", False)
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((gain, low, high))


def test_where_nothing_is_better_dense_is_the_best_and_gains_nothing(tmp_path: Path, draw: Bernoulli) -> None:
    made_run(tmp_path / "runs" / "dense", {VT: draw(0.9, 50)})
    made_run(tmp_path / "runs" / "quest", {VT: draw(0.2, 50)}, attention="quest", sparsity=0.5)
    table = iso_cost(read_runs([tmp_path / "runs"]))
    assert list(table["best"]) == ["dense", "dense"]
    assert (table[["gain", "low", "high"]] == 0).all(axis=None)


def test_among_equal_scores_the_cheapest_run_is_best(sweep: Path) -> None:
    assert list(iso_cost(read_runs([sweep]))["best"]) == ["vs-0.9", "quest-0.5"]


def test_without_a_dense_run_there_is_no_budget(sweep: Path) -> None:
    table = iso_cost(read_runs([sweep / "quest-0.5"]))
    assert table.empty
    assert table.attrs["notes"] == ("decode at 64k: no dense run, and so no budget",)


@pytest.mark.parametrize("level", [0, 1, math.nan])
def test_invalid_levels_are_refused(sweep: Path, level: float) -> None:
    with pytest.raises(ValueError, match="level must be in"):
        iso_cost(read_runs([sweep / "dense"]), level)
