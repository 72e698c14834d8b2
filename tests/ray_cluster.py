"""A Ray cluster of two nodes with a core each, on this machine, in a separate process.

``python -m tests.ray_cluster`` starts one to try things out by hand; it ends with its standard input.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

__all__ = ["RayCluster", "ray_cluster"]

_MEMORY = 80 * 2**20


class RayCluster:
    """The cluster; each node has its own Ray processes.

    Attributes:
        address: Of the cluster, for this machine.
        client: Of the same, for any machine.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address, self.client = self._answer()

    @contextmanager
    def another_node(self, **options: Any) -> Iterator[None]:
        """One node more, with these options of ``Cluster.add_node``."""
        self._send("add", options)
        try:
            yield
        finally:
            self._send("remove", {})

    def workers(self, title: str) -> dict[int, int]:
        """Processes that run a task of this name, and those that started them, one a node."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                command = (path.parent / "cmdline").read_bytes()
                parent = int(path.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if command.startswith(b"ray::") and title.encode() in command:
                found[int(path.parent.name)] = parent
        return found

    def _send(self, what: str, options: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        print(json.dumps([what, options]), file=self._process.stdin, flush=True)
        assert self._answer() == "done"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def ray_cluster(environment: dict[str, str]) -> Iterator[RayCluster]:
    """A cluster whose nodes have these variables in their environment; one at a time, as their clients share ports."""
    pytest.importorskip("ray", reason="ray is not installed")
    # Ray gives way to all other programs, and its server for clients dies now and then as it forks. Half-read files of
    # coverage would be reported.
    variables = {
        "RAY_worker_niceness": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    with FileLock(Path(tempfile.gettempdir()) / "sparse-tasks-ray-cluster.lock"):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=kept | variables | environment,
        )
        try:
            yield RayCluster(process)
        finally:
            process.communicate(timeout=60)


def _serve() -> None:
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    small = {"num_cpus": 1, "object_store_memory": _MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small | {"ray_client_server_port": port})
    cluster.add_node(**small)
    try:
        _say([cluster.address, f"ray://127.0.0.1:{port}"])
        added = None
        for line in sys.stdin:
            what, options = json.loads(line)
            if what == "add":
                added = cluster.add_node(**(small | options))
            else:
                cluster.remove_node(added)
            _say("done")
    finally:
        cluster.shutdown()


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
