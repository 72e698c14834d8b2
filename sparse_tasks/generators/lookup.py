"""Finds one sample in a data set folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparse_tasks.core.errors import UsageError, nearest
from sparse_tasks.core.length import label, parse_length
from sparse_tasks.core.records import convert
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.shards import ShardPath
from sparse_tasks.generators.table import count_rows, read_rows


def find_sample(folder: Path, task: str, index: int, length: str | None = None) -> dict[str, Any]:
    """The row of a task with this index, at ``length`` or else at the shortest one there is.

    Raises:
        UsageError: There is no such folder, task, length or index.
        DataError: The file cannot be read.
    """
    files: dict[str, dict[int, list[Path]]] = {}
    for path in sorted(folder.glob("*/*.parquet")):
        if shard := ShardPath.parse(path.relative_to(folder).as_posix()):
            files.setdefault(shard.task, {}).setdefault(shard.length, []).append(path)
    if not files:
        raise UsageError("data", str(folder), "holds no samples; name a folder that generate has written")
    if task not in files:
        raise UsageError("task", task, nearest(task, files))
    lengths = files[task]
    tokens = min(lengths) if length is None else parse_length(length)
    if tokens not in lengths:
        raise UsageError("length", length, f"is not there; choose from {', '.join(map(label, sorted(lengths)))}")
    first = 0
    for path in lengths[tokens]:
        rows = count_rows(path)
        if first <= index < first + rows:
            row = read_rows(path, [index - first])[0]
            convert(row, Sample, f"{path}, row {index - first}")
            return row
        first += rows
    raise UsageError("index", index, f"is not there; choose from 0 to {first - 1}")
