"""``sparse-tasks analyze``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sparse_tasks.cli.completion import complete_analysis
from sparse_tasks.cli.output import Format, PartialOption, print_json, print_table

if TYPE_CHECKING:
    import pandas as pd

    from sparse_tasks.evaluators.analyses.columns import TextColumn

RunsArgument = Annotated[
    list[Path], typer.Argument(metavar="RUNS...", help="Scored runs, or folders of scored runs, such as a sweep.")
]
ToleranceOption = Annotated[
    float,
    typer.Option(metavar="T", help="Largest mean loss against dense attention that a certified sparsity may have."),
]


def analyze(
    runs: RunsArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="cost, written, pareto, iso_cost, certified, scaling, lengths or tradeoffs. May be repeated.",
            show_default="all",
            autocompletion=complete_analysis,
        ),
    ] = None,
    tolerance: ToleranceOption = 0.05,
    error: Annotated[float, typer.Option(metavar="E", help="Error rate of certified sparsities.")] = 0.05,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the tables as CSV files.")
    ] = None,
    partial: PartialOption = False,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.human,
) -> None:
    """Analyse runs: what sparsity costs and saves, by method, task and length.

    Example: sparse-tasks analyze runs/demo-small-sweep --tolerance 0.1
    """
    from sparse_tasks.core.errors import UsageError, nearest
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.evaluators.analyses.analysis import ANALYSES, Analysis
    from sparse_tasks.evaluators.analyses.table import UNLABELLED, read_runs

    for name in only or []:
        if name not in ANALYSES:
            raise UsageError("only", name, nearest(name, ANALYSES))
    analysis = Analysis(read_runs(runs, partial=partial), tolerance, error)
    names = [name for name in ANALYSES if name in (only or ANALYSES)]
    tables = {name: dict(analysis.tables(name)) for name in names}
    if output is not None:
        for files in tables.values():
            for name, table in files.items():
                table = table.assign(partial=True) if analysis.runs.partial() else table
                write_whole(output / f"{name}.csv", table.to_csv(index=False).encode())
    if format is Format.json:
        print_json(
            ({"partial": incomplete} if (incomplete := analysis.runs.partial()) else {})
            | {"unable": analysis.runs.inability()}
            | {
                name: {
                    "notes": list(analysis.notes(name)),
                    "tables": {key: records(table) for key, table in tables[name].items()},
                }
                for name in names
            }
        )
        return
    if not all(run.labelled for run in analysis.runs.runs):
        print(f"note: {UNLABELLED}\n")
    for sentence in [*analysis.runs.partial(), *analysis.runs.inability()]:
        print(f"{sentence}\n")
    shown = ["model"] if len({run.model for run in analysis.runs.runs}) > 1 else []
    shown += ["prompts"] if len(analysis.runs.prompts) > 1 else []
    for name in names:
        print(_HEADINGS[name])
        for key, table in tables[name].items():
            _print(key, table, shown)
        for note in analysis.notes(name):
            print(f"note: {note}")
        print()
    print(_EXPLAINED.format(tolerance=tolerance, error=error))
    if output is not None:
        print(f"tables: {output}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table for JSON, with null for NaN."""
    import json

    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


_HEADINGS: Final = {
    "cost": "COST, by the formulas of the paper, at measured sparsity (prefill, decode)",
    "written": "WRITTEN, tokens of the answers and what a solved sample costs",
    "pareto": "PARETO FRONTIER, score against cost",
    "iso_cost": "ISO-COST, the best run that costs no more than a dense one",
    "certified": "CERTIFIED SPARSITY",
    "scaling": "SCALING LAWS",
    "lengths": "LENGTH EFFECTS, relative error against dense",
    "tradeoffs": "TASK TRADE-OFFS, difference to dense and rank among methods of the same sparsity",
}


