"""Look-up of one sample in a data set folder."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_tasks.core.errors import DataError, UsageError, nearest
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.length import label, parse_length
from sparse_tasks.core.manifest import MANIFEST, read_manifest
from sparse_tasks.core.records import DataFile, problem
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.shards import ShardPath
from sparse_tasks.generators.table import count_rows, read_rows


@dataclass(frozen=True, slots=True)
class Found:
    """A sample as stored in its file.

    Attributes:
        row: Its columns.
        path: The file.
        changed: Whether the file differs from the manifest's, so that its content cannot be trusted.
    """

    row: dict[str, Any]
    path: Path
    changed: bool


def find_sample(folder: Path, task: str | None, index: int, length: str | None = None) -> Found:
    """The sample of a task with this index, at ``length`` or else at the shortest length available.

    A single task need not be named. Finished parts of an incomplete data set can be searched.

    Raises:
        UsageError: There is no such folder, task, length or index.
        DataError: The manifest or the file cannot be read, or another sample is in this one's place.
    """
    files: dict[str, dict[int, dict[Path, DataFile | None]]] = {}
    for shard, entry in _shards(folder):
        files.setdefault(shard.task, {}).setdefault(shard.length, {})[folder / str(shard)] = entry
    if not files:
        raise UsageError("data", str(folder), "holds no samples; name a folder written by generate")
    if task is None and len(files) > 1:
        raise UsageError("task", str(folder), f"has several tasks; choose from {', '.join(sorted(files))}")
    task = next(iter(files)) if task is None else task
    if task not in files:
        raise UsageError("task", task, nearest(task, files))
    lengths = files[task]
    tokens = min(lengths) if length is None else parse_length(length)
    if tokens not in lengths:
        raise UsageError("length", length, f"does not exist; choose from {', '.join(map(label, sorted(lengths)))}")
    first = 0
    for path, entry in lengths[tokens].items():
        rows = count_rows(path) if entry is None else entry.rows
        if first <= index < first + rows:
            return _found(folder, path, entry, {"task": task, "length": tokens, "index": index}, index - first)
        first += rows
    remedy = f"choose from 0 to {first - 1}" if first else f"{task} has no samples at {label(tokens)}"
    raise UsageError("index", index, f"is not there; {remedy}")


def _shards(folder: Path) -> list[tuple[ShardPath, DataFile | None]]:
    """Sample files: those in the manifest, or, without one, those that exist."""
    try:
        if (folder / MANIFEST).exists():
            named: dict[str, DataFile | None] = dict(read_manifest(folder).files)
        else:
            named = dict.fromkeys(path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.parquet")))
    except OSError as error:  # a name too long, no permission
        raise UsageError("data", str(folder), f"cannot be read: {error.strerror or error}") from error
    parsed = [(ShardPath.parse(name), entry) for name, entry in named.items()]
    return sorted(((shard, entry) for shard, entry in parsed if shard), key=lambda pair: str(pair[0]))


def _found(folder: Path, path: Path, entry: DataFile | None, key: dict[str, object], number: int) -> Found:
    again = "its generate command, given again, makes a damaged file anew"
    try:
        rows = read_rows(path, [number])
        changed = entry is not None and sha256_of(path) != entry.sha256
    except (DataError, OSError) as error:
        raise DataError(f"{error}; {again}") from error
    where = f"{path}, row {number}"
    if not rows:
        raise DataError(f"{where}: is not there, though {MANIFEST} counts it; {again}")
    differing = (
        f"{name}: is {rows[0][name]!r}, not {value!r}" for name, value in key.items() if rows[0][name] != value
    )
    if (wrong := problem(rows[0], Sample) or next(differing, None)) is not None:
        raise DataError(f"{where}: {wrong}; run sparse-tasks validate {shlex.quote(str(folder))}")
    return Found(rows[0], path, changed)
