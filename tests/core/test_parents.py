"""Processes end with the one that started them, also while they import what takes long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.program import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

# As vLLM: an engine that starts a worker, each of which needs half a minute to import what it runs.
SLOW = """
import multiprocessing, os, time
def engine(depth):
    try:
        from setproctitle import setproctitle
        setproctitle("An engine " * 9)
    except ImportError:
        pass
    with open(f"{depth}.pid", "w") as file:
        file.write(str(os.getpid()))
    if depth:
        multiprocessing.get_context("spawn").Process(target=engine, args=(depth - 1,)).start()
    time.sleep(60)
if multiprocessing.process.current_process().name != "MainProcess":
    with open(f"importing-{os.getpid()}", "w"):
        pass
    time.sleep(float(os.environ["IMPORT_SECONDS"]))
"""
# What it starts does not import this package, which knows nothing of it.
MAIN = """
import multiprocessing, os, subprocess
if __name__ == "__main__":
    import slow
    from sparse_tasks.core.parents import starting
    before = dict(os.environ)
    other = subprocess.Popen(["sleep", "20"])
    with starting():
        process = multiprocessing.get_context("spawn").Process(target=slow.engine, args=(1,))
        process.start()
    assert dict(os.environ) == before
    with open("other", "w") as file:
        file.write(str(other.pid))
    process.join()
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def watchers(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return [pid for pid in found if b"watcher.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("importing", [True, False])
def test_an_engine_and_its_worker_end_with_a_parent_that_was_killed(importing: bool, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "main.py").write_text(MAIN)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path,
        env=os.environ | {"IMPORT_SECONDS": "30" if importing else "0", "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        wait_for(lambda: (tmp_path / "other").exists())
        wait_for(lambda: [*tmp_path.glob("importing-*")] if importing else (tmp_path / "0.pid").exists())
        (watcher,) = watchers(parent.pid)
        pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("importing-*")]
        assert len(pids) == (1 if importing else 2)
        assert all(map(lives, pids))
    finally:
        parent.kill()
        parent.wait()
    killed = time.monotonic()
    wait_for(lambda: not any(map(lives, pids)), seconds=30)
    wait_for(lambda: not lives(watcher), seconds=30)
    # Half a second between two looks; a machine with other work may take its time.
    assert time.monotonic() - killed < 5
    # As if it had been started by another program.
    other = int((tmp_path / "other").read_text())
    assert lives(other)
    os.kill(other, signal.SIGKILL)


# Ends within half a minute if it is asked to, as an engine in a step.
STUBBORN = """
import multiprocessing, signal, sys, time
def engine(started):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started.set()
    time.sleep(30)
if __name__ == "__main__":
    from sparse_tasks.core.parents import starting, stopped_by_signals
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=engine, args=(started,))
    with stopped_by_signals():
        with starting(killed=True):
            process.start()
        started.wait()
        try:
            print("started", flush=True)
            time.sleep(60)
        finally:
            process.join()
            print("joined")
"""


@pytest.mark.slow  # coverage tracing replaces the SIGTERM handler
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_processes_without_data_are_killed_at_a_signal(sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, tmp_path / "stubborn.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        began = time.monotonic()
        parent.send_signal(sent)
        out, _ = parent.communicate(timeout=60)
    assert out == "joined\n"
    assert parent.returncode == (-sent if sent == signal.SIGINT else 128 + sent)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_watcher_waits_for_its_parent_and_keeps_no_pipe_open(sent: signal.Signals) -> None:
    script = (
        "import signal, sys\nfrom sparse_tasks.core.parents import starting\n"
        "for _ in range(2):\n    with starting():\n        pass\n"
        "print('started', flush=True)\nsys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        (watcher,) = watchers(parent.pid)
        wait_for(lambda: os.getsid(watcher) == watcher)
        time.sleep(0.2)
        os.kill(watcher, sent)
        began = time.monotonic()
        out, _ = parent.communicate(b"\n", timeout=30)
        assert time.monotonic() - began < 1
        assert (out, parent.returncode) == (b"", 0)
        assert lives(watcher)
    wait_for(lambda: not lives(watcher), seconds=30)
    assert time.monotonic() - began < 5


@pytest.mark.slow  # coverage tracing replaces the SIGTERM handler
@pytest.mark.parametrize(("sent", "ignored"), [("TERM", False), ("HUP", False), ("HUP", True)])
def test_a_signal_that_stops_lets_everything_end(sent: str, ignored: bool, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\nfrom sparse_tasks.core.parents import stopped_by_signals\n"
        "with stopped_by_signals():\n    try:\n        print('ready', flush=True)\n        sys.stdin.readline()\n"
        "    finally:\n        print('ended')\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    number = signal.Signals[f"SIG{sent}"]
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=(lambda: signal.signal(number, signal.SIG_IGN)) if ignored else None,
    ) as started:  # fmt: skip
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        started.send_signal(number)
        if ignored:  # as under nohup
            time.sleep(0.3)
            assert started.poll() is None
        out, _ = started.communicate("\n" if ignored else None, timeout=30)
    assert out == ("ended\nTrue\n" if ignored else "ended\n")
    assert started.returncode == (0 if ignored else 128 + number)
