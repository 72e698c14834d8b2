"""Samples as Parquet: columns, writing and reading."""

from __future__ import annotations

import hashlib
import io
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from sparse_tasks.core.errors import DataError, unreadable
from sparse_tasks.core.sample import Sample

_EVIDENCE = pa.list_(
    pa.struct([("start", pa.int64()), ("end", pa.int64()), ("depth", pa.float64()), ("label", pa.string())])
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("index", pa.int64()),
        ("length", pa.int64()),
        ("input_tokens", pa.int64()),
        ("max_new_tokens", pa.int64()),
        ("prompt", pa.string()),
        ("context", pa.string()),
        ("question", pa.string()),
        ("answer_prefix", pa.string()),
        ("answer", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("metric", pa.string()),
        ("evidence", _EVIDENCE),
        ("question_position", pa.string()),
        ("params", pa.string()),
        ("seed", pa.int64()),
        (
            "turns",
            pa.list_(
                pa.struct(
                    [
                        ("level", pa.string()),
                        ("history", pa.int64()),
                        ("question", pa.string()),
                        ("answer", pa.string()),
                        ("answers", pa.list_(pa.string())),
                        ("metric", pa.string()),
                        ("input_tokens", pa.int64()),
                        ("evidence", _EVIDENCE),
                    ]
                )
            ),
        ),
    ]
)
_OLDER = pa.schema([field for field in SCHEMA if field.name != "turns"])
"""Columns of older files, whose samples ask one question each."""


def to_table(samples: Iterable[Sample]) -> pa.Table:
    """Samples as a table, one column per field."""
    rows = [sample.row() for sample in samples]
    return pa.table([_array([row[field.name] for row in rows], field.type) for field in SCHEMA], schema=SCHEMA)


_NUMBERS = {pa.int64(): "q", pa.float64(): "d"}


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Non-null values as an array; ``pa.array`` would import pandas."""
    if kind in _NUMBERS:
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(array(_NUMBERS[kind], values))])
    if isinstance(kind, pa.StructType):
        columns = [_array([value[field.name] for value in values], field.type) for field in kind]
        return pa.Array.from_buffers(kind, len(values), [None], children=columns)
    parts = [value.encode() for value in values] if kind == pa.string() else values
    ends = pa.py_buffer(array("i", accumulate(map(len, parts), initial=0)))
    if kind == pa.string():
        return pa.Array.from_buffers(kind, len(values), [None, ends, pa.py_buffer(b"".join(parts))])
    items = _array([item for part in parts for item in part], kind.value_type)
    return pa.Array.from_buffers(kind, len(values), [None, ends], children=[items])


def shard_bytes(samples: Sequence[Sample]) -> bytes:
    """A Parquet file (zstd) of samples; the same samples give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(to_table(samples), sink, compression="zstd")
    return sink.getvalue()


def rows_of(content: bytes, columns: list[str] | None = None, most: int | None = None) -> list[dict[str, Any]]:
    """The first ``most`` rows (default all) of a Parquet file's bytes as plain data, with ``columns`` (default all)."""
    table = pq.ParquetFile(io.BytesIO(content)).read(columns)
    rows: list[dict[str, Any]] = table.slice(0, most).to_pylist()
    return rows


_COMPACT = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_SORTED = msgspec.json.Encoder(order="sorted")


def samples_sha256(rows: Iterable[Mapping[str, Any]]) -> str:
    """Hash of samples in order, over all columns; files of the same samples may differ between writers."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_line(row))
    return digest.hexdigest()


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as JSON, as ``_COMPACT`` writes it; texts use a much faster encoder with the same result.

    Samples with one question keep the hash from before there were sessions.
    """
    values = {
        name: value if isinstance(value, str) else msgspec.Raw(_COMPACT.encode(value).encode())
        for name, value in row.items()
        if name != "turns" or value
    }
    return _SORTED.encode(values) + b"\n"


def count_rows(path: Path) -> int:
    """Rows of a Parquet file.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        rows: int = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(unreadable(path, error, "Parquet")) from error
    return rows


def unpacked_bytes(file: IO[bytes]) -> int:
    """Uncompressed bytes of a Parquet file's columns."""
    metadata = pq.read_metadata(file)
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def read_rows(
    path: Path, rows: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """``rows`` (default all) of a Parquet file as plain data, with these ``columns`` (default all).

    Raises:
        DataError: The file cannot be read, or has other columns.
    """
    try:
        schema = pq.read_schema(path)
        older = schema.equals(_OLDER)
        if not older and not schema.equals(SCHEMA):
            raise DataError(f"{path} has other columns than a data set of sparse-tasks")
        names = SCHEMA.names if columns is None else columns
        added: dict[str, Any] = {"turns": []} if older and "turns" in names else {}
        # Not pq.read_table, which imports pyarrow.dataset and pandas.
        table = pq.ParquetFile(path).read([name for name in names if name not in added])
        parts = [table] if rows is None else [table.slice(row, 1) for row in rows]
        values: list[dict[str, Any]] = [value | added for part in parts for value in part.to_pylist()]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(unreadable(path, error, "Parquet")) from error
    return values
