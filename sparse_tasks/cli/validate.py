"""``sparse-tasks validate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.generate import corpus_sources
from sparse_tasks.cli.output import Format, print_json, warn
from sparse_tasks.cli.progress import Bar

if TYPE_CHECKING:
    from sparse_tasks.generators.validation import Report

_SHOWN = 50

TokenizerOption = Annotated[
    str | None, typer.Option(help="Folder of the data set's tokenizer on this machine.", show_default="as recorded")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", "-w", help="Number of processes that check files.", show_default="all cores")
]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SOURCE",
        help="Corpus of the samples, in which to look up their questions; as in generate.",
        show_default=False,
    ),
]
FullOption = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Encode every prompt with Hugging Face's encoder, not only one in a hundred of each file.",
    ),
]


def validate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set folder.")],
    tokenizer: TokenizerOption = None,
    corpus: CorpusOption = None,
    workers: WorkersOption = None,
    full: FullOption = False,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.human,
) -> None:
    """Check a data set: files, schema, lengths, answers, uniqueness.

    Every prompt is encoded again. Every answer is derived again from its prompt, or looked up in its corpus.

    The exit code is 1 if anything is wrong.
    """
    report = check_folder(folder, tokenizer, workers, corpus or [], full)
    if format is Format.json:
        print_json(
            {
                "valid": not report.problems,
                "files": report.files,
                "samples": report.samples,
                "tokens": report.tokens,
                "problems": [{"where": problem.where, "what": problem.what} for problem in report.problems],
            }
        )
    else:
        print_problems(folder, report)
    if report.problems:
        raise typer.Exit(1)


def check_folder(
    folder: Path, tokenizer: str | None, workers: int | None, corpora: Sequence[str] = (), full: bool = False
) -> Report:
    """Validate a data set behind a progress bar on standard error."""
    from sparse_tasks.evaluators.scoring import gold_score
    from sparse_tasks.generators.corpora import find_corpora
    from sparse_tasks.generators.request import check_workers
    from sparse_tasks.generators.validation import validate_folder

    n_workers = check_workers(workers)
    with Bar("validating") as bar:
        sources = find_corpora(corpus_sources(corpora)).values()
        return validate_folder(folder, gold_score, tokenizer, n_workers, bar.advance, sources, full, warn)


def print_problems(folder: Path, report: Report) -> None:
    """Print problems; a long list is truncated."""
    for problem in report.problems[:_SHOWN]:
        print(f"{problem.where}: {problem.what}")
    if len(report.problems) > _SHOWN:
        print(f"... and {len(report.problems) - _SHOWN} more; --format json lists all")
    n = len(report.problems)
    verdict = f"{n} problem{'s' * (n != 1)}" if n else "valid"
    print(f"{folder}: {verdict} ({report.files} files, {report.samples:,} samples, {report.tokens:,} tokens)")
