"""A sweep as reports are made of: two methods at two sparsities against dense attention."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_tasks.evaluators.analyses.analysis import Analysis
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.report.page import make_report
from tests.evaluators.example_runs import made_run
from tests.evaluators.report.sweeps import DENSE, Report, worse


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs; read-only."""
    folder = tmp_path_factory.mktemp("report") / "sweep"
    made_run(folder / "dense", DENSE)
    for method, measured in (("quest", "decode"), ("block_sparse", "prefill")):
        other = "prefill" if measured == "decode" else "decode"
        for sparsity, scores in ((0.5, worse(0.25, 5)), (0.9, worse(1.0, 2))):
            made_run(
                folder / f"{method}-{sparsity}",
                scores,
                attention=method,
                sparsity=sparsity,
                measured={measured: sparsity - 0.01, other: 0.0},
                unparsed=(0,) if sparsity == 0.9 else (),
                truncated=(2,) if method == "quest" else (),
            )
    return folder


@pytest.fixture(scope="session")
def report() -> Report:
    """The page of some runs, as text."""

    def make(*paths: Path, data: str | None = None, title: str | None = None, tolerance: float = 0.05) -> str:
        return make_report(Analysis(read_runs(paths), tolerance), data, title).decode("utf-8")

    return make


@pytest.fixture(scope="session")
def page(sweep: Path, report: Report) -> str:
    """The page of the sweep."""
    return report(sweep)
