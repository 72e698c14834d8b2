"""Uncertainty: confidence intervals, tests, ranks and regressions; the only place where it is computed.

Functions take the scores of samples in any order and give the same numbers for the same scores: random draws have a
fixed seed and start from sorted values. Samples of a task count as independent draws, so that an interval is for the
mean over all samples that the task could write. ``docs/analyses.md`` says what the methods can and cannot promise.
"""

from __future__ import annotations

from sparse_tasks.evaluators.statistics.intervals import Interval, Method, macro, mean_interval
from sparse_tasks.evaluators.statistics.learn_then_test import (
    fixed_sequence,
    hoeffding_bentkus_p_value,
    samples_needed,
)
from sparse_tasks.evaluators.statistics.paired import (
    difference_interval,
    difference_intervals,
    holm,
    sign_flip_p_value,
    smallest_detectable,
)
from sparse_tasks.evaluators.statistics.ranks import Rank, frontier_shares, interval_ranks, ranks
from sparse_tasks.evaluators.statistics.regression import LogitRegression, SeparatedError, logit_regression
from sparse_tasks.evaluators.statistics.relative_error import relative_error_interval
from sparse_tasks.evaluators.statistics.run_to_run import RunToRun, run_to_run
from sparse_tasks.evaluators.statistics.values import precise_mean

__all__ = ["Interval", "LogitRegression", "Method", "Rank", "RunToRun", "SeparatedError", "difference_interval",
           "difference_intervals", "fixed_sequence", "frontier_shares", "hoeffding_bentkus_p_value", "holm",
           "interval_ranks", "logit_regression", "macro", "mean_interval", "precise_mean", "ranks",
           "relative_error_interval", "run_to_run", "samples_needed", "sign_flip_p_value",
           "smallest_detectable"]  # fmt: skip
