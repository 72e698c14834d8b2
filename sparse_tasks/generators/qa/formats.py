"""JSON, JSON Lines and Parquet from anywhere, read so that every mistake in them becomes one line.

A message names the file, the line or row, and the field. Nothing is guessed: text has to be UTF-8, a field of the kind
that its format says, a file no larger than what fits into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sparse_tasks.core.errors import BadFileError, first_line

__all__ = ["Field", "is_parquet", "read_json", "read_lines", "read_parquet"]

MOST_BYTES = 2**30
"""The largest JSON file that is read; HotpotQA's training questions take up half of it."""
MOST_LINE = 64 * 2**20
"""The longest line of JSON Lines that is read; an article of QuALITY with its questions has 0.1 MiB."""
MOST_UNPACKED = 2**32
"""The most bytes that a Parquet file may hold, unpacked."""

_PACKED = {b"PK": "a zip archive", b"\x1f\x8b": "packed with gzip", b"\x28\xb5": "packed with zstd", b"BZ": "bzip2"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


class Field:
    """A value out of a file, which knows where it stands.

    Args:
        value: As ``json`` or ``pyarrow`` gave it.
        place: The file, and the line or row.
        path: The names that lead to it; empty for the record itself.
    """

    __slots__ = ("path", "place", "value")

    def __init__(self, value: Any, place: str, path: str = "") -> None:
        self.value = value
        self.place = place
        self.path = path

    def error(self, what: str) -> BadFileError:
        """What is wrong here, to be raised."""
        return BadFileError(f"{self.place}: {self.path or 'what stands there'} {what}")

    def has(self, name: str) -> bool:
        """Whether there is such a field, and something in it."""
        return isinstance(self.value, dict) and self.value.get(name) is not None

    def get(self, *names: str) -> Field:
        """The field of that name; of several names, the first that is there."""
        record = self._of(dict)
        name = next((name for name in names if record.get(name) is not None), None)
        if name is None:
            inside = f" in {self.path}" if self.path else ""
            raise BadFileError(f"{self.place}: {' or '.join(names)} is missing{inside}")
        return Field(record[name], self.place, f"{self.path}.{name}" if self.path else name)

    def items(self) -> list[Field]:
        """The members of a list."""
        return [Field(item, self.place, f"{self.path}[{i}]") for i, item in enumerate(self._of(list))]

    def pair(self) -> tuple[Field, Field]:
        """The members of a list of two."""
        items = self.items()
        if len(items) != 2:
            raise self.error(f"has {len(items)} members, not 2")
        return items[0], items[1]

    def text(self) -> str:
        """A text."""
        text: str = self._of(str)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"holds half a character (U+{ord(text[error.start]):X})") from error
        return text

    def number(self) -> int:
        """A whole number."""
        number: int = self._of(int)
        return number

    def truth(self) -> bool:
        """True or false."""
        truth: bool = self._of(bool)
        return truth

    def _of(self, kind: type) -> Any:
        if not isinstance(self.value, kind) or (kind is int and isinstance(self.value, bool)):
            found = _KINDS.get(type(self.value), "nothing" if self.value is None else type(self.value).__name__)
            raise self.error(f"is {found}, not {_KINDS[kind]}")
        return self.value


def is_parquet(path: Path) -> bool:
    """Whether a file says that it is Parquet."""
    return _opening(path)[:4] == b"PAR1"


def read_json(path: Path) -> Field:
    """All of a JSON file.

    Raises:
        BadFileError: It is too large, not UTF-8 or not JSON.
    """
    _check_opening(path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise BadFileError(f"{path.name} has {size:,} bytes; a JSON file may have {MOST_BYTES:,}")
        content = path.read_bytes()
    except OSError as error:
        raise BadFileError(f"{path.name} cannot be read: {error.strerror or error}") from error
    return Field(_parsed(content.removeprefix(_BOM), path.name, 1), path.name)


def read_lines(path: Path) -> Iterator[Field]:
    """The records of a file that has a JSON object on every line; blank lines do not count.

    Raises:
        BadFileError: A line is too long, not UTF-8 or not a JSON object.
    """
    _check_opening(path)
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MOST_LINE + 1):
                number += 1
                place = f"{path.name}, line {number}"
                if len(line) > MOST_LINE:
                    raise BadFileError(
                        f"{place} has more than {MOST_LINE:,} bytes, which is more than a record may have"
                    )
                if number == 1:
                    line = line.removeprefix(_BOM)
                if not line.strip():
                    continue
                record = Field(_parsed(line, path.name, number), place)
                if not isinstance(record.value, dict):
                    raise record.error("is no JSON object; every line has to be one")
                yield record
    except OSError as error:
        raise BadFileError(f"{path.name} cannot be read: {error.strerror or error}") from error


def read_parquet(path: Path, columns: Iterable[str]) -> Iterator[Field]:
    """The rows of a Parquet file.

    Raises:
        BadFileError: It cannot be read, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted, row = list(columns), 0
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if size > MOST_UNPACKED:
                raise BadFileError(f"{path.name} unpacks to {size:,} bytes; a Parquet file may have {MOST_UNPACKED:,}")
            for name in wanted:
                if name not in file.schema_arrow.names:
                    raise BadFileError(f"{path.name}: column {name} is missing")
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for record in batch.to_pylist():
                    yield Field(record, f"{path.name}, row {row}")
                    row += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"{path.name}, near row {row}: cannot be read as Parquet: {first_line(error)}") from error


def _opening(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise BadFileError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _check_opening(path: Path) -> None:
    opening = _opening(path)
    if not opening:
        raise BadFileError(f"{path.name} is empty")
    for mark, what in _PACKED.items():
        if opening.startswith(mark):
            raise BadFileError(f"{path.name} is {what}; unpack it and name the file inside")
    if opening.startswith(_UTF16):
        raise BadFileError(f"{path.name} is UTF-16; convert it to UTF-8")


def _parsed(content: bytes, name: str, first: int) -> Any:
    """A JSON value whose first line has the number ``first``."""
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = first + before.count(b"\n"), error.start - (before.rfind(b"\n") + 1)
        wrong = f"byte 0x{content[error.start]:02X} at {column} is not UTF-8"
        raise BadFileError(f"{name}, line {line}: {wrong}; convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        cut = (
            "; is the file cut off?" if error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg else ""
        )
        where = f"line {first + error.lineno - 1}, column {error.colno}"
        raise BadFileError(f"{name}, {where}: is not JSON: {error.msg}{cut}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
        raise BadFileError(f"{name}, line {first}: is not JSON that can be read: {first_line(error)}") from error
    except MemoryError as error:
        raise BadFileError(f"{name} does not fit into memory") from error
