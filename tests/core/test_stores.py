"""Folders and places that fsspec knows are one to those who write to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_tasks.core.errors import OutputError, UsageError
from sparse_tasks.core.files import PARTIAL_PREFIX
from sparse_tasks.core.stores import Folder, Remote, Store, store_at
from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return store_at(f"s3://{server.new_bucket()}/deep/data")
    places = {"folder": tmp_path / "data", "file": f"file://{tmp_path}/data", "memory": f"memory://{tmp_path}/data/"}
    return store_at(places[request.param])


def test_files_have_the_last_written_content(store: Store) -> None:
    assert store.names() == []
    assert not store.has("a")
    with pytest.raises(FileNotFoundError):
        store.read("a")
    store.delete("a")
    for content in (b"old", b"", b"new" * 10_000):
        store.write("4096/deep.parquet", content)
        store.write("a", content)
        assert store.read("4096/deep.parquet") == store.read("a") == content
        with store.open("a") as file:
            file.seek(len(content) // 2)
            assert file.read() == content[len(content) // 2 :]
    assert store.names() == ["4096", "a"]
    assert store.has("4096/deep.parquet")
    store.delete("4096/deep.parquet")
    assert not store.has("4096/deep.parquet")
    assert store.names() == ["a"]


def test_only_unfinished_files_are_removed(store: Store) -> None:
    for name in ("a", ".hidden", f"{PARTIAL_PREFIX}x"):
        store.write(name, b"")
    store.clean()
    assert store.names() == [".hidden", "a"]


def test_name_is_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("data", "./data", str(tmp_path / "data")):
        assert store_at(given).name == given
    assert store_at("memory://data/").name == "memory://data"
    assert isinstance(store_at(f"file://{tmp_path}"), Folder)
    assert isinstance(store_at("memory://data"), Remote)


@pytest.mark.parametrize("address", ["nonsense://bucket/data", "s3://", "memory:///", "hf://datasets/me/data"])
def test_unknown_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=f"output: '{address}' (cannot be written to|has no path|would have a commit)"):
        store_at(address)


def test_missing_rights_or_bucket_are_reported(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OutputError, match=r"cannot write s3://nowhere/data/a: .*bucket does not exist"):
        store_at("s3://nowhere/data").write("a", b"")
    bucket = s3.new_bucket()
    with s3.closed():
        store = store_at(f"s3://{bucket}/data")
        for use in (lambda: store.write("a", b""), lambda: store.has("a"), lambda: store.read("a"), store.names):
            with pytest.raises(OutputError, match=rf"cannot (read|write) s3://{bucket}/data"):
                use()
    assert store_at(f"s3://{bucket}/data").names() == []
