"""Too little disk, memory, files or threads is reported in a line with a remedy; no partial file appears."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest

from tests.cli.program import ROOT, Finished, contents, process, run, start, wait_for, workers_of


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


def test_file_size_limit_keeps_finished_files(
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
def test_impossible_folder_is_reported(request_: list[object], folder: str) -> None:
    finished = run(*request_, "-o", folder)
    assert finished.says(folder)
    assert finished.code == (2 if folder.startswith("/dev/null") else 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_output_that_cannot_be_printed_is_reported(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sparse_tasks", *arguments],
            cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == "error: cannot print: No space left on device\n"
    assert done.returncode == 1


def test_terminal_without_every_character_does_not_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparse_tasks", "--help"],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# --- what a machine or a limit does not give ------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch raises it."""


_OF_MEMORY = ("memory", "take fewer --workers or shorter lengths")
SHORTAGES: dict[str, tuple[Exception, tuple[str, ...]]] = {
    "memory": (MemoryError(), _OF_MEMORY),
    "memory of pyarrow": (pa.ArrowMemoryError("malloc of size 64 failed"), _OF_MEMORY),
    "memory of torch": (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), _OF_MEMORY),
    "memory of torch on CPUs": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8"), _OF_MEMORY),
    "memory of C++": (RuntimeError("std::bad_alloc"), _OF_MEMORY),
    "memory of the system": (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), _OF_MEMORY),
    "memory for a library": (ImportError("lib.so: failed to map segment from shared object"), _OF_MEMORY),
    "files": (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), ("open files", "raise ulimit -n (it allows ")),
    "threads": (RuntimeError("can't start new thread"), ("no further process or thread", "raise ulimit -u or -v")),
    "threads of pyarrow": (pa.ArrowException("Failed to launch worker thread: x"), ("no further process or thread",)),
    "disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ("No space left on device", "make room there")),
    "quota": (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), ("uota exceeded", "make room there")),
}


def at_night(values: Iterable[tuple[object, ...]], often: Callable[[int], object]) -> list[object]:
    """All of them, of which those that ``often`` does not take run nightly."""
    return [
        value if often(number) else pytest.param(*value, marks=pytest.mark.nightly)
        for number, value in enumerate(values)
    ]


# Each shortage with one of the two.
@pytest.mark.parametrize(("name", "files"), at_night(product(SHORTAGES, [0, 2]), lambda number: number % 4 in (0, 3)))
def test_a_shortage_is_reported_with_a_remedy_and_kept_files(
    name: str, files: int, request_: list[object], clean: dict[str, bytes | None], tmp_path: Path
) -> None:
    (error, words), folder, real = SHORTAGES[name], tmp_path / "data", os.fsync

    def fsync(descriptor: int) -> None:
        if len(list(folder.glob("*/*.parquet"))) == files:
            raise error
        real(descriptor)

    command = [*request_, "-o", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 1)
        patch.setattr("sparse_tasks.core.files.os.fsync", fsync)
        finished = run(*command)
    assert finished.says(*words)
    assert finished.code == 1
    kept = f"; kept in {folder}: {files} of 4 files ({files} of 4 samples)"
    go_on = f"; resume with: {shlex.join(map(str, ['sparse-tasks', *command]))}"
    assert finished.err.endswith(f"{kept}{go_on}\n") == bool(files)
    left = contents(folder)
    assert sum(name.endswith(".parquet") for name in left) == files
    assert all(content == clean[name] for name, content in left.items() if not name.startswith(".sparse_tasks."))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 1)
        assert run(*command).code == 0
    assert contents(folder) == clean


