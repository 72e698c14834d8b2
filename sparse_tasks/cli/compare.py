"""``sparse-tasks compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.output import Format, print_json
from sparse_tasks.cli.running import attention_of

if TYPE_CHECKING:
    from sparse_tasks.evaluators.records import ComparedAverage, ComparedTask, Comparison, Result

__all__ = ["compare"]


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A scored run, the dense one as a rule.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run that is held against it.")],
    common: Annotated[
        bool, typer.Option("--common", help="Compare the samples that both runs have, and leave out the others.")
    ] = False,
    level: Annotated[float, typer.Option(metavar="P", help="Of the intervals, between 0 and 1.")] = 0.95,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.human,
) -> None:
    """Compare two runs over the same data set, sample by sample.

    The difference is B less A; p is that of a paired permutation test, corrected over the tasks of a length (Holm).
    """
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.compare import compare as compare_rows
    from sparse_tasks.evaluators.results import read_outcomes, read_result

    result_a, result_b = read_result(run_a), read_result(run_b)
    comparison = compare_rows(
        read_outcomes(run_a),
        read_outcomes(run_b),
        dataset_a=result_a.dataset_sha256,
        dataset_b=result_b.dataset_sha256,
        common=common,
        level=level,
    )
    if format is Format.json:
        print_json({"run_a": str(run_a), "run_b": str(run_b), **to_builtins(comparison)})
        return
    _print(comparison, [(run_a, result_a), (run_b, result_b)])


def _print(comparison: Comparison, runs: list[tuple[Path, Result]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sparse_tasks.core.length import label

    for name, (path, result) in zip("AB", runs, strict=True):
        print(f"{name}: {path} ({result.model.name}, attention {attention_of(result)})")
    for average in comparison.averages:
        # Without frames, so that it fits into 80 columns.
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("task", no_wrap=True)
        for column in ("n", "A", "B", "B - A", f"{comparison.level:.0%} interval", "p", "least"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in comparison.rows:
            if row.length == average.length:
                table.add_row(row.task, *_numbers(row), _p(row.p_holm), _least(row))
        if average.tasks > 1:
            table.add_row("mean of tasks", *_numbers(average))
        print(f"\nlength {label(average.length)}")
        Console().print(table)
    print()
    if comparison.left_out_a or comparison.left_out_b:
        print(f"Left out: {comparison.left_out_a} samples that only A has, {comparison.left_out_b} that only B has.")
    print("p: permutation test on the pairs, corrected over the tasks of a length (Holm);")
    print("   the interval is of each task alone.")
    print("least: the smallest difference that so many pairs of one task would show in 4 of")
    print("   5 runs; - where none would.")


def _numbers(row: ComparedTask | ComparedAverage) -> list[str]:
    means = [f"{row.mean_a:.3f}", f"{row.mean_b:.3f}", f"{row.difference:+.3f}"]
    return [f"{row.n:,}", *means, f"{row.interval.low:+.3f} {row.interval.high:+.3f}"]


def _least(row: ComparedTask) -> str:
    # 1 is the end of the scale: no difference would have shown.
    return f"{row.smallest_detectable:.3f}" if row.smallest_detectable < 1 else "-"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"
