"""``sparse-tasks validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.output import Format, print_json

__all__ = ["validate"]

_SHOWN = 50


def validate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set folder.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Where the data set's tokenizer is here.", show_default="as recorded")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Processes that check files.", show_default="all cores")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.human,
) -> None:
    """Check a data set: files, schema, lengths, answers, uniqueness.

    Every prompt is encoded again, and every answer is derived again from its prompt alone.

    Exit code 1 if anything is wrong.
    """
    from rich.console import Console
    from rich.progress import Progress

    from sparse_tasks.evaluators.scoring import gold_score
    from sparse_tasks.generators.request import check_workers
    from sparse_tasks.generators.validation import validate_folder

    n_workers, console = check_workers(workers), Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("validating", total=None)
        report = validate_folder(folder, gold_score, tokenizer, n_workers, lambda rows: progress.advance(bar, rows))
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
        for problem in report.problems[:_SHOWN]:
            print(f"{problem.where}: {problem.what}")
        if len(report.problems) > _SHOWN:
            print(f"... and {len(report.problems) - _SHOWN} more; --format json lists all")
        n = len(report.problems)
        verdict = f"{n} problem{'s' * (n != 1)}" if n else "valid"
        print(f"{folder}: {verdict} ({report.files} files, {report.samples:,} samples, {report.tokens:,} tokens)")
    if report.problems:
        raise typer.Exit(1)
