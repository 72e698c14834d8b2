"""Script that kills all processes with a mark in their environment once its parent has ended: ``PARENT NAME=VALUE``.

It outlives the parent by two seconds, and imports only the standard library, so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

_PAUSE = 0.5  # seconds between two scans
_QUIET = 3  # empty scans before it ends: a process that is just starting may not have its mark yet


def watch(parent: int, mark: str) -> None:
    """Wait until ``parent`` ends, then kill processes with the mark until none is left."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    quiet = 0
    while quiet < _QUIET:
        quiet = 0 if kill_all(mark.encode()) else quiet + 1
        time.sleep(_PAUSE)


def kill_all(mark: bytes) -> bool:
    """Kill the processes with the mark, and return whether there were any."""
    found = False
    for process in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # ended, or another user's
            with open(f"/proc/{process}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
            if marked:
                os.kill(int(process), signal.SIGKILL)
                found = True
    return found


if __name__ == "__main__":
    # Keep no pipe open that others wait for, and ignore signals to the parent's group.
    os.setsid()
    os.chdir("/")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(int(sys.argv[1]), sys.argv[2])
