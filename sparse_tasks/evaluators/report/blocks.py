"""What a page is made of: sections of sentences, tables, figures and samples, as the template writes them.

Everything is plain text here; the template escapes it. Only ``Picture.svg`` is markup, and only ``plots`` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sparse_tasks.generators.excerpt import Piece

__all__ = ["Answer", "Block", "Cell", "Column", "Figure", "Key", "Lines", "Note", "Picture", "Sample", "Section",
           "Shaded", "Table", "Text"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``strong`` where it is what the section is about."""

    text: str
    strong: bool = False
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Note:
    """What is missing, or has to be known to read the rest."""

    text: str
    kind: str = "note"


@dataclass(frozen=True, slots=True)
class Lines:
    """A list: a few words in front, and what is said of them."""

    items: tuple[tuple[str, str], ...]
    kind: str = "lines"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        numeric: Whether it is set to the right, in one line.
        long: Whether its words may be broken anywhere: hashes, lists of settings.
    """

    name: str
    numeric: bool = True
    long: bool = False


@dataclass(frozen=True, slots=True)
class Shaded:
    """A cell of a heat map.

    Attributes:
        text: The number.
        small: Its interval.
        step: Of the diverging scale.
        sure: Whether the interval leaves out 0.
    """

    text: str
    small: str
    step: int
    sure: bool


Cell = str | Shaded


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        caption: Says what it holds; unique on the page, because its region is found by it.
        columns: The first ``headers`` of them name their rows.
        rows: As wide as ``columns``.
        headers: Columns that are headings of rows.
        folded: Whether it is shown when asked for; a summary of a long one comes before it, in other blocks.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    headers: int = 1
    folded: bool = False
    kind: str = "table"

    @property
    def heat(self) -> bool:
        """Whether it is a heat map."""
        return any(isinstance(cell, Shaded) for row in self.rows for cell in row)


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing.

    Attributes:
        name: Above it; "" for none.
        svg: Its markup, with a title and a description in it.
    """

    name: str
    svg: str


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
    kind: str = "figure"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote; None where it is not kept."""

    who: str
    score: str
    words: str | None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, with what models wrote about it.

    Attributes:
        title: Unique on the page.
        facts: A few words each.
        prompt: Pieces of it; None where the data set is not at hand.
        gold: The right answer; None where the data set is not at hand.
        answers: Dense first.
    """

    title: str
    facts: tuple[str, ...]
    prompt: tuple[Piece, ...] | None
    gold: str | None
    answers: tuple[Answer, ...]
    kind: str = "sample"


Block = Text | Note | Lines | Table | Figure | Sample


@dataclass(slots=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its id.
        title: Its heading.
        blocks: What is in it, from above.
    """

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)