# Each command with one of the shortages, and each of these.
@pytest.mark.parametrize(
    ("command", "name"),
    at_night(
        product(["score", "report", "export", "submit", "analyze"], ["memory", "memory of torch", "files", "disk"]),
        lambda number: number % 4 == number // 4 % 4,
    ),
)
def test_a_shortage_leaves_no_partial_file_in_any_command(
    name: str, command: str, data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (error, words), made = SHORTAGES[name], tmp_path / "made"
    assert run("evaluate", data, "--engine", "replay", "-m", gold, "-o", tmp_path / "run", "-a", "dense").code == 0
    options = {"export": ["--to", "lm_eval"], "score": [], "analyze": ["--only", "cost"]}.get(command, [])
    output = {"report": ["-o", made / "a.html"], "submit": ["-o", made / "a.json"], "score": []}
    before = contents(tmp_path / "run")

    def fsync(descriptor: int) -> None:
        raise error

    monkeypatch.setattr("sparse_tasks.core.files.os.fsync", fsync)
    finished = run(command, tmp_path / "run", *options, *output.get(command, ["-o", made]))
    assert finished.says(*words)
    assert finished.code == 1
    assert contents(tmp_path / "run") == before
    assert not [path for path in contents(made) if not (made / path).is_dir()]


def test_another_error_is_not_a_shortage(
    request_: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("sparse_tasks.core.files.os.fsync", fsync)
    with pytest.raises(RuntimeError, match="a defect"):
        run(*request_, "-o", tmp_path / "data")


_MIB = 2**20


def limited(kind: int, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(kind, (size, size))


@pytest.mark.slow  # limits of memory meet tracing first
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
@pytest.mark.parametrize(
    "size", [100, 450, 1000, *(pytest.param(s, marks=pytest.mark.nightly) for s in (150, 300, 700))]
)
def test_libraries_that_would_hang_or_abort_are_not_loaded(
    kind: str, size: int, request_: list[object], data: Path, tmp_path: Path
) -> None:
    before = contents(data)
    new = [*request_, "-o", tmp_path / "new"]
    commands = [new, ["show", data, "ruler_niah", "0"], ["score", data], ["report", data]]
    for command in commands if size == 450 else commands[:1]:
        done = subprocess.run(
            [sys.executable, "-m", "sparse_tasks", *map(str, command)],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            preexec_fn=lambda: limited(getattr(resource, kind), size * _MIB),
        )
        finished = Finished(done.returncode, done.stdout, done.stderr)
        option = {"RLIMIT_AS": "-v", "RLIMIT_DATA": "-d"}[kind]
        assert finished.says(f"ulimit {option} allows {size:,} MiB", "need 1,024 MiB to start", "unlimited")
        assert finished.code == 1
    assert contents(data) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_library_that_aborts_out_of_memory_is_reported(request_: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = ["generate", "-l", "2M", "-t", "ruler_vt", "-n", "1", "-w", "1", *request_[-2:], "-o", folder]
    command += ["--encoder", "hf"]  # which takes much more memory
    finished = process(tmp_path, *command, limit=lambda: limited(resource.RLIMIT_AS, 1030 * _MIB))
    last = finished.err.splitlines()[-1]
    assert finished.code == 1
    assert last.startswith("error: out of memory")
    assert "raise ulimit -v (it allows 1,030 MiB)" in last
    assert not list(folder.glob("*/*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "whole_group"),
    at_night(product(["SIGINT", "SIGTERM", "SIGHUP"], [False, True]), lambda number: number in (0, 3, 4)),
)
def test_signals_stop_a_command_with_limited_memory(
    sent: str, whole_group: bool, request_: list[object], tmp_path: Path
) -> None:
    folder, number = tmp_path / "data", signal.Signals[sent]
    command = ["generate", "-l", "32k", "-t", "ruler_niah", "-n", "2000", "-w", "1", *request_[-2:], "-o", folder]
    started = start(tmp_path, *command, limit=lambda: limited(resource.RLIMIT_AS, 4000 * _MIB))
    wait_for(lambda: len(list(folder.glob("*/*.parquet"))) >= 2)
    os.killpg(started.pid, number) if whole_group and sent != "SIGINT" else started.send_signal(number)
    out, err = started.communicate(timeout=60)
    how = {"SIGINT": "interrupted", "SIGTERM": "stopped by SIGTERM", "SIGHUP": "stopped by SIGHUP"}[sent]
    assert (started.returncode, out) == (128 + number, "")
    assert err.startswith(f"{how}; kept in {folder}: ")
    assert len(err.splitlines()) == 1
    wait_for(lambda: not workers_of(started.pid), seconds=10)


@pytest.mark.slow
def test_a_command_with_limited_memory_that_is_killed_leaves_no_process(request_: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = ["generate", "-l", "32k", "-t", "ruler_niah", "-n", "2000", "-w", "2", *request_[-2:], "-o", folder]
    started = start(tmp_path, *command, limit=lambda: limited(resource.RLIMIT_AS, 4000 * _MIB))
    wait_for(lambda: len(list(folder.glob("*/*.parquet"))) >= 2)
    started.kill()
    started.communicate(timeout=60)
    wait_for(lambda: not workers_of(started.pid), seconds=10)


@pytest.mark.slow
def test_a_worker_killed_by_the_system_is_reported(request_: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = ["generate", "-l", "32k", "-t", "ruler_niah", "-n", "2000", "-w", "2", *request_[-2:], "-o", folder]
    started = start(tmp_path, *command)
    wait_for(lambda: len(list(folder.glob("*/*.parquet"))) >= 2)
    for pid in workers_of(started.pid):
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
            break
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (1, "")
    assert err.startswith(
        "error: a worker process was killed (SIGKILL), as systems do when memory runs out: take fewer --w"
    )
    assert f"; kept in {folder}: " in err
    assert err.endswith(f"; resume with: {shlex.join(map(str, ['sparse-tasks', *command]))}\n")


@pytest.mark.slow
def test_too_few_open_files_are_reported(request_: list[object], tmp_path: Path) -> None:
    command = [*request_[:-4], "-w", "20", *request_[-2:], "-n", "40", "-o", tmp_path / "data"]
    finished = process(tmp_path, *command, limit=lambda: limited(resource.RLIMIT_NOFILE, 16))
    assert finished.says("too many open files; raise ulimit -n (it allows 16)")
    assert finished.code == 1
