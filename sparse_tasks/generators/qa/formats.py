"""JSON, JSON Lines, Parquet and plain text that others wrote.

Every error names the file, the line or row, and the field. Nothing is guessed: text has to be UTF-8, a field of the
type that its format says, a file no larger than what fits into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from sparse_tasks.core.errors import BadFileError, first_line

T = TypeVar("T")

MOST_BYTES = 2**30  # size limit of a JSON file in bytes; HotpotQA's training questions take up half of it
MOST_LINE = 64 * 2**20
"""Length limit of a line of JSON Lines in bytes; an article of QuALITY with its questions has 0.1 MiB."""
MOST_UNPACKED = 2**32  # size limit of a Parquet file in bytes, unpacked

_PACKED = {b"PK": "a zip archive", b"\x1f\x8b": "packed with gzip", b"\x28\xb5": "packed with zstd", b"BZ": "bzip2"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number",
          float: "a number"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a file, with its place for errors; what has another type than asked for is a ``BadFileError``."""

    value: object  # as ``json`` or ``pyarrow`` gave it
    place: str  # the file, and the line or row
    path: str = ""  # names that lead to it; empty for the record itself

    def error(self, what: str) -> BadFileError:
        return BadFileError(f"{self.place}: {self.path or 'the record'} {what}")

    def find(self, *names: str) -> Field | None:
        """The first of the named fields that exists and is not null."""
        record = self._of(dict)
        for name in names:
            if record.get(name) is not None:
                return Field(record[name], self.place, f"{self.path}.{name}" if self.path else name)
        return None

    def get(self, *names: str) -> Field:
        """The first of the named fields that exists, one of which has to."""
        if (field := self.find(*names)) is None:
            inside = f" in {self.path}" if self.path else ""
            raise BadFileError(f"{self.place}: {' or '.join(names)} is missing{inside}")
        return field

    def items(self) -> list[Field]:
        return [Field(item, self.place, f"{self.path}[{i}]") for i, item in enumerate(self._of(list))]

    def pair(self) -> tuple[Field, Field]:
        items = self.items()
        if len(items) != 2:
            raise self.error(f"has {len(items)} members, not 2")
        return items[0], items[1]

    def text(self) -> str:
        text = self._of(str)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"holds half a character (U+{ord(text[error.start]):X})") from error
        return text

    def number(self) -> int:
        return self._of(int)

    def truth(self) -> bool:
        return self._of(bool)

    def _of(self, kind: type[T]) -> T:
        if not isinstance(self.value, kind) or (kind is int and isinstance(self.value, bool)):
            actual = _KINDS.get(type(self.value), "nothing" if self.value is None else type(self.value).__name__)
            raise self.error(f"is {actual}, not {_KINDS[kind]}")
        return self.value


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does."""
    with _reading(path), path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_bytes(path: Path, most: int) -> bytes:
    """Content of a text file; a BadFileError if it is too large, empty, an archive or UTF-16."""
    with _reading(path):
        if (size := path.stat().st_size) > most:
            raise BadFileError(f"{path.name} has {size:,} bytes; at most {most:,} are read")
        content = path.read_bytes()
    _check_opening(content, path.name)
    return content


def read_json(path: Path) -> Field:
    """Content of a JSON file; a BadFileError if it is too large, not UTF-8 or not JSON."""
    return Field(_parse(read_bytes(path, MOST_BYTES), path.name, 1), path.name)


def read_lines(path: Path) -> Iterator[Field]:
    """Records of a file that has a JSON object on every line, else a BadFileError; blank lines do not count."""
    with _reading(path), path.open("rb") as file:
        for number in count(1):
            line = file.readline(MOST_LINE + 1)
            place = f"{path.name}, line {number}"
            if len(line) > MOST_LINE:
                raise BadFileError(f"{place} has more than {MOST_LINE:,} bytes")
            if number == 1:
                _check_opening(line, path.name)
            if not line:
                return
            if line.strip():
                record = Field(_parse(line, path.name, number), place)
                if not isinstance(record.value, dict):
                    raise record.error("is not a JSON object; every line has to be one")
                yield record


def read_parquet(path: Path, columns: Iterable[str]) -> Iterator[Field]:
    """Rows of a Parquet file; a BadFileError if it cannot be read, or a column is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, row = list(columns), 0
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if size > MOST_UNPACKED:
                raise BadFileError(f"{path.name} unpacks to {size:,} bytes; at most {MOST_UNPACKED:,} are read")
            for name in names:
                if name not in file.schema_arrow.names:
                    raise BadFileError(f"{path.name}: column {name} is missing")
            for batch in file.iter_batches(batch_size=256, columns=names):
                for record in batch.to_pylist():
                    yield Field(record, f"{path.name}, row {row}")
                    row += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"{path.name}, near row {row}: cannot be read as Parquet: {first_line(error)}") from error


def decode(content: bytes, name: str, first: int = 1) -> str:
    """UTF-8 as text, else a BadFileError; ``first`` is the number of its first line in the file."""
    try:
        return content.decode("utf-8-sig" if first == 1 else "utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = first + before.count(b"\n"), error.start - (before.rfind(b"\n") + 1)
        wrong = f"byte 0x{content[error.start]:02X} at {column} is not UTF-8"
        raise BadFileError(f"{name}, line {line}: {wrong}; convert the file to UTF-8") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadFileError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _check_opening(content: bytes, name: str) -> None:
    if not content:
        raise BadFileError(f"{name} is empty")
    for mark, kind in _PACKED.items():
        if content.startswith(mark):
            raise BadFileError(f"{name} is {kind}; unpack it and name the file inside")
    if content.startswith(_UTF16):
        raise BadFileError(f"{name} is UTF-16; convert it to UTF-8")


def _parse(content: bytes, name: str, first: int) -> object:
    """A JSON value whose first line has the number ``first``."""
    text = decode(content, name, first)
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        cut = "; is the file cut off?" if error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg else ""
        where = f"line {first + error.lineno - 1}, column {error.colno}"
        raise BadFileError(f"{name}, {where}: is not JSON: {error.msg}{cut}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
        raise BadFileError(f"{name}, line {first}: is not JSON that can be read: {first_line(error)}") from error
    except MemoryError as error:
        raise BadFileError(f"{name} does not fit into memory") from error
    return value
