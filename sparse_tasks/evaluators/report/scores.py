"""Sections that show scores: against sparsity, and by task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sparse_tasks.core.format import TYPESET
from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.table import UNLABELLED, ScoredRun
from sparse_tasks.evaluators.records import ConfigResult
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Note,
    Picture,
    Section,
    Table,
    Text,
    filled,
)
from sparse_tasks.evaluators.report.context import LONG, MOST_LINES, Context, headings
from sparse_tasks.evaluators.report.groups import Group, measured, scale, shaded, signed_with_interval, sparsity_text
from sparse_tasks.evaluators.report.plots import SCORE, Axis, Level, Line, Point, lines, sparsity_axis


def against_sparsity(context: Context) -> Section:
    """A figure for each group and length, with a panel a task and a line a method."""
    section = Section("sparsity", "Score against sparsity" if context.methods else "Scores by task")
    if context.methods and not context.runs.able.empty:
        section.blocks.append(
            Text(
                "Each panel is a task, each line a method, each point a run: its mean score, over the sparsity that "
                "was measured while it answered, in the phase that the method thins more. Bands are 95% intervals. The "
                "grey line and its band are dense attention. The nearer a line stays to it towards the right, the "
                "better."
            )
        )
    if not context.runs.able.empty:
        section.blocks += context.unable()
    if not context.methods and any(group.sparse for group in context.groups):
        section.blocks.append(Note(f"No curve is drawn: {UNLABELLED}."))
    for group in context.groups:
        for length in group.lengths:
            section.blocks += _curves(context, group, length)
    return section


def _curves(context: Context, group: Group, length: int) -> Iterator[Block]:
    table = _curve_table(context, group, length)
    at = f"{label(length)}{context.of(group)}"
    caption = f"Score against sparsity at {at}"
    attentions = list(group.attentions)
    shown = attentions[:MOST_LINES]
    tasks = [
        task
        for task in group.tasks
        if any(_config(run, length, task) for run in group.runs) and not context.fails(group, length, task)
    ]
    if not (group.sparse and context.methods):
        yield replace(table, folded=len(table.rows) > LONG)
    elif not tasks:
        yield table
    elif not any(_placed(run, length, task) for run in group.sparse for task in tasks):
        yield Note(f"At {at} nothing is drawn: {_why_unplaced(group)}.")
        yield table
    elif not context.room_for(len(tasks), "sparsity"):
        yield Note(f"{caption} is not drawn, to keep the page small; its numbers are in the table.")
        yield table
    else:
        if len(shown) < len(attentions):
            left_out = wording.listed([wording.name(name) for name in attentions[MOST_LINES:]])
            yield Note(f"At {at} {left_out} are not drawn; the table has their numbers.")
        if nominal := [run for run in group.sparse if _nominal(run, length)]:
            names = wording.listed([wording.name(run.label) for run in nominal], 12)
            place = "it at its target" if len(nominal) == 1 else "them at their targets"
            yield Note(f"At {at} nothing was measured of {names}; the figure has {place}, which is nominal.")
        points = [_placed(run, length, task) for run in group.sparse for task in tasks]
        axis = sparsity_axis([point.x for point in points if point is not None])
        pictures = tuple(Picture(task, _panel(context, group, length, task, shown, axis)) for task in tasks)
        dense = ["dense"] if group.dense is not None else []
        yield Figure(caption, pictures, context.keys([*dense, *shown]), table)


def _panel(context: Context, group: Group, length: int, task: str, attentions: Sequence[str], axis: Axis) -> str:
    drawn, described = [], []
    for name in attentions:
        points = [point for run in group.attentions[name] if (point := _placed(run, length, task)) is not None]
        points.sort(key=lambda point: (point.x, point.y))
        drawn.append(Line(context.styles[name], tuple(points)))
        at = ", ".join(f"{TYPESET.number(point.y, 2)} at {TYPESET.number(point.x, 2)}" for point in points)
        described.append(f"{wording.name(name)}: {at or 'not run'}")
    level = None
    if group.dense is not None and (config := _config(group.dense, length, task)) is not None:
        level = Level(config.mean, config.low, config.high)
        described.insert(0, f"dense: {TYPESET.number(level.y, 2)}")
    title = f"{task} at {label(length)}: score against measured sparsity"
    return lines(context.name(), title, "; ".join(described) + ".", axis, SCORE, drawn, level)


def _config(run: ScoredRun, length: int, task: str) -> ConfigResult | None:
    return next((config for config in run.result.configs if (config.length, config.task) == (length, task)), None)


def _placed(run: ScoredRun, length: int, task: str) -> Point | None:
    """Position of a run in a panel: its measured sparsity, or else its target."""
    config = _config(run, length, task)
    if config is None:
        return None
    x = measured(config.sparsity)
    x = run.target if x is None else x
    return None if x is None else Point(x, config.mean, config.low, config.high)


def _nominal(run: ScoredRun, length: int) -> bool:
    """Whether a run is drawn at its target, because nothing was measured."""
    measures = [config.sparsity for config in run.result.configs if config.length == length]
    return run.target is not None and bool(measures) and not all(measures)


def _why_unplaced(group: Group) -> str:
    """The reason why a group has no sparse run with a position in a figure."""
    if not all(run.labelled for run in group.sparse):
        return UNLABELLED
    return "no sparse run has a target sparsity, and none was measured"


def _curve_table(context: Context, group: Group, length: int) -> Table:
    columns = headings("task", "attention", "target", "measured, prefill", "measured, decode", "n", "mean score",
                       "95% interval", "vs dense", "its 95% interval")  # fmt: skip
    rows = []
    for task in group.tasks:
        for run in group.runs:
            config = _config(run, length, task)
            if config is None:
                continue
            sparsity = config.sparsity or {}
            unmeasured = 0.0 if run.dense else None
            phases = sparsity.get("prefill", unmeasured), sparsity.get("decode", unmeasured)
            difference = signed_with_interval(context.differences.cell(run, length, task))
            if context.fails(group, length, task):
                difference = "unable", TYPESET.missing
            rows.append(
                [
                    *(task, wording.name(run.attention), sparsity_text(run), *map(TYPESET.number, phases)),
                    *(f"{config.n:,}", TYPESET.number(config.mean), TYPESET.interval(config.low, config.high)),
                    *difference,
                ]
            )
    return filled(Table(f"Scores at {label(length)}{context.of(group)}", columns, rows, headers=2, folded=True))


def by_task(context: Context) -> Section:
    """Heat maps: the difference to dense attention of each method and task."""
    section = Section("tasks", "Which tasks pay")
    if not context.differences:
        return section
    section.blocks.append(
        Text(
            "Each cell is the mean score of a method less that of dense attention on the same samples, with its 95% "
            "interval below: orange where score is lost, blue where it is gained, bold where the interval leaves out "
            "0. Each interval stands for itself: of twenty, one may miss."
        )
    )
    section.blocks += context.unable()
    for group in context.groups:
        maps = list(_heat_maps(context, group))
        section.blocks += maps[:1] if len(group.lengths) == 1 else maps
    return section


def _heat_maps(context: Context, group: Group) -> Iterator[Table]:
    """The mean over lengths, then each length by itself."""
    runs = [run for run in group.sparse if any(context.differences.at_length(run, one) for one in group.lengths)]
    if not runs:
        return
    lengths = group.lengths
    tasks = [task for task in group.tasks if not all(context.fails(group, length, task) for length in lengths)]
    over = f"at {label(lengths[0])}" if len(lengths) == 1 else f"mean over {wording.listed([*map(label, lengths)], 8)}"
    differences = context.differences
    maps = {over: [[differences.of_task(run, task) for task in tasks] for run in runs]} | {
        f"at {label(length)} alone": [[differences.cell(run, length, task) for task in tasks] for run in runs]
        for length in lengths
    }
    limit = scale(cell for row in maps[over] for cell in row)
    columns = (*headings("attention", "target"), *(Column(task) for task in tasks))
    for place, values in maps.items():
        caption = f"Difference to dense by method and task, {place}{context.of(group)}"
        rows: list[list[Cell]] = [
            [wording.name(run.attention), sparsity_text(run), *(shaded(cell, limit) for cell in row)]
            for run, row in zip(runs, values, strict=True)
        ]
        yield Table(caption, columns, rows, headers=2, folded=place != over or len(rows) > 2 * LONG)
