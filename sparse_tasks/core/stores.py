"""Where a data set is written: a folder, or a URL that fsspec understands (``s3://bucket/data``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from os import PathLike, fspath
from pathlib import Path
from typing import IO

from sparse_tasks.core.errors import OutputError, UsageError, first_line
from sparse_tasks.core.files import PARTIAL_PREFIX, hold, remove_leftovers, write_whole
from sparse_tasks.core.paths import to_path


class Store(ABC):
    """Files by their paths within the store, with ``/`` as separator. Writes are atomic.

    Failures raise ``OutputError``, except that reading a missing file raises ``FileNotFoundError``.

    Attributes:
        name: The location as the user gave it.
    """

    name: str

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Lock the store against other writers on this machine, where possible."""

    @abstractmethod
    def names(self) -> list[str]:
        """Sorted names at the top level; none if the store does not exist."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether the file exists."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a file, or replace it."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file if it exists, and its folder in the store if that is then empty."""

    @abstractmethod
    def clean(self) -> None:
        """Delete unfinished files of killed runs."""

    def read(self, path: str) -> bytes:
        """The content of a file."""
        with self.open(path) as file:
            return file.read()


def store_at(place: str | PathLike[str]) -> Store:
    """The store at a path or a URL.

    Raises:
        UsageError: The protocol is unknown, or its package is not installed.
    """
    text = fspath(place)
    if text.startswith("hf://"):
        raise UsageError("output", text, "would have a commit for each file; write to a folder, then publish it")
    if text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")))
    return Remote(text) if "://" in text else Folder(to_path(place))


class Folder(Store):
    """A local or network folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    def held(self) -> AbstractContextManager[None]:
        return hold(self._path)

    def names(self) -> list[str]:
        with _reporting(self.name, "read"):
            return sorted(path.name for path in self._path.iterdir()) if self._path.exists() else []

    def has(self, path: str) -> bool:
        return (self._path / path).exists()

    def open(self, path: str) -> IO[bytes]:
        with _reporting(str(self._path / path), "read"):
            return (self._path / path).open("rb")

    def write(self, path: str, content: bytes) -> None:
        write_whole(self._path / path, content)

    def delete(self, path: str) -> None:
        file = self._path / path
        with _reporting(str(file), "write"):
            file.unlink(missing_ok=True)
        if file.parent != self._path:
            with suppress(OSError):
                file.parent.rmdir()

    def clean(self) -> None:
        with _reporting(self.name, "write"):
            remove_leftovers(self._path)


class Remote(Store):
    """A location that fsspec understands. Its writes are atomic, as in object stores; it is not locked."""

    def __init__(self, address: str) -> None:
        import fsspec

        if not address.partition("://")[2].strip("/"):
            raise UsageError("output", address, "has no path; write it as in s3://bucket/data")
        self.name = address.rstrip("/")
        try:
            self._files, root = fsspec.url_to_fs(self.name, use_listings_cache=False)
        except Exception as error:  # many types: an unknown protocol, a missing package
            raise UsageError("output", address, f"cannot be written to: {first_line(error)}") from error
        self._root = root.rstrip("/")

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def names(self) -> list[str]:
        with _reporting(self.name, "read"):
            try:
                found = self._files.ls(self._root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def has(self, path: str) -> bool:
        with _reporting(self._shown(path), "read"):
            return bool(self._files.exists(self._at(path)))

    def open(self, path: str) -> IO[bytes]:
        with _reporting(self._shown(path), "read"):
            file: IO[bytes] = self._files.open(self._at(path), "rb")
            return file

    def write(self, path: str, content: bytes) -> None:
        with _reporting(self._shown(path), "write"):
            self._files.pipe_file(self._at(path), content)

    def delete(self, path: str) -> None:
        with _reporting(self._shown(path), "write"), suppress(FileNotFoundError):
            self._files.rm_file(self._at(path))

    def clean(self) -> None:
        for name in self.names():
            if name.startswith(PARTIAL_PREFIX):
                self.delete(name)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _shown(self, path: str) -> str:
        return f"{self.name}/{path}"


@contextmanager
def _reporting(what: str, how: str) -> Iterator[None]:
    """Turn a library's errors into ``OutputError``; a missing file stays ``FileNotFoundError``."""
    try:
        yield
    except Exception as error:  # object store libraries raise many types
        if how == "read" and isinstance(error, FileNotFoundError):
            raise
        raise OutputError(f"cannot {how} {what}: {getattr(error, 'strerror', None) or first_line(error)}") from error
