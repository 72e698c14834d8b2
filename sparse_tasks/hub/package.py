"""What of a data set goes to the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.generators.dataset import CARD, MANIFEST
from sparse_tasks.generators.files import sha256_of
from sparse_tasks.hub.eval_yaml import EVAL_YAML, eval_yaml

__all__ = ["PackedFile", "check_rights", "package"]


@dataclass(frozen=True)
class PackedFile:
    """A file of a repository.

    Attributes:
        path: In the repository.
        source: Where it is here, or its bytes.
        size: In bytes.
        sha256: Of its bytes.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str

    def git_sha1(self) -> str:
        """The name that git gives to these bytes.

        Raises:
            OSError: They cannot be read.
        """
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def package(dataset: Dataset) -> list[PackedFile]:
    """The files of a data set: card, manifest, data, and the ``eval.yaml`` that is made of them.

    Whatever else lies in the folder stays there.

    Raises:
        DataError: A file cannot be read, or is not what the manifest says.
    """
    try:
        evaluation = eval_yaml(dataset)
        files = [
            _of_path(dataset.path, CARD),
            PackedFile(EVAL_YAML, evaluation, len(evaluation), hashlib.sha256(evaluation).hexdigest()),
            _of_path(dataset.path, MANIFEST),
            *(_of_path(dataset.path, name) for name in dataset.manifest["files"]),
        ]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    for file in files:
        recorded = dataset.manifest["files"].get(file.path)
        if recorded is not None and recorded["sha256"] != file.sha256:
            raise DataError(f"{dataset.path / file.path} is not the file that the manifest names")
    return files


def check_rights(manifest: Mapping[str, Any], have_rights: bool) -> None:
    """See that whatever others wrote may be passed on.

    Args:
        manifest: Of the data set; ``corpora`` lists the texts of others in it.
        have_rights: Whether the user says that they have the rights.

    Raises:
        UsageError: A corpus has no clear licence, and the user says nothing.
    """
    if have_rights:
        return
    for corpus in manifest.get("corpora", []):
        if corpus.get("licence") is None:
            raise UsageError(
                "corpus",
                corpus.get("name"),
                "has no clear licence, so its text is not published; add --i-have-the-rights if you have them",
            )


def _of_path(folder: Path, name: str) -> PackedFile:
    path = folder / name
    return PackedFile(name, path, path.stat().st_size, sha256_of(path))