def _columns(name: str) -> list[TextColumn]:
    from sparse_tasks.core.format import PLAIN, known
    from sparse_tasks.evaluators.analyses.columns import Columns, Row, TextColumn

    make = Columns(PLAIN)

    def method(row: Row) -> str:
        return f"{row.attention} {row.asked:g}" if known(row.asked) and row.attention != "dense" else row.attention

    def sparsity(heading: str, density: str) -> TextColumn:
        return TextColumn(heading, lambda row: PLAIN.number(1 - getattr(row, density)))

    def amount(heading: str, field: str) -> TextColumn:
        return TextColumn(heading, lambda row: PLAIN.amount(getattr(row, field)))

    attention, best = (TextColumn(heading, method, numeric=False) for heading in ("attention", "best"))
    phase = make.text("phase", "phase")
    if name == "cost":
        return [
            *(attention, make.length(), sparsity("prefill", "density_prefill"), amount("FLOPs", "prefill_flops")),
            *(make.number("faster", "prefill_speedup", 2), sparsity("decode", "density_decode")),
            *(amount("reads", "decode_reads"), make.number("faster", "decode_speedup", 2)),
        ]
    if name == "written":
        return [
            *(make.text("task", "task"), make.length(), attention, make.share("solved", "solved", 0)),
            *(amount("tokens", "tokens"), amount("a solved", "tokens_per_solved")),
            *(amount("reads", "reads_per_solved"), make.number("vs dense", "against_dense", 2)),
        ]
    if name == "pareto":
        on_frontier = TextColumn("frontier", lambda row: "yes" if row.on_frontier else "")
        return [
            *(phase, make.length(), attention, amount("cost", "cost"), make.number("score", "score")),
            *(make.interval("95% interval"), on_frontier, make.share("resamples", "frontier_share", 0)),
        ]
    if name == "iso_cost":
        return [
            *(phase, make.length(), make.text("budget of", "budget_of", numeric=True), best),
            *(amount("cost", "cost"), make.number("score", "score"), make.signed("gain", "gain")),
            make.interval("95% interval", sign=True),
        ]
    if name == "certified":
        return [
            *(make.text("attention", "attention"), make.text("scope", "scope"), make.text("task", "task")),
            *(make.length(), make.count("n", "n"), make.formatted("certified", "certified", "g")),
            *(make.number("measured", "measured"), make.number("loss", "loss"), make.number("p", "p_value")),
            *(make.number("next p", "next_p_value"), make.number("needed", "level", 4)),
        ]
    if name == "scaling":
        return [
            *(phase, make.text("coefficient", "name"), make.signed("estimate", "estimate")),
            make.interval("95% interval", sign=True),
        ]
    if name == "scaling_fits":
        return [
            *(phase, make.count("runs", "runs"), make.count("cells", "cells"), make.number("R2", "r2")),
            *(make.number("mean error", "mae"), make.number("scale", "scale", 2)),
        ]
    if name == "scaling_held_out":
        return [
            *(phase, make.text("held out", "held_out"), make.number("R2", "r2")),
            *(make.number("mean error", "mae"), make.count("n", "n")),
        ]
    if name == "lengths":
        return [
            *(attention, make.length(), make.count("n", "n"), make.number("dense", "dense")),
            *(make.number("sparse", "sparse"), make.signed("error", "relative_error")),
            make.interval("95% interval", sign=True),
        ]
    return [
        *(make.text("task", "task", "mean of tasks"), make.length(), attention, make.number("score", "score")),
        *(make.signed("vs dense", "difference"), make.interval("95% interval", sign=True)),
        *(make.formatted("rank", "rank", "g"), make.rank_interval("rank 95%")),
    ]


def _print(name: str, table: pd.DataFrame, shown: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    from sparse_tasks.core.format import PLAIN
    from sparse_tasks.evaluators.analyses.columns import Columns

    if name == "tradeoffs":
        # Only means over lengths, if there are several; each length would take pages.
        table = table[table["length"].isna() if table["length"].nunique() > 1 else table["length"].notna()]
    if table.empty:
        return
    columns = _columns(name)
    columns = [*(Columns(PLAIN).text(name, name) for name in shown if name in table), *columns]
    printed = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        printed.add_column(
            column.name, justify="right" if column.numeric else "left", no_wrap=column.numeric, overflow="fold"
        )
    for row in table.itertuples():
        printed.add_row(*(column.cell(row) for column in columns))
    # A file or a pipe has no width limit.
    print_table(printed, width=None if sys.stdout.isatty() else 200)


_EXPLAINED: Final = """\
prefill, decode: measured sparsity. FLOPs of a prompt; reads: elements of a decoding step, batch 1.
faster: dense over sparse, in these counts, the method's index included.
solved: samples that score 1; a solved, reads: all tokens written, and all elements read to write them, over those.
certified: the largest sparsity whose mean loss against dense is at most {tolerance:g}, with an
   error rate of {error:g} over all rows of a scope and method (Learn then Test).
   next p: of the first sparsity that failed; needed: the largest p that would have passed.
frontier, resamples: whether a run is on the frontier, and in how many bootstrap resamples it is.
scale: of the scatter around the law; 1 where it is that of answers that are right or wrong by chance.
docs/analyses.md tells how each is computed."""
