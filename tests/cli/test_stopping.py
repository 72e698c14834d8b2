"""Stopped at any moment, by any signal, a run leaves no process and no partial file, and the next one resumes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.evaluators.runs import Run
from tests.cli.program import Finished, contents, process, run, start, wait_for, workers_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

REQUEST = ["generate", "-l", "6k", "-l", "6500", "-t", "ruler_niah", "-t", "ruler_vt", "-n", "12"]
# Enough work for a run to be still at it when the signal comes.
LONG = ["generate", "-l", "64k", "-t", "ruler_niah", "-n", "4000"]


@pytest.fixture(scope="module")
def small(tokenizer_folders: dict[str, Path]) -> list[object]:
    """A tokenizer that is loaded fast."""
    return ["--tokenizer", tokenizer_folders["byte_level"]]


@pytest.fixture(scope="module")
def unstopped(small: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("unstopped") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 1)
        assert run(*REQUEST, *small, "-w", "1", "-o", folder).code == 0
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The folder of the script, next to the data."""
    (tmp_path / "script").mkdir()
    return tmp_path / "script"


def files(folder: Path) -> int:
    return len(list(folder.glob("*/*.parquet")))


def ends(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=60)
    wait_for(lambda: not workers_of(started.pid), seconds=10)
    return started.returncode, out, err


def assert_reports(err: str, how: str, folder: Path, started: subprocess.Popen[str]) -> None:
    """One line, which counts what is there and gives the very command."""
    n, command = files(folder), shlex.join(["sparse-tasks", *started.args[2:]])  # type: ignore[misc]
    assert err == f"{how}; kept in {folder}: {n:,} of 4,000 files ({n:,} of 4,000 samples); resume with: {command}\n"


def kill_again_and_again(
    chance: random.Random, scratch: Path, command: list[object], folder: Path, clean: dict[str, bytes | None]
) -> None:
    """Kill two runs that fill a folder, each after some files; finished files are as in a clean run."""
    for _ in range(2):
        before = files(folder)
        goal = before + chance.randint(1, 16)
        started = start(scratch, *command, "-o", folder)
        wait_for(lambda started=started, goal=goal: files(folder) >= goal or started.poll() is not None)
        time.sleep(chance.random() / 100)
        with contextlib.suppress(ProcessLookupError):
            started.send_signal(signal.SIGKILL)
        code, _, _ = ends(started)
        assert code in (-signal.SIGKILL, 0)
        assert files(folder) >= before
        for name, content in contents(folder).items():
            if not Path(name).name.startswith(".sparse_tasks"):
                assert content == clean[name], name


@pytest.mark.parametrize(("seed", "workers"), [pytest.param(1, 1, marks=pytest.mark.nightly), (2, 2)])
def test_killed_repeatedly_ends_with_the_same_bytes(
    seed: int, workers: int, tmp_path: Path, scratch: Path, unstopped: Path, small: list[object]
) -> None:
    folder, clean = tmp_path / "data", contents(unstopped)
    kill_again_and_again(random.Random(seed), scratch, [*REQUEST, *small, "-w", workers], folder, clean)
    # The last one may use another number of processes.
    other_order = ["generate", *REQUEST[3:5], *REQUEST[1:3], *REQUEST[7:9], *REQUEST[5:7], *REQUEST[9:]]
    finished = process(scratch, *other_order, *small, "-w", 3 - workers, "-o", folder)
    assert finished.code == 0
    assert contents(folder) == clean


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_with_a_faster_encoder_ends_with_the_same_bytes(
    workers: int, tmp_path: Path, scratch: Path, small: list[object]
) -> None:
    pytest.importorskip("fastokens", reason="fastokens is not installed")
    # As many tokens as an encoder is worth its start for.
    request = ["generate", "-l", "64k", "-t", "ruler_niah", "-n", "36", *small]
    folders = {name: tmp_path / name for name in ("auto", "hf", "data")}
    for name in ("auto", "hf"):
        assert process(scratch, *request, "-w", 1, "--encoder", name, "-o", folders[name]).code == 0
    clean = contents(folders["auto"])
    kill_again_and_again(random.Random(workers), scratch, [*request, "-w", workers], folders["data"], clean)
    assert process(scratch, *request, "-w", 3 - workers, "-o", folders["data"]).code == 0
    assert contents(folders["data"]) == clean
    # It counted, and nothing but the manifest shows it.
    assert b'"encoder"' in (clean.pop("sparse_tasks.json") or b"")
    assert clean == {name: content for name, content in contents(folders["hf"]).items() if name != "sparse_tasks.json"}


