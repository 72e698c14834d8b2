"""Processes that end with their parent, however the parent ends."""

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
_KILLED: Final[set[str]] = set()  # marks of processes that are killed at once
_STOPPED: Final[list[int]] = []  # the signal that is stopping this process


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise ``SystemExit(128 + number)`` in the block on SIGTERM and SIGHUP, so that what it started is cleaned up.

    Ctrl-C stays ``KeyboardInterrupt``; an ignored signal, as under ``nohup``, stays ignored.
    """
    atexit.register(_skip_teardown)  # registered first, so it runs last
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
    """Exit at once after a signal: the interpreter takes seconds to tear down PyTorch."""
    if _STOPPED:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(128 + _STOPPED[0])


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # another signal must not disturb the clean-up
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
    """Fork, continue in the child, and wait for it: libraries abort when memory is short, and the parent reports it.

    Signals that stop this process stop the child, which also ends with this process, however that ends.

    Returns:
        None in the child; in the parent the child's exit code, or the negative number of the signal that ended it.
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
            if came.si_code <= 0:  # sent by a process; a terminal signals both
                os.kill(child, came.si_signo)
        elif (ended := os.waitpid(child, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])


def _end_at_end_of(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def starting(killed: bool = False) -> Iterator[None]:
    """Make processes started within the block, and their descendants, end within seconds of this one.

    They are marked in their environment, and a small process watches them: a thread inside each could only start after
    its imports. Linux only; elsewhere this does nothing.

    Args:
        killed: Whether signals that stop this process kill the children at once. They have nothing to save, and
            libraries wait long for them.
    """
    if not Path("/proc/self/environ").exists():
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # not marked: it cleans up after killed processes
    # Without the latter, process titles would overwrite the environment.
    marks = {_MARK: _watched(os.getpid()), "SPT_NOENV": "1"}
    if killed:
        _KILLED.add(f"{_MARK}={marks[_MARK]}")
    with environment(marks):
        yield


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block, for processes started there."""
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
    """Start a watcher for the children of ``process`` (this process), and return their mark."""
    mark = secrets.token_hex(8)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-IS", str(_WATCHER), str(process), f"{_MARK}={mark}"],
        {name: value for name, value in os.environ.items() if name != _MARK},
        file_actions=[(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)],
    )
    return mark
