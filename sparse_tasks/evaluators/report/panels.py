"""Figures with a panel per task and a line per run, over an axis other than sparsity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sparse_tasks.core.format import TYPESET
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Block, Figure, Note, Picture, Table
from sparse_tasks.evaluators.report.context import MOST_LINES, Context, headings
from sparse_tasks.evaluators.report.groups import Group
from sparse_tasks.evaluators.report.plots import SCORE, Axis, Line, Point, lines
from sparse_tasks.evaluators.statistics import mean_interval

__all__ = ["Place", "Scores", "bin_numbers", "by_bin", "comparable", "panels", "place"]


@dataclass(frozen=True)
class Scores:
    """The content of a figure.

    Attributes:
        section: Section that its panels count in, a key of ``MOST_PANELS``.
        axis: The axis.
        head: Its name in a table.
        about: Where a line begins and ends, in words.
        score: The averaged quantity, in words.
    """

    section: str
    axis: Axis
    head: str
    about: str
    score: str = "mean score"


@dataclass(frozen=True)
class Place:
    """A point of a line.

    Attributes:
        name: Its place, in words.
        n: Samples in it.
        point: Their mean score.
    """

    name: str
    n: int
    point: Point


def place(x: float, name: str, scores: Sequence[float]) -> Place:
    """The mean of scores, with its 95% interval."""
    interval = mean_interval(scores)
    return Place(name, len(scores), Point(x, math.fsum(scores) / len(scores), interval.low, interval.high))


def panels(
    context: Context,
    kind: Scores,
    caption: str,
    tasks: Sequence[str],
    runs: Sequence[ScoredRun],
    places: Mapping[tuple[str, str], Sequence[Place]],
) -> Iterator[Block]:
    """A figure of dense runs and as many others as are readable, with its table; or only the table.

    ``places`` are by the run's name and task.
    """
    sparse = [run for run in runs if not run.dense]
    left_out = sparse[MOST_LINES:]
    shown = [run for run in runs if run not in left_out]
    drawn = {task: [places.get((run.name, task), ()) for run in shown] for task in tasks}
    rows = [
        [task, wording.name(run.label), at.name, f"{at.n:,}", TYPESET.number(at.point.y),
         TYPESET.interval(at.point.low, at.point.high)]
        for task in tasks for run, of_run in zip(shown, drawn[task], strict=True) for at in of_run
    ]  # fmt: skip
    columns = headings("task", "attention", kind.head, "n", kind.score, "95% interval")
    table = Table(f"Numbers: {caption}", columns, rows, headers=2, folded=True)
    if not context.room_for(len(tasks), kind.section):
        yield Note(f"{caption} is not drawn, to keep the page small; its numbers are in the table.")
        yield table
        return
    if left_out:
        yield Note(f"Left out: {wording.listed([wording.name(run.label) for run in left_out])}.")
    pictures = []
    for task in tasks:
        curves = [
            Line(context.styles[run.attention], tuple(at.point for at in of_run))
            for run, of_run in zip(shown, drawn[task], strict=True)
        ]
        described = "; ".join(
            f"{wording.name(run.label)}: {', '.join(TYPESET.number(point.y, 2) for point in line.points)}"
            for run, line in zip(shown, curves, strict=True)
        )
        title = f"{task}: {kind.score} by {kind.axis.text}"
        pictures.append(
            Picture(task, lines(context.name(), title, f"{kind.about}: {described}.", kind.axis, SCORE, curves))
        )
    labels = {run.attention: run.label for run in shown}
    yield Figure(caption, tuple(pictures), context.keys(list(labels), labels), table)


def comparable(group: Group) -> tuple[list[ScoredRun], str]:
    """Dense attention, and a run of each method: at the highest sparsity that all have, else at the highest of each."""
    dense = [] if group.dense is None else [group.dense]
    targets = [{run.target for run in runs if run.target is not None} for runs in group.attentions.values()]
    common = set.intersection(*targets) if targets else set()
    if not common:
        return [*dense, *(runs[-1] for runs in group.attentions.values())], ""
    at = max(common)
    shown = [next(run for run in runs if run.target == at) for runs in group.attentions.values()]
    return [*dense, *shown], f", at sparsity {at:g}"


def bin_numbers(values: pd.Series[float], bins: int) -> pd.Series[float]:
    """The bin of each value in [0, 1], from 0; NaN of none."""
    return (values * bins).clip(0, bins - 1) // 1


def by_bin(samples: pd.DataFrame, column: str, bins: int) -> dict[tuple[str, str], list[Place]]:
    """By run and task, the mean scores of samples whose value in [0, 1] falls into each bin, in its middle."""
    samples = samples[samples[column].notna()]
    numbers = bin_numbers(samples[column], bins).astype("int64").rename("bin")
    binned: dict[tuple[str, str], list[Place]] = {}
    for (run, task, number), scores in samples["score"].groupby(
        [samples["run"], samples["task"], numbers], observed=True
    ):
        name = f"{number / bins:g} to {(number + 1) / bins:g}"
        binned.setdefault((run, task), []).append(place((number + 0.5) / bins, name, scores.tolist()))
    return binned
