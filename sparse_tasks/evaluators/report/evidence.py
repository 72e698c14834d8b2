"""Sections on the evidence: its depth in the prompt, and the distance between its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Note, Section, Text
from sparse_tasks.evaluators.report.context import Context
from sparse_tasks.evaluators.report.panels import Scores, bin_numbers, by_bin, comparable, panels
from sparse_tasks.evaluators.report.plots import share_axis

_BINS: Final = 5
_CONCENTRATED: Final = 0.25  # mean distance below which the evidence of a task has one depth
_DEPTH: Final = Scores(
    "depth", share_axis("depth of the evidence", _BINS), "depth", "From the beginning of the prompt to its end"
)
_DISTANCE: Final = Scores(
    "distance",
    share_axis("distance between evidence", _BINS),
    "distance",
    "From evidence in one place to evidence at both ends of the prompt",
)


def against_depth(context: Context) -> Section:
    """A panel per task with evidence in one place: its score by depth."""
    section = Section("depth", "Evidence depth against score")
    spread = context.runs.able.groupby("task", observed=True)["depth_spread"].mean()
    concentrated, wide, unknown = (
        [str(task) for task in spread.index[chosen]]
        for chosen in (spread < _CONCENTRATED, spread >= _CONCENTRATED, spread.isna())
    )
    if not concentrated:
        return section
    section.blocks.append(
        Text(
            "Depth is where in the prompt the evidence lies, from 0 (its beginning) to 1 (its end); samples of all "
            f"lengths are taken together, in {_BINS} bins. A line that sags shows where what is read is lost."
        )
    )
    if wide:
        text = f"{wording.listed(wide, 12)}: evidence is spread over the prompt and has no single depth; left out."
        section.blocks.append(Note(text))
    if unknown:
        section.blocks.append(Note(f"{wording.listed(unknown, 12)}: the data set records no evidence; left out."))
    _draw(context, section, _DEPTH, "depth", concentrated)
    return section


def against_distance(context: Context) -> Section:
    """A panel per task with evidence in several places: its score by the distance from first to last."""
    section = Section("distance", "Distance between evidence against score")
    samples = context.runs.able
    bins = bin_numbers(samples["depth_spread"], _BINS)
    several = bins.groupby(samples["task"], observed=True).nunique() > 1
    if tasks := [str(task) for task in several.index[several]]:
        section.blocks.append(
            Text(
                "Distance is from the first stretch of evidence to the last, as a share of the prompt; samples of all "
                f"lengths are taken together, in {_BINS} bins. Tasks whose samples all fall into one bin are left out. "
                "A line that falls shows that what lies far apart is not brought together."
            )
        )
        _draw(context, section, _DISTANCE, "depth_spread", tasks)
    return section


def _draw(context: Context, section: Section, kind: Scores, column: str, tasks: Sequence[str]) -> None:
    for group in context.groups:
        if of_group := [task for task in group.tasks if task in tasks]:
            runs, at = comparable(group)
            samples = context.runs.able
            binned = by_bin(samples[samples["run"].isin([run.name for run in runs])], column, _BINS)
            caption = f"Score by {kind.axis.text}{at}{context.of(group)}"
            section.blocks += panels(context, kind, caption, of_group, runs, binned)
