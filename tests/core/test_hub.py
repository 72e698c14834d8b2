"""Names on the Hub are distinguished from paths, and any failure to fetch is one line."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.hub import fetching, is_hub_id


@pytest.mark.parametrize(
    "name",
    ["org/name", "Qwen/Qwen2.5-7B-Instruct", "a/b@main", "a/b@refs/pr/1", "a_b/c.d@0123456789abcdef", "a/b@v1.0"],
)
def test_a_hub_id_is_recognised(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    ["", "name", "./name", "../name", "/org/name", "org/name/", "org/name/more", "org/na me", "org/name@", "org\\name",
     "~/name", "org/name\n", "örg/name", ".hidden/name"],
)  # fmt: skip
def test_a_possible_path_is_not_a_hub_id(name: str) -> None:
    assert not is_hub_id(name)


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (LocalEntryNotFoundError("long\nstory"), "is not in the cache and the Hub cannot be reached"),
        (OfflineModeIsEnabled("no network\nset a variable"), "could not be fetched from the Hub: no network"),
        (HFValidationError("Repo id must be shorter"), "could not be fetched from the Hub: Repo id must be shorter"),
        (ConnectionError(), "could not be fetched from the Hub: ConnectionError"),
        (PermissionError(13, "Permission denied"), "could not be fetched from the Hub: [Errno 13] Permission denied"),
    ],
)
def test_a_failure_is_one_line_with_its_cause(raised: Exception, reported: str) -> None:
    with pytest.raises(UsageError) as caught, fetching("model", "org/name"):
        raise raised
    assert str(caught.value) == f"model: 'org/name' {reported}"
    assert caught.value.__cause__ is raised


def test_a_missing_file_is_left_to_the_caller() -> None:
    with pytest.raises(EntryNotFoundError) as caught, fetching("model", "org/name"):
        raise EntryNotFoundError("no such file")
    assert not isinstance(caught.value, UsageError)


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(KeyError), fetching("model", "org/name"):
        raise KeyError("mine")
    with fetching("model", "org/name"):
        pass
