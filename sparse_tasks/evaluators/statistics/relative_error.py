"""Relative errors: the share of dense attention's score that sparse attention loses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparse_tasks.evaluators.statistics.intervals import Interval, macro, mean_interval
from sparse_tasks.evaluators.statistics.paired import gains_less_losses
from sparse_tasks.evaluators.statistics.resampling import NO_SPREAD, critical_root, resampled_counts
from sparse_tasks.evaluators.statistics.values import (
    TOLERANCE,
    Values,
    checked,
    checked_differences,
    miss_rate,
    precise_mean,
)


def relative_error_interval(
    tasks: Sequence[Sequence[tuple[float, float]]], level: float = 0.95, *, resamples: int = 999
) -> Interval:
    """Confidence interval of the relative error ``(D - S) / D`` of means over tasks, all of the same weight.

    ``tasks`` has pairs of a dense and a sparse score, each in [0, 1], for each task. The interval is the symmetric
    studentised bootstrap of ``difference_interval``: pairs are drawn anew within each task, and the standard error is
    that of the ratio by the delta method. Where too few samples changed for that, the limits of gains and losses,
    averaged over tasks by ``macro``, are divided by that limit of D which makes them wider ("gains_losses"). Limits are
    at most 1, and infinite if dense scores are so close to 0 that the ratio is undetermined.

    Raises:
        ValueError: No tasks, a task without pairs, dense scores that are all 0, a score outside [0, 1], or a
            level outside (0, 1).
    """
    alpha = miss_rate(level)
    pairs = sorted((_pairs(task) for task in tasks), key=np.ndarray.tolist)
    dense = [precise_mean(task[:, 0]) for task in pairs]
    if not math.fsum(dense) > 0:
        raise ValueError("there must be a task with a dense score above 0")
    losses = [task[:, 0] - task[:, 1] for task in pairs]
    ratio = math.fsum(map(precise_mean, losses)) / math.fsum(dense)
    half = _half_width(pairs, ratio, alpha, resamples)
    if math.isfinite(half):
        return Interval(ratio - half, min(1.0, ratio + half), "bootstrap")
    _, lost = macro([(precise_mean(row), gains_less_losses(checked_differences(row), alpha)) for row in losses])
    _, of_dense = macro(
        [(mean, mean_interval(task[:, 0].tolist(), level)) for mean, task in zip(dense, pairs, strict=True)]
    )
    if of_dense.low <= TOLERANCE:
        return Interval(-math.inf, 1.0, "gains_losses")
    low = lost.low / (of_dense.low if lost.low < 0 else of_dense.high)
    high = lost.high / (of_dense.low if lost.high > 0 else of_dense.high)
    return Interval(low, min(1.0, high), "gains_losses")


def _pairs(task: Sequence[tuple[float, float]]) -> Values:
    """Dense and sparse scores, shape ``[n, 2]``, sorted."""
    pairs = np.asarray(task, dtype=np.float64).reshape(-1, 2)
    checked(pairs.ravel())
    ordered: Values = pairs[np.lexsort(pairs.T)]
    return ordered


def _half_width(pairs: Sequence[Values], ratio: float, alpha: float, resamples: int) -> float:
    """Half the width of the interval of a ratio of summed means; infinite if too many resamples are degenerate."""
    loss, dense, lost_lost, lost_dense, dense_dense = np.zeros((5, resamples))
    spread = 0.0
    for stream, task in enumerate(pairs):
        n, base, lost = len(task), task[:, 0], task[:, 0] - task[:, 1]
        moments = np.column_stack([lost, base, lost * lost, lost * base, base * base])
        sums = np.concatenate([counts @ moments for counts in resampled_counts(n, resamples, stream)])
        mean_lost, mean_base, mean_squares, mean_products, mean_base_squares = sums.T / n
        loss += mean_lost
        dense += mean_base
        # Variances and the covariance of the means.
        lost_lost += (mean_squares - mean_lost**2) / n
        lost_dense += (mean_products - mean_lost * mean_base) / n
        dense_dense += (mean_base_squares - mean_base**2) / n
        spread += float((lost - ratio * base).var()) / n
    known = dense > TOLERANCE
    drawn_ratio = np.divide(loss, dense, out=np.zeros(resamples), where=known)
    # Variance of the mean of loss - ratio * dense.
    variance = lost_lost - 2 * drawn_ratio * lost_dense + drawn_ratio**2 * dense_dense
    error = np.sqrt(np.maximum(variance, 0))
    known &= error > NO_SPREAD
    roots = np.divide(np.abs(drawn_ratio - ratio) * dense, error, out=np.full(resamples, np.inf), where=known)
    total = math.fsum(precise_mean(task[:, 0]) for task in pairs)
    root = float(critical_root(roots, alpha))
    return root * math.sqrt(spread) / total if spread > 0 else math.inf
