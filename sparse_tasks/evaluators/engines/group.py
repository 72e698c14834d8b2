"""Several engines on one machine, each in its own process, that share the requests."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from sparse_tasks.core.errors import EngineError, SparseTasksError, UsageError
from sparse_tasks.core.parents import STOPPING, environment, starting
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.streams import Chatter
from sparse_tasks.core.turns import sample_id
from sparse_tasks.evaluators.engines.engine import Engine, Output, Request
from sparse_tasks.evaluators.engines.running import Engines, Started, Starter

_LAST_SECONDS: Final = 60  # for an engine to exit by itself


def engines(count: int | None = None, on: str | None = None) -> Starter:
    """Context manager that starts engines one at a time, or several at once, here or on a Ray cluster."""
    if on is not None:
        from sparse_tasks.evaluators.engines.actors import EngineActors

        return EngineActors(on, count)
    return Engines() if count in (None, 1) else EngineGroup(count)


class EngineGroup(Starter):
    """Several engines of one kind. Sample ``i`` goes to engine ``i % count``, so a run is always divided the same way.

    Each has its share of the GPUs, in order, or of the cores if there are none.

    Args:
        count: Engines, at least 2.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._members: dict[Connection, SpawnProcess] = {}
        self._started: Started | None = None

    def start(self, engine: Engine, needed: int) -> EngineGroup:
        """As ``Starter.start``, in each process.

        Raises:
            UsageError: There are too few cores, or the engine refuses the model.
            EngineError: One did not start.
        """
        if not self._members:
            with Chatter().diverted():  # it warns about leftovers of killed engines, and cleans them up
                resource_tracker.ensure_running()
            for place in places(self._count, engine.devices):
                self._begin(place)
        for channel in self._members:
            self._send(channel, (engine, needed))
        replies = [self._receive(channel) for channel in self._members]
        self._started = next(one for one in replies if isinstance(one, Started))
        return self

    def version(self) -> str | None:
        """As ``Engine.version``."""
        return None if self._started is None else self._started.version

    def details(self) -> JsonObject:
        """As ``Engine.details``, with the number of engines."""
        return ({} if self._started is None else self._started.details) | {"engines": self._count}

    def notes(self) -> list[str]:
        """As ``Engine.notes``."""
        return [] if self._started is None else self._started.notes

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        """As ``Engine.generate``.

        Raises:
            EngineError: An engine failed, or its process died; earlier outputs are valid.
        """
        shares = _Shares(requests, self._count)
        feeders = [
            threading.Thread(target=shares.feed, args=(number, channel), daemon=True)
            for number, channel in enumerate(self._members)
        ]
        for feeder in feeders:
            feeder.start()
        busy = set(self._members)
        while busy:
            for channel in connection.wait(list(busy)):
                if not isinstance(channel, Connection):
                    continue
                output = self._receive(channel)
                if isinstance(output, Output):
                    yield output
                else:
                    busy.remove(channel)
        for feeder in feeders:
            feeder.join()
        if shares.failure is not None:
            raise shares.failure

    def _stop(self) -> None:
        for channel in self._members:
            channel.close()
        for process in self._members.values():
            process.join(_LAST_SECONDS)
            process.kill()  # its children end with it
            process.join()
        self._members = {}

    def _begin(self, place: Mapping[str, str]) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,))
        with starting(killed=True), environment(place):
            process.start()
        theirs.close()
        self._members[ours] = process

    def _send(self, channel: Connection, what: object) -> None:
        with self._reporting_death(channel):
            channel.send(what)

    def _receive(self, channel: Connection) -> object:
        with self._reporting_death(channel):
            received = channel.recv()
        if isinstance(received, Exception):
            raise received
        return received

    @contextmanager
    def _reporting_death(self, channel: Connection) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            process = self._members[channel]
            process.join(_LAST_SECONDS)
            number = list(self._members).index(channel) + 1
            raise EngineError(f"engine {number} of {self._count} died (exit code {process.exitcode})") from error


def places(count: int, devices: int) -> list[dict[str, str]]:
    """Environment variables for each engine: its GPUs, or its cores.

    Args:
        count: Engines.
        devices: GPUs that each takes, or ranks that share its cores.

    Raises:
        UsageError: There is no GPU, and there are fewer cores than ranks.
    """
    gpus = _gpus()
    if gpus:
        seen = [[gpus[(engine * devices + n) % len(gpus)] for n in range(devices)] for engine in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(one)} for one in seen]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if len(cores) < count * devices:
        raise UsageError("engines", count, f"need a core each, and there are {len(cores)} and no GPU")
    ranks = [cores[n * len(cores) // (count * devices) : (n + 1) * len(cores) // (count * devices)]
             for n in range(count * devices)]  # fmt: skip
    found = []
    for engine in range(count):
        own = ranks[engine * devices : (engine + 1) * devices]
        place = {
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, rank)) for rank in own),
            "OMP_NUM_THREADS": str(len(own[0])),
        }
        if whole := os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            place["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, int(whole) // count))
        found.append(place)
    return found


def _gpus() -> Sequence[str]:
    """GPUs as named in ``CUDA_VISIBLE_DEVICES``, without checking their use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    try:
        import torch
    except ModuleNotFoundError:
        return []
    return [str(number) for number in range(torch.cuda.device_count())]


class _Shares:
    """The requests of each engine, read from one iterable on demand.

    Attributes:
        failure: Exception of the iterable, which ends all shares.
    """

    def __init__(self, requests: Iterable[Request], count: int) -> None:
        self._samples = enumerate(groupby(requests, lambda request: sample_id(request.id)))
        self._waiting: list[deque[Request]] = [deque() for _ in range(count)]
        self._lock = threading.Lock()
        self.failure: Exception | None = None

    def feed(self, engine: int, channel: Connection) -> None:
        """Send an engine its share, and then None."""
        with suppress(OSError):  # it has died, which the reader of its answers reports
            while True:
                request = self._next(engine)
                channel.send(request)
                if request is None:
                    return

    def _next(self, engine: int) -> Request | None:
        with self._lock:
            waiting = self._waiting[engine]
            while not waiting and self.failure is None:
                try:
                    number, (_, sample) = next(self._samples)
                    self._waiting[number % len(self._waiting)] += sample
                except StopIteration:
                    return None
                except Exception as error:  # of the data set or the tokenizer; raised again in ``generate``
                    self.failure = error
                    return None
            return waiting.popleft() if waiting else None


def _serve(channel: Connection) -> None:
    """Run engines in a separate process: start, answer, repeat, until the other end closes."""
    for number in STOPPING:  # the parent process handles them
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, ConnectionError), Engines() as starter:
        while True:
            engine, needed = channel.recv()
            try:
                running = starter.start(engine, needed)
                channel.send(Started.of(running))
                for output in running.generate(iter(channel.recv, None)):
                    channel.send(output)
                channel.send(None)
            except (EOFError, ConnectionError):
                raise
            except Exception as error:  # sent through the pipe in full
                known = isinstance(error, SparseTasksError)
                channel.send(error if known else EngineError(f"an engine failed: {type(error).__name__}: {error}"))
                return
