"""The files of a data set that go to the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.manifest import MANIFEST
from sparse_tasks.core.records import Corpus
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.generators.dataset import CARD
from sparse_tasks.hub.eval_yaml import EVAL_YAML, eval_yaml


@dataclass(frozen=True)
class PackedFile:
    """A file of a repository.

    Attributes:
        path: Path in the repository.
        source: Local path, or the content.
        size: Size in bytes.
        sha256: Hash of the content.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str

    def git_sha1(self) -> str:
        """Git's hash of the content.

        Raises:
            OSError: The file cannot be read.
        """
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def package(dataset: Dataset) -> list[PackedFile]:
    """Files to publish: card, manifest, data, and an ``eval.yaml`` made from them; others in the folder are left out.

    Raises:
        DataError: A file cannot be read, or differs from the manifest.
    """
    try:
        evaluation = eval_yaml(dataset)
        files = [
            _of_path(dataset.path, CARD),
            PackedFile(EVAL_YAML, evaluation, len(evaluation), hashlib.sha256(evaluation).hexdigest()),
            _of_path(dataset.path, MANIFEST),
            *(_of_path(dataset.path, name) for name in dataset.manifest.files),
        ]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    for file in files:
        recorded = dataset.manifest.files.get(file.path)
        if recorded is not None and recorded.sha256 != file.sha256:
            raise DataError(f"{dataset.path / file.path} differs from the manifest")
    return files


def check_rights(corpora: Sequence[Corpus], have_rights: bool) -> None:
    """Refuse a data set with third-party texts that may not be redistributed.

    Args:
        corpora: Third-party texts in the data set.
        have_rights: Whether the user claims the rights.

    Raises:
        UsageError: A corpus has no clear licence, and the user claims no rights.
    """
    if have_rights:
        return
    for corpus in corpora:
        if corpus.licence is None:
            raise UsageError(
                "corpus",
                corpus.name,
                "has no clear licence, so its text is not published; add --i-have-the-rights if you have them",
            )


def _of_path(folder: Path, name: str) -> PackedFile:
    path = folder / name
    return PackedFile(name, path, path.stat().st_size, sha256_of(path))
