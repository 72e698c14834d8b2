"""An honest submission, to be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from tests.evaluators.leaderboard.handed_in import answered


@pytest.fixture(scope="session")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense run and a sparse one that fails one sample of four; read-only."""
    folder = tmp_path_factory.mktemp("handed_in") / "runs"
    answered(folder / "dense", dataset)
    answered(folder / "quest", dataset, attention="quest", sparsity=0.5, wrong=[1])
    return folder


@pytest.fixture(scope="session")
def honest(runs: Path) -> bytes:
    """Both, as they are handed in: runs[0] is dense, runs[1] sparse."""
    return make_submission(read_runs([runs]), "Honest", "honest@example.org")


@pytest.fixture
def handed_in(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes a submission."""

    def write(content: bytes) -> Path:
        path = tmp_path / "submission.json"
        path.write_bytes(content)
        return path

    return write
