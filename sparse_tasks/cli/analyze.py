"""``sparse-tasks analyze``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sparse_tasks.cli.completion import complete_analysis
from sparse_tasks.cli.output import Format, print_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunsArgument", "ToleranceOption", "analyze"]

RunsArgument = Annotated[
    list[Path], typer.Argument(metavar="RUNS...", help="Scored runs, or folders that hold some, such as a sweep.")
]
ToleranceOption = Annotated[
    float, typer.Option(metavar="T", help="Mean loss against dense that a certified sparsity may have.")
]


def analyze(
    runs: RunsArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="cost, pareto, iso_cost, certified, scaling, lengths or tradeoffs. May be repeated.",
            show_default="all",
            autocompletion=complete_analysis,
        ),
    ] = None,
    tolerance: ToleranceOption = 0.05,
    error: Annotated[float, typer.Option(metavar="E", help="How often a certified sparsity may be wrong.")] = 0.05,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write each table there, as CSV.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.human,
) -> None:
    """Draw conclusions from runs: what sparsity costs and saves, by method, task and length.

    Example: sparse-tasks analyze runs/demo-small-sweep --tolerance 0.1
    """
    from sparse_tasks.core.errors import UsageError, nearest
    from sparse_tasks.evaluators.analyses.analysis import ANALYSES, Analysis
    from sparse_tasks.evaluators.analyses.table import read_runs
    from sparse_tasks.generators.files import write_whole

    for name in only or []:
        if name not in ANALYSES:
            raise UsageError("only", name, nearest(name, ANALYSES))
    analysis = Analysis(read_runs(runs), tolerance, error)
    names = [name for name in ANALYSES if name in (only or ANALYSES)]
    tables = {name: dict(analysis.tables(name)) for name in names}
    if output is not None:
        for found in tables.values():
            for name, table in found.items():
                write_whole(output / f"{name}.csv", table.to_csv(index=False).encode())
    if format is Format.json:
        print_json(
            {
                name: {
                    "notes": list(analysis.notes(name)),
                    "tables": {key: records(table) for key, table in tables[name].items()},
                }
                for name in names
            }
        )
        return
    models = {run.model for run in analysis.runs.runs}
    for name in names:
        print(f"{_HEADINGS[name]}")
        for key, table in tables[name].items():
            _print(key, table, one_model=len(models) == 1)
        for note in analysis.notes(name):
            print(f"note: {note}")
        print()
    print(_explained(tolerance, error))
    if output is not None:
        print(f"tables: {output}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON has them: what is no number is null."""
    import json

    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found


_HEADINGS: Final = {
    "cost": "COST, by the formulas of the paper",
    "pareto": "PARETO FRONTIER, score against cost",
    "iso_cost": "ISO-COST, the best run that costs no more than a dense one",
    "certified": "CERTIFIED SPARSITY",
    "scaling": "SCALING LAWS",
    "lengths": "LENGTH EFFECTS, relative error against dense",
    "tradeoffs": "TASK TRADE-OFFS, difference to dense and rank among methods of the same sparsity",
}

_Cell = Callable[[Mapping[str, Any]], str]


def _length(row: Mapping[str, Any]) -> str:
    from sparse_tasks.core.length import label

    return label(int(row["length"])) if _known(row["length"]) else "all"


def _known(value: Any) -> bool:
    return value is not None and value == value  # a number that is none differs from itself


def _number(name: str, form: str = ".3f") -> _Cell:
    return lambda row: format(row[name], form) if _known(row[name]) else "-"


def _interval(form: str = ".3f", low: str = "low", high: str = "high") -> _Cell:
    def cell(row: Mapping[str, Any]) -> str:
        return f"{row[low]:{form}} {row[high]:{form}}" if _known(row[low]) and _known(row[high]) else "-"

    return cell


def _text(name: str, missing: str = "all") -> _Cell:
    return lambda row: str(row[name]) if _known(row[name]) else missing


def _amount(name: str) -> _Cell:
    def cell(row: Mapping[str, Any]) -> str:
        value = row[name]
        if not _known(value):
            return "-"
        for unit in ("", "k", "M", "G", "T", "P"):
            if abs(value) < 1000:
                return f"{value:.3g}{unit}"
            value /= 1000
        return f"{value:.3g}E"

    return cell


def _share(name: str) -> _Cell:
    return _number(name, ".0%")


def _attention(row: Mapping[str, Any]) -> str:
    asked = row["asked"]
    return str(row["attention"]) + (f" {asked:g}" if _known(asked) and row["attention"] != "dense" else "")


