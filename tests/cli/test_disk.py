"""A disk that is full or forbids writing is told in one line; nothing half-written gets a final name."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import ROOT, contents, process, run


@pytest.fixture(scope="module")
def request_(tokenizer_folders: dict[str, Path]) -> list[object]:
    """A small data set, with a tokenizer that is loaded fast."""
    tokenizer = tokenizer_folders["byte_level"]
    return ["generate", "-l", "8k", "-t", "ruler_niah", "-n", "4", "-w", "1", "--tokenizer", tokenizer]


@pytest.fixture(scope="module")
def clean(request_: list[object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    root = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 1)
        assert run(*request_, "-o", root / "data").code == 0
    return contents(root / "data")


def test_file_size_limit_keeps_what_is_finished(
    request_: list[object], tmp_path: Path, clean: dict[str, bytes | None]
) -> None:
    folder, script = tmp_path / "data", tmp_path / "script"
    script.mkdir()
    sizes = [len(content or b"") for name, content in sorted(clean.items()) if name.endswith(".parquet")]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, max(sizes) - 1))

    finished = process(script, *request_, "-o", folder, limit=limit)
    assert finished.says("cannot write", str(folder), "File too large")
    assert finished.code == 1
    for name, content in contents(folder).items():
        # Not even a hidden half file is left.
        assert name == ".sparse_tasks.partial.json" or content == clean.get(name, b"unexpected"), name
    # All that come before the largest are there.
    assert len(list(folder.glob("*/*.parquet"))) == sizes.index(max(sizes))
    assert process(script, *request_, "-o", folder).code == 0
    assert contents(folder) == clean


@pytest.mark.parametrize("folder", ["/proc/data", "/proc", "/dev/null/data"])
def test_folder_that_cannot_be_is_told(request_: list[object], folder: str) -> None:
    finished = run(*request_, "-o", folder)
    assert finished.says(folder)
    assert finished.code == (2 if folder.startswith("/dev/null") else 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_output_that_cannot_be_printed_is_told(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sparse_tasks", *arguments],
            cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == "error: cannot print: No space left on device\n"
    assert done.returncode == 1


def test_terminal_that_cannot_show_every_letter_is_no_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparse_tasks", "--help"],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
