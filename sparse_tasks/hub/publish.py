"""Puts a data set on the Hugging Face Hub in one commit.

Large files are sent before the commit, and the Hub keeps those that arrived: after a run that was stopped, the next one
sends only the rest. Nothing of a data set can be seen before all of it is there.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparse_tasks import __version__
from sparse_tasks.core.errors import SparseTasksError, UsageError, first_line
from sparse_tasks.core.hub import is_hub_id
from sparse_tasks.generators.dataset import CARD
from sparse_tasks.hub.package import PackedFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

__all__ = ["HubError", "Published", "Repository", "State", "progress_bars", "without_tokens"]

# The Hub makes it with the repository; it says which files are large.
_OF_THE_HUB = ".gitattributes"
_MAIN = "main"


class HubError(SparseTasksError):
    """The Hub cannot be reached, or refuses; what it holds already stays as it is."""


@dataclass(frozen=True)
class State:
    """What a repository holds, compared with the files that are to be there.

    Attributes:
        exists: Whether there is such a repository.
        branch: Whether it has the branch.
        commit: Last commit of the branch; of ``main`` where the branch is still to be made.
        sent: The files that are missing or differ.
        removed: Paths of data files that do not belong to the data set.
        replaces: Whether publishing takes something away that stands nowhere else.
    """

    exists: bool
    branch: bool
    commit: str | None
    sent: tuple[PackedFile, ...]
    removed: tuple[str, ...] = ()
    replaces: bool = False

    @property
    def same(self) -> bool:
        """Whether everything is there already."""
        return self.branch and not self.sent and not self.removed


@dataclass(frozen=True)
class Published:
    """What was done.

    Attributes:
        address: Of the data set or of the pull request, for a browser.
        commit: Made by this; where there was only a branch to make, its last one.
    """

    address: str
    commit: str


class Repository:
    """A data set repository on the Hub, by its name; it need not exist.

    Args:
        name: ``ORG/NAME``.
        revision: Branch to publish to; None for ``main``.
        create_pr: Propose the change as a pull request instead of making it.
        private: Make the repository private.

    Raises:
        UsageError: The Hub allows no such name.
    """

    def __init__(self, name: str, revision: str | None = None, create_pr: bool = False, private: bool = False) -> None:
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.errors import HFValidationError

        if not is_hub_id(name) or "@" in name:
            raise UsageError(
                "repository", name, "is no name of a data set on the Hub; write ORG/NAME, and a branch as --revision"
            )
        try:
            hf_hub_url(name, CARD, repo_type="dataset")  # it checks the name, and asks nobody
        except HFValidationError as error:
            raise UsageError("repository", name, f"is no name that the Hub allows: {first_line(error)}") from error
        if revision is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision, re.ASCII):
            raise UsageError("revision", revision, "is no name of a branch; write letters, digits, -, _, . and /")
        self.name, self.revision, self.create_pr, self.private = name, revision, create_pr, private
        self.api = HfApi(library_name="sparse-tasks", library_version=__version__)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        tree = "" if self.revision in (None, _MAIN) else f"/tree/{self.revision}"
        return f"{self.api.endpoint}/datasets/{self.name}{tree}"

    def check_online(self) -> None:
        """See that the Hub may be asked at all.

        Raises:
            UsageError: ``HF_HUB_OFFLINE`` forbids it.
        """
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise UsageError("HF_HUB_OFFLINE", "1", "forbids to reach the Hub; unset it to publish, or add --dry-run")

    def look(self, files: Sequence[PackedFile]) -> State:
        """Compare what is there with what is to be there.

        Raises:
            UsageError: The repository cannot be used in the way that was asked for.
            HubError: The Hub cannot be reached, or refuses.
        """
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self._asking():
            try:
                main = self.api.repo_info(self.name, repo_type="dataset")
            except RepositoryNotFoundError:
                if self.create_pr:
                    raise UsageError(
                        "repository",
                        self.name,
                        "is not on the Hub, or not for this token to see, so no pull request can be made; "
                        "leave --create-pr out to make it",
                    ) from None
                return State(False, self.revision in (None, _MAIN), None, tuple(files))
            if self.private and main.private is False:
                raise UsageError(
                    "private", self.name, "is public already; make it private in its settings, or name another one"
                )
            head, branch = main.sha, True
            if self.revision is not None:
                try:
                    head = self.api.repo_info(self.name, repo_type="dataset", revision=self.revision).sha
                except RevisionNotFoundError:
                    if self.create_pr:
                        raise UsageError(
                            "revision", self.revision, f"is no branch of {self.name}, so no pull request can go there"
                        ) from None
                    branch = False
            there = self._files(head)
        sent = tuple(file for file in files if not _same(file, there.get(file.path)))
        # A loader would take other Parquet files for part of the data. Anything else may stay: a licence, a picture.
        strangers = set(there) - {file.path for file in files}
        removed = tuple(sorted(path for path in strangers if path.endswith(".parquet")))
        # A branch that stands where main stands has nothing of its own: it is new, perhaps from a run that was stopped.
        own = self.revision in (None, _MAIN) or (branch and head != main.sha)
        replaces = own and not self.create_pr and bool(set(there) - {_OF_THE_HUB}) and bool(sent or removed)
        return State(True, branch, head, sent, removed, replaces)

    def publish(self, state: State, files: Sequence[PackedFile], message: str) -> Published:
        """Make the repository and the branch if need be, send what is missing, and make one commit of it.

        Args:
            state: What ``look`` has found; where somebody else has changed the branch since, nothing is done.
            files: All that is to be there afterwards.
            message: Of the commit.

        Raises:
            HubError: The Hub cannot be reached, or refuses.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._asking():
            commit = state.commit
            if not state.exists:
                # Without a wish the Hub decides: organisations have a visibility of their own.
                self.api.create_repo(self.name, repo_type="dataset", private=self.private or None, exist_ok=True)
                commit = self.api.repo_info(self.name, repo_type="dataset").sha
            if not state.branch and self.revision is not None:
                self.api.create_branch(self.name, repo_type="dataset", branch=self.revision, exist_ok=True)
            if commit is not None and not state.sent and not state.removed:
                return Published(self.address, commit)  # a new branch of what main holds already
            made = self.api.create_commit(
                self.name,
                [
                    *(
                        CommitOperationAdd(
                            file.path, file.source if isinstance(file.source, bytes) else str(file.source)
                        )
                        for file in state.sent
                    ),
                    *(CommitOperationDelete(path) for path in state.removed),
                ],
                commit_message=message,
                repo_type="dataset",
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=commit,
            )
            there = self._files(made.oid)
        # A .gitignore in the repository, for one, makes the Hub leave files out without a word.
        if missing := [file.path for file in files if not _same(file, there.get(file.path))]:
            raise HubError(f"{self.name} does not hold {missing[0]} as it was sent, in commit {made.oid}")
        return Published(made.pr_url if self.create_pr and made.pr_url else self.address, made.oid)

    def _files(self, commit: str | None) -> dict[str, RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(self.name, repo_type="dataset", recursive=True, revision=commit)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn whatever goes wrong between here and the Hub into one line without tokens."""
        from huggingface_hub.errors import HfHubHTTPError

        # Its bases are what all errors of the library's HTTP client derive from, whichever client that is.
        bases = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
        wrong: tuple[type[Exception], ...] = (*bases, OSError, ValueError, RuntimeError)
        try:
            yield
        except wrong as error:
            # Not "from error": the server's words, in the chain, might hold the token.
            raise HubError(without_tokens(self._explain(error))) from None

    def _explain(self, error: BaseException) -> str:
        from huggingface_hub import get_token
        from huggingface_hub.errors import HfHubHTTPError

        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HfHubHTTPError):
            cause = cause.__cause__
        if cause is None:
            last = error
            while last.__cause__ is not None:
                last = last.__cause__
            said = first_line(last) if isinstance(last, Exception) else type(last).__name__
            return (
                f"{self.name} could not be published at {self.api.endpoint}: {said}; "
                "give the same command again, which sends only what has not arrived"
            )
        said = " ".join((cause.server_message or first_line(cause)).split())[:300]
        match cause.response.status_code:
            case 401 if get_token() is None:
                return f"the Hub wants a token ({said}); set HF_TOKEN, or log in with: hf auth login"
            case 401:
                return (
                    f"the Hub refuses the token ({said}); make one that may write at "
                    f"{self.api.endpoint}/settings/tokens and set HF_TOKEN, or log in with: hf auth login"
                )
            case 403:
                return (
                    f"the token may not write to {self.name} ({said}); take one that may, or propose the change with "
                    "--create-pr"
                )
            case 404:
                return f"{self.name} is not on the Hub, or not for this token to see ({said})"
            case 412:
                return f"{self.name} was changed by somebody else meanwhile ({said}); give the same command again"
            case status:
                return (
                    f"{self.name} could not be published: the Hub answered {status} ({said}); give the same command "
                    "again, which sends only what has not arrived"
                )


def without_tokens(text: str) -> str:
    """``text`` with every access token in it blotted out."""
    from huggingface_hub import get_token

    for token in {get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")}:
        if token and token.strip():
            text = text.replace(token.strip(), "<token>")
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "<token>", text)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Let ``huggingface_hub`` draw its progress bars, or not; afterwards all is as before."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    with warnings.catch_warnings():
        # It warns where HF_HUB_DISABLE_PROGRESS_BARS has the last word.
        warnings.simplefilter("ignore")
        disable_progress_bars()
        try:
            yield
        finally:
            enable_progress_bars()


def _same(file: PackedFile, there: RepoFile | None) -> bool:
    if there is None or there.size != file.size:
        return False
    if there.lfs is not None:
        return str(there.lfs.sha256) == file.sha256
    return str(there.blob_id) == file.git_sha1()