_COLUMNS: Final[dict[str, list[tuple[str, _Cell]]]] = {
    "cost": [
        ("attention", _attention),
        ("length", _length),
        ("prefill", _number("density_prefill")),
        ("FLOPs", _amount("prefill_flops")),
        ("faster", _number("prefill_speedup", ".2f")),
        ("decode", _number("density_decode")),
        ("reads", _amount("decode_reads")),
        ("faster", _number("decode_speedup", ".2f")),
    ],
    "pareto": [
        ("phase", _text("phase")),
        ("length", _length),
        ("attention", _attention),
        ("cost", _amount("cost")),
        ("score", _number("score")),
        ("95% interval", _interval()),
        ("on it", lambda row: "yes" if row["on_frontier"] else ""),
        ("resamples", _share("frontier_share")),
    ],
    "iso_cost": [
        ("phase", _text("phase")),
        ("length", _length),
        ("budget of", _text("budget_of")),
        ("best", _attention),
        ("cost", _amount("cost")),
        ("score", _number("score")),
        ("gain", _number("gain", "+.3f")),
        ("95% interval", _interval("+.3f")),
    ],
    "certified": [
        ("attention", _text("attention")),
        ("scope", _text("scope")),
        ("task", _text("task")),
        ("length", _length),
        ("n", _text("n")),
        ("certified", _number("certified", "g")),
        ("measured", _number("measured")),
        ("loss", _number("loss")),
        ("p", _number("p_value")),
        ("next p", _number("next_p_value")),
        ("needed", _number("level", ".4f")),
    ],
    "scaling": [
        ("phase", _text("phase")),
        ("coefficient", _text("name")),
        ("estimate", _number("estimate", "+.3f")),
        ("95% interval", _interval("+.3f")),
    ],
    "scaling_fits": [
        ("phase", _text("phase")),
        ("runs", _text("runs")),
        ("cells", _text("cells")),
        ("R2", _number("r2")),
        ("mean error", _number("mae")),
        ("scale", _number("scale", ".2f")),
    ],
    "scaling_held_out": [
        ("phase", _text("phase")),
        ("held out", _text("held_out")),
        ("R2", _number("r2")),
        ("mean error", _number("mae")),
        ("n", _text("n")),
    ],
    "lengths": [
        ("attention", _attention),
        ("length", _length),
        ("n", _text("n")),
        ("dense", _number("dense")),
        ("sparse", _number("sparse")),
        ("error", _number("relative_error", "+.3f")),
        ("95% interval", _interval("+.3f")),
    ],
    "tradeoffs": [
        ("task", _text("task", "mean of tasks")),
        ("length", _length),
        ("attention", _attention),
        ("score", _number("score")),
        ("less dense", _number("difference", "+.3f")),
        ("95% interval", _interval("+.3f")),
        ("rank", _number("rank", "g")),
        ("its 95%", _interval("g", "rank_low", "rank_high")),
    ],
}


def _print(name: str, table: pd.DataFrame, one_model: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if name == "tradeoffs":
        # The means over lengths, where there are several; each length would be pages.
        table = table[table["length"].isna() if table["length"].nunique() > 1 else table["length"].notna()]
    if table.empty:
        return
    columns = _COLUMNS[name]
    if not one_model and "model" in table:
        columns = [("model", _text("model")), *columns]
    printed = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, _ in columns:
        words = heading in ("attention", "task", "model", "phase", "scope", "coefficient", "held out", "best")
        printed.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in table.to_dict(orient="records"):
        printed.add_row(*(cell(row) for _, cell in columns))
    # A file or a pipe has no edge.
    Console(width=None if sys.stdout.isatty() else 200).print(printed)


def _explained(tolerance: float, error: float) -> str:
    lines: Sequence[str] = (
        "prefill, decode: measured density. FLOPs of a prompt; reads: elements of a decoding step, batch 1.",
        "faster: of dense over sparse, in these counts, with what the method adds to find what to compute.",
        f"certified: the largest sparsity asked whose mean loss against dense is at most {tolerance:g}, but for an",
        f"   error rate of {error:g} over all rows of a scope and method (Learn then Test).",
        "   next p: of the first sparsity that failed; needed: what it had to be at most.",
        "on it, resamples: whether a run is on the frontier, and in how many bootstrap resamples it is.",
        "scale: of the scatter around the law; 1 where it is that of answers that are right or wrong by chance.",
        "docs/analyses.md tells how each is computed.",
    )
    return "\n".join(lines)
