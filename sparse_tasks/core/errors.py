"""The errors that a user may see, each with the exit code that the command line gives it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_KEPT: Final = "kept in "


class SparseTasksError(Exception):
    """Base of every error that is reported as one line, without a traceback."""

    exit_code = 1


class UsageError(SparseTasksError):
    """Bad input: names the field, the value, and what would work."""

    exit_code = 2

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field, self.value, self.remedy = field, value, remedy
        super().__init__(f"{field}: {value!r} {remedy}")

    def __reduce__(self) -> tuple[type[UsageError], tuple[str, object, str]]:
        """Errors cross process borders, so they have to unpickle from their own arguments."""
        return type(self), (self.field, self.value, self.remedy)


class TooShortError(UsageError):
    """A task does not fit into the length that was asked for."""


class OutputError(SparseTasksError):
    """Files could not be written. What was finished before is kept."""


class DataError(SparseTasksError):
    """Existing data cannot be read, or is not what it claims to be."""


class BadFileError(DataError):
    """An input file named by the user is not what it should be."""

    exit_code = 2


class EngineError(SparseTasksError):
    """An engine or a server failed. Answers received before are kept."""


def note_kept(error: BaseException, folder: object, what: str) -> None:
    """Add to an error, or an exception raised by a signal, a note on what the failing command has kept in a folder."""
    error.add_note(f"{_KEPT}{folder}: {what}")


@contextmanager
def keeping(folder: object, what: Callable[[], str]) -> Iterator[None]:
    """Apply ``note_kept`` to whatever ends the block early, unless ``what`` returns nothing."""
    try:
        yield
    except BaseException as error:
        if note := what():
            note_kept(error, folder, note)
        raise


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """Remove the notes that ``note_kept`` adds within the block, which deletes what it made."""
    try:
        yield
    except BaseException as error:
        error.__notes__ = [note for note in getattr(error, "__notes__", []) if not note.startswith(_KEPT)]
        raise


def kept(error: BaseException) -> list[str]:
    """The notes of ``note_kept`` on an error and on its causes."""
    earlier = error.__cause__ or error.__context__
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(_KEPT)]
    return [*(kept(earlier) if earlier is not None else []), *notes]


def without_passwords(words: Iterable[str]) -> list[str]:
    """The words of a command line with passwords in URLs removed."""
    return [re.sub(r"://[^/@\s]*@", "://", word) for word in words]


def install(extra: str) -> str:
    """The commands that install an extra: from a clone, which always works, and of a release."""
    torch = "" if extra == "openai" else "pip install torch, then "
    return f"in a clone {torch}pip install '.[{extra}]'; once there is a release, pip install 'sparse-tasks[{extra}]'"


def first_line(error: Exception) -> str:
    """The first line of a library's error message, or the error's type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unreadable(path: Path, error: Exception, kind: str) -> str:
    """Describe why a file cannot be read, whatever the library's own message is.

    Args:
        path: The file.
        error: The library's error.
        kind: What the file should be, as in "Parquet".
    """
    if os.path.isdir(path):
        reason = "it is a folder"
    elif isinstance(error, OSError) and error.errno is not None:
        reason = os.strerror(error.errno)
    elif os.path.isfile(path) and os.path.getsize(path) == 0:
        reason = "it is empty"
    else:
        reason = f"it is not a whole {kind} file ({first_line(error)})"
    return f"{path} cannot be read: {reason}"


def quoted(text: str) -> str:
    """A text in quotes, truncated to about a hundred characters."""
    return repr(text if len(text) <= 100 else text[:97] + "...")


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest choice if one is close, else all choices."""
    names = sorted(choices)
    listed = f"choose from {', '.join(names)}" if len(names) <= 60 else f"{len(names)} names are known"
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1, cutoff=0.6)
    if not close:
        return f"is unknown; {listed}"
    match = next(known for known in names if known.lower() == close[0])
    return f"is unknown; did you mean {match!r}?" + (f" ({listed})" if len(names) <= 12 else "")
