"""Score against cost: the frontier of runs, and the best run for the cost of a dense one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.columns import Row
from sparse_tasks.evaluators.analyses.cost import cost
from sparse_tasks.evaluators.analyses.frames import frame
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.statistics import Interval, difference_intervals, frontier_shares, macro, mean_interval
from sparse_tasks.evaluators.statistics.values import require_fraction

_COSTS: Final = {"prefill": ("prefill_flops", "prefill_index_flops"), "decode": ("decode_reads", "decode_index_reads")}


@dataclass(frozen=True)
class ParetoPoint:
    """A run in a phase, at a length, among the others."""

    phase: str  # "prefill" or "decode"
    length: int
    run: str
    model: str
    prompts: str  # query-aware, question after or query-agnostic: each has a frontier of its own
    attention: str
    asked: float  # target sparsity; NaN where budgets were given
    cost: float  # FLOPs of a prompt, or elements read at a decoding step
    score: float  # mean over tasks
    low: float
    high: float
    on_frontier: bool
    frontier_share: float  # of the resamples


@dataclass(frozen=True)
class IsoCost:
    """The best run within the cost of a dense run."""

    phase: str  # "prefill" or "decode"
    length: int
    budget_of: str  # the dense run
    budget: float  # its cost
    best: str  # the run; of equal scores the cheaper
    model: str  # of the best run, as are the next five
    prompts: str
    attention: str
    asked: float
    cost: float
    score: float
    gain: float  # over the dense run, in [-1, 1]; 0 where the dense run itself is the best
    low: float
    high: float
    paired: bool  # whether both runs answered the same data set


def pareto(runs: Runs, resamples: int = 2_000) -> pd.DataFrame:
    """Runs by cost and score, and whether they lie on the frontier: a row a ``ParetoPoint``, by cost.

    In each phase the dense runs are compared with those whose attention was sparse there, as measured. Costs are those
    of ``cost.cost``, index included. Scores are means over the tasks that all compared runs of a length have, each
    task with the same weight; intervals are of 95%. Notes tell which runs and tasks are left out, and why.
    """
    rows: list[ParetoPoint] = []
    notes: list[str] = []
    for field in _fields(runs, notes):
        shares = frontier_shares([point.cost for point in field.points], list(field.cells()), resamples=resamples)
        for point, (on, share) in zip(field.points, shares, strict=True):
            score, interval = macro([field.all_scores.mean(point.run, task) for task in field.tasks])
            who = (point.run, point.model, point.prompts, point.attention, point.asked)
            place = (field.phase, field.length, *who, point.cost)
            rows.append(ParetoPoint(*place, score, interval.low, interval.high, on, share))
    return frame(ParetoPoint, rows, notes)


def iso_cost(runs: Runs, level: float = 0.95) -> pd.DataFrame:
    """For each dense run, the run of any model with the highest score that costs no more: one ``IsoCost`` per row.

    Runs, costs and tasks are those of ``pareto``. Where both runs answered the same data set, the gain is the mean over
    tasks of paired differences, of the samples that both have; otherwise that of the scores, with an interval made of
    theirs (MOVER, as for independent samples). As the best of k runs looks better than it is, the interval has level
    ``1 - (1 - level) / k`` (Bonferroni).
    """
    require_fraction("level", level)
    rows: list[IsoCost] = []
    notes: list[str] = []
    for field in _fields(runs, notes):
        dense = [point for point in field.points if point.dense]
        if not dense:
            notes.append(f"{field.phase} at {label(field.length)}: no dense run, and so no budget")
        for budget in dense:
            within = [point for point in field.points if point.cost <= budget.cost]
            best = min(within, key=lambda point: (-round(field.score(point.run), 9), point.cost, point.run))
            gain, interval, paired = field.gain(best.run, budget.run, 1 - (1 - level) / max(1, len(within) - 1))
            who = (best.run, best.model, best.prompts, best.attention, best.asked)
            row = (field.phase, field.length, budget.run, budget.cost, *who)
            score = field.score(best.run)
            rows.append(IsoCost(*row, best.cost, score, gain, interval.low, interval.high, paired))
    return frame(IsoCost, rows, notes)


@dataclass(frozen=True)
class _Field:
    """Runs that are compared in a phase, at a length."""

    phase: str  # "prefill" or "decode"
    length: int  # tokens
    points: Sequence[Row]  # by cost: run, model, attention, asked, cost in this phase, and whether it is dense
    tasks: Sequence[str]  # that all of them have, at least one
    all_scores: _Scores  # of this length

    def cells(self) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        """For each task and data set the numbers of the points over it, and their scores, a row a sample."""
        numbers = {point.run: number for number, point in enumerate(self.points)}
        for task in self.tasks:
            for table in self.all_scores.tables[task]:
                names = [name for name in table if name in numbers]
                if names:
                    scores = table[names].to_numpy()
                    yield [numbers[name] for name in names], scores[~np.isnan(scores).all(axis=1)]

    def score(self, run: str) -> float:
        return macro([self.all_scores.mean(run, task) for task in self.tasks])[0]

    def gain(self, run: str, over: str, level: float) -> tuple[float, Interval, bool]:
        """Gain in mean score over another run, its interval, and whether samples were paired."""
        if run == over:
            return 0.0, Interval(0.0, 0.0, "mover"), True
        both = [self.all_scores.differences(task, run, over) for task in self.tasks]
        if all(both):
            intervals = difference_intervals(both, level)
            means = [sum(differences) / len(differences) for differences in both]
            inside = [min(max(mean, limits.low), limits.high) for mean, limits in zip(means, intervals, strict=True)]
            return (*macro(list(zip(inside, intervals, strict=True))), True)
        first = [self.all_scores.mean(run, task, level) for task in self.tasks]
        other = [self.all_scores.mean(over, task, level) for task in self.tasks]
        # A difference is a sum with one run's signs flipped, and a sum is twice the mean.
        turned = [(-mean, Interval(-limits.high, -limits.low, limits.method)) for mean, limits in other]
        half, interval = macro([*first, *turned])
        return 2 * half, Interval(2 * interval.low, 2 * interval.high, interval.method), False


class _Scores:
    def __init__(self, samples: pd.DataFrame) -> None:
        self.tables: dict[str, list[pd.DataFrame]] = {}
        self.mean = cache(self._mean)
        for (task, _), group in samples.groupby(["task", "dataset"], observed=True):
            named = group.assign(run=group["run"].astype(str))
            self.tables.setdefault(task, []).append(named.pivot(index="id", columns="run", values="score"))
        self.columns = {
            (task, name): (number, table[name].to_numpy())
            for task, tables in self.tables.items()
            for number, table in enumerate(tables)
            for name in table
        }

    def _mean(self, run: str, task: str, level: float = 0.95) -> tuple[float, Interval]:
        scores = self.columns[task, run][1]
        scores = scores[~np.isnan(scores)]
        interval = mean_interval(scores.tolist(), level)
        # Rounding may move a mean slightly outside.
        return min(max(float(scores.mean()), interval.low), interval.high), interval

    def differences(self, task: str, run: str, over: str) -> list[float]:
        """Differences over the samples that both runs have; none for different data sets."""
        (number, scores), (other, others) = self.columns[task, run], self.columns[task, over]
        if number != other:
            return []
        differences = scores - others
        return [float(difference) for difference in differences[~np.isnan(differences)]]


def _fields(runs: Runs, notes: list[str]) -> Iterator[_Field]:
    """Comparable runs, by phase and length; notes list the others."""
    costs = cost(runs)
    costs["dense"] = costs["run"].isin([run.name for run in runs.runs if run.dense])
    kinds = ["length", "prompts"]
    scores = {kind: _Scores(group) for kind, group in runs.able.groupby(kinds, observed=True)}
    for phase, names in _COSTS.items():
        costs["cost"] = costs[list(names)].sum(axis=1, skipna=False)
        costs["acts"] = ~(costs[f"density_{phase}"] >= 1)  # unmeasured runs may be sparse
        compared = costs[costs["dense"] | costs["acts"]]
        if unknown := sorted(set(compared[compared["cost"].isna()]["run"])):
            notes.append(f"{phase}: left out, for their cost is not known: {', '.join(unknown)}")
        for (length, prompts), group in compared.dropna(subset="cost").sort_values(["cost", "run"]).groupby(kinds):
            if (here := scores.get((length, prompts))) is None:
                continue
            scored = {run for _, run in here.columns}
            points: list[Row] = [point for point in group.itertuples(index=False) if point.run in scored]
            having = {task: sum((task, point.run) in here.columns for point in points) for task in here.tables}
            tasks = [task for task, count in having.items() if count == len(points)]
            left_out = [task for task, count in having.items() if 0 < count < len(points)]
            where = f"{phase} at {label(length)}"
            if left_out:
                notes.append(f"{where}: left out, for not all runs have them: {', '.join(left_out)}")
            if tasks:
                yield _Field(phase, length, points, tasks, here)
            else:
                notes.append(f"{where}: no task that all runs have, and so nothing to compare")
