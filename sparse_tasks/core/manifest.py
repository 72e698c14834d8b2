"""The manifest of a data set folder, read in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.format import size
from sparse_tasks.core.json import read_json
from sparse_tasks.core.records import Manifest, convert

MANIFEST: Final = "sparse_tasks.json"
PROGRESS: Final = ".sparse_tasks.partial.json"
"""Record of the finished files while a data set is being generated."""
_LARGEST: Final = 64 * 2**20


def read_manifest(folder: Path, name: str | None = None) -> Manifest:
    """The manifest of a complete data set.

    Args:
        folder: The data set's folder.
        name: Name of the data set in errors; None: the folder's path.

    Raises:
        UsageError: There is no data set, or it is incomplete.
        DataError: The manifest cannot be read or is not valid.
    """
    file, name = folder / MANIFEST, name or str(folder)
    if not folder.is_dir():
        raise UsageError("data", name, "is not a folder; name one written by generate")
    if not file.is_file():
        unfinished = (folder / PROGRESS).is_file()
        remedy = (
            "is not complete; give the same generate command again, which goes on"
            if unfinished
            else f"holds no data set, as it has no {MANIFEST}; name a folder that generate has finished"
        )
        raise UsageError("data", name, remedy)
    if file.stat().st_size > _LARGEST:
        raise DataError(f"{file} is larger than {size(_LARGEST)}")
    return convert(read_json(file), Manifest, file)