@pytest.mark.parametrize(
    ("workers", "whole_group"), [(2, True), *(pytest.param(n, n == 1, marks=pytest.mark.nightly) for n in (1, 2))]
)
def test_ctrl_c_is_one_line_and_leaves_no_process(
    workers: int, whole_group: bool, tmp_path: Path, scratch: Path, small: list[object]
) -> None:
    # A terminal sends the signal to workers too.
    folder = tmp_path / "data"
    started = start(scratch, *LONG, *small, "-w", workers, "-o", folder)
    wait_for(lambda: files(folder) >= 3)
    began = time.monotonic()
    os.killpg(started.pid, signal.SIGINT) if whole_group else started.send_signal(signal.SIGINT)
    code, out, err = ends(started)
    assert (code, out) == (130, "")
    assert_reports(err, "interrupted", folder, started)
    assert time.monotonic() - began < 10
    left = contents(folder)
    assert not [name for name in left if ".sparse_tasks-" in name or name.endswith(".lock")]
    recorded = json.loads(left[".sparse_tasks.partial.json"] or b"")["files"]
    assert len(recorded) - files(folder) in (0, 1)


@pytest.mark.slow  # coverage tracing replaces the SIGTERM handler
@pytest.mark.parametrize("whole_group", [True, pytest.param(False, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("sent", "reported"), [("SIGTERM", "stopped by SIGTERM"), ("SIGHUP", "stopped by SIGHUP")])
def test_other_signals_stop_it_as_well(
    sent: str, reported: str, whole_group: bool, tmp_path: Path, scratch: Path, small: list[object]
) -> None:
    folder, number = tmp_path / "data", signal.Signals[sent]
    started = start(scratch, *LONG, *small, "-w", 2, "-o", folder)
    wait_for(lambda: files(folder) >= 3)
    os.killpg(started.pid, number) if whole_group else started.send_signal(number)
    code, out, err = ends(started)
    assert (code, out) == (128 + number, "")
    assert_reports(err, reported, folder, started)
    assert not [name for name in contents(folder) if ".sparse_tasks-" in name or name.endswith(".lock")]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.nightly)])
def test_killed_at_any_time_it_restarts_at_once(kills: int, tmp_path: Path, scratch: Path) -> None:
    request = ["generate", "-l", "4k", "-t", "story", "-n", "12", "-w", "2", "-o", tmp_path / "data"]
    chance, begun = random.Random(kills), list[int]()
    for _ in range(kills):
        started = start(scratch, *request)
        begun.append(started.pid)
        time.sleep(chance.random() * chance.choice((0.1, 1, 6)))
        assert started.poll() in (None, 0), started.communicate()
        started.kill()
        started.wait()
        for pipe in (started.stdout, started.stderr):
            assert pipe is not None
            pipe.close()  # without waiting for workers, which hold them as well
        time.sleep(chance.random() / 10)
    done = process(scratch, *request, timeout=300)
    assert done.code == 0, done.err
    wait_for(lambda: not [pid for pid in begun if workers_of(pid)], seconds=5)
    assert process(scratch, "generate", *request[1:-1], tmp_path / "other", timeout=300).code == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "other")


@pytest.mark.parametrize("sent", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGKILL])
@pytest.mark.parametrize("command", [pytest.param("generate", marks=pytest.mark.nightly), "validate"])
def test_stopped_while_processes_start_it_leaves_none(
    command: str, sent: signal.Signals, tmp_path: Path, scratch: Path, small: list[object], unstopped: Path
) -> None:
    arguments = [*LONG, "-o", tmp_path / "data"] if command == "generate" else ["validate", unstopped]
    started = start(scratch, *arguments, *small, "-w", "2")
    # The two workers and the tracker of their semaphores.
    wait_for(lambda: len(workers_of(started.pid)) >= 3)
    if sent == signal.SIGINT:
        os.killpg(started.pid, sent)
        code, out, err = ends(started)
        again = shlex.join(started.args[2:])  # type: ignore[arg-type]
        assert (code, out, err) == (130, "", f"interrupted; nothing was kept; start again: sparse-tasks {again}\n")
    else:
        time.sleep(0.2)
        started.kill()
        ends(started)


def test_second_process_in_the_same_folder_is_refused(tmp_path: Path, scratch: Path, small: list[object]) -> None:
    folder = tmp_path / "data"
    started = start(scratch, *LONG, *small, "-w", "1", "-o", folder)
    wait_for(lambda: files(folder) >= 1)
    for arguments in (LONG, REQUEST, [*REQUEST, "--overwrite"]):
        finished = run(*arguments, *small, "-w", "1", "-o", folder)
        assert finished.says("another run is writing to", str(folder))
        assert finished.code == 1
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    assert ends(started)[0] == 130


