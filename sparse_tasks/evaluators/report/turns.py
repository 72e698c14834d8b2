"""The section on samples that ask several questions: whether later ones score less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.records import TurnResult
from sparse_tasks.evaluators.report.blocks import Section, Text
from sparse_tasks.evaluators.report.context import Context
from sparse_tasks.evaluators.report.groups import Group
from sparse_tasks.evaluators.report.panels import Place, Scores, comparable, panels
from sparse_tasks.evaluators.report.plots import Axis, Point

_TICKS: Final = 8  # maximum numbers on the axis


def against_turns(context: Context) -> Section:
    """A panel per task whose samples ask several questions: the score of each, in order."""
    section = Section("turns", "Score by question")
    for group in context.groups:
        for length in group.lengths:
            _draw(context, section, group, length)
    if section.blocks:
        section.blocks.insert(
            0,
            Text(
                "These samples ask several questions about one text. A line that falls shows that later ones find less "
                "than the first: that what was left out for one of them is what another asks for."
            ),
        )
    return section


def _draw(context: Context, section: Section, group: Group, length: int) -> None:
    runs, at = comparable(group)
    asked = {(run.name, task): _turns(run, length, task) for run in runs for task in group.tasks}
    tasks = [task for task in group.tasks
             if any(asked[run.name, task] for run in runs) and not context.fails(group, length, task)]  # fmt: skip
    if not tasks:
        return
    last = max(turn.turn for turns in asked.values() for turn in turns)
    ticks = range(1, last + 1, -(-last // _TICKS))
    axis = Axis("question", 1 - 0.03 * last, 1.03 * last, tuple(ticks), tuple(map(str, ticks)))

    places = {
        one: [
            Place(f"{turn.turn}: {turn.level}" if turn.level else str(turn.turn), turn.n,
                  Point(turn.turn, turn.mean, turn.low, turn.high))
            for turn in turns
        ]
        for one, turns in asked.items()
    }  # fmt: skip
    kind = Scores("turns", axis, "question", "From the first question to the last")
    caption = f"Score by question at {label(length)}{at}{context.of(group)}"
    section.blocks += panels(context, kind, caption, tasks, runs, places)


def _turns(run: ScoredRun, length: int, task: str) -> Sequence[TurnResult]:
    for config in run.result.configs:
        if (config.length, config.task) == (length, task) and config.turns is not UNSET:
            return config.turns
    return []
