"""JSON, JSON Lines, both also with gzip, Parquet and plain text, from third parties.

Every error names the file, the line or row, and the field. Nothing is guessed: text must be UTF-8, a field must have
its format's type, and a file must fit into memory.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import IO, TypeVar, cast

from sparse_tasks.core.errors import BadFileError, first_line

T = TypeVar("T")

MOST_BYTES = 2**30  # size limit of a JSON file in bytes; HotpotQA's training questions take up half of it
MOST_LINE = 64 * 2**20
"""Length limit of a line of JSON Lines in bytes; an article of QuALITY with its questions has 0.1 MiB."""
MOST_UNPACKED = 2**32  # size limit of a Parquet file in bytes, unpacked

_GZIP = b"\x1f\x8b"
_OPENINGS = {
    b"PK": "a zip archive; unpack it and name the file inside",
    _GZIP: "packed with gzip; unpack it and name the file inside",
    b"\x28\xb5": "packed with zstd; unpack it and name the file inside",
    b"BZ": "packed with bzip2; unpack it and name the file inside",
    b"\xff\xfe": "UTF-16; convert it to UTF-8",
    b"\xfe\xff": "UTF-16; convert it to UTF-8",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"\xff\xff\xff\xff": "an Arrow file; write it as Parquet",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
}
_BLANK = b" \t\r\n\xef\xbb\xbf"  # white space of JSON, and a byte order mark
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number",
          float: "a number"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a file, with its place for errors; what has another type than asked for is a ``BadFileError``."""

    value: object  # from ``json`` or ``pyarrow``
    place: str  # the file, and the line or row
    path: str = ""  # names that lead to it; empty for the record itself
    forms: str = ""  # of a record: a sentence on what is read
    record: Field | None = None  # of a record's own fields: the record

    def error(self, what: str) -> BadFileError:
        return BadFileError(f"{self.place}: {self.path or 'the record'} {what}")

    def find(self, *names: str) -> Field | None:
        """The first of the named fields that exists and is not null."""
        record = self._of(dict)
        for name in names:
            if record.get(name) is not None:
                if self.path:
                    return Field(record[name], self.place, f"{self.path}.{name}")
                return Field(record[name], self.place, name, record=self)
        return None

    def get(self, *names: str) -> Field:
        """The first of the named fields that exists; at least one must."""
        if (field := self.find(*names)) is None:
            inside = f" in {self.path}" if self.path else self._form()
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
            form = self.record._form() if self.record else ""
            raise self.error(f"is {actual}, not {_KINDS[kind]}{form}")
        return self.value

    def _form(self) -> str:
        """Of a record: what it is, and what is read instead; a file of another form shows by a field alone."""
        return f"; the record has {_fields(self)}; {self.forms}" if self.forms else ""


def read_bytes(path: Path, most: int) -> bytes:
    """Content of a text file; a BadFileError if it is too large, empty, an archive or UTF-16."""
    with _reading(path):
        if (size := path.stat().st_size) > most:
            raise BadFileError(f"{path} has {size:,} bytes; at most {most:,} are read")
        content = path.read_bytes()
    _check_opening(content, str(path))
    return content


def read_records(path: Path, forms: str, columns: Iterable[str] = ()) -> Iterator[Field]:
    """Records of a file: lines of JSON Lines, members of a JSON list, a JSON object by itself, or rows of Parquet.

    JSON and JSON Lines may be packed with gzip.

    Args:
        path: The file.
        forms: A sentence on what is read, for errors.
        columns: Required columns of Parquet; none if Parquet is not supported.

    Raises:
        BadFileError: The file has another form, or cannot be read.
    """
    with _reading(path), path.open("rb") as file:
        opening = file.read(4)
    if opening == b"PAR1":
        for record in _read_parquet(path, forms, list(columns)):
            yield replace(record, forms=forms)
        return
    with _reading(path), path.open("rb") as file:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if opening.startswith(_GZIP) else file
        for record in _read_json(stream, str(path), forms):
            yield replace(record, forms=forms)


def unknown(record: Field) -> BadFileError:
    """The error for a record whose fields match no form."""
    return BadFileError(f"{record.place}: the record has {_fields(record)}; {record.forms}")


def _fields(record: Field) -> str:
    values = record.value.items() if isinstance(record.value, dict) else ()
    fields = ", ".join(sorted(str(name) for name, value in values if value is not None))
    return _among("the field", fields) or "no fields"


def _among(what: str, names: str, most: int = 200) -> str:
    """``the fields a, b, c``; empty for no names."""
    shown = names if len(names) <= most else f"{names[:most].rpartition(', ')[0]}, …"
    return f"{what}{'s' * (', ' in names)} {shown}" if names else ""


