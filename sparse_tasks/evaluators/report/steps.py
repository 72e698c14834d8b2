"""The section on long answers: the share still correct, by the share of the answer written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sparse_tasks.core.format import TYPESET
from sparse_tasks.evaluators.analyses.columns import TextColumn
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.metrics import METRICS
from sparse_tasks.evaluators.report.blocks import Block, Section, Text
from sparse_tasks.evaluators.report.context import ATTENTION, MAKE, TARGET, Context, rows, text_table
from sparse_tasks.evaluators.report.groups import Group
from sparse_tasks.evaluators.report.panels import Place, Scores, panels, place
from sparse_tasks.evaluators.report.plots import Axis

_PLACES: Final = 10  # places in the answer, including the end
_TICKS: Final = (0, 0.2, 0.4, 0.6, 0.8, 1)
_STEPS: Final = Scores(
    "steps",
    Axis("steps of the answer written", -0.03, 1.03, _TICKS, ("0", "20%", "40%", "60%", "80%", "100%")),
    "written",
    "From the first tenth of the answer to its end",
    "without a mistake",
)
_NEARLY: Final = 1e-9  # a share of steps is a quotient, and rounded


def against_steps(context: Context) -> Section:
    """A panel per task whose answers are scored by step: the share of answers without a mistake so far."""
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
        section.blocks.append(_costs(context, stepwise))
    return section


def _costs(context: Context, tasks: set[str]) -> Block:
    """What a solved sample of these tasks costs: attention that writes longer, or solves less, costs more."""
    table = context.analysis.written
    columns = [
        *(
            MAKE.text("task", "task"),
            MAKE.length(),
            *context.model,
            ATTENTION,
            TARGET,
            MAKE.share("solved", "solved", 0),
        ),
        TextColumn("tokens written", lambda row: TYPESET.large(row.tokens)),
        TextColumn("tokens a solved sample", lambda row: TYPESET.large(row.tokens_per_solved)),
        TextColumn("elements read for it", lambda row: TYPESET.large(row.reads_per_solved)),
        MAKE.number("over dense", "against_dense", 2),
    ]
    caption = "Tokens written, and the cost of a sample whose answer is fully correct"
    return text_table(caption, rows(table[table["task"].isin(tasks)]), columns, 2)


def _steps(context: Context, group: Group, tasks: Sequence[str]) -> Iterator[Block]:
    """A figure for the lowest target sparsity and one for the highest; one of all runs where none has a target."""
    targets = sorted({run.target for run in group.sparse if run.target is not None})
    shown: list[float | None] = [*targets[:1], *targets[-1:]]
    for target in dict.fromkeys(shown or [None]):
        runs = [run for run in group.runs if run.dense or run.target == target]
        at = "" if target is None else f", at sparsity {target:g}"
        places = {(run.name, task): _places(context, run, task) for run in runs for task in tasks}
        yield from panels(context, _STEPS, f"Accuracy by step{at}{context.of(group)}", tasks, runs, places)


def _places(context: Context, run: ScoredRun, task: str) -> list[Place]:
    """Where a share of the answer is written: the share of answers whose first mistake, if any, comes later."""
    samples = context.runs.able
    scores = samples.loc[(samples["run"] == run.name) & (samples["task"] == task), "score"].tolist()
    shares = [number / _PLACES for number in range(1, _PLACES + 1)] if scores else []
    return [place(share, f"{share:.0%}", [float(score >= share - _NEARLY) for score in scores]) for share in shares]
