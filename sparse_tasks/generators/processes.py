"""Work spread over processes that never outlive their use."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import Pipe, connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Final, TypeVar

from sparse_tasks.core.errors import SparseTasksError
from sparse_tasks.core.parents import STOPPING, starting

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a process holds: one that it works on, and one that it finds when it is done.
_HELD = 2

# Elsewhere a fork may break system libraries, or there is none.
_FORKS: Final = sys.platform == "linux"

# The number of the answer that says that a process could not start, or go on.
_START = -1

# Seconds until a process whose pipe has ended is gone.
_LAST_SECONDS = 5


def in_processes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    start: Callable[..., None],
    arguments: tuple[object, ...],
) -> Iterator[Result]:
    """The results of ``work`` for ``items``, in order, by a crew that is begun for them (see ``Crew.results``)."""
    yield from Crew(workers).results(work, items, start, arguments)


class Crew:
    """Processes that begin at once, and may load something until there is work.

    They end with this object and with this process, however it ends; signals that stop it are for it alone. Each has a
    pipe of its own, which ends when it does: one that is killed while it writes keeps nobody waiting, as it would with
    a queue that all share (``concurrent.futures``).

    On Linux all are forks of one process, so that what takes long to load is loaded once. What it loads must leave no
    thread behind that the work needs.

    Args:
        workers: Number of processes.
        load: A function of a module that is called before there is work, with ``arguments``.

    Attributes:
        waits: Whether it has had no work yet.
    """

    def __init__(
        self, workers: int, load: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> None:
        self._processes: dict[Connection, SpawnProcess] = {}
        self._leaders: list[Connection] = []
        self.waits = True
        together = workers if _FORKS else 1
        try:
            for _ in range(0, workers, together):
                with _interrupts_later():
                    channels, process = _begin(together, load, arguments)
                    self._processes |= dict.fromkeys(channels, process)
                    self._leaders.append(channels[0])
        except BaseException:
            self.close()
            raise

    def results(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        start: Callable[..., None],
        arguments: tuple[object, ...],
    ) -> Iterator[Result]:
        """The results of ``work`` for ``items``, in order; the processes end with this iterator.

        Args:
            work: A function of a module; it runs in the processes.
            start: Called with ``arguments`` before the first item, once for all processes or in each.

        Raises:
            SparseTasksError: A process died.
            Exception: What ``load``, ``start`` or ``work`` raised.
        """
        self.waits, crew = False, self._processes
        upcoming = enumerate(items)
        # Answers that came before their turn; finished or not, few items are begun, or the memory would fill.
        early: dict[int, tuple[Result, Exception | None]] = {}
        begun = yielded = 0
        try:
            for channel in self._leaders:
                _send(channel, crew[channel], (work, start, arguments))
            idle = list(crew) * _HELD
            while True:
                for numbered in islice(upcoming, min(len(idle), yielded + 2 * _HELD * len(crew) - begun)):
                    _send(channel := idle.pop(0), crew[channel], numbered)
                    begun += 1
                if begun == yielded:
                    break
                ready = connection.wait(list(crew))
                for channel in (channel for channel in crew if channel in ready):
                    number, result, error = _receive(channel, crew[channel])
                    if number == _START:
                        raise error
                    early[number] = (result, error)
                    idle.append(channel)
                while yielded in early:
                    result, error = early.pop(yielded)
                    if error is not None:
                        raise error
                    yielded += 1
                    yield result
        finally:
            if begun == yielded:  # nothing is unfinished, and processes end by themselves
                for channel in crew:
                    channel.close()
                for process in crew.values():
                    process.join()
            self.close()

    def close(self) -> None:
        """End the processes; nobody waits for unfinished work, which may be a minute of it."""
        for channel, process in self._processes.items():
            channel.close()
            process.kill()
            process.join()


def _begin(
    workers: int, load: Callable[..., None] | None, arguments: tuple[object, ...]
) -> tuple[list[Connection], SpawnProcess]:
    # A fresh process: a fork of this one would copy locks that the tokenizer's threads may hold.
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in range(workers)]
    process = context.Process(target=_serve, args=([theirs for _, theirs in pipes], load, arguments), daemon=True)
    with starting():
        process.start()
    for _, theirs in pipes:
        theirs.close()
    return [ours for ours, _ in pipes], process


def _send(channel: Connection, process: SpawnProcess, message: tuple[object, ...]) -> None:
    with _reporting_death(process):
        channel.send(message)


def _receive(channel: Connection, process: SpawnProcess) -> Any:
    with _reporting_death(process):
        return channel.recv()


@contextmanager
def _reporting_death(process: SpawnProcess) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        process.join(_LAST_SECONDS)
        raise SparseTasksError(f"a worker process {_death(process.exitcode)}") from error


def _death(code: int | None) -> str:
    """How a process ended, and what helps where that was for want of memory."""
    if code is None or code >= 0:
        return "died" if code is None else f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL":
        return f"was killed ({name}), as systems do when memory runs out: take fewer --workers, or end other programs"
    if name == "SIGABRT":
        return f"broke off ({name}), as libraries do when memory runs out: take fewer --workers, or raise ulimit -v"
    return f"died ({name})"


def _serve(channels: list[Connection], load: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    # There is a process for each core; threads that an encode would start do not come along into a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    channel = channels[0]
    try:
        if load is not None:
            load(*arguments)
        work, start, arguments = channel.recv()
        start(*arguments)
        channel, ends = _forked(channels)
    except Exception as error:
        with suppress(ConnectionError):
            channel.send((_START, None, error))
        return
    threading.Thread(target=_leave_with_others, args=(ends,), daemon=True).start()
    try:
        # Until the other end closes.
        while True:
            number, item = channel.recv()
            channel.send((number, *_answer(work, item)))
    except (EOFError, ConnectionError):
        for child in filter(None, ends.values()):
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
        os._exit(0)  # what they loaded takes a third of a second to free piece by piece
    except Exception as error:  # there was no memory for an item or an answer
        channel.send((_START, None, error))


def _forked(channels: list[Connection]) -> tuple[Connection, dict[Connection, int]]:
    """Fork a process for each channel but the first, which is left to this one.

    Returns:
        The channel of the process that returns, and pipes that end with others, by the number of a child or 0: the
        first process cannot do without its children, nor they without it.
    """
    ends: dict[Connection, int] = {}
    for channel in channels[1:]:
        here, there = Pipe()
        if (child := os.fork()) == 0:
            for other in (here, *ends, *channels):
                if other is not channel:
                    other.close()
            return channel, {there: 0}
        there.close()
        ends[here] = child
    for channel in channels[1:]:
        channel.close()
    return channels[0], ends


def _answer(work: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    try:
        return work(item), None
    except Exception as error:
        return None, error


def _leave_with_others(ends: dict[Connection, int]) -> None:
    """End with the parent, which cannot tell anybody when it is killed, or as one of ``ends`` did."""
    parent = parent_process()
    for end in connection.wait([*ends, *([] if parent is None else [parent.sentinel])]):
        if not isinstance(end, Connection) or not (child := ends[end]):
            os._exit(1)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except ChildProcessError:
            return  # it is waited for, since there is no more work
        if code < 0:
            os.kill(os.getpid(), -code)  # the parent knows this process alone
        if code:
            os._exit(code)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold signals back: a process begins with those blocked that its parent blocks, and is never half begun."""
    came: list[tuple[int, FrameType | None]] = []
    main = threading.current_thread() is threading.main_thread()
    before = {number: handler for number in STOPPING if callable(handler := signal.getsignal(number))} if main else {}
    for number in before:
        # Blocking alone would not do: another thread may take the signal, and this one would handle it all the same.
        signal.signal(number, lambda *signalled: came.append(signalled))
    blocked = None
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # the first process would start it, and Python 3.11 unblocks the signal then
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            before[signal.Signals(came[0][0])](*came[0])
