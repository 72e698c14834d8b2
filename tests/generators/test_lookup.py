"""One sample of a data set folder, found by task, index and length; errors list what exists."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import structs

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.lookup import find_sample
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.table import shard_bytes
from tests.generators.requests import make_request


@pytest.fixture(scope="module")
def sample(qwen: PromptTokenizer) -> Sample:
    request = make_request([3_000], ["ruler_vt"])
    return make_sample(request, qwen, request.tasks[0], 3_000, 0)


def write(folder: Path, sample: Sample, task: str, length: int, *shards: int) -> None:
    """Shards of this many rows each, numbered consecutively."""
    (folder / str(length)).mkdir(parents=True, exist_ok=True)
    index = 0
    for k, rows in enumerate(shards):
        samples = [
            structs.replace(
                sample, task=task, index=index + i, length=length, id=f"{task}-{length}-{index + i:05d}-" + "0" * 12
            )
            for i in range(rows)
        ]
        index += rows
        path = folder / str(length) / f"{task}-test-{k:05d}-of-{len(shards):05d}.parquet"
        path.write_bytes(shard_bytes(samples))


@pytest.fixture(scope="module")
def dataset(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write(folder, sample, "ruler_vt", 4_096, 2, 2, 1)
    write(folder, sample, "ruler_vt", 65_536, 3)
    write(folder, sample, "ruler_vt", 10_000, 1)
    write(folder, sample, "story_multihop", 65_536, 1, 1)
    return folder


@pytest.mark.parametrize("index", range(5))
def test_the_index_counts_over_all_shards(index: int, dataset: Path) -> None:
    row = find_sample(dataset, "ruler_vt", index).row
    assert (row["index"], row["length"], row["task"]) == (index, 4_096, "ruler_vt")


def test_the_row_is_the_sample(dataset: Path, sample: Sample) -> None:
    row = find_sample(dataset, "ruler_vt", 2, "64k").row
    identity = f"ruler_vt-65536-00002-{'0' * 12}"
    assert row == structs.replace(sample, index=2, length=65_536, id=identity).row()


def test_without_a_length_the_shortest_is_taken_by_size_and_not_by_name(dataset: Path) -> None:
    assert find_sample(dataset, "ruler_vt", 0).row["length"] == 4_096
    assert find_sample(dataset, "story_multihop", 1).row["length"] == 65_536


@pytest.mark.parametrize(("text", "length"), [("4k", 4_096), ("4096", 4_096), ("10000", 10_000), ("64K", 65_536)])
def test_a_length_may_be_written_in_any_way(text: str, length: int, dataset: Path) -> None:
    assert find_sample(dataset, "ruler_vt", 0, text).row["length"] == length


@pytest.mark.parametrize("index", [5, 99, -1, 10**12])
def test_a_missing_index_lists_the_range(index: int, dataset: Path) -> None:
    with pytest.raises(UsageError, match=f"index: {index} is not there; choose from 0 to 4"):
        find_sample(dataset, "ruler_vt", index)


def test_a_missing_length_lists_the_others(dataset: Path) -> None:
    with pytest.raises(UsageError, match="length: '8k' does not exist; choose from 4k, 10000, 64k"):
        find_sample(dataset, "ruler_vt", 0, "8k")
    with pytest.raises(UsageError, match="length: '4k' does not exist; choose from 64k"):
        find_sample(dataset, "story_multihop", 0, "4k")
    with pytest.raises(UsageError, match="length: '8x' is not a length"):
        find_sample(dataset, "ruler_vt", 0, "8x")


@pytest.mark.parametrize(
    ("task", "remedy"),
    [
        ("ruler_v", "did you mean 'ruler_vt'?"),
        ("xyzzy", "choose from ruler_vt, story_multihop"),
        ("ruler_niah", "unknown"),
    ],
)
def test_a_missing_task_suggests_the_nearest(task: str, remedy: str, dataset: Path) -> None:
    with pytest.raises(UsageError, match=f"^task: {task!r} .*{re.escape(remedy)}"):
        find_sample(dataset, task, 0)


def test_a_folder_without_samples_is_refused(tmp_path: Path, dataset: Path) -> None:
    other = tmp_path / "other"
    (other / "notes").mkdir(parents=True)
    file = dataset / "10000" / "ruler_vt-test-00000-of-00001.parquet"
    shutil.copy(file, other)
    shutil.copy(file, other / "notes")
    (other / "4096").mkdir()
    shutil.copy(file, other / "4096" / "something.parquet")
    for folder in (tmp_path / "nowhere", tmp_path, other, file):
        with pytest.raises(UsageError, match="holds no samples; name a folder written by generate") as caught:
            find_sample(folder, "ruler_vt", 0)
        assert (caught.value.field, caught.value.value) == ("data", str(folder))


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "other columns"])
def test_a_file_that_cannot_be_read_is_named(damage: str, tmp_path: Path, sample: Sample) -> None:
    write(tmp_path, sample, "ruler_vt", 4_096, 1)
    (path,) = tmp_path.glob("*/*.parquet")
    content = path.read_bytes()
    if damage == "other columns":
        pq.write_table(pa.table({"prompt": ["x"]}), path)
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"garbage" * 99}[damage])
    with pytest.raises(DataError, match=re.escape(str(path))):
        find_sample(tmp_path, "ruler_vt", 0)


def test_an_invalid_row_is_refused(tmp_path: Path, sample: Sample) -> None:
    # Data sets come from others; what is printed is checked first.
    write(tmp_path, structs.replace(sample, question_position="nowhere"), "ruler_vt", 4_096, 2)
    with pytest.raises(DataError, match="row 1: "):
        find_sample(tmp_path, "ruler_vt", 1)
