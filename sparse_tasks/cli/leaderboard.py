"""``sparse-tasks leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.generate import Progress, corpus_sources
from sparse_tasks.cli.output import Format, print_json
from sparse_tasks.cli.validate import CorpusOption, WorkersOption
from sparse_tasks.core.format import counted, size

if TYPE_CHECKING:
    from sparse_tasks.evaluators.records import Verdict

app = typer.Typer(
    help="Run a leaderboard: check submissions, build the board.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A submission.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="DATA",
            help="Data set of the runs: a folder, ORG/NAME, or a manifest (sparse_tasks.json), from which it "
            "is generated again. May be repeated.",
            show_default="generated again as the submission describes",
        ),
    ] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            help="A tokenizer to generate with, if it is not in the cache. May be repeated.", show_default=False
        ),
    ] = None,
    corpus: CorpusOption = None,
    workers: WorkersOption = None,
    format: Annotated[Format, typer.Option(help="Format of the verdict.")] = Format.human,
) -> None:
    """Check a submission: every number is computed again from its raw predictions.

    Exit codes: 0 accepted, 1 refused, 2 nothing could be checked.
    """
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.leaderboard.check import check as check_file
    from sparse_tasks.evaluators.leaderboard.regenerated import Watch, named
    from sparse_tasks.generators.again import Means
    from sparse_tasks.generators.corpora import find_corpora
    from sparse_tasks.generators.request import check_workers

    means = Means(tuple(tokenizer or ()), find_corpora(corpus_sources(corpus or ())), check_workers(workers))
    with Progress("checking") as bar:
        watch = Watch(bar.started, bar.made)
        with named(data or (), means, watch) as datasets:
            verdict = check_file(file, datasets, means, watch)
    if format is Format.json:
        print_json(to_builtins(verdict))
    else:
        _print(verdict)
    if not verdict.accepted:
        raise typer.Exit(1)


def _print(verdict: Verdict) -> None:
    print("ACCEPTED" if verdict.accepted else "REFUSED")
    for reason in verdict.reasons:
        print(f"  {reason.code}: {reason.where}: {reason.message}")
    for warning in verdict.warnings:
        print(f"  note, {warning.code}: {warning.where}: {warning.message}")
    if verdict.name is not None:
        print(f"{verdict.name}: {counted(verdict.runs, 'run')}, {counted(verdict.samples, 'prediction')} scored again")
        print(f"sha256 {verdict.file_sha256}")


@app.command("build")
def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of accepted submissions, *.json.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SITE", help="Folder to write.")] = Path("site"),
) -> None:
    """Build the board: static pages that need no server.

    Submissions are not checked again; check each before you accept it.
    """
    from sparse_tasks.evaluators.leaderboard.board import build as build_site

    built = build_site(folder, output)
    counts = f"{counted(built.submissions, 'submission')}, {counted(built.runs, 'run')}"
    print(f"{counts}: {output / 'index.html'} ({size(built.bytes)})")
