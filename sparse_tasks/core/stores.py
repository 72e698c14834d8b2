"""Where a data set is written: a folder, or a place that fsspec knows by its address (``s3://bucket/data``)."""

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
    """Files by their paths in it, with ``/`` between the parts; each is there whole or not at all.

    Whatever fails is an ``OutputError``, but for files to read that are missing: ``FileNotFoundError``.

    Attributes:
        name: The place as the user named it.
    """

    name: str

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Keep others on this machine from writing to it, where that can be done."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names at its top, sorted; none where it does not exist."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """A file to be read."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a file, or replace it."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, if it is there, and its folder in the store, if that is empty then."""

    @abstractmethod
    def clean(self) -> None:
        """Delete what killed runs left unfinished."""

    def read(self, path: str) -> bytes:
        """The content of a file."""
        with self.open(path) as file:
            return file.read()


def store_at(place: str | PathLike[str]) -> Store:
    """The store at a path or an address.

    Raises:
        UsageError: There is no such kind of address, or what it needs is not installed.
    """
    text = fspath(place)
    if text.startswith("hf://"):
        raise UsageError("output", text, "would have a commit for each file; write to a folder, then publish it")
    if text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")))
    return Remote(text) if "://" in text else Folder(to_path(place))


class Folder(Store):
    """A folder of this machine, or one that it shares with others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    def held(self) -> AbstractContextManager[None]:
        return hold(self._path)

    def names(self) -> list[str]:
        with _told(self.name, "read"):
            return sorted(path.name for path in self._path.iterdir()) if self._path.exists() else []

    def has(self, path: str) -> bool:
        return (self._path / path).exists()

    def open(self, path: str) -> IO[bytes]:
        with _told(str(self._path / path), "read"):
            return (self._path / path).open("rb")

    def write(self, path: str, content: bytes) -> None:
        write_whole(self._path / path, content)

    def delete(self, path: str) -> None:
        file = self._path / path
        with _told(str(file), "write"):
            file.unlink(missing_ok=True)
        if file.parent != self._path:
            with suppress(OSError):
                file.parent.rmdir()

    def clean(self) -> None:
        with _told(self.name, "write"):
            remove_leftovers(self._path)


class Remote(Store):
    """A place that fsspec knows; its files appear whole, as those of object stores do. Nothing locks it."""

    def __init__(self, address: str) -> None:
        import fsspec

        if not address.partition("://")[2].strip("/"):
            raise UsageError("output", address, "has no path; write it as in s3://bucket/data")
        self.name = address.rstrip("/")
        try:
            self._files, root = fsspec.url_to_fs(self.name, use_listings_cache=False)
        except Exception as error:  # of many kinds: an unknown protocol, a package that is missing
            raise UsageError("output", address, f"cannot be written to: {first_line(error)}") from error
        self._root = root.rstrip("/")

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def names(self) -> list[str]:
        with _told(self.name, "read"):
            try:
                found = self._files.ls(self._root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def has(self, path: str) -> bool:
        with _told(self._shown(path), "read"):
            return bool(self._files.exists(self._at(path)))

    def open(self, path: str) -> IO[bytes]:
        with _told(self._shown(path), "read"):
            file: IO[bytes] = self._files.open(self._at(path), "rb")
            return file

    def write(self, path: str, content: bytes) -> None:
        with _told(self._shown(path), "write"):
            self._files.pipe_file(self._at(path), content)

    def delete(self, path: str) -> None:
        with _told(self._shown(path), "write"), suppress(FileNotFoundError):
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
def _told(what: str, how: str) -> Iterator[None]:
    """Say in words of ours what could not be done; but that a file to read is missing is no failure."""
    try:
        yield
    except Exception as error:  # libraries of object stores have errors of many kinds
        if how == "read" and isinstance(error, FileNotFoundError):
            raise
        raise OutputError(f"cannot {how} {what}: {getattr(error, 'strerror', None) or first_line(error)}") from error
