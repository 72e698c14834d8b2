"""Errors say what is wrong and what would work, and cross process borders."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.core.errors import (
    DataError,
    OutputError,
    SparseTasksError,
    TooShortError,
    UsageError,
    keeping,
    keeping_nothing,
    kept,
    nearest,
    without_passwords,
)


@pytest.mark.parametrize(
    "error",
    [
        UsageError("length", "64x", "is not a length"),
        UsageError("seed", -1, "is out of range"),
        UsageError("set", None, "names no task"),
        TooShortError("length", 300, "is too short for story_multihop"),
        DataError("cannot be read"),
        OutputError("no space left"),
    ],
)
def test_errors_survive_pickling(error: SparseTasksError) -> None:
    # Workers send their errors to the parent; one that does not unpickle takes the whole pool down.
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (TooShortError, 2), (DataError, 1), (OutputError, 1)])
def test_bad_input_and_other_failures_have_different_exit_codes(kind: type[SparseTasksError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, SparseTasksError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hops", "hop"), ("HOP", "hop"), ("chian", "chain"), ("Sink ", "SINK"), ("windw", "window")],
)
def test_a_misspelt_name_suggests_the_nearest(name: str, expected: str) -> None:
    choices = ["hop", "chain", "SINK", "window"]
    assert nearest(name, choices).startswith(f"is unknown; did you mean {expected!r}?")


def test_an_unrelated_name_lists_all_choices_in_order() -> None:
    assert nearest("xyzzy", ["window", "hop"]) == "is unknown; choose from hop, window"
    assert nearest("", ["window", "hop"]) == "is unknown; choose from hop, window"


def test_many_choices_are_not_listed() -> None:
    names = [f"locale_{i:03d}" for i in range(100)]
    assert nearest("xyzzy", names) == "is unknown; 100 names are known"
    assert nearest("locale_0999", names) == "is unknown; did you mean 'locale_099'?"


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.text())
def test_the_name_suggested_is_one_of_the_choices(choices: list[str], name: str) -> None:
    remedy = nearest(name, choices)
    assert remedy.startswith("is unknown; ")
    if "did you mean " in remedy:
        assert any(f"did you mean {choice!r}?" in remedy for choice in choices)
    elif len(choices) <= 40:
        assert all(choice in remedy for choice in choices)


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SystemExit(143), OutputError("full"), MemoryError()])
def test_anything_that_ends_a_block_early_notes_what_is_kept(ending: BaseException) -> None:
    done: list[int] = []

    def command() -> None:
        with keeping("all", lambda: "1 run"), keeping("one", lambda: f"{len(done)} files" if done else ""):
            done.append(1)
            raise ending

    def program() -> None:
        try:
            command()
        except BaseException as error:
            raise SystemExit(1) from error

    with pytest.raises(SystemExit) as leaving:
        program()
    assert kept(leaving.value) == ["kept in one: 1 files", "kept in all: 1 run"]


def test_no_note_for_deleted_files_or_without_files() -> None:
    for words in ("", "8 files"):
        with pytest.raises(OutputError) as raised, keeping_nothing(), keeping("here", lambda words=words: words):  # type: ignore[misc]
            raise OutputError("full")
        assert kept(raised.value) == []
    with keeping("here", lambda: pytest.fail("nothing ended early")):
        pass


def test_commands_are_shown_without_passwords() -> None:
    words = ["--engine-arg", "base_url=https://me:secret@host/v1", "a@b"]
    assert without_passwords(words) == ["--engine-arg", "base_url=https://host/v1", "a@b"]
