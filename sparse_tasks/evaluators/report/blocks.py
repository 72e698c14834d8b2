"""Building blocks of a page: sections of sentences, tables, figures and samples.

Everything is plain text here; the template escapes it. Only ``svg`` is markup, and only ``plots`` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sparse_tasks.core.format import TYPESET
from sparse_tasks.generators.excerpt import Piece

__all__ = ["Answer", "Block", "Cell", "Column", "Figure", "Key", "Lines", "Note", "Picture", "Sample", "Section",
           "Shaded", "Table", "Text", "filled"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``strong`` for the section's main statement."""

    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """A remark: something is missing, or needed to understand the rest."""

    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A list of terms, each with a sentence."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str  # its heading
    numeric: bool = True  # whether it is set to the right, in one line
    long: bool = False  # whether its words may be broken anywhere: hashes, lists of settings


@dataclass(frozen=True, slots=True)
class Shaded:
    """A cell of a heat map."""

    text: str  # the number
    small: str  # its interval
    step: int  # of the diverging scale
    sure: bool  # whether the interval leaves out 0


Cell = str | Shaded


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    caption: str  # unique on the page, because its region is found by it
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    headers: int = 1  # number of first columns that name the rows
    folded: bool = False  # whether it is collapsed at first

    @property
    def heat(self) -> bool:
        return any(isinstance(cell, Shaded) for row in self.rows for cell in row)


def filled(table: Table) -> Table:
    """A table without empty columns."""
    of_rows = range(table.headers, len(table.columns))
    kept = [*range(table.headers), *(i for i in of_rows if any(row[i] != TYPESET.missing for row in table.rows))]
    columns = tuple(table.columns[i] for i in kept)
    return replace(table, columns=columns, rows=[[row[i] for i in kept] for row in table.rows])


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing."""

    name: str  # above it; "" for none
    svg: str  # its markup, with a title and a description in it


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend: a drawn sample of the line, and what it is."""

    svg: str
    text: str


@dataclass(frozen=True, slots=True)
class Figure:
    """Drawings that share their axes and their legend, and the same numbers as a table."""

    caption: str
    pictures: tuple[Picture, ...]
    keys: tuple[Key, ...]
    table: Table
    large: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The output of a model."""

    who: str
    score: str
    words: str
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, with what models wrote about it."""

    title: str  # unique on the page
    facts: tuple[str, ...]  # A few words each
    prompt: tuple[Piece, ...] | None  # pieces of it; None without the data set
    gold: str | None  # the right answer; None without the data set
    answers: tuple[Answer, ...]  # dense first


Block = Text | Note | Lines | Table | Figure | Sample


@dataclass(slots=True)
class Section:
    """A part of the page."""

    anchor: str  # its id
    title: str  # its heading
    blocks: list[Block] = field(default_factory=list)  # what is in it, from above