def _read_json(stream: IO[bytes], name: str, forms: str) -> Iterator[Field]:
    number, line = 1, stream.readline(MOST_LINE + 1)
    _check_opening(line, name)
    while line.endswith(b"\n") and not line.strip(_BLANK):
        number, line = number + 1, stream.readline(MOST_LINE + 1)
    if not line.lstrip(_BLANK).startswith((b"{", b"[")):
        raise _no_records(line, name, number, forms)
    try:
        record = Field(_parse(line, name, number), f"{name}, line {number}")
    except BadFileError:
        # A value of several lines, or of a very long one; else its error is the same.
        yield from _members(_read_whole(stream, line, name, number), forms)
        return
    lines = _lines(stream, name, number + 1)
    if (second := next(lines, None)) is None:
        yield from _members(record, forms)
        return
    yield _object(record)
    for number, line in chain([second], lines):
        yield _object(Field(_parse(line, name, number), f"{name}, line {number}"))


def _read_whole(stream: IO[bytes], begun: bytes, name: str, first: int) -> Field:
    """A value of several lines, of which the first was read."""
    content = begun + stream.read(max(0, MOST_BYTES + 1 - len(begun)))
    if len(content) > MOST_BYTES:
        raise BadFileError(f"{name} holds more than {MOST_BYTES:,} bytes, which is all that is read of JSON")
    if len(begun) > MOST_LINE and b"\n" in content.rstrip():
        raise BadFileError(f"{name}, line {first} has more than {MOST_LINE:,} bytes")
    return Field(_parse(content, name, first), name)


def _no_records(line: bytes, name: str, number: int, forms: str) -> BadFileError:
    """The error for a first line that begins neither an object nor a list."""
    if len(line) > MOST_LINE:
        return BadFileError(f"{name}, line {number} has more than {MOST_LINE:,} bytes, and is not JSON; {forms}")
    try:
        kind = _KINDS.get(type(_parse(line, name, number)), "nothing")
    except BadFileError as error:
        return BadFileError(f"{error}; it looks like {_guess_format(line)}; {forms}")
    return BadFileError(f"{name}, line {number}: the record is {kind}, not a JSON object or a list of them; {forms}")


def _lines(stream: IO[bytes], name: str, first: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers."""
    total = 0
    for number in count(first):
        line = stream.readline(MOST_LINE + 1)
        total += len(line)
        if len(line) > MOST_LINE:
            raise BadFileError(f"{name}, line {number} has more than {MOST_LINE:,} bytes")
        if total > MOST_UNPACKED:
            raise BadFileError(f"{name} unpacks to more than {MOST_UNPACKED:,} bytes, which is all that is read")
        if not line:
            return
        if line.strip(_BLANK):
            yield number, line


def _object(record: Field) -> Field:
    if not isinstance(record.value, dict):
        raise record.error("is not a JSON object; every line has to be one")
    return record


def _members(record: Field, forms: str) -> Iterator[Field]:
    """Records of a JSON value: a list's members, or an object."""
    if not isinstance(record.value, list):
        yield record
        return
    for member in record.items():
        if not isinstance(member.value, dict):
            raise member.error(f"is {_KINDS.get(type(member.value), 'nothing')}, not an object; {forms}")
        yield member


def _read_parquet(path: Path, forms: str, columns: Sequence[str]) -> Iterator[Field]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if size > MOST_UNPACKED:
                raise BadFileError(f"{path} unpacks to {size:,} bytes; at most {MOST_UNPACKED:,} are read")
            names = file.schema_arrow.names
            if not columns or not set(columns) <= set(names):
                has = _among("the column", ", ".join(names)) or "no columns"
                raise BadFileError(f"{path}: is Parquet with {has}; {forms}")
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for record in batch.to_pylist():
                    yield Field(record, f"{path}, row {row}")
                    row += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"{path}, near row {row}: cannot be read as Parquet: {first_line(error)}") from error


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
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadFileError(f"{path} cannot be unpacked: {error}; is the file cut off?") from error
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_opening(content: bytes, name: str) -> None:
    if not content:
        raise BadFileError(f"{name} is empty")
    for mark, kind in _OPENINGS.items():
        if content.startswith(mark):
            raise BadFileError(f"{name} is {kind}")


def _parse(content: bytes, name: str, first: int) -> object:
    """A JSON value whose first line has the number ``first``."""
    text = decode(content, name, first)
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        cut = "; is the file cut off?" if error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg else ""
        where = f"line {first + error.lineno - 1}, column {error.colno}"
        raise BadFileError(f"{name}, {where}: is not JSON: {error.msg}{cut}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deeply nested lists
        raise BadFileError(f"{name}, line {first}: is not JSON that can be read: {first_line(error)}") from error
    except MemoryError as error:
        raise BadFileError(f"{name} does not fit into memory") from error
    return value


def _guess_format(line: bytes) -> str:
    """A guess at the type of a file whose first line is not JSON."""
    if line.lstrip().startswith(b"<"):
        return "a web page, or XML"
    return "a table (CSV or TSV)" if b"\t" in line or line.count(b",") >= 2 else "plain text"
