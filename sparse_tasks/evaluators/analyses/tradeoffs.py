"""Which method suits which task: methods at the same sparsity, task by task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from sparse_tasks.evaluators.analyses.frames import frame
from sparse_tasks.evaluators.analyses.table import Runs, by_method
from sparse_tasks.evaluators.statistics import Interval, difference_intervals, macro, precise_mean, ranks
from sparse_tasks.evaluators.statistics.values import Values


@dataclass(frozen=True)
class Tradeoff:
    """A method on a task at a length, or averaged over tasks or lengths."""

    model: str
    prompts: str  # query-aware, question after or query-agnostic
    asked: float  # target sparsity; NaN where budgets were given
    length: float  # length; NaN for the mean over lengths
    task: str | None  # task; None for the mean over tasks
    attention: str
    n: int  # samples
    score: float  # mean score, in [0, 1]
    difference: float  # sparse less dense, over samples that both answered; NaN without a dense run
    low: float  # lower limit of the difference
    high: float  # upper limit
    rank: float  # 1 for the best; equal scores share the mean of their ranks; NaN where budgets were given
    rank_low: float  # lower limit of the rank
    rank_high: float  # upper limit


@dataclass(frozen=True)
class _Cell:
    scores: dict[str, Values]  # by method; NaN for samples that another method alone answered
    differences: dict[str, tuple[float, Interval]]  # mean difference to dense, of methods that share samples with it

    def answered(self, method: str) -> Values:
        answered: Values = self.scores[method][~np.isnan(self.scores[method])]
        return answered


def task_tradeoffs(runs: Runs) -> pd.DataFrame:
    """Score of each method by task, its difference to dense attention, and its rank: a row a ``Tradeoff``.

    Only methods of the same model, the same kind of prompts and the same target sparsity are ranked with each other.
    Means give each task at each length the same weight, over what all compared methods have answered, so that no method
    wins by omitting hard samples. Rows are ordered by model, prompts, target sparsity, task, length and method; notes
    tell of methods that share no task.
    """
    rows: list[Tradeoff] = []
    notes: list[str] = []
    samples = by_method(runs.able)
    alone = samples["attention"].astype(str).where(samples["asked"].isna(), "")
    kinds = ["model", "prompts", "asked", alone]
    for (model, prompts, target, _), group in samples.groupby(kinds, observed=True, dropna=False):
        cells = _cells(group)
        lengths = sorted({length for length, _ in cells})
        tasks = sorted({task for _, task in cells})
        for task, length in product([*tasks, None], [*lengths, math.nan]):
            chosen = [
                cell
                for (cell_length, cell_task), cell in cells.items()
                if (math.isnan(length) or cell_length == length) and (task is None or cell_task == task)
            ]
            methods = sorted({method for cell in chosen for method in cell.scores})
            common = [cell for cell in chosen if len(cell.scores) == len(methods)]
            if common:
                rows += _compared((model, prompts, target, length, task), common, methods)
            elif chosen:
                mean = "over tasks" if task is None else f"of {task} over lengths"
                notes.append(f"{model} at {target:g}: {', '.join(methods)} share no task at a length; no mean {mean}")
    return frame(Tradeoff, rows, notes)


def _cells(samples: pd.DataFrame) -> dict[tuple[int, str], _Cell]:
    wide = samples.pivot(index=["length", "task", "dataset", "id"], columns="attention", values="score")
    lost = samples.assign(difference=samples["score"] - samples["dense"]).dropna(subset="difference")
    paired = {
        key: part.to_numpy() for key, part in lost.groupby(["length", "task", "attention"], observed=True)["difference"]
    }
    means = {
        key: (float(np.clip(precise_mean(part), interval.low, interval.high)), interval)
        for (key, part), interval in zip(paired.items(), difference_intervals(list(paired.values())), strict=True)
    }
    cells = {}
    for place, part in wide.groupby(level=["length", "task"], observed=True):
        columns = zip(map(str, wide.columns), part.to_numpy().T, strict=True)
        scores = {method: column for method, column in columns if not np.isnan(column).all()}
        cells[place] = _Cell(scores, {method: means[*place, method] for method in scores if (*place, method) in means})
    return cells


def _compared(
    place: tuple[str, str, float, float, str | None], cells: Sequence[_Cell], methods: Sequence[str]
) -> Iterator[Tradeoff]:
    ranked = not math.isnan(place[2])
    places = ranks([np.column_stack([cell.scores[method] for method in methods]) for cell in cells])
    for method, rank in zip(methods, places, strict=True):
        answered = [cell.answered(method) for cell in cells]
        difference = low = high = math.nan
        if all(method in cell.differences for cell in cells):
            difference, interval = macro([cell.differences[method] for cell in cells])
            low, high = interval.low, interval.high
        yield Tradeoff(
            *place,
            attention=method,
            n=sum(map(len, answered)),
            score=precise_mean([precise_mean(scores) for scores in answered]),
            difference=difference,
            low=low,
            high=high,
            rank=rank.rank if ranked else math.nan,
            rank_low=rank.low if ranked else math.nan,
            rank_high=rank.high if ranked else math.nan,
        )
