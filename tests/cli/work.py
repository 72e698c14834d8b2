"""Work for worker processes, in its own module so that they start fast."""

from __future__ import annotations

import os
import signal
import time

from sparse_tasks.core.errors import DataError

__all__ = ["remember", "threads", "work"]


def remember(number: int) -> None:
    """What is done once in each process."""
    if number < 0:
        raise DataError("no such number")
    os.environ["TESTED"] = str(number)


def threads() -> None:
    """The same, with the number of this process's threads, but for one that has just ended."""
    ended = time.monotonic() + 1
    while (running := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < ended:
        time.sleep(0.001)
    remember(running)


def work(number: int) -> tuple[int, str]:
    """Done sooner the larger the number, and not at all where it says so."""
    if number < 0:
        os._exit(1)
    if number == 500:
        return number, "long" * 1_000_000
    if number == 1000:
        time.sleep(600)
    if number == 999:
        raise DataError("this one cannot be done")
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep((20 - number) / 200)
    return number, os.environ["TESTED"]
