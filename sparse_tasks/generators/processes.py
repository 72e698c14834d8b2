"""Work spread over processes that never outlive their use."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, TypeVar

from sparse_tasks.core.errors import SparseTasksError
from sparse_tasks.core.parents import STOPPING, starting

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a process holds: one that it works on, and one that it finds when it is done.
_HELD = 2

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
    """The results of ``work`` for ``items``, in order.

    The processes end with this iterator and with this process, however it ends; signals that stop it are for it alone.
    Each has a pipe of its own, which ends when it does: one that is killed while it writes keeps nobody waiting, as it
    would with a queue that all share (``concurrent.futures``).

    Args:
        work: A function of a module; it runs in the processes.
        start: Called once in each process, with ``arguments``, before the first item.

    Raises:
        SparseTasksError: A process died.
        Exception: What ``start`` or ``work`` raised.
    """
    crew: dict[Connection, SpawnProcess] = {}
    upcoming = enumerate(items)
    # Answers that came before their turn; finished or not, few items are begun, or the memory would fill.
    early: dict[int, tuple[Result, Exception | None]] = {}
    begun = yielded = 0
    try:
        for _ in range(workers):
            with _interrupts_later():
                channel, process = _begin(work, start, arguments)
                crew[channel] = process
        idle = list(crew) * _HELD
        while True:
            for numbered in islice(upcoming, min(len(idle), yielded + 2 * _HELD * workers - begun)):
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
                yield result
                yielded += 1
        for channel, process in crew.items():
            channel.close()
            process.join()
    finally:
        # Nobody waits for unfinished work, which may be a minute of it.
        for channel, process in crew.items():
            channel.close()
            process.kill()
            process.join()


def _begin(
    work: Callable[[Item], Result], start: Callable[..., None], arguments: tuple[object, ...]
) -> tuple[Connection, SpawnProcess]:
    # Fresh processes: a fork would copy locks that the tokenizer's threads may hold.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, start, arguments), daemon=True)
    with starting():
        process.start()
    theirs.close()
    return ours, process


def _send(channel: Connection, process: SpawnProcess, numbered: tuple[int, object]) -> None:
    with _deaths_told(process):
        channel.send(numbered)


def _receive(channel: Connection, process: SpawnProcess) -> Any:
    with _deaths_told(process):
        return channel.recv()


@contextmanager
def _deaths_told(process: SpawnProcess) -> Iterator[None]:
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


def _serve(
    channel: Connection,
    work: Callable[[Item], Result],
    start: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        start(*arguments)
    except Exception as error:
        channel.send((_START, None, error))
        return
    try:
        # Until the other end closes.
        while True:
            number, item = channel.recv()
            channel.send((number, *_answer(work, item)))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # there was no memory for an item or an answer
        channel.send((_START, None, error))


def _answer(work: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    try:
        return work(item), None
    except Exception as error:
        return None, error


def _leave_with_parent() -> None:
    """A killed parent cannot tell anybody to end."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


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
