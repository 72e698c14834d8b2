"""Publishing to a server that speaks the Hub's language, by the library that everybody uses."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import traceback

import pytest
from huggingface_hub import constants

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.hub.package import PackedFile, package
from sparse_tasks.hub.publish import HubError, Published, Repository, State, without_tokens
from tests.hub.server import READER, WRITER, FakeHub, Repo

# Of huggingface_hub 2.4, which hands files to its HTTP client in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

NAME = "org/data"


def put(data: Dataset, repository: Repository | None = None) -> tuple[State, Published]:
    repository, files = repository or Repository(NAME), package(data)
    state = repository.look(files)
    return state, repository.publish(state, files, "Publish")


def contents(data: Dataset) -> dict[str, bytes]:
    """Expected content of the repository."""
    return {
        file.path: file.source if isinstance(file.source, bytes) else file.source.read_bytes() for file in package(data)
    }


# --- results ---


def test_a_new_data_set_takes_one_commit(hub: FakeHub, data: Dataset) -> None:
    state, done = put(data)
    assert (state.exists, state.replaces, state.same) == (False, False, False)
    assert hub.repos[NAME].files() == contents(data)
    assert set(contents(data)) == {"README.md", "sparse_tasks.json", "eval.yaml", *data.manifest.files}
    assert hub.repos[NAME].messages == ["initial commit", "Publish"]
    assert done == Published(f"{hub.url}/datasets/{NAME}", hub.repos[NAME].refs["main"])
    assert not hub.repos[NAME].private


def test_the_same_bytes_again_need_no_commit_and_no_upload(hub: FakeHub, data: Dataset) -> None:
    put(data)
    before = len(hub.requests)
    state = Repository(NAME).look(package(data))
    assert state.same
    assert not state.replaces
    assert {method for method, _, _ in hub.requests[before:]} == {"GET"}


def test_publishing_needs_no_right_to_make_repositories(hub: FakeHub, data: Dataset) -> None:
    hub.repos[NAME] = Repo()
    state, _ = put(data)
    assert state.exists
    assert not state.replaces  # a new repository holds nothing but a file of the Hub's own
    assert hub.asked("POST", "/repos/create") == 0
    assert hub.repos[NAME].files() == contents(data)


def test_other_data_is_replaced_in_one_commit(hub: FakeHub, data: Dataset, other: Dataset) -> None:
    put(data)
    hub.repos[NAME].put("LICENSE", b"mine")
    state, _ = put(other)
    assert state.replaces
    assert set(state.removed) == set(data.manifest.files)
    assert hub.repos[NAME].files() == contents(other) | {"LICENSE": b"mine"}
    assert hub.repos[NAME].messages[-2:] == ["add LICENSE", "Publish"]
    assert Repository(NAME).look(package(other)).same


@pytest.mark.parametrize("path", ["README.md", "data/train.parquet", "weights.bin"])
def test_whatever_else_a_repository_holds_is_other_data(hub: FakeHub, data: Dataset, path: str) -> None:
    hub.repos[NAME] = Repo()
    hub.repos[NAME].put(path, b"of somebody else")
    assert Repository(NAME).look(package(data)).replaces


def test_a_card_that_somebody_changed_is_not_replaced_without_asking(hub: FakeHub, data: Dataset) -> None:
    put(data)
    hub.repos[NAME].put("README.md", b"---\nlicense: mit\n---\nedited")
    state = Repository(NAME).look(package(data))
    assert [file.path for file in state.sent] == ["README.md"]
    assert state.replaces


def test_a_private_repository_stays_private(hub: FakeHub, data: Dataset) -> None:
    put(data, Repository(NAME, private=True))
    assert hub.repos[NAME].private
    assert Repository(NAME, private=True).look(package(data)).same
    hub.repos["org/public"] = Repo()
    with pytest.raises(UsageError, match=r"private: 'org/public' is public already"):
        Repository("org/public", private=True).look(package(data))
    assert hub.repos["org/public"].files() == {}


# --- branches and pull requests ---


def test_a_branch_is_made_and_main_stays(hub: FakeHub, data: Dataset, other: Dataset) -> None:
    put(data)
    state, done = put(other, Repository(NAME, revision="v2/beta"))
    assert not state.replaces
    assert hub.repos[NAME].files() == contents(data)
    assert hub.repos[NAME].files("v2/beta") == contents(other)
    assert done.address == f"{hub.url}/datasets/{NAME}/tree/v2/beta"
    assert Repository(NAME, revision="v2/beta").look(package(data)).replaces


def test_a_branch_left_by_a_run_that_was_stopped_is_not_asked_about(
    hub: FakeHub, data: Dataset, other: Dataset
) -> None:
    put(data)
    hub.repos[NAME].refs["v2"] = hub.repos[NAME].refs["main"]
    state, _ = put(other, Repository(NAME, revision="v2"))
    assert not state.replaces
    assert hub.repos[NAME].files() == contents(data)


def test_a_branch_in_a_new_repository(hub: FakeHub, data: Dataset) -> None:
    put(data, Repository(NAME, revision="v2"))
    assert hub.repos[NAME].files() == {}
    assert hub.repos[NAME].files("v2") == contents(data)


def test_a_branch_of_what_main_holds_already_needs_no_commit(hub: FakeHub, data: Dataset) -> None:
    put(data)
    state, done = put(data, Repository(NAME, revision="v2"))
    assert not state.same
    assert not state.sent
    assert hub.repos[NAME].refs["v2"] == hub.repos[NAME].refs["main"] == done.commit
    assert Repository(NAME, revision="v2").look(package(data)).same


def test_a_pull_request_changes_nothing_and_needs_no_right_to(
    hub: FakeHub, data: Dataset, other: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(data)
    monkeypatch.setenv("HF_TOKEN", READER)
    state, done = put(other, Repository(NAME, create_pr=True))
    assert not state.replaces
    assert done.address == f"{hub.url}/datasets/{NAME}/discussions/1"
    assert hub.repos[NAME].files() == contents(data)
    assert hub.repos[NAME].files("refs/pr/1") == contents(other)


def test_a_pull_request_needs_something_to_change(hub: FakeHub, data: Dataset) -> None:
    with pytest.raises(UsageError, match="leave --create-pr out"):
        Repository(NAME, create_pr=True).look(package(data))
    hub.repos[NAME] = Repo()
    with pytest.raises(UsageError, match="revision: 'v2' is not a branch"):
        Repository(NAME, revision="v2", create_pr=True).look(package(data))
    assert hub.repos[NAME].refs.keys() == {"main"}


# --- failures ---


def test_an_interrupted_upload_resumes(hub: FakeHub, data: Dataset) -> None:
    hub.uploads = 1
    with pytest.raises(HubError, match=r"the Hub answered 400 \(.*The upload was cut off.*give the same command again"):
        put(data)
    assert hub.repos[NAME].files() == {}
    assert hub.asked("PUT", "/_store/") == 1
    hub.uploads = None
    state, _ = put(data)
    assert not state.replaces
    # Each file has been sent once.
    assert hub.asked("PUT", "/_store/") == len(data.manifest.files) == len(hub.store)
    assert hub.repos[NAME].files() == contents(data)
    assert hub.repos[NAME].messages == ["initial commit", "Publish"]


def test_many_files_are_sent_in_parts_each_once_and_appear_together(hub: FakeHub) -> None:
    """However many files there are, few requests but theirs are made, and those that arrived are not sent again."""
    contents = {f"2048/ruler_vt-test-{i:05d}-of-00600.parquet": b"%d" % i for i in range(600)}
    files = [PackedFile(path, text, len(text), hashlib.sha256(text).hexdigest()) for path, text in contents.items()]
    repository, arrived = Repository(NAME), 0
    for hub.uploads in (150, 400, None):
        before = len(hub.requests)
        with contextlib.suppress(HubError) if hub.uploads else contextlib.nullcontext():
            repository.publish(repository.look(files), files, "Publish")
        taken = sum(method == "PUT" and status == 200 for method, _, status in hub.requests[before:])
        assert taken == (hub.uploads or 600) - arrived
        assert sum(method != "PUT" for method, _, _ in hub.requests[before:]) < 16
        arrived += taken
        assert hub.repos[NAME].files() == ({} if hub.uploads else contents)
    assert hub.repos[NAME].messages == ["initial commit", "Publish"]
    before = len(hub.requests)
    assert repository.look(files).same
    assert len(hub.requests) - before <= 2


@pytest.mark.parametrize(
    ("token", "reported"),
    [
        ("hf_wrongwrongwrong", "the Hub refuses the token"),
        ("a-token-of-another-kind", "the Hub refuses the token"),
        (READER, "the token may not write to org/data"),
        ("", "the Hub requires a token"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_an_invalid_token_is_reported_and_never_shown(
    hub: FakeHub,
    data: Dataset,
    token: str,
    reported: str,
    there: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if there:
        hub.repos[NAME] = Repo()
    hub.echo = True
    monkeypatch.setenv("HF_TOKEN", token)
    with caplog.at_level(logging.INFO), pytest.raises(HubError, match=reported) as caught:
        put(data)
    shown = [*capfd.readouterr(), caplog.text, "".join(traceback.format_exception(caught.value))]
    if token:
        assert not any(token in text for text in shown)
        assert "<token>" in str(caught.value)
    else:
        assert "HF_TOKEN" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.repos.keys() == ({NAME} if there else set())
    assert not hub.store


def test_concurrent_changes_are_not_overwritten(hub: FakeHub, data: Dataset, other: Dataset) -> None:
    put(data)
    hub.before_commit = lambda: hub.repos[NAME].put("LICENSE", b"mine")
    with pytest.raises(HubError, match="changed by somebody else meanwhile"):
        put(other)
    assert hub.repos[NAME].files() == contents(data) | {"LICENSE": b"mine"}


def test_files_omitted_by_the_hub_are_noticed(hub: FakeHub, data: Dataset) -> None:
    hub.repos[NAME] = Repo()
    hub.repos[NAME].put(".gitignore", b"sparse_tasks.json")
    with pytest.raises(HubError, match=r"does not hold sparse_tasks\.json as it was sent"):
        put(data)


def test_a_hub_that_cannot_be_reached(data: Dataset, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubError, match=r"org/data could not be published at http://127\.0\.0\.1:1: "):
        Repository(NAME).look(package(data))


def test_offline_is_respected(hub: FakeHub, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    Repository(NAME).check_online()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE: '1' forbids"):
        Repository(NAME).check_online()
    with pytest.raises(HubError):
        Repository(NAME).look(package(data))
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["", "data", "org/data/more", "./data", "org/data@v2", "org/da ta", "org/-data", "org/a--b", "org/x.git"]
)
def test_names_that_are_invalid_on_the_hub(name: str) -> None:
    with pytest.raises(UsageError, match="repository: "):
        Repository(name)


@pytest.mark.parametrize("revision", ["", "/v2", "v2/", "v 2", "v2\n", "ä", "a//b"])
def test_invalid_branches(revision: str) -> None:
    with pytest.raises(UsageError, match="revision: "):
        Repository(NAME, revision=revision)


def test_tokens_are_removed_from_any_text(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_tokens(f"Bearer {WRITER}!") == "Bearer <token>!"
    assert without_tokens(f"of another: {READER}") == "of another: <token>"
    monkeypatch.setenv("HF_TOKEN", " secret ")
    assert without_tokens("a secret") == "a <token>"
    monkeypatch.delenv("HF_TOKEN")
    assert without_tokens("a secret in hf_hub") == "a secret in hf_hub"
