"""``analyze``: conclusions from runs, as tables to read, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from sparse_tasks.evaluators.analyses.analysis import ANALYSES
from tests.cli.program import contents, run
from tests.evaluators.example_runs import made_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two methods at three sparsities, over two tasks at two lengths."""
    folder, draws = tmp_path_factory.mktemp("analyze") / "sweep", np.random.default_rng(1)
    keys = [(task, length) for task in ("ruler_vt", "story_multihop") for length in (4096, 16384)]
    dense = {key: draws.integers(0, 5, 60) / 4 for key in keys}
    made_run(folder / "dense", {key: list(values) for key, values in dense.items()})
    for method, phase in (("quest", "decode"), ("block_sparse", "prefill")):
        for sparsity in (0.5, 0.8, 0.95):
            worse = {key: list(np.where(draws.random(60) < sparsity**6, 0.0, values)) for key, values in dense.items()}
            ran = {"prefill": 0.0, "decode": 0.0} | {phase: sparsity}
            made_run(folder / f"{method}-{sparsity}", worse, attention=method, sparsity=sparsity, measured=ran)
    return folder


def test_every_analysis_is_printed(runs: Path) -> None:
    before = contents(runs)
    done = run("analyze", runs)
    assert (done.code, done.err) == (0, "")
    for heading in ("COST", "PARETO", "ISO-COST", "CERTIFIED", "SCALING", "LENGTH", "TASK"):
        assert heading in done.out
    for name in ("quest 0.95", "block_sparse 0.5", "dense", "story_multihop", "16k"):
        assert name in done.out
    assert re.search(r"quest 0.95 +16k +0.000 .* 0.950 ", done.out)  # sparsity, as evaluate prints it, not density
    assert "nan" not in done.out.lower().split()
    assert contents(runs) == before


def test_json_has_the_tables_without_nan(runs: Path) -> None:
    done = run("analyze", runs, "--format", "json")
    assert done.code == 0, done.err
    found = json.loads(done.out, parse_constant=lambda text: pytest.fail(text))
    assert tuple(found) == ("unable", *ANALYSES)
    assert found["unable"] == []
    (costs,) = found["cost"]["tables"].values()
    assert len(costs) == 7 * 2
    (quest,) = [row for row in costs if row["asked"] == 0.95 and row["attention"] == "quest" and row["length"] == 16384]
    assert quest["density_decode"] == pytest.approx(0.05)
    assert quest["decode_speedup"] > 1


def test_one_analysis_may_be_chosen_and_written_as_csv(runs: Path, tmp_path: Path) -> None:
    done = run(
        "analyze", runs, "--only", "certified", "--only", "lengths", "--tolerance", "0.2", "-o", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert "PARETO" not in done.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["certified.csv", "lengths.csv"]
    with (tmp_path / "out" / "lengths.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["length"] for row in rows} == {"4096", "16384"}
    quest = [row for row in rows if row["attention"] == "quest" and float(row["asked"]) == 0.95]
    assert all(float(row["relative_error"]) > 0.4 for row in quest)


def test_bad_input_is_one_line_that_names_it(runs: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([runs, "--only", "parreto"], ["only", "'parreto'", "did you mean 'pareto'"]),
        ([runs, "--tolerance", "0"], ["tolerance", "0.0", "between 0 and 1"]),
        ([runs, "--error", "1"], ["error", "1.0", "between 0 and 1"]),
        ([tmp_path / "none"], ["runs", "none", "cannot be read"]),
        ([tmp_path], ["runs", "holds no result.json"]),
    ):  # fmt: skip
        done = run("analyze", *arguments)
        assert done.code == 2, done.err
        assert len(done.err.splitlines()) == 1
        assert all(word in done.err for word in words), done.err


def test_a_single_dense_run_reports_what_is_missing(runs: Path) -> None:
    done = run("analyze", runs / "dense")
    assert done.code == 0, done.err
    assert "note: " in done.out
