"""Columns of analyses as text: for terminals and for pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from sparse_tasks.core.format import Numbers, known
from sparse_tasks.core.length import label

Row: TypeAlias = Any  # a row of an analysis, as ``DataFrame.itertuples`` gives it


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column as text."""

    name: str  # its heading
    cell: Callable[[Row], str]  # text of a row
    numeric: bool = True  # whether it holds numbers, set to the right


@dataclass(frozen=True, slots=True)
class Columns:
    """Makers of columns, by heading and field of the row."""

    numbers: Numbers  # how numbers are written
    shown: Callable[[str], str] = str  # how untrusted names are written

    def text(self, heading: str, field: str, missing: str = "all", *, numeric: bool = False) -> TextColumn:
        """A name or a word; ``missing`` for None or NaN."""

        def cell(row: Row) -> str:
            value = getattr(row, field)
            return missing if value is None or value != value else self.shown(str(value))

        return TextColumn(heading, cell, numeric)

    def count(self, heading: str, field: str) -> TextColumn:
        return TextColumn(heading, lambda row: f"{getattr(row, field):,}")

    def number(self, heading: str, field: str, digits: int = 3) -> TextColumn:
        return TextColumn(heading, lambda row: self.numbers.number(getattr(row, field), digits))

    def signed(self, heading: str, field: str) -> TextColumn:
        return TextColumn(heading, lambda row: self.numbers.signed(getattr(row, field)))

    def formatted(self, heading: str, field: str, form: str) -> TextColumn:
        """A number in one of Python's format specifications."""
        return TextColumn(heading, lambda row: self.numbers.formatted(getattr(row, field), form))

    def share(self, heading: str, field: str, digits: int = 1) -> TextColumn:
        return TextColumn(heading, lambda row: self.numbers.share(getattr(row, field), digits))

    def interval(self, heading: str, *, sign: bool = False) -> TextColumn:
        return TextColumn(heading, lambda row: self.numbers.interval(row.low, row.high, sign=sign))

    def rank_interval(self, heading: str) -> TextColumn:
        def cell(row: Row) -> str:
            if not known(row.rank_low):
                return self.numbers.missing
            return f"{row.rank_low:g}{self.numbers.to}{row.rank_high:g}"

        return TextColumn(heading, cell)

    def length(self) -> TextColumn:
        return TextColumn("length", lambda row: label(int(row.length)) if known(row.length) else "all")
