"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sparse_tasks.core.errors import OutputError, UsageError

LOCK = ".sparse_tasks.lock"
"""The file by which a process holds a folder."""

PARTIAL_PREFIX = ".sparse_tasks-"
"""Prefix of the names of unfinished files; data set readers skip hidden files."""


WRITTEN: Final[list[Path]] = []
"""Files that this process has put into their places, for what it says if it is stopped."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Create a folder if needed, and lock it against other writers.

    Folders created here that are empty in the end are removed.

    Raises:
        UsageError: The path is a file, or lies under one.
        OutputError: Another process holds the lock, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError("output", str(folder), "is a file or inside one; name a folder") from error
    except Timeout as error:
        raise OutputError(f"another run is writing to {folder}") from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                (folder / LOCK).unlink()
        finally:
            lock.release()
        with suppress(OSError):  # not empty
            for each in made:
                each.rmdir()


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: readers see the old file or the new one, never part of it.

    Raises:
        OutputError: The file cannot be written: the disk is full, for instance.
    """
    unfinished: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
        WRITTEN.append(path)
    except BaseException as error:
        if unfinished is not None:
            with suppress(OSError):
                os.unlink(unfinished)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files of a killed run."""
    for path in [*folder.glob(f"{PARTIAL_PREFIX}*"), *folder.glob(f"*/{PARTIAL_PREFIX}*")]:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
