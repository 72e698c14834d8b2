"""What publish prints and asks; what it does on the Hub is tested with its room."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from msgspec import convert, to_builtins

from sparse_tasks.core.format import size
from sparse_tasks.core.records import Manifest
from sparse_tasks.generators.dataset import fingerprint
from tests.cli.program import ROOT, contents, process, run, start, wait_for
from tests.hub.server import WRITER, FakeHub, environment, serving

# Of huggingface_hub 2.4, which hands files to its HTTP client in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

NAME = "org/data"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(tmp_path / "home", monkeypatch) as running:
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other data, in one file."""
    folder = tmp_path_factory.mktemp("publish") / "other"
    assert run("generate", "-l", "3k", "-t", "ruler_vt", "-n", "1", "-w", "1", "-o", folder).code == 0
    return folder


def test_address_and_the_lines_that_load_it_are_printed(hub: FakeHub, data: Path) -> None:
    before = contents(data)
    finished = run("publish", data, NAME, "-w", "1")
    assert (finished.code, finished.err) == (0, "")
    first, address, blank, *code = finished.out.splitlines()
    assert re.fullmatch(r"org/data: uploaded 7 files \([\d.]+ [KM]iB\), commit [0-9a-f]{12}", first)
    assert address == f"{hub.url}/datasets/{NAME}"
    assert blank == ""
    assert code == ["from datasets import load_dataset", "data = load_dataset('org/data', '3k', split='test')"]
    assert contents(data) == before


def test_dry_run_lists_files_and_sizes_without_asking(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    finished = run("publish", data, NAME, "-w", "1", "--dry-run")
    assert (finished.code, finished.err) == (0, "")
    *lines, last = finished.out.splitlines()
    sizes = {name: f"{number} {unit}" for number, unit, name in map(str.split, lines)}
    here = {name: size(len(content)) for name, content in contents(data).items() if content is not None}
    assert {name: said for name, said in sizes.items() if name != "eval.yaml"} == here
    assert re.fullmatch(r" +0\.1 MiB  in 7 files for .*/datasets/org/data; nothing was uploaded\.", last)


def test_other_data_is_not_replaced_without_overwrite(hub: FakeHub, data: Path, other: Path) -> None:
    run("publish", other, NAME, "-w", "1")
    finished = run("publish", data, NAME, "-w", "1")
    assert finished.says("repository: 'org/data' holds other data", "--overwrite", "--revision")
    assert finished.code == 2
    assert len(hub.repos[NAME].commits) == 2
    finished = run("publish", data, NAME, "-w", "1", "--overwrite")
    assert finished.code == 0
    assert ", removed 1, commit " in finished.out
    assert {name for name in hub.repos[NAME].files() if name != "eval.yaml"} == {
        name for name, content in contents(data).items() if content is not None
    }


@pytest.mark.parametrize(
    ("answer", "code", "commits"), [("n", 1, 2), pytest.param("y", 0, 3, marks=pytest.mark.nightly)]
)
def test_on_a_terminal_it_asks(
    hub: FakeHub, data: Path, other: Path, tmp_path: Path, answer: str, code: int, commits: int
) -> None:
    run("publish", data, NAME, "-w", "1")
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "sparse_tasks", "publish", other, NAME, "-w", "1"],
        env=os.environ | environment(hub, tmp_path / "home") | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    said = ""
    while "[y/N]" not in said:
        said += os.read(ours, 1000).decode()
    os.write(ours, f"{answer}\n".encode())
    out, _ = asking.communicate(timeout=60)
    os.close(ours)
    assert f"note: {hub.url}/datasets/{NAME} holds other data." in said
    assert "4 files would be uploaded, 4 removed" in said
    assert asking.returncode == code
    assert ("uploaded 4 files" in out) == (code == 0)
    assert len(hub.repos[NAME].commits) == commits


def test_invalid_data_is_not_published(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "damaged")
    (path / "README.md").write_text("Mine.")
    finished = run("publish", path, NAME, "-w", "1")
    assert finished.code == 1
    assert finished.err == "note: nothing was published\n"
    assert finished.out.splitlines()[0] == "README.md: is missing or was changed"
    assert hub.requests == []


def test_text_without_a_clear_licence_needs_confirmation(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    path = shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((path / "sparse_tasks.json").read_text())
    corpus = {"name": "qa_toefl", "sha256": "0" * 64, "origin": "toefl.jsonl", "revision": None, "licence": None}
    manifest["corpora"] = [corpus]
    manifest["fingerprint"] = fingerprint(to_builtins(convert(manifest, Manifest)))
    (path / "sparse_tasks.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    finished = run("publish", path, NAME, "-w", "1")
    assert finished.says("corpus: 'qa_toefl' has no clear licence", "--i-have-the-rights")
    assert finished.code == 2
    assert hub.requests == []
    assert run("publish", path, NAME, "-w", "1", "--i-have-the-rights").code == 0


def test_bad_input_is_one_line(hub: FakeHub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ((tmp_path / "none", NAME), (data, "data"), (data, NAME, "--revision", "a b")):
        finished = run("publish", *arguments)
        assert finished.says()
        assert finished.code == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    finished = run("publish", data, NAME)
    assert finished.says("HF_HUB_OFFLINE", "unset it")
    assert finished.code == 2
    assert hub.requests == []


@pytest.mark.nightly
def test_a_killed_run_resumes_where_it_stopped(hub: FakeHub, data: Path, tmp_path: Path) -> None:
    hub.uploads, hub.stuck = 2, True
    arguments = ("publish", data, NAME, "-w", "1")
    killed = start(tmp_path, *arguments, env=environment(hub, tmp_path / "home"))
    wait_for(hub.reached.is_set)
    os.killpg(killed.pid, signal.SIGKILL)
    _, err = killed.communicate()
    assert hub.repos[NAME].files() == {}
    assert len(hub.store) == hub.asked("PUT", "/_store/") == 2
    hub.uploads = None
    finished = process(tmp_path, *arguments, env=environment(hub, tmp_path / "home"))
    assert finished.code == 0
    assert hub.asked("PUT", "/_store/") == len(hub.store) == 4
    assert hub.repos[NAME].messages == ["initial commit", "Publish 3k"]
    assert WRITER not in err + finished.out + finished.err
    assert finished.err == ""
