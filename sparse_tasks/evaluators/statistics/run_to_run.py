"""Serving variance: how far runs of the same model, samples and settings differ, by batch, engine or machine alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparse_tasks.evaluators.statistics.intervals import mean_interval
from sparse_tasks.evaluators.statistics.values import Values, checked, miss_rate, precise_mean


@dataclass(frozen=True, slots=True)
class RunToRun:
    """Serving variance of a mean score, of a task or over tasks."""

    changed: float  # share of samples whose score is not the same in all runs
    sd: float  # standard deviation of the mean of one run
    limit: float  # two runs seldom differ by more


def run_to_run(tasks: Sequence[Sequence[Sequence[float]]], level: float = 0.95) -> RunToRun:
    """Serving variance of the mean over tasks, each with the same weight, from two runs or more.

    ``tasks`` has a table of scores in [0, 1] for each task, a row a run, a column a sample; runs and samples may come
    in any order, but runs in the same one in all tables.

    Scores of one sample in several runs differ by what serving alone does to it. Their variance, added up over samples
    (which change independently of each other), gives the standard deviation of the mean, from as many numbers as there
    are samples, however few runs there are. If the means of whole runs scatter more, because an engine shifts many
    samples one way, their standard deviation counts instead. The limit is the normal one at the upper 95% limit of that
    variance, so that it is not 0 where few samples could change and none did, or the largest difference of two runs
    that was seen, if that is larger.

    Raises:
        ValueError: No tasks, fewer than two runs, other runs in another task, no samples, a score outside [0, 1], or a
            level outside (0, 1).
    """
    from scipy.special import ndtri

    quantile = float(ndtri(1 - miss_rate(level) / 2))
    tables = [np.asarray(task, dtype=np.float64) for task in tasks]
    if not tables or any(table.ndim != 2 or len(table) < 2 or len(table) != len(tables[0]) for table in tables):
        raise ValueError(
            "there must be at least one task, with the scores of at least two runs, the same for all tasks"
        )
    # Of the difference of two runs, at each sample: in [0, 1], as scores are.
    squares = [_squares(table) for table in tables]
    scale = len(tables) ** 2
    noise = math.fsum(precise_mean(task) / len(task) for task in squares) / scale
    most = math.fsum(mean_interval(task.tolist(), 0.9).high / len(task) for task in squares) / scale
    means = [precise_mean([precise_mean(table[run]) for table in tables]) for run in range(len(tables[0]))]
    shift = 2 * float(np.var(np.sort(means), ddof=1))
    changed = sum(int((np.ptp(table, axis=0) > 0).sum()) for table in tables)
    return RunToRun(
        changed=changed / sum(table.shape[1] for table in tables),
        sd=math.sqrt(max(noise, shift) / 2),
        limit=min(1.0, max(quantile * math.sqrt(most), max(means) - min(means))),
    )


def _squares(table: Values) -> Values:
    """Expected squared difference of two runs, by sample, sorted."""
    checked(table.ravel())
    ordered = np.sort(table, axis=0)  # rounding is the same whatever the order of runs
    return np.sort(np.minimum(1.0, 2 * ordered.var(axis=0, ddof=1)))
