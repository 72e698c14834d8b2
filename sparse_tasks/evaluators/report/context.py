"""Shared by all sections of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Final

import pandas as pd

from sparse_tasks.core.format import TYPESET
from sparse_tasks.evaluators.analyses.columns import Columns, Row, TextColumn
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Block, Cell, Column, Key, Note, Table
from sparse_tasks.evaluators.report.groups import Differences, Group, groups, serving
from sparse_tasks.evaluators.report.palette import DENSE, Style, style
from sparse_tasks.evaluators.report.plots import key

if TYPE_CHECKING:
    from sparse_tasks.evaluators.analyses.analysis import Analysis

__all__ = ["ATTENTION", "LONG", "MAKE", "MOST_LINES", "MOST_PANELS", "NEEDS_BOTH", "TARGET", "Context",
           "headings", "rows", "text_table"]  # fmt: skip

MAKE: Final = Columns(TYPESET, wording.name)
MODEL: Final = MAKE.text("model", "model")
PROMPTS: Final = MAKE.text("prompts", "prompts")
ATTENTION: Final = MAKE.text("attention", "attention")
TARGET: Final = MAKE.formatted("target", "asked", "g")

_WORDS: Final = {"model", "task", "attention", "most unparsed in"}  # columns of text
LONG: Final = 24  # rows from which on a table is folded away
MOST_LINES: Final = 8  # maximum readable lines in a panel
NEEDS_BOTH: Final = Note(
    "A dense and a sparse run of the same model over the same data set, with the same sampling, are needed to say "
    "what sparse attention costs; these runs hold no such pair, so that the page has scores alone."
)
MOST_PANELS: Final = {"sparsity": 80, "cost": 16, "depth": 30, "distance": 16, "steps": 16, "turns": 16, "length": 24}
"""Panels of a section; each takes some 10 kB and 50 ms."""


class Context:
    """Runs with their analyses, and the styles and legends that figures share."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.runs = analysis.runs
        self.groups: list[Group] = groups(self.runs.runs)
        self.differences = Differences(self.runs)
        sparse = dict.fromkeys(run.attention for group in self.groups for run in group.sparse)
        self.styles: dict[str, Style] = {"dense": DENSE} | {name: style(at) for at, name in enumerate(sparse)}
        self._drawn = Counter[str]()
        self._numbers = count(1)

    @cached_property
    def serving(self) -> dict[tuple[str, int], float]:
        """By group and length, the largest difference that the serving stack alone would make, where that is known."""
        limits = {(group.title, at): serving(self.runs, group, at) for group in self.groups for at in group.lengths}
        return {key: limit for key, limit in limits.items() if limit is not None}

    def unable(self) -> Iterator[Block]:
        """Tasks that the models cannot do, in sentences."""
        yield from map(Note, self.runs.inability())

    def fails(self, group: Group, length: int, task: str) -> bool:
        """Whether the model of a group cannot do a task."""
        return any((length, task) in self.runs.unable.get(run.name, ()) for run in group.runs)

    @property
    def methods(self) -> bool:
        """Whether any run is under a method that is known and not dense."""
        return any(run.labelled for group in self.groups for run in group.sparse)

    @property
    def several(self) -> bool:
        return len(self.groups) > 1

    @property
    def model(self) -> list[TextColumn]:
        """Columns for what is never combined: models, and kinds of prompts if there are several."""
        return [MODEL, PROMPTS] if len(self.runs.prompts) > 1 else [MODEL]

    def kind(self, prompts: str) -> str:
        """``", query-agnostic"`` where there are several kinds of prompts."""
        return f", {prompts}" if len(self.runs.prompts) > 1 else ""

    def table(self, caption: str, names: Sequence[str], rows: Iterable[tuple[Group, Sequence[Cell]]]) -> Table:
        """A table of runs, which names the group of each row where there are several; folded where it is long."""
        cells = [[group.title, *row] if self.several else row for group, row in rows]
        columns = headings("model", *names) if self.several else headings(*names)
        return Table(caption, columns, cells, 2 if self.several else 1, folded=len(cells) > LONG)

    def of(self, group: Group) -> str:
        """``" of acme/small"`` where there are several groups: captions have to be unique."""
        return f" of {group.title}" if self.several else ""

    def name(self) -> str:
        return f"f{next(self._numbers)}"

    def room_for(self, panels: int, section: str) -> bool:
        """Whether this many more panels fit into a section; if so, count them as drawn."""
        if self._drawn[section] + panels > MOST_PANELS[section]:
            return False
        self._drawn[section] += panels
        return True

    def keys(self, attentions: Sequence[str], labels: dict[str, str] | None = None) -> tuple[Key, ...]:
        return tuple(
            Key(key(self.name(), self.styles[name]), wording.name((labels or {}).get(name, name)))
            for name in attentions
        )

    def notes(self, analysis: str) -> Iterator[Block]:
        for note in dict.fromkeys(self.analysis.notes(analysis)):
            yield Note(wording.cut(note, 400)[0])


def headings(*names: str) -> tuple[Column, ...]:
    """Columns of numbers, but for those that are known to hold words."""
    return tuple(Column(name, name not in _WORDS) for name in names)


def rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table of an analysis."""
    return list(frame.itertuples(index=False))


def text_table(
    caption: str, shown: Sequence[Row], columns: Sequence[TextColumn], headers: int = 1, *, folded: bool | None = None
) -> Table:
    """A table of an analysis' rows; by default folded where it is long."""
    cells = [[column.cell(row) for column in columns] for row in shown]
    heads = tuple(Column(column.name, column.numeric) for column in columns)
    return Table(caption, heads, cells, headers, folded=len(cells) > LONG if folded is None else folded)
