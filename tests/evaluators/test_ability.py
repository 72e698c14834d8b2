"""No conclusion from noise: what a model cannot do with dense attention counts in no comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_tasks.cli.output import Format
from sparse_tasks.cli.running import print_result, print_sweep
from sparse_tasks.core.json import to_json
from sparse_tasks.evaluators.ability import ABLE, able, describe_places, unable
from sparse_tasks.evaluators.results import compare_runs, read_result
from sparse_tasks.evaluators.runs import COMPARISON
from sparse_tasks.evaluators.sweep import Swept
from tests.cli.program import run
from tests.evaluators.example_runs import made_run

HARD, EASY = ("story_multihop", 4096), ("ruler_vt", 4096)
ZEROS, ONES = [0.0] * 20, [1.0] * 20
HALF = [1.0] * 10 + [0.0] * 10


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, Path]:
    """A dense and a sparse run of a model that can do one of two tasks, as a sweep leaves them."""
    dense = made_run(tmp_path / "dense", {EASY: ONES, HARD: ZEROS})
    sparse = made_run(tmp_path / "quest-0.9", {EASY: HALF, HARD: ZEROS}, attention="quest", sparsity=0.9)
    (sparse / COMPARISON).write_bytes(to_json(compare_runs(dense, sparse)))
    return dense, sparse


def test_a_tenth_is_enough_and_less_is_not(tmp_path: Path) -> None:
    assert able(ABLE)
    assert not able(0.0999)
    # Ten graded scores of a tenth each: rounding must not make it less.
    made_run(tmp_path / "a", {EASY: [0.1] * 10})
    made_run(tmp_path / "b", {EASY: [0.1] * 10}, attention="quest", sparsity=0.5)
    assert not compare_runs(tmp_path / "a", tmp_path / "b").rows[0].unable


def test_a_model_that_can_in_one_run_can() -> None:
    assert unable({(1024, "a"): 0.05, (1024, "b"): 0.05}, {(1024, "a"): 0.5}) == {(1024, "b")}
    assert unable() == unable({}) == frozenset()
    assert describe_places(unable({(1024, "b"): 0, (2048, "b"): 0, (2048, "a"): 0})) == "b (1k, 2k), a (2k)"


def test_a_task_that_a_model_cannot_do_is_in_no_average_and_no_correction(sweep: tuple[Path, Path]) -> None:
    found = compare_runs(*sweep)
    easy, hard = found.rows
    assert (easy.task, easy.unable, hard.unable) == (EASY[0], False, True)
    assert easy.p_holm == easy.p_value < 0.05
    assert hard.p_holm == 1
    [average] = found.averages
    assert (average.tasks, average.n, average.difference) == (1, 20, easy.difference)
    # The other way round, dense attention is still the judge.
    assert [row.unable for row in compare_runs(*reversed(sweep)).rows] == [False, True]


def test_ability_of_two_sparse_runs_comes_from_their_sweeps_dense_run(sweep: tuple[Path, Path], tmp_path: Path) -> None:
    other = made_run(tmp_path / "other", {EASY: ZEROS, HARD: ZEROS}, attention="snapkv", sparsity=0.9)
    assert [row.unable for row in compare_runs(other, sweep[1]).rows] == [False, True]
    # Dense scores are unknown: zeros may be due to sparse attention.
    alone = made_run(tmp_path / "alone", {EASY: ZEROS, HARD: ZEROS}, attention="tova", sparsity=0.9)
    assert not any(row.unable for row in compare_runs(other, alone).rows)


def test_a_model_that_can_is_compared_with_one_that_cannot(tmp_path: Path) -> None:
    cannot = made_run(tmp_path / "small", {HARD: ZEROS})
    for attention, sparsity in (("dense", None), ("quest", 0.5)):
        can = made_run(tmp_path / attention, {HARD: HALF}, model="acme/large", attention=attention, sparsity=sparsity)
        [row] = compare_runs(cannot, can).rows
        assert (row.unable, row.difference) == (False, 0.5)


def test_the_table_of_a_run_says_what_the_model_cannot_do(
    sweep: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, easy in zip(sweep, ("1.000", "0.500"), strict=True):
        print_result(read_result(folder), folder, Format.human)
        reported = capsys.readouterr().out
        assert f"  {easy}  " in reported
        assert " unable 0.000 " in reported
        assert "unable: story_multihop (4k). Dense attention scores below 0.1 there" in reported


def test_a_sweep_shows_the_mean_of_what_the_model_can_do(
    sweep: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dense, sparse = sweep
    results = [read_result(folder) for folder in sweep]
    runs = [
        Swept(dense, results[0].attention, results[0], None),
        Swept(sparse, results[1].attention, results[1], compare_runs(*sweep)),
    ]
    print_sweep(runs, dense.parent, Format.human)
    reported = capsys.readouterr().out
    assert "length 4k, ruler_vt, 20 samples" in reported
    assert "0.500    -0.500" in reported
    assert "unable: story_multihop (4k)" in reported


def test_zeros_are_not_compared(tmp_path: Path) -> None:
    dense = made_run(tmp_path / "dense", {EASY: ZEROS, HARD: [*ZEROS[1:], 1.0]})
    sparse = made_run(tmp_path / "sparse", {EASY: ZEROS, HARD: ZEROS}, attention="quest", sparsity=0.9)
    assert compare_runs(dense, sparse).averages == []
    reported = run("compare", dense, sparse).out
    rows = [line.split() for line in reported.splitlines() if line.startswith(("ruler_vt", "story_multihop"))]
    assert rows == [
        ["ruler_vt", "20", "0.000", "0.000", "unable"],
        ["story_multihop", "20", "0.050", "0.000", "unable"],
    ]
    assert "mean of tasks" not in reported
    assert "nothing can be concluded" in reported
    assert "--preset small" in reported
