"""Data sets that a maintainer does not have: generated again from their description in a submission or a manifest.

A forged description costs little to refuse: its content is bounded, ids follow from a sample's key without the sample,
and the generated samples must have the hash of those that the runs were over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from os.path import isfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import UNSET

from sparse_tasks.core.errors import BadFileError, DataError, SparseTasksError, UsageError
from sparse_tasks.core.json import read_json
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.records import Description, Manifest, convert, to_builtins
from sparse_tasks.evaluators.dataset import Dataset, identities, open_dataset
from sparse_tasks.evaluators.leaderboard.reading import SubmissionError, SubmissionFile, SubmittedRun, plain
from sparse_tasks.evaluators.records import Reason
from sparse_tasks.generators.again import MOST_TOKENS, Means, Recipe, recipe
from sparse_tasks.generators.dataset import Shard, fingerprint
from sparse_tasks.generators.run import Progress, generate_folder
from sparse_tasks.generators.sampling import check_lengths

MOST_SECONDS: Final = 3600
"""Time for a data set that is generated again."""

_FIRST: Final = 64  # predictions of a run whose ids are checked before anything is generated
_LARGEST: Final = 64 * 2**20


@dataclass(frozen=True)
class Watch:
    """Is notified of samples while they are generated.

    Attributes:
        started: Called with the files to be made.
        made: Called with finished samples.
    """

    started: Callable[[list[Shard]], None] = lambda missing: None
    made: Progress = lambda shard, samples, tokens: None


def refused(code: str, run: SubmittedRun, message: str) -> SubmissionError:
    """The error for a run whose data set is refused."""
    return SubmissionError(Reason(code=code, where=f"{run.name}: settings.dataset", message=plain(message, 400)))


def described(submission: SubmissionFile) -> dict[str, Description]:
    """The descriptions of a submission's data sets, by their computed fingerprints, not by claimed ones."""
    descriptions = submission.content.datasets
    return {} if descriptions is UNSET else {fingerprint(to_builtins(each)): each for each in descriptions}


class Regenerated:
    """The data sets of a submission, each generated when the first run over it is checked.

    Args:
        submission: The submission, which describes them.
        means: What is available for it.
        folder: An empty folder that they are written to.
        watch: Is told of samples.
    """

    def __init__(self, submission: SubmissionFile, means: Means, folder: Path, watch: Watch) -> None:
        self._described = described(submission)
        self._means, self._folder, self._watch = means, folder, watch
        self._recipes: dict[str, Recipe | UsageError] = {}
        self._made: dict[str, Dataset | str] = {}
        self._tokens = 0

    def description(self, run: SubmittedRun) -> Description:
        """The description of a run's data set, after checking that it can be generated and that ids agree.

        Raises:
            SubmissionError: It cannot be generated, or ids do not agree.
        """
        key = run.settings.dataset.fingerprint
        if key not in self._described:
            which = "is over a data set that the submission does not describe"
            if not self._described:
                which = "does not say how its data set was generated, as those of older versions do not"
            raise refused("dataset_unknown", run, f"{which}; name the data set, or its manifest, with --data")
        if key not in self._recipes:
            try:
                self._recipes[key] = recipe(self._described[key], self._means)
            except UsageError as error:
                self._recipes[key] = error
        found = self._recipes[key]
        if isinstance(found, UsageError):
            raise refused("dataset_unknown", run, _cannot(found))
        self._check_ids(run, found)
        return self._described[key]

    def dataset(self, run: SubmittedRun) -> Dataset:
        """The data set of a run with a description.

        Raises:
            SubmissionError: Its samples differ from the run's, or it is too large.
            OutputError: It cannot be written.
        """
        claimed = run.settings.dataset
        found = self._recipes[claimed.fingerprint]
        if claimed.fingerprint not in self._made and isinstance(found, Recipe):
            self._made[claimed.fingerprint] = self._make(claimed.fingerprint, found)
        made = self._made[claimed.fingerprint]
        if isinstance(made, str):
            raise refused("dataset_unknown", run, made)
        if not made.is_called(claimed.sha256):
            by, here = _versions(self._described[claimed.fingerprint]), _versions(made.manifest)
            message = f"is of other samples than those that {here} makes; it was made by {by}"
            remedy = "where the hash is of its files, as in older versions, name its manifest with --data"
            raise refused("dataset_differs", run, f"{message}; {remedy}")
        return made

    def _check_ids(self, run: SubmittedRun, found: Recipe) -> None:
        """Check the first ids of a run, which are specific to request, tokenizer and task versions."""
        for prediction in islice(run.predictions(), _FIRST):
            if prediction.id != (right := found.id(prediction.task, prediction.length, prediction.index)):
                what = f"{right!r} by its description" if right else "no sample of its data set"
                raise refused("dataset_differs", run, f"has a prediction for {prediction.id!r}: {what}")

    def _make(self, name: str, found: Recipe) -> Dataset | str:
        """The data set, or the reason why there is none."""
        self._tokens += found.tokens
        if self._tokens > MOST_TOKENS:
            return f"is one of several, of more than {MOST_TOKENS:,} tokens altogether; name it with --data"
        try:
            return _made(found, self._means, self._folder / name, self._watch)
        except (DataError, UsageError) as error:
            return _cannot(error)


