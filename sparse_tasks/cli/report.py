"""``sparse-tasks report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.analyze import RunsArgument, ToleranceOption
from sparse_tasks.cli.output import Format, PartialOption, check_output, print_json, warn


def report(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where the data set is now.", show_default="as recorded"),
    ] = None,
    tolerance: ToleranceOption = 0.05,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Title of the page.", show_default="with the model's name")
    ] = None,
    repeat: Annotated[
        list[Path] | None,
        typer.Option(
            "--repeat",
            metavar="RUN",
            help="Repeat of a dense run (other batches or engine), for the serving variance. May be repeated.",
        ),
    ] = None,
    partial: PartialOption = False,
    format: Annotated[Format, typer.Option(help="How to print what was written.")] = Format.human,
) -> None:
    """Write a report on runs under sparse attention as one HTML page.

    It shows score against sparsity by task, score against cost, certified sparsity, and the samples that lost most.

    Sparse runs are compared with the dense run of their model, if that is among the runs.

    The page needs no other files and no network.
    """
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.core.format import size
    from sparse_tasks.evaluators.analyses.analysis import Analysis
    from sparse_tasks.evaluators.analyses.table import read_runs
    from sparse_tasks.evaluators.report.page import make_report

    check_output(output, "page", b"<!doctype html>")
    read = read_runs(runs, repeat or [], partial=partial)
    page = make_report(Analysis(read, tolerance), data, title)
    write_whole(output, page)
    if format is Format.json:
        written = {"report": str(output), "bytes": len(page), "runs": len(read.runs), "samples": len(read.samples)}
        print_json(written | {"partial": read.partial()} if read.partial() else written)
    else:
        print(f"{output} ({size(len(page))})")
    for sentence in read.partial():
        warn(sentence)
