"""The cost of a correct answer: tokens written and elements read, by task and length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from sparse_tasks.evaluators.analyses.cost import cost
from sparse_tasks.evaluators.analyses.frames import frame
from sparse_tasks.evaluators.analyses.table import Runs

_WHOLE = 1 - 1e-9  # a score is a quotient


@dataclass(frozen=True)
class Written:
    """Output of a run on a task at a length.

    Unsolved samples cost, too: everything that a run wrote or read is divided by the number of solved samples. So
    attention that is cheaper per step but writes more, or solves less, shows as more expensive. NaN if unknown, or if
    nothing was solved.
    """

    run: str
    model: str
    prompts: str  # query-aware, question after or query-agnostic
    attention: str
    asked: float  # target sparsity; NaN where budgets were given
    task: str
    length: int
    n: int  # samples
    solved: float  # share of samples whose whole answer is right, in [0, 1]
    tokens: float  # mean tokens that the model wrote, thought included
    tokens_per_solved: float  # tokens written, over samples solved
    reads_per_solved: float  # elements that decoding read, over samples solved; index included
    against_dense: float  # the same over that of dense attention on the same data


def written(runs: Runs) -> pd.DataFrame:
    """Tokens written, and their cost for each solved sample, in the runs' order: a row a ``Written``.

    A step reads what ``cost`` says at the run's measured density; the answer's own tokens are left out of its length.
    Tasks that a model cannot do are left out.
    """
    rows = list(_rows(runs))
    dense = {(runs[row.run].pairing, row.task, row.length): row for row in rows if runs[row.run].dense}
    ratios = [_ratio(row, dense.get((runs[row.run].pairing, row.task, row.length))) for row in rows]
    compared = [replace(row, against_dense=ratio) for row, ratio in zip(rows, ratios, strict=True)]
    return frame(Written, compared, _notes(rows))


def _ratio(row: Written, dense: Written | None) -> float:
    """Cost of a solved sample over that of dense attention."""
    return math.nan if dense is None else row.reads_per_solved / dense.reads_per_solved


def _rows(runs: Runs) -> Iterator[Written]:
    costs = {(row.run, row.length): row for row in cost(runs).itertuples()}
    number = {run.name: place for place, run in enumerate(runs.runs)}
    groups = dict(iter(runs.able.groupby(["run", "length", "task"], observed=True)))
    # One row per task and length, one column per run.
    ordered = sorted(groups.items(), key=lambda one: (one[0][1], one[0][2], number[one[0][0]]))
    for (run, length, task), samples in ordered:
        solved = int((samples["score"] >= _WHOLE).sum())
        tokens, step = float(samples["output_tokens"].mean()), costs[run, length]
        reads = step.decode_reads + step.decode_index_reads
        per_solved = tokens * len(samples) / solved if solved else math.nan
        yield Written(
            run, runs[run].model, runs[run].prompts, runs[run].attention, step.asked, task, length,
            len(samples), solved / len(samples), tokens, per_solved, per_solved * reads, math.nan,
        )  # fmt: skip


def _notes(rows: list[Written]) -> Iterator[str]:
    if unknown := sorted({row.run for row in rows if math.isnan(row.tokens)}):
        yield f"{', '.join(unknown)}: the tokens of the answers are not known, and so no cost of a solved sample"
