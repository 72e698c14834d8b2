"""Processes that end with the one that started them, whatever killed that."""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from sparse_tasks.core.watcher import kill_all

STOPPING: Final = {signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])}
"""Signals that stop a program: Ctrl-C, ``kill``, and a terminal that closes."""

_MARK: Final = "SPARSE_TASKS_STARTED_BY"
_WATCHER: Final = Path(__file__).with_name("watcher.py")
_KILLED: Final[set[str]] = set()  # marks of what is given no time to end
_STOPPED: Final[list[int]] = []  # the signal that stops this process


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Leave the block with ``SystemExit(128 + number)`` at SIGTERM and SIGHUP, so that all that it began is ended.

    Ctrl-C stays ``KeyboardInterrupt``; a signal that is ignored, as under ``nohup``, stays so.
    """
    atexit.register(_skip_teardown)  # the first that is registered runs last
    ways = {signal.SIG_DFL: _leave, signal.default_int_handler: _interrupt}
    before = {number: way for number in STOPPING if (way := signal.getsignal(number)) in ways}
    for number, way in before.items():
        signal.signal(number, ways[way])
    try:
        yield
    finally:
        for number, way in before.items():
            signal.signal(number, way)


def _skip_teardown() -> None:
    """End a process that a signal has stopped: the interpreter takes seconds to take PyTorch apart."""
    if _STOPPED:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(128 + _STOPPED[0])


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # what ends now is not disturbed by another one
    _kill()
    _STOPPED.append(number)
    raise SystemExit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _kill()
    raise KeyboardInterrupt


def _kill() -> None:
    for mark in _KILLED:
        kill_all(mark.encode())


def go_on_in_child() -> int | None:
    """Fork a process that goes on, and wait for it: libraries abort where memory is short, and nobody could tell.

    Signals that stop this process stop the other one; it ends with this one, whatever kills it.

    Returns:
        None in the new process; here its exit code, or the number of the signal that ended it, negative.
    """
    numbers = {*STOPPING, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    ours, theirs = os.pipe()  # ends with this process
    if (child := os.fork()) == 0:
        os.close(theirs)
        threading.Thread(target=_end_at_end_of, args=(ours,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    os.close(ours)
    while True:
        came = signal.sigwaitinfo(numbers)
        if came.si_signo != signal.SIGCHLD:
            if came.si_code <= 0:  # of a process; a terminal's goes to both
                os.kill(child, came.si_signo)
        elif (ended := os.waitpid(child, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])


def _end_at_end_of(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def starting(killed: bool = False) -> Iterator[None]:
    """Let processes that are started within the block, and those that they start, end within seconds of this one.

    They are marked in their environment, and a small process watches over them: a thread of their own would have to
    wait until they have imported what they run. On Linux alone; elsewhere nothing is done.

    Args:
        killed: Whether signals that stop this process kill all that it starts so, without time to end. They have
            nothing to keep, and libraries wait long for them.
    """
    if not Path("/proc/self/environ").exists():
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # not marked: it cleans up after those that were killed
    # Without the latter, new titles of processes would be written over their environment.
    marks = {_MARK: _watched(os.getpid()), "SPT_NOENV": "1"}
    if killed:
        _KILLED.add(f"{_MARK}={marks[_MARK]}")
    with environment(marks):
        yield


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment within the block, for processes that are started there."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@cache
def _watched(process: int) -> str:
    """The mark of what ``process``, this one, starts, for which a watcher looks from now on."""
    mark = secrets.token_hex(8)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-IS", str(_WATCHER), str(process), f"{_MARK}={mark}"],
        {name: value for name, value in os.environ.items() if name != _MARK},
        file_actions=[(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)],
    )
    return mark
