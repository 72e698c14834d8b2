"""``sparse-tasks check``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.completion import complete_method
from sparse_tasks.cli.output import Format, frameless, print_json, print_table
from sparse_tasks.cli.running import FormatOption, RunBar
from sparse_tasks.core.format import PLAIN

if TYPE_CHECKING:
    from sparse_tasks.evaluators.check import Checked, Row


def check(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method, also one of another package, or two (vertical_slash+quest).",
            autocompletion=complete_method,
        ),
    ],
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", "-n", metavar="N", help="Use only the first N samples per task and length.", show_default="all"
        ),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S",
            help="Target sparsities, a subset of the default.",
            show_default="0.5,0.7,0.9",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Reference curve to compare with.", show_default="the package's"),
    ] = None,
    write_reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the method's curve as a reference instead of checking it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Keep data sets and runs in this folder; finished ones are not repeated.",
            show_default="not kept",
        ),
    ] = None,
    format: FormatOption = Format.human,
) -> None:
    """Check a method on a CPU in minutes: a small model's scores against earlier ones.

    A method without a stored reference is compared with chance. Exit codes: 0 passed, 1 failed, 2 bad input.

    Example: sparse-tasks check quest
    """
    from tempfile import TemporaryDirectory

    from sparse_tasks.core.errors import UsageError, keeping, keeping_nothing
    from sparse_tasks.core.files import write_whole
    from sparse_tasks.core.json import to_json
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.check import SPARSITIES, reference_of
    from sparse_tasks.evaluators.check import check as check_method

    if write_reference is not None:
        if samples is not None or sparsity is not None or reference is not None:
            remedy = "needs all samples and sparsities; leave out --samples, --sparsity and --reference"
            raise UsageError("write-reference", str(write_reference), remedy)
        if write_reference.is_dir() or not write_reference.parent.is_dir():
            raise UsageError("write-reference", str(write_reference), "has to be a file in a folder that exists")
    keep = keeping_nothing() if output is None else keeping(output, partial(_finished, output))
    with TemporaryDirectory(prefix="sparse-tasks-check-") as temporary, keep:
        folder = output or Path(temporary)
        if write_reference is not None:
            written = reference_of(method, folder, RunBar)
            write_whole(write_reference, to_json(written))
            print(f"{write_reference}: {written.method}, {len(written.cells)} cells")
            return
        shares = SPARSITIES if sparsity is None else _numbers(sparsity)
        checked = check_method(method, folder, RunBar, reference=reference, samples=samples, sparsities=shares)
    if format is Format.json:
        print_json(to_builtins(checked))
    else:
        _print(checked)
    if not checked.passed:
        raise typer.Exit(1)


def _finished(folder: Path) -> str:
    from sparse_tasks.evaluators.runs import RESULT

    runs = len(list(folder.glob(f"**/{RESULT}")))
    return f"{runs} finished run{'s' * (runs != 1)}" if runs else ""


def _numbers(text: str) -> list[float]:
    from sparse_tasks.core.errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError("sparsity", text, "is not a number; write 0.9, or several as in 0.5,0.9") from error


def _print(checked: Checked) -> None:
    against = "reference" if checked.against == "reference" else "difference"
    names = ("length", "target", "measured", "score", against, "verdict")
    table = frameless("task", names)
    last = checked.rows[0].sparsity
    for row in checked.rows:
        if row.sparsity != last:
            table.add_section()
        last = row.sparsity
        table.add_row(*_cells(row, signed=checked.against == "control"))
    samples = f"{checked.rows[-1].n} samples"
    if checked.against == "reference":
        print(f"{checked.method}, against its reference curve of {checked.opponent[:10]}, {samples}")
    else:
        print(f"{checked.method}, against chance (it has no reference curve), {samples}")
    print_table(table)
    if checked.against == "reference":
        print("reference: 95% interval of the earlier score, with room for rounding.")
    else:
        print(f"difference: from {checked.opponent} at the same sparsity, paired, 95% interval.")
    failed = sum(row.verdict != "ok" for row in checked.rows)
    print(f"{'passed' if checked.passed else f'FAILED in {failed} of {len(checked.rows)} rows'}; "
          f"{checked.seconds:.0f} s")  # fmt: skip


def _cells(row: Row, *, signed: bool) -> list[str]:
    from sparse_tasks.core.length import label

    measured = row.measured or {}
    target = "all" if row.sparsity is None else "dense" if row.sparsity == 0 else f"{row.sparsity:g}"
    interval = PLAIN.interval(row.low, row.high, sign=signed)
    known = "/".join(PLAIN.number(share, 2) for share in measured.values() if share > 0)
    score, length = PLAIN.number(row.score), "" if row.length is None else label(row.length)
    verdict = "" if row.expected is None else row.verdict
    return [row.task or "mean", length, target, known, score, "" if row.low is None else interval, verdict]
