"""``submit``: runs become one file, which says what it holds; anything else is one line, and no file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import contents, run
from tests.cli.test_compare import evaluated


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of outputs that were made elsewhere."""
    root = tmp_path_factory.mktemp("submit")
    return [evaluated(data, root / "one", 0), evaluated(data, root / "two", 1)]


def test_runs_become_one_file(runs: list[Path], tmp_path: Path) -> None:
    before = [contents(folder) for folder in runs]
    path = tmp_path / "new" / "submission.json"
    finished = run("submit", *runs, "-o", path, "--name", "Zoë", "--contact", "zoe@example.org")
    assert (finished.code, finished.err) == (0, "")
    out = finished.out.splitlines()
    assert out[0].startswith(f"{path}: 0.0")
    assert out[0].endswith("MiB, Zoë")
    assert out[1] == "  one.jsonl, unknown: 8 predictions over data (2 tasks at 3k, 4k)"
    assert out[2] == "  two.jsonl, unknown: 8 predictions over data (2 tasks at 3k, 4k)"
    assert out[-1] == f"Check it as a keeper would: sparse-tasks leaderboard check {path} --data DATA"
    document = json.loads(path.read_bytes())
    assert (document["name"], document["contact"], len(document["runs"])) == ("Zoë", "zoe@example.org", 2)
    assert str(runs[0].parent) not in path.read_text(encoding="ascii")
    assert [contents(folder) for folder in runs] == before


def test_an_older_submission_is_written_over_and_nothing_else(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    assert run("submit", *runs, "-o", path, "--name", "one").code == 0
    assert run("submit", *runs, "-o", path, "--name", "two").code == 0
    assert json.loads(path.read_bytes())["name"] == "two"
    before = contents(runs[0])
    for taken, words in ((runs[0] / "result.json", "is not a submission"), (runs[0], "is a folder")):
        finished = run("submit", *runs, "-o", taken)
        assert finished.says("output", str(taken), words)
        assert finished.code == 2
    assert contents(runs[0]) == before


def test_what_cannot_be_submitted_is_one_line_and_no_file(runs: list[Path], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    predicted = tmp_path / "predicted"
    outputs = runs[0].with_suffix(".jsonl")
    assert run("predict", data, "--engine", "replay", "-m", outputs, "-o", predicted).code == 0
    for arguments, words in (
        ([predicted], ["holds no result.json", "evaluate or score"]),
        ([tmp_path / "nowhere"], ["nowhere", "cannot be read"]),
        ([*runs, runs[0]], ["is named twice"]),
        ([*runs, "--name", "x" * 101], ["name", "101 characters", "1 to 100"]),
        ([*runs, "--contact", "a\u202eb"], ["contact", "cannot be shown"]),
    ):
        finished = run("submit", *arguments, "-o", path)
        assert finished.says("error: ", *words), arguments
        assert finished.code == 2
        assert finished.err.isascii() or "\u202e" not in finished.err
        assert not path.exists()
    assert run("submit", "-o", path).code == 2
