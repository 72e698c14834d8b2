"""Files that go to the Hub, and those that never do."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import Corpus
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.hub.package import PackedFile, check_rights, package

CLEAR = Corpus(name="squad", sha256="0" * 64, origin="hub", revision="1", licence="CC-BY-SA-4.0")
UNCLEAR = replace(CLEAR, name="toefl", licence=None)


def test_only_the_data_set_is_packed(data: Dataset, tmp_path: Path) -> None:
    path = shutil.copytree(data.path, tmp_path / "data")
    for name in ("notes.txt", "eval.yaml", ".sparse_tasks.lock", "3072/.hidden"):
        (path / name).write_text("mine")
    files = package(open_dataset(str(path)))
    assert [file.path for file in files[:3]] == ["README.md", "eval.yaml", "sparse_tasks.json"]
    assert [file.path for file in files[3:]] == list(data.manifest.files)
    assert [(file.path, file.sha256) for file in files] == [(file.path, file.sha256) for file in package(data)]
    for file in files:
        content = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)


def test_a_file_that_changed_since_is_not_published(data: Dataset, tmp_path: Path) -> None:
    path = shutil.copytree(data.path, tmp_path / "data")
    opened, last = open_dataset(str(path)), list(data.manifest.files)[-1]
    (path / last).write_bytes(b"other")
    with pytest.raises(DataError, match="manifest"):
        package(opened)
    (path / last).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        package(opened)


def test_bytes_are_named_as_git_names_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some\x00bytes\n")
    named = subprocess.run(["git", "hash-object", "--no-filters", path], capture_output=True, text=True, check=True)
    for source in (path, path.read_bytes()):
        assert PackedFile("file", source, 11, "").git_sha1() == named.stdout.strip()


def test_text_without_a_clear_licence_is_not_published() -> None:
    check_rights([], have_rights=False)
    check_rights([CLEAR], have_rights=False)
    check_rights([CLEAR, UNCLEAR], have_rights=True)
    with pytest.raises(UsageError, match=r"corpus: 'toefl' has no clear licence.*--i-have-the-rights"):
        check_rights([CLEAR, UNCLEAR], have_rights=False)