def test_closed_pipe_is_not_an_error() -> None:
    ours, theirs = os.pipe()
    started = subprocess.Popen(
        [sys.executable, "-m", "sparse_tasks", "list"], stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    os.close(ours)
    assert started.communicate(timeout=60)[1] == ""


# --- every command, at every write ----------------------------------------------------------------------------------

COMMANDS = {
    "generate": "generate -l 3k -t ruler_niah -n 3 -w 1 --tokenizer TOKENIZER -o OUT",
    "validate": "validate DATA -w 1",
    "list": "list",
    "evaluate": "evaluate DATA --engine replay -m GOLD -o OUT",
    "score": "score OUT",
    "compare": "compare RUNS/dense RUNS/quest",
    "analyze": "analyze RUNS/dense RUNS/quest --only cost --format json -o OUT",
    "report": "report RUNS/dense RUNS/quest -o OUT/report.html",
    "submit": "submit RUNS/dense RUNS/quest -o OUT/submission.json",
    "export": "export RUNS/dense --to lm_eval -o OUT",
    "export of data": "export DATA --to kvpress -o OUT",
    "leaderboard check": "leaderboard check RUNS/submissions/one.json --data DATA",
    "leaderboard build": "leaderboard build RUNS/submissions -o OUT/site",
}
STOPS = [("interrupted", 130), ("stopped by SIGTERM", 143), ("stopped by SIGHUP", 129)]


@pytest.fixture(scope="module")
def scored(data: Path, gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and a submission; read-only."""
    runs = tmp_path_factory.mktemp("scored")
    for name, attention in (("dense", ["-a", "dense"]), ("quest", ["-a", "quest", "-s", "0.5"])):
        assert run("evaluate", data, "--engine", "replay", "-m", gold, "-o", runs / name, *attention).code == 0
    assert run("submit", runs / "dense", runs / "quest", "-o", runs / "submissions/one.json").code == 0
    assert run("predict", data, "--engine", "replay", "-m", gold, "-o", runs / "unscored").code == 0
    return runs


def stopped(n: int, code: int, command: list[str]) -> tuple[Finished, bool]:
    """A command that a signal stops at its n-th file, answer or print, and whether it came so far."""
    left = n

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt if code == 130 else SystemExit(code)
            return real(*arguments, **options)

        return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.core.files.os.fsync", before(os.fsync))
        patch.setattr("sparse_tasks.evaluators.runs.Run.add", before(Run.add))
        patch.setattr("builtins.print", before(print))
        return run(*command), left <= 0


def counted(folder: Path, what: str) -> int:
    """What there is of it."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if "answers" in what:
        return sum(path.read_bytes().count(b"\n") for path in found if path.name == "predictions.jsonl")
    return sum(path.suffix == ".parquet" for path in found) if "samples" in what else len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_anywhere_it_reports_what_is_kept_and_how_to_resume(
    name: str, data: Path, gold: Path, scored: Path, small: list[object], tmp_path: Path
) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 1)
    for n in itertools.count(1):
        out, (how, code) = tmp_path / f"out {n}", STOPS[n % 3]
        places = {"DATA": data, "GOLD": gold, "RUNS": scored, "OUT": out, "TOKENIZER": small[1]}
        words = COMMANDS[name].split()
        command = [str(Path(str(places.get(first, first)), rest)) if first in places else word
                   for word in words for first, _, rest in [word.partition("/")]]  # fmt: skip
        if name == "score":
            shutil.copytree(scored / "unscored", out)
        finished, reached = stopped(n, code, command)
        if not reached:
            assert n > 1
            assert finished.code == 0
            break
        last = finished.err.splitlines()[-1]
        assert finished.code == code
        assert "Traceback" not in finished.err
        assert not [path for path in contents(out) if ".sparse_tasks-" in path or path.endswith(".lock")]
        reported = re.fullmatch(
            rf"{how}; (?:kept in (.+): ([0-9,]+) (.*)|nothing was kept); (resume with|start again): (.+)", last
        )
        assert reported, last
        if reported[1] is None:
            assert not out.exists() or not counted(out, "files")
        else:
            assert Path(reported[1]).resolve().is_relative_to(out.resolve())
            assert int(reported[2]) == counted(Path(reported[1]), reported[3]) > 0
        again = shlex.split(reported[5])
        assert again == ["sparse-tasks", *command]
        ended = run(*again[1:])
        assert ended.code == 0, ended.err
    patch.undo()
