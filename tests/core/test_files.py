"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sparse_tasks.core.errors import OutputError
from sparse_tasks.core.files import PARTIAL_PREFIX, remove_leftovers, write_whole


def test_only_the_content_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "deep" / "file", b"content")
    write_whole(tmp_path / "new" / "deep" / "file", b"other")
    write_whole(tmp_path / "empty", b"")
    assert [p.name for p in (tmp_path / "new" / "deep").iterdir()] == ["file"]
    assert (tmp_path / "new" / "deep" / "file").read_bytes() == b"other"
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_follows_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "file", b"content")
    finally:
        assert os.umask(before) == mask
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_failure_at_any_step_leaves_the_old_file(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match=r"cannot write .*file: No space left on device") as error:
        write_whole(tmp_path / "file", b"new")
    assert error.value.exit_code == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


def test_impossible_path_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder", Path("/proc/file")):
        with pytest.raises(OutputError, match=f"cannot write {path}: "):
            write_whole(path, b"new")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    kept = [".hidden", "file", "4096/.hidden", "4096/file", ".sparse_tasks.lock", f"4096/deep/{PARTIAL_PREFIX}x"]
    for name in [*kept, f"{PARTIAL_PREFIX}abc", f"4096/{PARTIAL_PREFIX}def"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
