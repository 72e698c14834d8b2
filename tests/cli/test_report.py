"""``sparse-tasks report``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import run
from tests.evaluators.example_runs import made_run

SCORES = {("ruler_vt", 1024): [1.0, 0.5, 1.0], ("ruler_vt", 2048): [1.0, 0.0, 1.0]}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made_run(tmp_path / "runs" / "dense", SCORES)
    made_run(tmp_path / "runs" / "quest", SCORES, attention="quest", sparsity=0.5)
    return tmp_path / "runs"


def test_it_writes_one_page_into_a_new_folder_and_prints_its_path(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    done = run("report", runs, "-o", path, "--title", "My runs")
    assert done.code == 0, done.err
    assert done.out.startswith(f"{path} (")
    assert "<h1>My runs</h1>" in path.read_text(encoding="utf-8")
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    # An older report is written over, and nothing else is.
    done = run("report", runs / "dense", runs / "quest", "-o", path, "--format", "json")
    assert done.json() == {"report": str(path), "bytes": path.stat().st_size, "runs": 2, "samples": 12}
    assert "<h1>My runs</h1>" not in path.read_text(encoding="utf-8")
    path.write_text("mine")
    done = run("report", runs, "-o", path)
    assert done.code == 2
    assert done.says("output", str(path), "is not a page", "name another file")
    assert path.read_text() == "mine"


def test_bad_input_is_one_line_and_writes_nothing(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for arguments, words in (
        (["nowhere"], ["runs", "nowhere"]),
        ([runs, "--tolerance", "0"], ["tolerance", "0.0", "between 0 and 1"]),
        ([runs, "--data", "./nowhere"], ["data", "nowhere", "is not a folder"]),
        ([runs, "-o", runs], ["output", "is a folder", "name a file"]),
    ):
        done = run("report", "-o", path, *arguments)
        assert done.code == 2
        assert done.says(*words)
        assert not path.exists()
