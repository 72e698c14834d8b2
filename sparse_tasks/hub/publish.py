"""Upload of a data set to the Hugging Face Hub in one commit.

Large files are sent before the commit, and the Hub keeps those that arrived, so that a run that was stopped is resumed.
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

# Made by the Hub with the repository; it says which files are large.
_ATTRIBUTES = ".gitattributes"
_MAIN = "main"
_AGAIN = "give the same command again, which sends only what has not arrived"
_LOG_IN = "set HF_TOKEN, or log in with: hf auth login"


class HubError(SparseTasksError):
    """The Hub cannot be reached, or refuses; its content is unchanged."""


@dataclass(frozen=True)
class State:
    """A repository compared with the files to publish.

    Attributes:
        exists: Whether the repository exists.
        branch: Whether it has the branch.
        commit: Last commit of the branch; of ``main`` where the branch is still to be made.
        sent: Files that are missing or differ.
        removed: Paths of data files that do not belong to the data set.
        replaces: Whether publishing replaces or removes other content.
    """

    exists: bool
    branch: bool
    commit: str | None
    sent: tuple[PackedFile, ...]
    removed: tuple[str, ...] = ()
    replaces: bool = False

    @property
    def same(self) -> bool:
        """Whether nothing is to be done."""
        return self.branch and not self.sent and not self.removed


@dataclass(frozen=True)
class Published:
    """The outcome.

    Attributes:
        address: Web address of the data set or of the pull request.
        commit: The commit that was made; the branch's last one if none was.
    """

    address: str
    commit: str


class Repository:
    """A data set repository on the Hub, which need not exist.

    Args:
        name: ``ORG/NAME``.
        revision: Branch to publish to; None for ``main``.
        create_pr: Propose the change as a pull request instead of making it.
        private: Make the repository private.

    Raises:
        UsageError: The name is not valid on the Hub.
    """

    def __init__(self, name: str, revision: str | None = None, create_pr: bool = False, private: bool = False) -> None:
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.errors import HFValidationError

        if not is_hub_id(name) or "@" in name:
            raise UsageError(
                "repository", name, "is not the name of a data set; write ORG/NAME, and a branch as --revision"
            )
        try:
            hf_hub_url(name, CARD, repo_type="dataset")  # checks the name without a request
        except HFValidationError as error:
            raise UsageError("repository", name, f"is not a name that the Hub allows: {first_line(error)}") from error
        if revision is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision, re.ASCII):
            raise UsageError("revision", revision, "is not a valid branch; write letters, digits, -, _, . and /")
        self.name, self.revision, self.create_pr, self.private = name, revision, create_pr, private
        self.api = HfApi(library_name="sparse-tasks", library_version=__version__)

    @property
    def address(self) -> str:
        """Web address of the branch."""
        tree = "" if self.revision in (None, _MAIN) else f"/tree/{self.revision}"
        return f"{self.api.endpoint}/datasets/{self.name}{tree}"

    def check_online(self) -> None:
        """Refuse to go on if ``HF_HUB_OFFLINE`` is set.

        Raises:
            UsageError: It is.
        """
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise UsageError("HF_HUB_OFFLINE", "1", "forbids access to the Hub; unset it to publish, or add --dry-run")

    def look(self, files: Sequence[PackedFile]) -> State:
        """Compare the repository with the files to publish.

        Raises:
            UsageError: The repository does not allow what the options ask for.
            HubError: The Hub cannot be reached, or refuses.
        """
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self._errors():
            try:
                main = self.api.repo_info(self.name, repo_type="dataset")
            except RepositoryNotFoundError:
                if self.create_pr:
                    remedy = "is not on the Hub, or not visible with this token; leave --create-pr out to make it"
                    raise UsageError("repository", self.name, remedy) from None
                return State(False, self.revision in (None, _MAIN), None, tuple(files))
            if self.private and main.private is False:
                remedy = "is public already; make it private in its settings, or name another one"
                raise UsageError("private", self.name, remedy)
            head, branch = main.sha, True
            if self.revision is not None:
                try:
                    head = self.api.repo_info(self.name, repo_type="dataset", revision=self.revision).sha
                except RevisionNotFoundError:
                    if self.create_pr:
                        remedy = f"is not a branch of {self.name}, so it cannot take a pull request"
                        raise UsageError("revision", self.revision, remedy) from None
                    branch = False
            present = self._files(head)
        sent = tuple(file for file in files if not _same(file, present.get(file.path)))
        # Loaders treat other Parquet files as part of the data. Anything else is kept: a licence, a picture.
        others = set(present) - {file.path for file in files}
        removed = tuple(sorted(path for path in others if path.endswith(".parquet")))
        # A branch at main's commit is new, perhaps from an interrupted run.
        filled = self.revision in (None, _MAIN) or (branch and head != main.sha)
        replaces = filled and not self.create_pr and bool(set(present) - {_ATTRIBUTES}) and bool(sent or removed)
        return State(True, branch, head, sent, removed, replaces)

    def publish(self, state: State, files: Sequence[PackedFile], message: str) -> Published:
        """Create the repository and the branch if needed, upload missing files, and make one commit.

        Args:
            state: Result of ``look``; if the branch has changed since, nothing is done.
            files: All files to publish.
            message: Commit message.

        Raises:
            HubError: The Hub cannot be reached, or refuses.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._errors():
            commit = state.commit
            if not state.exists:
                # None leaves it to the default of the organisation.
                self.api.create_repo(self.name, repo_type="dataset", private=self.private or None, exist_ok=True)
                commit = self.api.repo_info(self.name, repo_type="dataset").sha
            if not state.branch and self.revision is not None:
                self.api.create_branch(self.name, repo_type="dataset", branch=self.revision, exist_ok=True)
            if commit is not None and not state.sent and not state.removed:
                return Published(self.address, commit)  # a new branch with main's content
            made = self.api.create_commit(
                self.name,
                [
                    *(CommitOperationAdd(file.path, file.source) for file in state.sent),
                    *(CommitOperationDelete(path) for path in state.removed),
                ],
                commit_message=message,
                repo_type="dataset",
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=commit,
            )
            present = self._files(made.oid)
        # A .gitignore in the repository makes the Hub omit files silently, for instance.
        if missing := [file.path for file in files if not _same(file, present.get(file.path))]:
            raise HubError(f"{self.name} does not hold {missing[0]} as it was sent, in commit {made.oid}")
        return Published(made.pr_url if self.create_pr and made.pr_url else self.address, made.oid)

    def _files(self, commit: str | None) -> dict[str, RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(self.name, repo_type="dataset", recursive=True, revision=commit)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of a request into one line without tokens."""
        from huggingface_hub.errors import HfHubHTTPError

        # Base classes of all errors of the library's HTTP client, whichever it is.
        bases = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
        kinds: tuple[type[Exception], ...] = (*bases, OSError, ValueError, RuntimeError)
        try:
            yield
        except kinds as error:
            # Not "from error": the chained server message might contain the token.
            raise HubError(without_tokens(self._explain(error))) from None

    def _explain(self, error: BaseException) -> str:
        from huggingface_hub import get_token
        from huggingface_hub.errors import HfHubHTTPError

        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HfHubHTTPError):
            cause = cause.__cause__
        if cause is None:
            while error.__cause__ is not None:
                error = error.__cause__
            said = first_line(error) if isinstance(error, Exception) else type(error).__name__
            return f"{self.name} could not be published at {self.api.endpoint}: {said}; {_AGAIN}"
        said = " ".join((cause.server_message or first_line(cause)).split())[:300]
        match cause.response.status_code:
            case 401 if get_token() is None:
                return f"the Hub requires a token ({said}); {_LOG_IN}"
            case 401:
                where = f"{self.api.endpoint}/settings/tokens"
                return f"the Hub refuses the token ({said}); make one that may write at {where}, then {_LOG_IN}"
            case 403:
                return f"the token may not write to {self.name} ({said}); take one that may, or add --create-pr"
            case 404:
                return f"{self.name} is not on the Hub, or not visible with this token ({said})"
            case 412:
                return f"{self.name} was changed by somebody else meanwhile ({said}); give the same command again"
            case status:
                return f"{self.name} could not be published: the Hub answered {status} ({said}); {_AGAIN}"


def without_tokens(text: str) -> str:
    """``text`` with access tokens replaced."""
    from huggingface_hub import get_token

    for token in {get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")}:
        if token and token.strip():
            text = text.replace(token.strip(), "<token>")
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "<token>", text)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the progress bars of ``huggingface_hub`` within the context."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    with warnings.catch_warnings():
        # It warns if HF_HUB_DISABLE_PROGRESS_BARS takes precedence.
        warnings.simplefilter("ignore")
        disable_progress_bars()
        try:
            yield
        finally:
            enable_progress_bars()


def _same(file: PackedFile, present: RepoFile | None) -> bool:
    if present is None or present.size != file.size:
        return False
    if present.lfs is not None:
        return str(present.lfs.sha256) == file.sha256
    return str(present.blob_id) == file.git_sha1()
