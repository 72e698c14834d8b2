"""Shortages of memory, disk, open files and threads, each reported in a sentence with a remedy."""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import Final, NamedTuple

from sparse_tasks.core.errors import SparseTasksError

_LEAST: Final = 2**30
"""Bytes of address space below which libraries of numbers and Parquet hang or abort as they are loaded."""
_FEW: Final = 2**33
"""Bytes of address space that the threads of these libraries fill where there are many cores."""

_MEMORY: Final = re.compile(
    r"(?i)out ?of ?memory|not enough memory|bad_alloc|can(no|')t allocate memory|failed to map segment|static TLS block"
)
_THREADS: Final = re.compile(r"(?i)can't start new thread|failed to launch worker thread|pthread_create")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
OF_PROCESS: Final = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""Numbers of errors that are about this process, not about the file that it writes."""


ABORTS: Final = {-signal.SIGABRT, -signal.SIGSEGV, -getattr(signal, "SIGBUS", 0), -getattr(signal, "SIGKILL", 0)} - {0}
"""Exit codes of processes, negative, for which a want of memory is the usual reason."""


class Shortage(NamedTuple):
    """A shortage and its remedy."""

    what: str
    remedy: str


def shortage(error: BaseException) -> Shortage | None:
    """The shortage behind an error or one of its causes; None if there is none."""
    found = _shortage(error)
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found if found is not None or earlier is None else shortage(earlier)


def _shortage(error: BaseException) -> Shortage | None:
    number = error.errno if isinstance(error, OSError) else None
    # Other messages may quote anything.
    described = isinstance(error, RuntimeError | ImportError) or type(error).__module__.startswith("pyarrow")
    text = str(error) if described else ""
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _MEMORY.search(text):
        return out_of_memory()
    if number in (errno.EMFILE, errno.ENFILE):
        allowed = f"raise ulimit -n (it allows {_limit('RLIMIT_NOFILE')})"
        return Shortage("too many open files", f"{allowed}, or take fewer --workers")
    if number is not None and number in _FULL:
        return Shortage(os.strerror(number), "make room there, or write elsewhere with --output")
    if number == errno.EAGAIN or _THREADS.search(text):
        return Shortage("no further process or thread can be started", "raise ulimit -u or -v, or take fewer --workers")
    return None


def out_of_memory() -> Shortage:
    """A shortage of memory."""
    limit = _limit("RLIMIT_AS")
    raised = "" if limit is None else f"raise ulimit -v (it allows {limit // 2**20:,} MiB), "
    return Shortage("out of memory", f"{raised}end other programs, or take fewer --workers or shorter lengths")


def check_limits() -> bool:
    """Refuse an address space so small that libraries would hang or abort without a message.

    Below a few GiB these libraries are limited to one thread each, since more threads would fill it.

    Returns:
        Whether the address space is limited, so that libraries may abort later.

    Raises:
        SparseTasksError: The address space is that small.
    """
    limits = {"-v": _limit("RLIMIT_AS"), "-d": _limit("RLIMIT_DATA")}
    for name, limit in limits.items():
        if limit is not None and limit < _LEAST:
            raise SparseTasksError(
                f"ulimit {name} allows {limit // 2**20:,} MiB of memory, and the libraries that are used here need "
                f"{_LEAST // 2**20:,} MiB to start: ulimit {name} unlimited, or more than {_LEAST // 2**10}"
            )
        if limit is not None and limit < _FEW:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
    return any(limit is not None for limit in limits.values())


def _limit(name: str) -> int | None:
    """A resource limit of this process; None if unlimited."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(getattr(resource, name))[0]
    return None if soft == resource.RLIM_INFINITY else soft
