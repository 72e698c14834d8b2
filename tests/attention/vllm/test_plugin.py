"""Processes that vLLM starts end with the one that started them, whatever killed that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

# The child is forked by multiprocessing, as vLLM's engine is where nothing forbids it, or by a fork server, from which
# programs may start it (Python 3.14 does by default). It computes without an end.
PARENT = """
import multiprocessing, sys
from sparse_tasks.attention.vllm.plugin import register

def engine():
    register()
    print(multiprocessing.current_process().pid, flush=True)
    while True:
        sum(range(1000))

if __name__ == "__main__":
    register()
    multiprocessing.get_context(sys.argv[1]).Process(target=engine).start()
    register()
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fork", pytest.param("forkserver", marks=pytest.mark.nightly)])
def test_an_engine_ends_with_a_parent_that_was_killed_and_not_before(tmp_path: Path, way: str) -> None:
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", tmp_path / "parent.py", way],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        time.sleep(2)
        os.kill(engine, 0)  # it runs
        parent.kill()
        parent.wait()
        ended = time.monotonic() + 30
        while time.monotonic() < ended:
            try:
                os.kill(engine, 0)
            except ProcessLookupError:
                return
            time.sleep(0.2)
        os.kill(engine, signal.SIGKILL)
        pytest.fail("the engine goes on without its parent")
