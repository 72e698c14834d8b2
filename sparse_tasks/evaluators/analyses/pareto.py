"""Score against cost: which runs no other beats, and what the cost of a dense run buys at best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.cost import cost
from sparse_tasks.evaluators.analyses.table import Runs
from sparse_tasks.evaluators.statistics import (
    Interval,
    difference_intervals,
    frontier_shares,
    macro,
    mean_interval,
)

__all__ = ["iso_cost", "pareto"]

_COSTS: Final = {"prefill": ("prefill_flops", "prefill_index_flops"), "decode": ("decode_reads", "decode_index_reads")}
_PARETO: Final = [
    *("phase", "length", "run", "model", "attention", "asked"),
    *("cost", "score", "low", "high", "on_frontier", "frontier_share"),
]
_ISO_COST: Final = [
    *("phase", "length", "budget_of", "budget", "best", "model", "attention", "asked"),
    *("cost", "score", "gain", "low", "high", "paired"),
]


def pareto(runs: Runs, resamples: int = 2_000) -> pd.DataFrame:
    """Runs by cost and score, and which of them lie on the frontier: none costs no more, scores no less, and is better.

    In each phase the dense runs are compared with those whose attention was sparse there, as measured: a method that
    acts in decoding alone is no cheaper a way to read a prompt. Costs are those of ``cost.cost``, with what methods do
    to find out what to compute. Scores are means over the tasks that all compared runs of a length have, each task with
    the same weight; intervals are of 95%. How sure the frontier is tells a bootstrap (``statistics.frontier_shares``)
    that draws the same samples for runs over the same data set.

    Args:
        runs: Scored runs.
        resamples: How often to draw the samples anew, at least 1.

    Returns:
        A row for each phase, length and run, by cost: ``phase`` ("prefill" or "decode"), ``length``, ``run``,
        ``model``, ``attention``, ``asked`` (sparsity; NaN where budgets were given), ``cost`` (FLOPs of a prompt, or
        elements read at a decoding step), ``score``, ``low``, ``high``, ``on_frontier``, ``frontier_share`` (of the
        resamples). ``attrs["notes"]`` tells which runs and tasks are left out, and why.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for field in _fields(runs, notes):
        shares = frontier_shares([point.cost for point in field.points], list(field.cells()), resamples=resamples)
        for point, (on, share) in zip(field.points, shares, strict=True):
            score, interval = macro([field.mean(point.run, task) for task in field.tasks])
            rows.append(
                {"phase": field.phase, "length": field.length, "run": point.run, **point.what, "cost": point.cost}
                | {"score": score, "low": interval.low, "high": interval.high}
                | {"on_frontier": on, "frontier_share": share}
            )
    table = pd.DataFrame(rows, columns=_PARETO)
    table.attrs["notes"] = tuple(notes)
    return table


