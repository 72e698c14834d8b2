"""Processes that end with the one that started them, whatever killed that."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

STOPPING: Final = {signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])}
"""Signals that stop a program: Ctrl-C, ``kill``, and a terminal that closes."""

_STARTER: Final = "SPARSE_TASKS_STARTER"
_WATCHER: Final = "sparse-tasks: ends with its starter"
_PAUSE = 0.5  # seconds between two looks


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Leave the block with ``SystemExit(128 + number)`` at SIGTERM and SIGHUP, so that all that it began is ended.

    One that is ignored, as under ``nohup``, stays so.
    """
    numbers = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def starting() -> Iterator[None]:
    """Let Python processes that are started within the block end with this one, from their first import on.

    Each imports the main module again before it does anything else, and with it, as a rule, this package.
    """
    os.environ[_STARTER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[_STARTER]


def end_if_started() -> None:
    """End this process within a second of the one that is ``starting`` it, or of its parent, if it is started so."""
    starter = os.environ.get(_STARTER, "")
    if starter.isdecimal() and "--multiprocessing-fork" in sys.orig_argv:
        threading.Thread(target=_end_after, args=(os.getppid(), int(starter)), name=_WATCHER, daemon=True).start()


def _end_after(parent: int, starter: int) -> None:
    while os.getppid() == parent and _lives(starter):
        time.sleep(_PAUSE)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
