"""A data set is opened if it is whole and is what its manifest says; a selection holds what was asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.dataset import Dataset, Selection, open_dataset

MANIFEST = "sparse_tasks.json"
Refused = Callable[..., Any]


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a folder's manifest."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def picked(dataset: Dataset, selection: Selection) -> list[tuple[int, str, int]]:
    rows = dataset.rows(selection, ["length", "task", "index"])
    return [(row["length"], row["task"], row["index"]) for row in rows]


def in_hub_cache(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lay a folder out as the Hub's library does after a download; returns the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = root / "datasets--acme--needles"
    shutil.copytree(data, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    return commit


def test_a_folder_is_opened(data: Path) -> None:
    dataset = open_dataset(str(data))
    assert (dataset.name, dataset.path, dataset.revision) == (str(data), data, None)
    assert to_builtins(dataset.manifest) == json.loads((data / MANIFEST).read_bytes())


def test_the_hash_covers_the_samples_in_any_folder(dataset: Dataset, copy: Path) -> None:
    changed(copy, lambda manifest: manifest.update(card_sha256="0" * 64))
    changed(copy, lambda manifest: manifest.update(files=dict(reversed(manifest["files"].items()))))
    assert open_dataset(str(copy)).sha256 == dataset.sha256
    changed(copy, lambda manifest: next(iter(manifest["files"].values())).update(sha256="0" * 64, bytes=1))
    assert open_dataset(str(copy)).sha256 == dataset.sha256
    changed(copy, lambda manifest: next(iter(manifest["files"].values())).update(samples_sha256="0" * 64))
    assert open_dataset(str(copy)).sha256 != dataset.sha256


def test_other_parquet_of_the_same_samples_is_the_same_data_set(dataset: Dataset, copy: Path) -> None:
    def rewrite(manifest: dict[str, Any]) -> None:
        for name, entry in manifest["files"].items():
            table = pq.ParquetFile(copy / name).read()
            pq.write_table(table, copy / name, compression="gzip", version="1.0")
            content = (copy / name).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    changed(copy, rewrite)
    other = open_dataset(str(copy))
    assert {file.sha256 for file in other.manifest.files.values()}.isdisjoint(
        file.sha256 for file in dataset.manifest.files.values()
    )
    assert other.sha256 == dataset.sha256
    assert list(other.rows(other.select())) == list(dataset.rows(dataset.select()))


def test_an_older_folder_keeps_its_hash_which_identifies_a_newer_one(dataset: Dataset, copy: Path) -> None:
    changed(copy, lambda manifest: [entry.pop("samples_sha256") for entry in manifest["files"].values()])
    older = open_dataset(str(copy))
    files = {name: entry.sha256 for name, entry in dataset.manifest.files.items()}
    assert older.sha256 == hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest() != dataset.sha256
    assert older.is_called(older.sha256)
    assert dataset.is_called(older.sha256)
    assert dataset.is_called(dataset.sha256)
    assert not older.is_called(dataset.sha256)
    assert not dataset.is_called("0" * 64)


@pytest.mark.parametrize("name", ["nowhere", "no where/at all", "/no/such/folder", "a" * 300, "~nobody-has-this/data"])
def test_a_missing_folder_is_refused(name: str, refused: Refused) -> None:
    with refused(UsageError, "data: ", repr(name), "is not a ", "ORG/NAME"):
        open_dataset(name)


def test_a_file_is_refused(data: Path, refused: Refused) -> None:
    with refused(UsageError, "data: ", str(data / MANIFEST), "is not a folder"):
        open_dataset(str(data / MANIFEST))


def test_an_unfinished_folder_is_refused(copy: Path, refused: Refused) -> None:
    (copy / MANIFEST).unlink()
    with refused(UsageError, "data: ", str(copy), "holds no data set", MANIFEST):
        open_dataset(str(copy))


def test_a_manifest_that_leaves_out_samples_is_refused(copy: Path, refused: Refused) -> None:
    changed(copy, lambda manifest: [manifest["files"].pop(name) for name in list(manifest["files"])[:2]])
    with refused(DataError, str(copy), "1100", "ruler_niah", "0 samples, not 4"):
        open_dataset(str(copy))


def test_an_altered_file_is_found_when_it_is_read(copy: Path, refused: Refused) -> None:
    dataset = open_dataset(str(copy))
    name = sorted(name for name in dataset.manifest.files if name.startswith("1500/ruler_vt"))[-1]
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert len(list(dataset.rows(dataset.select(["ruler_niah"])))) == 8
    assert len(list(dataset.rows(dataset.select(limit=2)))) == 8  # the second file is not needed
    with refused(
        DataError, str(copy / name), "differs from the file that the manifest records", "sparse-tasks validate"
    ):
        list(dataset.rows(dataset.select()))
    (copy / name).unlink()
    with refused(DataError, str(copy / name), "cannot be read", "No such file"):
        list(dataset.rows(dataset.select()))


def test_a_sample_in_the_wrong_file_is_refused(copy: Path, refused: Refused) -> None:
    names = sorted(json.loads((copy / MANIFEST).read_bytes())["files"])
    shutil.copy(copy / names[2], copy / names[0])  # of the other task

    def swap(manifest: dict[str, Any]) -> None:
        manifest["files"][names[0]] = manifest["files"][names[2]]

    changed(copy, swap)
    dataset = open_dataset(str(copy))
    with refused(DataError, names[0], "ruler_vt"):
        list(dataset.rows(dataset.select(), ["id", "task", "length"]))


def test_a_data_set_of_the_hub_has_a_commit(
    data: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = in_hub_cache(tmp_path, data, monkeypatch)
    for name in ("acme/needles", f"acme/needles@{commit}", "acme/needles@main"):
        found = open_dataset(name)
        assert (found.name, found.revision, found.sha256) == (name, commit, dataset.sha256)
        assert len(list(found.rows(found.select()))) == 16


def test_a_folder_precedes_the_hub(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, tmp_path / "no-such/data")
    assert open_dataset("no-such/data").revision is None


BOTH, LENGTHS = ("ruler_niah", "ruler_vt"), (1100, 1500)


@pytest.mark.parametrize(
    ("tasks", "lengths", "limit", "expected"),
    [
        ([], [], None, Selection(BOTH, LENGTHS, None)),
        (["all"], [], None, Selection(BOTH, LENGTHS, None)),
        (["ruler"], [], None, Selection(BOTH, LENGTHS, None)),
        (["ruler_vt"], [], 1, Selection(("ruler_vt",), LENGTHS, 1)),
        (["ruler_vt", "ruler_niah", "ruler_vt"], ["1500", "1100"], None, Selection(BOTH, LENGTHS, None)),
        (["ruler_vt", "all"], [1500], 99, Selection(BOTH, (1500,), 99)),
    ],
)
def test_a_selection_is_in_the_data_sets_order(
    dataset: Dataset, tasks: list[str], lengths: list[str | int], limit: int | None, expected: Selection
) -> None:
    assert dataset.select(tasks, lengths, limit) == expected


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"tasks": ["story"]}, ["task: 'story'", "choose from all, ruler, ruler_niah, ruler_vt"]),
        ({"tasks": [""]}, ["task: ''", "choose from"]),
        ({"lengths": ["1500", "2x"]}, ["length: '2x'", "64k"]),
        ({"limit": -3}, ["limit: -3", "at least 1"]),
    ],
)
def test_an_impossible_selection_is_refused(
    dataset: Dataset, choice: dict[str, Any], words: list[str], refused: Refused
) -> None:
    with refused(UsageError, *words):
        dataset.select(**choice)


def test_rows_come_in_order_whatever_the_order_of_the_manifest(copy: Path) -> None:
    expected = [(length, task, index) for length in LENGTHS for task in BOTH for index in range(4)]
    assert picked(open_dataset(str(copy)), open_dataset(str(copy)).select()) == expected
    changed(copy, lambda manifest: manifest.update(files=dict(reversed(manifest["files"].items()))))
    dataset = open_dataset(str(copy))
    assert picked(dataset, dataset.select()) == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_a_limit_holds_across_files(dataset: Dataset, limit: int) -> None:
    assert [name for name in dataset.manifest.files if "00001-of-00002" in name]
    expected = [(1500, "ruler_vt", index) for index in range(min(limit, 4))]
    assert picked(dataset, dataset.select(["ruler_vt"], [1500], limit)) == expected


def test_only_requested_columns_are_read(dataset: Dataset, rows: list[dict[str, Any]]) -> None:
    some = list(dataset.rows(dataset.select(), ["prompt", "id"]))
    assert [set(row) for row in some] == [{"id", "prompt"}] * 16
    assert [row["prompt"] for row in some] == [row["prompt"] for row in rows]
    assert len(rows[0]) == 18
