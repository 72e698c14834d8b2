"""Texts that are not generated: from the user's files, or from the Hub at a pinned revision.

A corpus is identified by the SHA-256 of its files. The hash is a parameter of the tasks that use it, and so part of a
sample's key; the location of the files is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sparse_tasks.core.errors import DataError, UsageError, nearest
from sparse_tasks.core.hub import is_hub_id
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.registry import Registry, import_modules

T = TypeVar("T")

UNENCODABLE: Final = (
    "for control tokens that this tokenizer cannot encode as text (--control-tokens keep takes them as they are)"
)
"""Reason of what is left out of a text, for a notice."""


@dataclass(frozen=True)
class Kind:
    """A kind of corpus, whether or not its files are present.

    Attributes:
        name: Registered name, as in ``--corpus NAME=PATH``.
        summary: What it is, in a few words.
        supply: How to get it, for messages: formats and where they are published.
        licence: Its licence as the card names it; None if unclear.
        hub: Repository and pinned revision (``ORG/NAME@revision``) that ``--corpus NAME=hub`` fetches; None if there is
            none.
        files: The files of that repository.
        hashes: SHA-256 of each of them, at that revision.
        notices: Reads it, and returns what a user should know of it, such as what was left out.
    """

    name: str
    summary: str
    supply: str
    licence: str | None
    hub: str | None = None
    files: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    notices: Callable[[Corpus], list[str]] | None = None


def _import_all() -> None:
    for group in ("qa", "ruler"):
        import_modules(f"sparse_tasks.generators.{group}")


CORPORA: Registry[Kind] = Registry("corpus", _import_all)
"""The corpora that tasks ask for."""


@dataclass(frozen=True)
class Corpus:
    """A corpus whose files are present.

    Attributes:
        name: Its kind.
        paths: Its files on this machine.
        sha256: Hash of their concatenated contents.
        origin: The files' names, or their source on the Hub; never a local path.
        revision: Revision on the Hub; None for files.
    """

    name: str
    paths: tuple[Path, ...]
    sha256: str
    origin: str
    revision: str | None

    def describe(self) -> dict[str, Any]:
        """Its record for a manifest."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "origin": self.origin,
            "revision": self.revision,
            "licence": CORPORA.get(self.name).licence,
        }


def read_notices(corpora: Iterable[Corpus]) -> list[str]:
    """Read the mounted corpora, so that errors show early, and return their notices.

    Raises:
        BadFileError: A file is not what it should be.
    """
    return [
        notice
        for corpus in corpora
        if (notices := CORPORA.get(corpus.name).notices) is not None
        for notice in notices(corpus)
    ]


def find_corpora(given: Mapping[str, str]) -> dict[str, Corpus]:
    """Find the corpora given by the user.

    Args:
        given: For each name a file, ``hub``, or ``ORG/NAME@revision`` of a copy on the Hub.

    Raises:
        UsageError: A name is unknown, a file is missing, or it cannot be fetched from the Hub.
    """
    return {name: _find(name, source) for name, source in given.items()}


def _find(name: str, source: str) -> Corpus:
    if name not in CORPORA:
        raise UsageError("corpus", f"{name}={source}", f"names no corpus: {name!r} {nearest(name, CORPORA.names())}")
    kind = CORPORA.get(name)
    try:
        path = to_path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no home folder
        raise UsageError("corpus", f"{name}={source}", f"is not a path: {error}") from error
    if is_file:
        return Corpus(name, (path,), sha256_of_files([path]), path.name, None)
    if is_folder:
        raise UsageError("corpus", f"{name}={source}", "is a folder; name the file itself")
    address = kind.hub if source == "hub" else source if is_hub_id(source) else None
    if address is None:
        what = "has no copy on the Hub that is known here" if source == "hub" else "is not a file"
        raise UsageError("corpus", f"{name}={source}", f"{what}; {kind.supply}")
    from sparse_tasks.generators.qa.hub import fetch

    paths, repository, revision = fetch(kind, address)
    return Corpus(name, paths, sha256_of_files(paths), repository, revision)


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Hash of the concatenated contents of files.

    Raises:
        UsageError: One cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise UsageError("corpus", str(path), f"cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


_mounted: dict[str, Corpus] = {}
_read: dict[tuple[str, Callable[..., Any]], Any] = {}


def mount(corpora: Iterable[Corpus]) -> None:
    """Make corpora available to the tasks of this process."""
    _mounted.update({corpus.sha256: corpus for corpus in corpora})


def mounted(sha256: str) -> Corpus | None:
    """The corpus with this hash, if it is mounted."""
    return _mounted.get(sha256)


def read(sha256: str, reader: Callable[[Corpus], T]) -> T:
    """The result of a reader on a corpus, cached per process.

    Raises:
        DataError: The corpus is not mounted.
    """
    if (sha256, reader) not in _read:
        corpus = _mounted.get(sha256)
        if corpus is None:
            raise DataError(f"the corpus with SHA-256 {sha256[:16]}… is not available; name its file with --corpus")
        _read[sha256, reader] = reader(corpus)
    return cast(T, _read[sha256, reader])