@contextmanager
def regenerated(submission: SubmissionFile, means: Means, watch: Watch) -> Iterator[Regenerated]:
    """The data sets of a submission, while they are needed."""
    with _folder() as folder:
        yield Regenerated(submission, means, folder, watch)


@dataclass(frozen=True)
class FromManifest:
    """A data set given by its manifest; it is generated if a run is over it.

    Attributes:
        name: The manifest's file.
        manifest: The manifest.
        means: What is available for it.
        folder: Where to write it.
        watch: Is told of samples.
    """

    name: str
    manifest: Manifest
    means: Means
    folder: Path
    watch: Watch

    def is_called(self, sha256: str) -> bool:
        """Whether a hash is this data set's."""
        return sha256 in identities(self.manifest)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, under the hashes of its manifest.

        Raises:
            UsageError: It cannot be generated here, or has other samples.
            OutputError: It cannot be written.
        """
        made = _made(recipe(self.manifest.description, self.means), self.means, self.folder, self.watch)
        known = identities(self.manifest)
        # An older manifest only has hashes of files, which depend on the writer. Ids, token counts and scores show
        # whether runs are over these samples.
        samples_known = len(known) > 1
        if samples_known and made.sha256 != known[0]:
            here, theirs = _versions(made.manifest), _versions(self.manifest)
            remedy = f"is of other samples than those that {here} makes; it was made by {theirs}"
            raise UsageError("data", self.name, remedy)
        return replace(made, name=self.name, also=known)


@contextmanager
def named(names: Sequence[str], means: Means, watch: Watch) -> Iterator[list[Dataset | FromManifest]]:
    """The data sets that a maintainer names: folders, data sets on the Hub, and manifests.

    Raises:
        UsageError: One does not exist.
        BadFileError: One is damaged, or a file is not a manifest.
    """
    with _folder() as folder:
        yield [_named(name, means, folder / str(number), watch) for number, name in enumerate(names)]


def _named(name: str, means: Means, folder: Path, watch: Watch) -> Dataset | FromManifest:
    try:
        if not isfile(name):
            return open_dataset(name)
        if (path := to_path(name)).stat().st_size > _LARGEST:
            raise UsageError("data", name, f"is larger than {_LARGEST // 2**20} MiB; name a manifest, or a folder")
        return FromManifest(name, convert(read_json(path), Manifest, path), means, folder, watch)
    except DataError as error:  # the maintainer's own mistake: nothing was checked
        raise BadFileError(f"data: {error}") from error


def _made(found: Recipe, means: Means, folder: Path, watch: Watch) -> Dataset:
    # A length too short for one sample costs one sample, not all of them.
    check_lengths(replace(found.request, samples=1), found.tokenizer)
    began = time.monotonic()

    def made(shard: Shard, samples: int, tokens: int) -> None:
        if time.monotonic() - began > MOST_SECONDS:
            raise UsageError("data", shard.path, f"is not the last file, and {MOST_SECONDS:,} seconds have passed")
        watch.made(shard, samples, tokens)

    try:
        generate_folder(found.request, found.tokenizer, folder, means.workers, started=watch.started, progress=made)
    except (DataError, UsageError):
        raise
    except SparseTasksError as error:  # no space, or a dead process: no reason to refuse anything
        error.exit_code = 2
        raise
    return open_dataset(str(folder))


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="sparse-tasks-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _cannot(error: Exception) -> str:
    return f"cannot be generated again: {plain(error, 250)}; or name the data set with --data"


def _versions(of: Description) -> str:
    """Program and libraries, in words."""
    libraries = ", ".join(f"{name} {version}" for name, version in of.libraries.items())
    return f"{of.generator.name} {of.generator.version} ({libraries})"
