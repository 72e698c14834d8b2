"""The section on long answers: how many are still right, by how much of the answer is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sparse_tasks.core.format import TYPESET
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.metrics import METRICS
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Block, Figure, Note, Picture, Section, Table, Text
from sparse_tasks.evaluators.report.context import MOST_LINES, Context, headings
from sparse_tasks.evaluators.report.groups import Group
from sparse_tasks.evaluators.report.plots import SCORE, Axis, Line, Point, lines
from sparse_tasks.evaluators.statistics import mean_interval

_PLACES: Final = 10  # places in the answer, the end among them
_TICKS: Final = (0, 0.2, 0.4, 0.6, 0.8, 1)
_AXIS: Final = Axis("steps of the answer written", -0.03, 1.03, _TICKS, ("0", "20%", "40%", "60%", "80%", "100%"))
_NEARLY: Final = 1e-9  # a share of steps is a quotient, and rounded


def against_steps(context: Context) -> Section:
    """A panel a task whose answer is scored step by step: the share of answers without a mistake so far."""
    section = Section("steps", "Accuracy by step")
    stepwise = {
        config.task
        for run in context.runs.runs
        for config in run.result.configs
        if config.metric in METRICS and METRICS.get(config.metric).stepwise
    }
    able = set(context.runs.able["task"].unique())
    for group in context.groups:
        if tasks := [task for task in group.tasks if task in stepwise & able]:
            section.blocks += _steps(context, group, tasks)
    if section.blocks:
        section.blocks.insert(
            0,
            Text(
                "Each line is a run: the share of its answers that hold no mistake yet, over how much of the answer is "
                "written, with its 95% interval; samples of all lengths are taken together. A line falls where "
                "decoding goes wrong, and the area under it is about the score."
            ),
        )
    return section


def _steps(context: Context, group: Group, tasks: Sequence[str]) -> Iterator[Block]:
    """A figure for the lowest target sparsity and one for the highest; one of all runs where none has a target."""
    targets = sorted({run.target for run in group.sparse if run.target is not None})
    shown: list[float | None] = [*targets[:1], *targets[-1:]]
    for target in dict.fromkeys(shown or [None]):
        sparse = [run for run in group.sparse if run.target == target]
        runs = [*([] if group.dense is None else [group.dense]), *sparse[:MOST_LINES]]
        at = "" if target is None else f", at sparsity {target:g}"
        caption = f"Accuracy by step{at}{context.of(group)}"
        points = {(task, run.name): _points(context, run, task) for task in tasks for run in runs}
        rows = [
            [task, wording.name(run.label), f"{point.x:.0%}", TYPESET.number(point.y),
             TYPESET.interval(point.low, point.high)]
            for task in tasks for run in runs for point in points[task, run.name]
        ]  # fmt: skip
        columns = headings("task", "attention", "written", "without a mistake", "95% interval")
        table = Table(f"Numbers: {caption}", columns, rows, headers=2, folded=True)
        if not context.room_for(len(tasks), "steps"):
            yield Note(f"{caption} is not drawn, to keep the page small; its numbers are in the table.")
            yield table
            continue
        if left_out := [wording.name(run.label) for run in sparse[MOST_LINES:]]:
            yield Note(f"Left out: {wording.listed(left_out)}.")
        pictures = []
        for task in tasks:
            drawn = [Line(context.styles[run.attention], points[task, run.name]) for run in runs]
            described = "; ".join(
                f"{wording.name(run.label)}: {', '.join(TYPESET.number(point.y, 2) for point in line.points)}"
                for run, line in zip(runs, drawn, strict=True)
            )
            about = f"From the first tenth of the answer to its end: {described}."
            title = f"{task}: share of answers without a mistake, by steps written"
            pictures.append(Picture(task, lines(context.name(), title, about, _AXIS, SCORE, drawn)))
        labels = {run.attention: run.label for run in runs}
        yield Figure(caption, tuple(pictures), context.keys(list(labels), labels), table)


def _points(context: Context, run: ScoredRun, task: str) -> tuple[Point, ...]:
    """Where a share of the answer is written: the share of answers whose first mistake, if any, comes later."""
    samples = context.runs.able
    scores = samples.loc[(samples["run"] == run.name) & (samples["task"] == task), "score"].tolist()
    points = []
    for place in range(1, _PLACES + 1) if scores else ():
        right = [float(score >= place / _PLACES - _NEARLY) for score in scores]
        interval = mean_interval(right)
        points.append(Point(place / _PLACES, math.fsum(right) / len(right), interval.low, interval.high))
    return tuple(points)
