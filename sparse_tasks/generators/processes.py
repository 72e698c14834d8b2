"""Work spread over processes that never outlive their use."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from types import FrameType
from typing import TypeVar

from sparse_tasks.core.errors import SparseTasksError

__all__ = ["in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    start: Callable[..., None],
    arguments: tuple[object, ...],
) -> Iterator[Result]:
    """The results of ``work`` for ``items``, in order.

    The processes end with this iterator and with this process, however it ends; Ctrl-C is for this process alone.

    Args:
        work: A function of a module; it runs in the processes.
        start: Called once in each process, with ``arguments``, before the first item.

    Raises:
        SparseTasksError: A process died.
    """
    # Fresh processes: a fork would copy locks that the tokenizer's threads may hold.
    context = get_context("spawn")
    alive, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(alive, start, arguments))

    def submit(item: Item) -> Future[Result]:
        # The pool starts processes as work comes in.
        with _interrupts_later():
            return pool.submit(work, item)

    upcoming = iter(items)
    try:
        # A few items ahead keep all processes busy; more would only fill the memory.
        waiting = deque(submit(item) for item in islice(upcoming, 2 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(submit(item) for item in islice(upcoming, 1))
            yield result
        pool.shutdown()
    except BrokenProcessPool as error:
        raise SparseTasksError("a worker process died; what is finished stays, and the next run goes on") from error
    finally:
        # Nobody waits for unfinished work, which may be a minute of it.
        end.close()
        alive.close()
        pool.shutdown(wait=False, cancel_futures=True)


def _start(alive: connection.Connection, start: Callable[..., None], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(alive,), daemon=True).start()
    start(*arguments)


def _leave_with_parent(alive: connection.Connection) -> None:
    """The pipe closes when the work is over; a killed parent cannot close anything, so it is watched too."""
    parent = parent_process()
    connection.wait([alive] if parent is None else [alive, parent.sentinel])
    os._exit(1)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back: a process begins with the signals blocked that its parent blocks, and is never half begun."""
    came: list[tuple[int, FrameType | None]] = []
    main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)
    if main and callable(before):
        # Blocking alone would not do: another thread may take the signal, and this one would handle it all the same.
        signal.signal(signal.SIGINT, lambda *signalled: came.append(signalled))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if main and callable(before):
            signal.signal(signal.SIGINT, before)
            if came:
                before(*came[0])
