"""``export``: a scored run's files in the formats of others, the same bytes each time, where they were asked for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from sparse_tasks.evaluators.exports import EXPORTS
from tests.cli.program import contents, run


@pytest.fixture(scope="module")
def made(data: Path, gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run; read-only."""
    folder = tmp_path_factory.mktemp("export") / "run"
    assert run("evaluate", data, "--engine", "replay", "-m", gold, "-o", folder).code == 0
    return folder


@pytest.fixture
def scored(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.mark.parametrize("name", ["every_eval_ever", "eval_results", "lm_eval"])
def test_every_format_writes_what_it_names(name: str, scored: Path, tmp_path: Path) -> None:
    assert name in EXPORTS
    before = contents(scored)
    finished = run("export", scored, "--to", name)
    assert (finished.code, finished.err) == (0, "")
    paths = [Path(line) for line in finished.out.splitlines()]
    assert paths
    assert all(path.is_relative_to(scored / "exports" / name) for path in paths)
    written = [path for path in (scored / "exports").rglob("*") if path.is_file()]
    assert sorted(written) == sorted(paths)
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            assert json.loads(text)
        elif path.suffix == ".jsonl":
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
        else:
            assert path.suffix == ".yaml"
            assert yaml.safe_load(text)
    assert {key: value for key, value in contents(scored).items() if not key.startswith("exports")} == before
    assert run("export", scored, "--to", name, "-o", tmp_path / "elsewhere").code == 0
    assert contents(tmp_path / "elsewhere") == contents(scored / "exports" / name)


def test_an_unscored_folder_is_one_line(tmp_path: Path) -> None:
    finished = run("export", tmp_path / "nowhere", "--to", "lm_eval")
    assert finished.says("run", str(tmp_path / "nowhere"), "holds no result.json")
    assert finished.code == 2
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("missing", "code", "words"),
    [
        ("run.json", 2, ["run", "holds no run.json"]),
        ("scores.parquet", 1, ["scores.parquet", "cannot be read"]),
        ("predictions.jsonl", 1, ["8 of 8 predictions are missing", "complete the run: sparse-tasks evaluate"]),
    ],
)
def test_a_missing_file_is_one_line(missing: str, code: int, words: list[str], scored: Path) -> None:
    (scored / missing).unlink()
    finished = run("export", scored, "--to", "every_eval_ever")
    assert finished.says(*words)
    assert finished.code == code
    assert not (scored / "exports").exists()


def test_a_non_finite_number_is_one_line(scored: Path) -> None:
    path = scored / "result.json"
    path.write_text(re.sub(r'"mean": [0-9.]+', '"mean": 1e400', path.read_text(encoding="utf-8")), encoding="utf-8")
    finished = run("export", scored, "--to", "lm_eval")
    assert finished.says("result.json", "cannot be read", "1e400")
    assert finished.code == 1
    assert not (scored / "exports").exists()


def test_an_unknown_format_or_an_output_that_is_a_file_is_one_line(scored: Path, tmp_path: Path) -> None:
    before = contents(scored)
    for name, words in (("lm_evla", "did you mean 'lm_eval'"), ("csv", "choose from eval_results, every_eval_ever")):
        finished = run("export", scored, "--to", name)
        assert finished.says("to", repr(name), words)
        assert finished.code == 2
    (tmp_path / "file").write_text("mine")
    finished = run("export", scored, "--to", "lm_eval", "-o", tmp_path / "file")
    assert finished.says(str(tmp_path / "file"))
    assert finished.code in (1, 2)
    assert (tmp_path / "file").read_text() == "mine"
    assert contents(scored) == before
