"""Samples go into Parquet and come back as they were, always in the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.sample import Evidence, Sample, Turn
from sparse_tasks.generators.table import (
    SCHEMA,
    count_rows,
    read_rows,
    rows_of,
    samples_sha256,
    shard_bytes,
    to_table,
    unpacked_bytes,
)

TEXT = st.text(max_size=40)
NUMBER = st.integers(-(2**63), 2**63 - 1)
EVIDENCE = st.builds(Evidence, start=NUMBER, end=NUMBER, depth=st.floats(0, 1), label=TEXT)
TURN = st.builds(
    Turn,
    level=TEXT,
    history=NUMBER,
    question=TEXT,
    answer=TEXT,
    answers=st.lists(TEXT, max_size=4),
    metric=TEXT,
    input_tokens=NUMBER,
    evidence=st.lists(EVIDENCE, max_size=3),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(Sample.__struct_fields__, TEXT),
    **dict.fromkeys(("index", "length", "input_tokens", "max_new_tokens", "seed"), NUMBER),
    "answers": st.lists(TEXT, max_size=4),
    "evidence": st.lists(EVIDENCE, max_size=3),
    "turns": st.lists(TURN, max_size=3),
}
SAMPLES = st.builds(Sample, **FIELDS)


def sample(**changes: Any) -> Sample:
    values: dict[str, Any] = {name: 1 if field is NUMBER else "x" for name, field in FIELDS.items()}
    values |= {"answers": ["a", "b"], "evidence": [Evidence(start=0, end=1, depth=0.5, label="x")], "turns": []}
    return Sample(**(values | changes))


def test_columns_are_the_fields_of_a_sample() -> None:
    assert SCHEMA.names == list(Sample.__struct_fields__)
    parts = [field.name for field in SCHEMA.field("evidence").type.value_type]
    assert parts == list(Evidence.__struct_fields__)
    parts = [field.name for field in SCHEMA.field("turns").type.value_type]
    assert parts == list(Turn.__struct_fields__)


def test_older_files_have_samples_of_one_question_and_the_same_hash(tmp_path: Path) -> None:
    new, old = tmp_path / "new.parquet", tmp_path / "old.parquet"
    new.write_bytes(shard_bytes([sample()]))
    pq.write_table(pq.read_table(new).drop_columns(["turns"]), old)
    assert read_rows(old) == read_rows(new) == [sample().row()]
    assert read_rows(old, columns=["id", "turns"]) == [{"id": "x", "turns": []}]
    without = {name: value for name, value in sample().row().items() if name != "turns"}
    assert samples_sha256([without]) == samples_sha256([sample().row()])
    turn = Turn(level="", history=0, question="q", answer="a", answers=["a"], metric="m", input_tokens=1, evidence=[])
    assert samples_sha256([sample(turns=[turn]).row()]) != samples_sha256([sample().row()])


@settings(max_examples=50, deadline=None)
@given(st.lists(SAMPLES, max_size=4))
def test_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    path = tmp_path_factory.mktemp("table") / "shard.parquet"
    path.write_bytes(shard_bytes(samples))
    assert read_rows(path) == [one.row() for one in samples]
    assert count_rows(path) == len(samples)
    assert rows_of(path.read_bytes()) == read_rows(path)


@settings(max_examples=50, deadline=None)
@given(st.lists(SAMPLES, min_size=1, max_size=4), st.data())
def test_the_hash_is_of_the_samples_and_not_of_what_wrote_them(samples: list[Sample], data: st.DataObject) -> None:
    found = samples_sha256([one.row() for one in samples])
    for options in ({"compression": "none"}, {"compression": "gzip", "version": "1.0"}, {"row_group_size": 1}):
        sink = io.BytesIO()
        pq.write_table(to_table(samples), sink, **options)
        assert samples_sha256(rows_of(sink.getvalue())) == found
    which = data.draw(st.integers(0, len(samples) - 1))
    column = data.draw(st.sampled_from(Sample.__struct_fields__))
    value = data.draw(FIELDS[column].filter(lambda value: value != getattr(samples[which], column)))
    changed = [structs.replace(one, **{column: value}) if i == which else one for i, one in enumerate(samples)]
    assert samples_sha256([one.row() for one in changed]) != found


def by_json(rows: list[dict[str, Any]]) -> str:
    """The hash of rows, written by ``json`` alone, without a column that older files lack where it is empty."""
    rows = [{name: value for name, value in row.items() if name != "turns" or value} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n" for row in rows]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@settings(max_examples=50, deadline=None)
@given(st.lists(SAMPLES, max_size=4))
def test_the_hash_is_that_of_json_with_sorted_keys(samples: list[Sample]) -> None:
    rows = [one.row() for one in samples]
    assert samples_sha256(rows) == by_json(rows)


def test_the_hash_is_that_of_json_for_each_character() -> None:
    """Whatever encodes texts, it escapes the same characters in the same way."""
    text = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    rows = [sample(prompt=text[first : first + 100_000]).row() for first in range(0, len(text), 100_000)]
    assert samples_sha256(rows) == by_json(rows)


def test_same_samples_give_the_same_bytes() -> None:
    samples = [sample(index=i, prompt=f"prompt {i} " * 1000) for i in range(5)]
    assert shard_bytes(samples) == shard_bytes(list(samples))
    assert shard_bytes(samples) != shard_bytes(samples[::-1])


def test_files_are_compressed() -> None:
    content = shard_bytes([sample(prompt="the same words again and again " * 10_000)])
    assert len(content) < 20_000
    metadata = pq.read_metadata(io.BytesIO(content))
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}


def test_unpacked_size_is_about_that_of_the_texts() -> None:
    assert 60_000 < unpacked_bytes(io.BytesIO(shard_bytes([sample(prompt="words " * 10_000)]))) < 70_000


def test_some_rows_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(shard_bytes([sample(index=i) for i in range(5)]))
    assert [row["index"] for row in read_rows(path, [3, 0])] == [3, 0]
    assert [row["index"] for row in read_rows(path)] == [0, 1, 2, 3, 4]


def test_table_has_the_declared_types() -> None:
    assert to_table([]).schema.equals(SCHEMA)
    assert to_table(sample(index=i) for i in range(2)).schema.equals(SCHEMA)


def test_what_is_no_such_file_is_a_data_error(tmp_path: Path) -> None:
    good = shard_bytes([sample()])
    table = pq.read_table(io.BytesIO(good))
    latin = pa.array([b"caf\xe9"]).cast(pa.string(), safe=False)
    files = {
        "none": None,
        "empty": b"",
        "words": b"no Parquet at all, but long enough to be looked at",
        "cut": good[: len(good) // 2],
        "tail": good[len(good) // 2 :],
        "column missing": to_bytes(table.drop_columns(["seed"])),
        "column too many": to_bytes(table.append_column("more", pa.array([1]))),
        "other order": to_bytes(table.select(SCHEMA.names[::-1])),
        "other type": to_bytes(table.set_column(2, "index", pa.array(["1"]))),
        "no Unicode": to_bytes(table.set_column(6, "prompt", latin)),
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.parquet"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.parquet"):
            read_rows(path)


def test_count_of_a_broken_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"no Parquet at all")
    for name in ("words", "none"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            count_rows(tmp_path / name)


def to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
