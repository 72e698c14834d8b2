"""``attention inspect`` on a small random model: a table, a picture and JSON, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.program import run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None, reason="torch or transformers is not installed"
    ),
]


@pytest.fixture
def options(llama: Path, data: Path) -> list[str]:
    return ["--model", str(llama), "--data", str(data), "-t", "ruler_vt", "-l", "1100", "-n", "1", "--steps", "3"]


def test_a_table_and_a_picture(options: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "quest.svg"
    finished = run("attention", "inspect", *options, "-a", "block_sparse+quest", "-s", ".8", "-o", picture)
    assert finished.code == 0, finished.err
    assert "decode, 3 queries" in finished.out
    assert "prefill, 1," in finished.out
    assert [line.split()[0] for line in finished.out.splitlines() if line[:1].isdigit()] == ["0", "1", "0", "1"]
    assert max(map(len, finished.out.replace(str(picture), "").splitlines())) <= 80
    assert b"<svg" in picture.read_bytes()[:2000]


def test_json_has_every_layer_and_head(options: list[str]) -> None:
    found = run("attention", "inspect", *options, "-a", "quest", "-s", ".8", "--format", "json").json()
    (phase,) = found["phases"]
    assert (found["attention"], found["sparsity"], found["file"]) == ("quest", 0.8, None)
    assert (phase["phase"], phase["layers"]) == ("decode", [0, 1])
    assert [len(heads) for heads in phase["recall"]] == [len(heads) for heads in phase["error"]] == [2, 2]
    assert all(0 <= share <= 1 for heads in phase["recall"] for share in heads)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-a", "dense"], ["attention", "'dense'", "name a method"]),
        (["-a", "quest,sparq", "-s", ".5"], ["attention", "inspect one at a time"]),
        (["-a", "quest", "-s", ".5", "--steps", "0"], ["steps", "at least 1"]),
        (["-a", "quest", "-s", ".5", "-o", "a.txt"], ["output", "a.txt", ".png"]),
        (["-a", "quest", "-s", ".5", "--engine-arg", "impl=fast"], ["engine-arg", "impl=fast", "auto, triton, torch"]),
    ],
)
def test_bad_input_is_reported(more: list[str], words: list[str], options: list[str]) -> None:
    finished = run("attention", "inspect", *options, *more)
    assert finished.code == 2
    assert finished.says(*words)