def iso_cost(runs: Runs, level: float = 0.95) -> pd.DataFrame:
    """For each dense run, the run of the highest score that costs no more, of whatever model.

    Runs, costs and tasks are those of ``pareto``. Where both runs answered the same data set, the gain is the mean over
    tasks of paired differences, of the samples that both have; otherwise that of the scores, with an interval made of
    theirs (MOVER, as for independent samples).

    The best of several looks better than it is. So the interval is one of those that all runs which might have been
    chosen would have at once (Bonferroni): with k of them, each at level ``1 - (1 - level) / k``. It is no narrower for
    having looked at many.

    Args:
        runs: Scored runs.
        level: Of the intervals, in (0, 1).

    Returns:
        A row for each phase, length and dense run: ``phase``, ``length``, ``budget_of`` (the dense run), ``budget``
        (its cost), ``best`` (the run; of equal scores the cheaper), its ``model``, ``attention``, ``asked``, ``cost``
        and ``score``, its ``gain`` over the dense run in [-1, 1], with ``low`` and ``high``, and whether it is
        ``paired``. Where nothing scores higher, the best is the dense run itself, and its gain 0. ``attrs["notes"]``
        tells which runs and tasks are left out, and why.

    Raises:
        ValueError: The level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), not {level}")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for field in _fields(runs, notes):
        dense = [point for point in field.points if point.dense]
        if not dense:
            notes.append(f"{field.phase} at {label(field.length)}: no dense run, and so no budget")
        for budget in dense:
            within = [point for point in field.points if point.cost <= budget.cost]
            best = min(within, key=lambda point: (-round(field.score(point.run), 9), point.cost, point.run))
            gain, interval, paired = field.gain(best.run, budget.run, 1 - (1 - level) / max(1, len(within) - 1))
            rows.append(
                {"phase": field.phase, "length": field.length, "budget_of": budget.run, "budget": budget.cost}
                | {"best": best.run, **best.what, "cost": best.cost, "score": field.score(best.run)}
                | {"gain": gain, "low": interval.low, "high": interval.high, "paired": paired}
            )
    table = pd.DataFrame(rows, columns=_ISO_COST)
    table.attrs["notes"] = tuple(notes)
    return table


# --- what is compared ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """A run in a phase, at a length.

    Attributes:
        run: Its name.
        cost: There.
        dense: Whether its attention is dense.
        what: Its model, attention and asked sparsity.
    """

    run: str
    cost: float
    dense: bool
    what: Mapping[str, Any]


@dataclass(frozen=True)
class _Field:
    """Runs that are compared in a phase, at a length.

    Attributes:
        phase: "prefill" or "decode".
        length: Tokens.
        points: By cost.
        tasks: That all of them have, at least one.
        all_scores: Of this length.
    """

    phase: str
    length: int
    points: Sequence[_Point]
    tasks: Sequence[str]
    all_scores: _Scores

    def cells(self) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        """For each task and data set the numbers of the points over it, and their scores, a row a sample."""
        numbers = {point.run: number for number, point in enumerate(self.points)}
        for task in self.tasks:
            for table in self.all_scores.tables[task]:
                there = [name for name in table if name in numbers]
                if there:
                    scores = table[there].to_numpy()
                    yield [numbers[name] for name in there], scores[~np.isnan(scores).all(axis=1)]

    def mean(self, run: str, task: str) -> tuple[float, Interval]:
        return self.all_scores.mean(run, task)

    def score(self, run: str) -> float:
        """The mean over the tasks."""
        return macro([self.mean(run, task) for task in self.tasks])[0]

    def gain(self, run: str, over: str, level: float) -> tuple[float, Interval, bool]:
        """How much higher a run scores than another, with an interval, and whether samples were paired."""
        if run == over:
            return 0.0, Interval(0.0, 0.0, "mover"), True
        both = [self.all_scores.differences(task, run, over) for task in self.tasks]
        if all(both):
            intervals = difference_intervals(both, level)
            means = [sum(one) / len(one) for one in both]
            inside = [min(max(mean, one.low), one.high) for mean, one in zip(means, intervals, strict=True)]
            return (*macro(list(zip(inside, intervals, strict=True))), True)
        first = [self.all_scores.mean(run, task, level) for task in self.tasks]
        other = [self.all_scores.mean(over, task, level) for task in self.tasks]
        # A difference is a sum with the signs of one turned, and a sum twice the mean.
        turned = [(-mean, Interval(-one.high, -one.low, one.method)) for mean, one in other]
        half, interval = macro([*first, *turned])
        return 2 * half, Interval(2 * interval.low, 2 * interval.high, interval.method), False


class _Scores:
    """The scores of all runs at a length.

    Attributes:
        tables: By task, one for each data set: a row a sample, a column a run, NaN where a run lacks the sample.
        mean: Of a run in a task, with an interval.
    """

    def __init__(self, samples: pd.DataFrame) -> None:
        self.tables: dict[str, list[pd.DataFrame]] = {}
        self.mean = cache(self._mean)
        for (task, _), of_it in samples.groupby(["task", "dataset"], observed=True):
            named = of_it.assign(run=of_it["run"].astype(str))
            self.tables.setdefault(task, []).append(named.pivot(index="id", columns="run", values="score"))
        self._columns = {
            (task, name): (number, table[name].to_numpy())
            for task, tables in self.tables.items()
            for number, table in enumerate(tables)
            for name in table
        }

    def has(self, run: str, task: str) -> bool:
        return (task, run) in self._columns

    def _mean(self, run: str, task: str, level: float = 0.95) -> tuple[float, Interval]:
        scores = self._columns[task, run][1]
        scores = scores[~np.isnan(scores)]
        interval = mean_interval(scores.tolist(), level)
        # What rounding makes of a mean may lie a hair outside.
        return min(max(float(scores.mean()), interval.low), interval.high), interval

    def differences(self, task: str, run: str, over: str) -> list[float]:
        """Of the samples that both runs have; none where they answered different data sets."""
        (number, scores), (other, others) = self._columns[task, run], self._columns[task, over]
        if number != other:
            return []
        found = scores - others
        return [float(one) for one in found[~np.isnan(found)]]


def _fields(runs: Runs, notes: list[str]) -> Iterator[_Field]:
    """What can be compared, by phase and length; what cannot is noted."""
    costs = cost(runs)
    dense = {run.name for run in runs.runs if run.dense}
    scores = {int(length): _Scores(of_it) for length, of_it in runs.samples.groupby("length")}
    for phase, names in _COSTS.items():
        costs["cost"] = costs[list(names)].sum(axis=1, skipna=False)
        costs["dense"] = costs["run"].isin(dense)
        costs["acts"] = ~(costs[f"density_{phase}"] >= 1)  # where it was not measured it may
        there = costs[costs["dense"] | costs["acts"]]
        if unknown := sorted(set(there[there["cost"].isna()]["run"])):
            notes.append(f"{phase}: left out, for their cost is not known: {', '.join(unknown)}")
        for length, of_it in there.dropna(subset="cost").sort_values(["cost", "run"]).groupby("length"):
            points = [
                _Point(row["run"], row["cost"], row["dense"], {name: row[name] for name in _PARETO[3:6]})
                for row in of_it.to_dict(orient="records")
            ]
            here = scores[length]
            tasks, left_out = _tasks(here, [point.run for point in points])
            where = f"{phase} at {label(length)}"
            if left_out:
                notes.append(f"{where}: left out, for not all runs have them: {', '.join(left_out)}")
            if tasks:
                yield _Field(phase, length, points, tasks, here)
            else:
                notes.append(f"{where}: no task that all runs have, and so nothing to compare")


def _tasks(scores: _Scores, runs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The tasks that all of the runs have, and those that only some have."""
    having = {task: sum(scores.has(run, task) for run in runs) for task in scores.tables}
    return (
        [task for task, count in having.items() if count == len(runs)],
        [task for task, count in having.items() if 0 < count < len(runs)],
    )
