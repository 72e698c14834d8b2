"""A Ray cluster of identical nodes: connect to it, and run work on every node."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sparse_tasks.core.errors import EngineError, SparseTasksError, UsageError, first_line, install
from sparse_tasks.core.parents import STOPPING
from sparse_tasks.core.streams import Chatter

Result = TypeVar("Result")

RETRIES: Final = 10
"""Times that work is begun again whose process or node has died."""

_SECONDS: Final = 10  # until a port has to answer
_CONNECTIONS: Final = 3  # attempts: the process that a cluster forks for a client sometimes dies at once
_CLIENT: Final = "ray://"
_HOW: Final = "write ray://HOST:10001, HOST:6379 on a node of the cluster, or auto"


class LostError(EngineError):
    """The process or node that was running some work has died."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster.

    Attributes:
        id: Ray's id.
        address: Host.
        cpus: Cores, as reported to Ray.
        gpus: GPUs.
    """

    id: str
    address: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster this process is connected to.

    Attributes:
        address: As the user wrote it.
        nodes: Nodes that have cores.
    """

    address: str
    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> int:
        """Total number of cores."""
        return sum(node.cpus for node in self.nodes)

    def on_each(self, work: Callable[..., Result], *arguments: object) -> Iterator[tuple[Node, Result]]:
        """Run ``work`` on every node, without reserving a core there, and return the results.

        Raises:
            SparseTasksError: ``work`` raised it, or a node has died.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = ray.remote(work)
        references = [
            task.options(
                num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            ).remote(*arguments)
            for node in self.nodes
        ]
        for node, reference in zip(self.nodes, references, strict=True):
            yield node, result_of(reference)


@contextmanager
def connected(address: str, packages: Sequence[str] = ()) -> Iterator[Cluster]:
    """Connect to a cluster within the block.

    Args:
        address: ``ray://HOST:PORT`` from anywhere, ``HOST:PORT`` of a cluster this machine belongs to, or
            ``auto``: ``$RAY_ADDRESS``, else the cluster running here.
        packages: Packages whose versions must be the same on all nodes. This package is compared file by file.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or one of its nodes has other versions than this machine.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError("on", address, f"needs Ray: {install('ray')}") from error
    wanted = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if wanted != "auto":
        _check_port(address, wanted)
    ways = {number: signal.getsignal(number) for number in STOPPING}
    try:
        with Chatter().diverted():
            _connect(wanted)
    except Exception as error:  # many types, a version mismatch among them
        raise UsageError("on", address, f"cannot be used: {_message_of(error)}") from error
    finally:
        for number, way in ways.items():  # Ray replaces the SIGTERM handler
            signal.signal(number, way)
    # Ray reports every dead worker on standard output, which is for results, and has no setting against it.
    ray._private.worker.print_to_stdstream = lambda *message, **options: None
    try:
        yield _checked(address, packages)
    finally:
        ray.shutdown()


def result_of(reference: Any) -> Any:
    """The result of a Ray task or actor method.

    Raises:
        LostError: Its process has died.
        SparseTasksError: It raised this, or could not be run.
    """
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SparseTasksError):
            raise error.cause from None
        raise EngineError(f"a node of the cluster failed: {first_line(error.cause)}") from error
    except ray.exceptions.RayActorError as error:
        raise LostError(f"an actor of the cluster died: {first_line(error)}") from error
    except ray.exceptions.RayError as error:
        raise EngineError(f"the cluster failed: {first_line(error)}") from error


def _connect(wanted: str) -> None:
    import ray

    for left in reversed(range(_CONNECTIONS)):
        try:
            ray.init(wanted, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:
            ray.shutdown()  # a failed connection leaves Ray in client mode
            if not (left and isinstance(error, ConnectionAbortedError)):
                raise
        else:
            return


def _check_port(address: str, wanted: str) -> None:
    """Check that a cluster answers at an address; Ray itself takes minutes to notice that none does."""
    import grpc

    host, colon, port = wanted.removeprefix(_CLIENT).rstrip("/").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise UsageError("on", address, f"is not an address of a Ray cluster; {_HOW}")
    silent = f"cannot be used: no Ray cluster answers there; {_HOW}"
    try:
        socket.create_connection((host, int(port)), _SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError("on", address, silent) from error
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            ask(b"", timeout=_SECONDS)
            status = grpc.StatusCode.OK
        except grpc.RpcError as error:
            status = error.code()
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise UsageError("on", address, silent)
    # The server for clients is a separate one, which does not know this request.
    if (status is grpc.StatusCode.UNIMPLEMENTED) != wanted.startswith(_CLIENT):
        other = "is the cluster's own port" if wanted.startswith(_CLIENT) else "is a port for clients"
        raise UsageError("on", address, f"cannot be used: {port} {other}; {_HOW}")


def _message_of(error: Exception) -> str:
    """Ray's message in one line: the last line of a server traceback, else the whole message."""
    text = str(error).strip() or type(error).__name__
    return " ".join((text.splitlines()[-1] if "Traceback" in text else text).split())


def _checked(address: str, packages: Sequence[str]) -> Cluster:
    import ray

    nodes = [
        Node(
            found["NodeID"],
            found["NodeManagerAddress"],
            int(found["Resources"].get("CPU", 0)),
            int(found["Resources"].get("GPU", 0)),
        )
        for found in ray.nodes()
        if found["Alive"]
    ]
    cluster = Cluster(address, tuple(node for node in nodes if node.cpus))
    if not cluster.nodes:
        raise UsageError("on", address, "has no node with cores; start one with ray start --address=HOST:6379")
    inventory = _make_inventory()
    here = inventory(list(packages))
    for node, there in cluster.on_each(inventory, list(packages)):
        if other := _difference(here, there):
            remedy = f"has a node ({node.address}) with {other}; install the same on all"
            raise UsageError("on", address, remedy)
    return cluster


def _difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    for name, version in here.items():
        if there[name] != version:
            return f"{name} {there[name] or '(none)'}, where this machine has {version or 'none'}"
    return ""


def _make_inventory() -> Callable[[Sequence[str]], dict[str, str]]:
    """Make a function that returns the versions of packages and a hash of this package's files.

    It is pickled by value, since it must run on nodes that lack this package.
    """

    def inventory(packages: Sequence[str]) -> dict[str, str]:
        import hashlib
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec
        from pathlib import Path

        def installed(name: str) -> str:
            try:
                return version(name)
            except PackageNotFoundError:
                return ""

        found = {name: installed(name) for name in packages}
        spec = find_spec("sparse_tasks")
        if spec is None or not spec.submodule_search_locations:
            return found | {"sparse-tasks": ""}
        root = Path(spec.submodule_search_locations[0])
        digest = hashlib.sha256()
        for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
        return found | {"sparse-tasks": f"{installed('sparse-tasks')} (files {digest.hexdigest()[:8]})"}

    return inventory
