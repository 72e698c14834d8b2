"""What validate prints; what it finds is tested with the room that finds it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.program import run


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> Path:
    path = shutil.copytree(data, tmp_path / "damaged")
    (path / "README.md").write_text("Mine.")
    (path / "3072" / "more.parquet").write_bytes(b"")
    return path


def test_valid_folder_passes(data: Path) -> None:
    finished = run("validate", data, "-w", "1")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith(f"{data}: valid (4 files, 8 samples, ")
    finished = run("validate", data, "-w", "1", "--format", "json")
    report = finished.json()
    assert finished.code == 0
    assert report["valid"] is True
    assert (report["files"], report["samples"], report["problems"]) == (4, 8, [])
    assert report["tokens"] > 0


def test_problems_are_reported_with_their_place(damaged: Path) -> None:
    finished = run("validate", damaged, "-w", "1")
    assert (finished.code, finished.err) == (1, "")
    first, second, verdict = finished.out.splitlines()
    assert first == "README.md: is missing or was changed"
    assert second == "3072/more.parquet: is not in the manifest"
    assert verdict.startswith(f"{damaged}: 2 problems (4 files, 8 samples, ")
    finished = run("validate", damaged, "-w", "1", "--format", "json")
    assert finished.code == 1
    assert finished.json()["valid"] is False
    assert finished.json()["problems"] == [
        {"where": "README.md", "what": "is missing or was changed"},
        {"where": "3072/more.parquet", "what": "is not in the manifest"},
    ]


def test_many_problems_are_truncated(damaged: Path) -> None:
    for number in range(60):
        (damaged / f"more{number}.parquet").write_bytes(b"")
    lines = run("validate", damaged, "-w", "1").out.splitlines()
    assert len(lines) == 52
    assert lines[50] == "... and 12 more; --format json lists all"
