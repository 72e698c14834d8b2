"""Paths as they were given are paths like others, and say their "./"."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from sparse_tasks.core.paths import GivenPath, as_given, to_path


def test_derived_paths_keep_the_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = to_path("./a/b")
    folder.mkdir(parents=True)
    (folder / "c.txt").touch()
    assert f"{folder}" == os.fspath(folder) == "./a/b"
    assert f"{folder.parent}" == "./a"
    assert f"{folder.parent.parent}" == "."
    assert [str(path) for path in (*folder.iterdir(), *folder.glob("*"), *folder.rglob("*.txt"))] == ["./a/b/c.txt"] * 3
    assert str((folder / "c.txt").with_suffix(".json")) == "./a/b/c.json"
    assert str((folder / "c.txt").relative_to(folder)) == "c.txt"
    assert str(folder.absolute()) == str(tmp_path / "a" / "b")
    assert str(folder.resolve()) == str((tmp_path / "a" / "b").resolve())


def test_a_given_path_equals_the_path() -> None:
    given, plain = GivenPath("./a/b"), Path("a/b")
    assert given == plain
    assert plain == given
    assert given == GivenPath("a/b")
    assert given != Path("a")
    assert len({given, plain}) == 1
    assert pickle.loads(pickle.dumps(given)) == plain
    assert str(pickle.loads(pickle.dumps(given))) == "./a/b"


@pytest.mark.parametrize("words", [["-o", "./x"], ["-o./x"], ["--output=./x"], ["./x"], ["y", "./x/"]])
def test_a_value_is_shown_as_on_the_command_line(words: list[str]) -> None:
    assert str(as_given(Path("x"), words)) == "./x"
    assert list(map(str, as_given([Path("y"), Path("x/z")], words))) == ["y", "./x/z"]
    assert as_given("x", words) == "x"
    assert as_given(None, words) is None


@pytest.mark.parametrize("text", ["x", "../x", "/x/y", "."])
def test_other_paths_are_unchanged(text: str) -> None:
    assert type(to_path(text)) is type(Path())
    assert str(as_given(Path(text), [text])) == text
