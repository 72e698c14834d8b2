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
        typer.Option(metavar="DATA", help="Where the data set is now.", show_default="where the runs found it"),
    ] = None,
    tolerance: ToleranceOption = 0.05,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the page.", show_default="names the model")
    ] = None,
    repeat: Annotated[
        list[Path] | None,
        typer.Option(
            "--repeat",
            metavar="RUN",
            help="A dense run once more, in other batches or by another engine: serving variance. May be repeated.",
        ),
    ] = None,
    partial: PartialOption = False,
    format: Annotated[Format, typer.Option(help="How to print what was written.")] = Format.human,
) -> None:
    """Write what runs say of sparse attention as one HTML page.

    Score against sparsity, task by task; score against cost; certified sparsity; the samples that lost most.

    Sparse runs are held against the dense run of their model, if that is among the runs.

    The page needs no other file and no network.
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
