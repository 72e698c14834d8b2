"""Printing, for all commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table


PartialOption = Annotated[
    bool, typer.Option("--partial", help="Accept runs with missing predictions; the output is marked.")
]


class Format(StrEnum):
    """Forms of printed results."""

    human = "human"
    json = "json"


def print_json(value: Any) -> None:
    """Print a result for programs, on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def warn(message: str) -> None:
    """Print a message on standard error, apart from results."""
    print(f"note: {message}", file=sys.stderr)


def frameless(first: str, columns: Iterable[str], *, numeric: bool = True) -> Table:
    """A table without frames, so that it fits into 80 columns.

    Args:
        first: Heading of the names, which are never cut or wrapped.
        columns: Headings of the others.
        numeric: Whether they hold numbers, or words that wrap at blanks.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    return table


_WORDS: Final = 12
"""The narrowest column in which a text is wrapped, in letters."""


def print_table(table: Table, *, width: int | None = None) -> None:
    """Print a table without truncating numbers and names: as columns, or, if they do not fit, one block per row.

    Args:
        table: A ``frameless`` one, of strings.
        width: Letters in a line; None for the terminal's.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, width=width)
    gap = 2  # a blank of padding, and one instead of a line
    if sum(_least_width(console, column) + gap for column in table.columns) - gap <= console.width:
        console.print(table)
    else:
        _print_stacked(console, table)


def _least_width(console: Console, column: Column) -> int:
    """The width that a column needs so that nothing is cut: a whole line, or the longest word."""
    sizes = [console.measure(cell) for cell in (column.header, *column.cells)]
    longest = max(size.maximum for size in sizes)
    return longest if column.no_wrap else max(min(longest, _WORDS), *(size.minimum for size in sizes))


def _print_stacked(console: Console, table: Table) -> None:
    from rich.table import Table as Grid

    _, *others = table.columns
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(name, soft_wrap=True)
        block = Grid.grid(padding=(0, 1, 0, 0))
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(others, cells, strict=True):
            if cell:
                block.add_row(f"  {column.header}" if column.header else "", cell)
        console.print(block)


def check_output(path: Path, kind: str, sign: bytes) -> None:
    """Check that a file of this kind may be written: there is none, or an older one of its kind.

    Args:
        path: The file.
        kind: What it is called, as in "page".
        sign: Text among the first bytes of such a file, in lower case.

    Raises:
        UsageError: A folder is there, or another file.
    """
    from sparse_tasks.core.errors import UsageError

    if path.is_dir():
        raise UsageError("output", str(path), "is a folder; name a file")
    if path.exists():
        with path.open("rb") as file:
            if sign not in file.read(4096).lower():
                raise UsageError("output", str(path), f"exists and is not a {kind}; name another file")
