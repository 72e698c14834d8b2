"""A data set to evaluate on: a folder or a data set on the Hub, checked against its manifest on reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec import UNSET

from sparse_tasks.core.errors import DataError, UsageError, nearest
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.hub import fetching, is_hub_id, split_hub_id
from sparse_tasks.core.length import label, parse_length
from sparse_tasks.core.manifest import MANIFEST, read_manifest
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.records import Manifest, Record, convert
from sparse_tasks.evaluators.records import DatasetRecord
from sparse_tasks.generators.table import read_rows
from sparse_tasks.generators.task import TASKS

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of a data set's samples.

    Attributes:
        tasks: Names, in the data set's order.
        lengths: In tokens, in the data set's order.
        limit: Number of first samples of each task at each length; None for all.
    """

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    limit: int | None


@dataclass(frozen=True)
class Dataset:
    """A complete data set folder.

    Attributes:
        name: As the user gave it.
        path: Where its files are.
        revision: Commit of a data set on the Hub; None for a folder.
        manifest: The folder's manifest.
        sha256: Hash of the samples, by the manifest: equal hashes mean equal samples, whatever wrote the files. For
            manifests of older versions the hash of the files.
        also: Other hashes that identify it.
    """

    name: str
    path: Path
    revision: str | None
    manifest: Manifest
    sha256: str
    also: tuple[str, ...] = ()

    def is_called(self, sha256: str) -> bool:
        """Whether a hash is this data set's; runs of older versions have the hash of its files."""
        return sha256 in (*identities(self.manifest), *self.also)

    @property
    def begins_answer(self) -> bool:
        """Whether its prompts end inside the answer."""
        return self.manifest.request.begin_answer is True

    def select(
        self, tasks: Sequence[str] = (), lengths: Sequence[str | int] = (), limit: int | None = None
    ) -> Selection:
        """Select samples by task (names or groups), length and number; empty means all.

        Raises:
            UsageError: A task or length is not in the data set.
        """
        request = self.manifest.request
        groups: dict[str, list[str]] = {"all": list(request.tasks)}
        for name in request.tasks:
            groups.setdefault(name, []).append(name)
            if name in TASKS:
                groups.setdefault(TASKS.get(name).group(), []).append(name)
        for name in tasks:
            if name not in groups:
                raise UsageError("task", name, nearest(name, groups))
        chosen = {member for name in tasks or ["all"] for member in groups[name]}
        tokens = {parse_length(length) for length in lengths} or set(request.lengths)
        if missing := sorted(tokens - set(request.lengths)):
            available = ", ".join(label(length) for length in request.lengths)
            raise UsageError("length", label(missing[0]), f"is not in the data set; choose from {available}")
        if limit is not None and limit < 1:
            raise UsageError("limit", limit, "must be at least 1")
        return Selection(
            tuple(name for name in request.tasks if name in chosen),
            tuple(length for length in request.lengths if length in tokens),
            limit,
        )

    def rows(self, selection: Selection, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The samples of a selection, in the data set's order, with a single file in memory.

        Args:
            columns: Columns to read.

        Raises:
            DataError: A file is not what the manifest says.
        """
        for length in selection.lengths:
            for task in selection.tasks:
                left = selection.limit
                for name in self.manifest.files_of(length, task):
                    if left == 0:
                        break
                    rows = self._read(name, columns)[:left]
                    for row in rows:
                        if (row.get("length", length), row.get("task", task)) != (length, task):
                            raise DataError(f"{self.path / name} holds a sample of {row.get('task', task)}, length "
                                            f"{row.get('length', length)}; run sparse-tasks validate")  # fmt: skip
                        if None in row.values() or None in row.get("answers", ()):
                            raise DataError(f"{self.path / name} holds a sample with an empty field; "
                                            "run sparse-tasks validate")  # fmt: skip
                    left = None if left is None else left - len(rows)
                    yield from rows

    def asks_several(self, selection: Selection) -> bool:
        """Whether samples of a selection ask several questions, by the first of each task."""
        first = Selection(selection.tasks, selection.lengths[:1], 1)
        return any(row["turns"] for row in self.rows(first, ["turns"]))

    def samples(self, selection: Selection, kind: type[R]) -> Iterator[R]:
        """The samples of a selection, as ``rows``, each as a record.

        Args:
            kind: Record whose fields are columns; no other columns are read.
        """
        for row in self.rows(selection, kind.__struct_fields__):
            yield convert(row, kind, self.path)

    def _read(self, name: str, columns: Sequence[str] | None) -> list[dict[str, Any]]:
        path = self.path / name
        try:
            if sha256_of(path) != self.manifest.files[name].sha256:
                raise DataError(f"{path} differs from the file that the manifest records; run sparse-tasks validate")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        return read_rows(path, columns=columns)


def open_dataset(name: str) -> Dataset:
    """A data set in a folder, or on the Hub (``ORG/NAME`` or ``ORG/NAME@revision``).

    Raises:
        UsageError: The data set does not exist, or is not complete.
        DataError: Its manifest cannot be read or is not valid.
    """
    revision = None
    try:
        path = to_path(name).expanduser()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, no home folder
        raise UsageError("data", name, f"is not a path ({error}); name a folder, or a Hub id (ORG/NAME)") from error
    if not is_folder:
        if not is_hub_id(name):
            raise UsageError("data", name, "is not a folder; name one written by generate, or a Hub id (ORG/NAME)")
        path, revision = _from_hub(name)
    manifest = read_manifest(path, name)
    for length in manifest.request.lengths:
        for task in manifest.request.tasks:
            samples = sum(file.rows for file in manifest.files_of(length, task).values())
            if samples != manifest.request.samples:
                raise DataError(
                    f"{name}: {MANIFEST} names {samples} samples, not {manifest.request.samples}, of {task} at "
                    f"{length}; run sparse-tasks validate"
                )
    return Dataset(name, path, revision, manifest, identities(manifest)[0])


def identities(manifest: Manifest) -> tuple[str, ...]:
    """Hashes that identify a data set: of its samples, which older manifests lack, and of its files."""
    samples = {name: file.samples_sha256 for name, file in manifest.files.items()}
    files = {name: file.sha256 for name, file in manifest.files.items()}
    return tuple(
        hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
        for hashes in (samples, files)
        if UNSET not in hashes.values()
    )


def at_hand(recorded: Iterable[DatasetRecord], named: Sequence[str] = ()) -> dict[str, Dataset]:
    """Data sets of runs by hash: those named, or still where the runs found them; others are omitted.

    Raises:
        UsageError: A name is not a data set, or not one of the runs'.
        DataError: The manifest of a named one cannot be read or is not valid.
    """
    records = {record.sha256: record for record in recorded}
    opened: dict[str, Dataset] = {}
    for name in named:
        dataset = open_dataset(name)
        if not (theirs := [sha256 for sha256 in records if dataset.is_called(sha256)]):
            raise UsageError("data", name, "is not the data set of these runs; name that one")
        opened |= dict.fromkeys(theirs, dataset)
    for sha256, record in records.items():
        if sha256 in opened:
            continue
        try:
            dataset = open_dataset(record.place)
        except (UsageError, DataError):
            continue
        if dataset.is_called(sha256):
            opened[sha256] = dataset
    return opened


def _from_hub(name: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    repository, revision = split_hub_id(name)
    with fetching("data", name):
        path = Path(snapshot_download(repository, repo_type="dataset", revision=revision))
    # The cache has files in .../snapshots/<commit>.
    return path, path.name
