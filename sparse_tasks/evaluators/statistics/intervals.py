"""Confidence intervals of mean scores, of one task and over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparse_tasks.evaluators.statistics.values import TOLERANCE, checked, miss_rate, precise_mean

Method = Literal["wilson", "score", "gains_losses", "bootstrap", "mover", "sandwich"]
"""Of a mean the first two, of a difference or relative error the next two, of ``macro``, of ``logit_regression``."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval."""

    low: float  # never NaN
    high: float  # at least ``low``
    method: Method


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Confidence interval of the mean of scores in [0, 1], shape ``[n]``, in any order.

    Wilson's score interval (1927) for the effective sample size of graded scores, with Student's quantile, as Franco,
    Little, Louis and Slud (2019, Journal of Survey Statistics and Methodology 7, 334-364) recommend for surveys. Where
    all scores are 0 or 1, or all or all but one are the same, it is Wilson's interval for ``n`` samples.

    Raises:
        ValueError: No scores, a score outside [0, 1], or a level outside (0, 1).
    """
    from scipy.special import ndtri, stdtrit

    scores = checked(values)
    tail = 1 - miss_rate(level) / 2
    n, mean = len(scores), precise_mean(scores)
    commonest = int(np.unique(np.round(scores / TOLERANCE), return_counts=True)[1].max())
    if n - commonest < 2 or bool(np.isin(scores, (0.0, 1.0)).all()):
        return wilson(mean, n, float(ndtri(tail)), "wilson")
    effective = n * mean * (1 - mean) / float(scores.var(ddof=1))
    return wilson(mean, effective, float(stdtrit(n - 1, tail)), "score")


def wilson(mean: float, n: float, z: float, method: Method = "wilson") -> Interval:
    """Wilson's interval of a proportion ``mean`` among ``n``, whole or not, for a quantile ``z``."""
    shrink = 1 + z * z / n
    centre = (mean + z * z / (2 * n)) / shrink
    half = z * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2) / shrink
    # At a mean of 0 or 1 one limit is the mean itself, up to rounding.
    return Interval(max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)), method)


def macro(means_and_intervals: Sequence[tuple[float, Interval]]) -> tuple[float, Interval]:
    """Unweighted mean over tasks that share no samples, with an interval made of theirs, all of one level.

    MOVER (Zou and Donner 2008, Statistics in Medicine 27, 1693-1702): distances of means to their limits add up in
    squares, on each side separately.

    Raises:
        ValueError: No tasks, or a mean that lies outside its interval or is NaN.
    """
    if not means_and_intervals:
        raise ValueError("there must be at least one task")
    for mean, interval in means_and_intervals:
        if not interval.low <= mean <= interval.high:
            raise ValueError(f"a mean must lie within its interval: {mean}, {interval}")
    tasks = len(means_and_intervals)
    average = math.fsum(mean for mean, _ in means_and_intervals) / tasks
    below = math.hypot(*(mean - interval.low for mean, interval in means_and_intervals)) / tasks
    above = math.hypot(*(interval.high - mean for mean, interval in means_and_intervals)) / tasks
    # The mean of the limits is always further out; only rounding could exceed it, and with it the scale.
    lowest = math.fsum(interval.low for _, interval in means_and_intervals) / tasks
    highest = math.fsum(interval.high for _, interval in means_and_intervals) / tasks
    return average, Interval(max(lowest, average - below), min(highest, average + above), "mover")
