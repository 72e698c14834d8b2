"""``sparse-tasks publish``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.output import warn
from sparse_tasks.cli.validate import CorpusOption, TokenizerOption, WorkersOption, check_folder, print_problems
from sparse_tasks.core.format import counted, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparse_tasks.evaluators.dataset import Dataset
    from sparse_tasks.hub.package import PackedFile
    from sparse_tasks.hub.publish import Repository, State


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Data set folder.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The data set's name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Branch to publish to; created if missing.", show_default="main"),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of changing the branch.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list files and sizes; needs no network.")] = False,
    i_have_the_rights: Annotated[
        bool, typer.Option("--i-have-the-rights", help="Publish other people's text whose licence is unclear.")
    ] = False,
    tokenizer: TokenizerOption = None,
    corpus: CorpusOption = None,
    workers: WorkersOption = None,
) -> None:
    """Put a data set on the Hugging Face Hub.

    The data set is validated first, then uploaded in one commit, with an eval.yaml for inspect_ai.

    The same command resumes a run that was stopped.

    Example: sparse-tasks publish sparse-tasks-64k my-name/sparse-tasks-64k
    """
    from sparse_tasks.core.errors import keeping
    from sparse_tasks.evaluators.dataset import open_dataset
    from sparse_tasks.hub.package import check_rights, package
    from sparse_tasks.hub.publish import Repository, progress_bars

    target = Repository(repository, revision, create_pr, private)
    if not dry_run:
        target.check_online()
    report = check_folder(folder, tokenizer, workers, corpus or [])
    if report.problems:
        print_problems(folder, report)
        warn("nothing was published")
        raise typer.Exit(1)
    dataset = open_dataset(str(folder))
    check_rights(dataset.manifest.corpora or [], i_have_the_rights)
    files = package(dataset)
    if dry_run:
        _print_plan(files, target)
        return
    state = target.look(files)
    if state.same:
        print(f"{repository} already holds the same files; nothing to do.")
        _print_address(target.address, dataset, target)
        return
    if state.replaces and not overwrite:
        _ask(target, state)
    sent = keeping(repository, lambda: "what was uploaded; the last step publishes it")
    with progress_bars(sys.stderr.isatty()), sent:
        done = target.publish(state, files, f"Publish {_name(dataset)}")
    n = len(state.sent)
    did = f"uploaded {counted(n, 'file')} ({size(sum(file.size for file in state.sent))})" if n else "uploaded nothing"
    if state.removed:
        did += f", removed {len(state.removed)}"
    print(f"{repository}: {did}, commit {done.commit[:12]}")
    _print_address(done.address, dataset, target)


def _ask(target: Repository, state: State) -> None:
    """Ask before other data is replaced."""
    from sparse_tasks.core.errors import UsageError

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "repository",
            target.name,
            "holds other data; use --overwrite to replace it, --revision for another branch, or another name",
        )
    warn(f"{target.address} holds other data.")
    warn(f"{len(state.sent)} files would be uploaded, {len(state.removed)} removed; the history keeps the old ones.")
    if not typer.confirm("Replace it?", err=True):
        warn("nothing was published")
        raise typer.Exit(1)


def _print_plan(files: Sequence[PackedFile], target: Repository) -> None:
    for file in files:
        print(f"{size(file.size):>12}  {file.path}")
    total = size(sum(file.size for file in files))
    print(f"{total:>12}  in {counted(len(files), 'file')} for {target.address}; nothing was uploaded.")


def _print_address(address: str, dataset: Dataset, target: Repository) -> None:
    print(address)
    if target.create_pr:
        return
    revision = "" if target.revision is None else f", revision={target.revision!r}"
    print("\nfrom datasets import load_dataset")
    print(f"data = load_dataset({target.name!r}, {_name(dataset)!r}, split='test'{revision})")


def _name(dataset: Dataset) -> str:
    """Configuration of all tasks at the first length."""
    from sparse_tasks.core.length import label

    return label(dataset.manifest.request.lengths[0])
