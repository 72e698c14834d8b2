"""Ranks by mean score and frontiers of cost and score, with their uncertainty over samples."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_tasks.evaluators.statistics.resampling import resampled_scores
from sparse_tasks.evaluators.statistics.values import TOLERANCE, Values, miss_rate


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank by mean score with its limits, 1 for the highest; equal means share the mean of their ranks."""

    rank: float
    low: float
    high: float


def ranks(cells: Sequence[npt.ArrayLike], level: float = 0.95, *, resamples: int = 999) -> list[Rank]:
    """Ranks of methods by the mean over cells, with percentiles of their ranks in resamples as limits.

    Each resample draws new samples within each cell, the same ones for all methods. Two methods that are truly equal
    swap ranks in half of the resamples, so the limits contain both ranks; nothing more is promised.

    Args:
        cells: For each task and length, scores in [0, 1] of shape ``[samples, methods]``, NaN where a method has not
            answered; each method has answered a sample in every cell. Samples and cells may come in any order.
        level: Share of resamples within the limits, in (0, 1).

    Raises:
        ValueError: No cells, no methods, a method without a score in a cell, or a level outside (0, 1).
    """
    alpha = miss_rate(level)
    tables = [np.asarray(cell, dtype=np.float64) for cell in cells]
    if not tables or any(table.ndim != 2 or 0 in table.shape for table in tables):
        raise ValueError("there must be at least one cell, with samples and methods")
    methods = tables[0].shape[1]
    means, drawn = resampled_scores(methods, [(range(methods), table) for table in tables], resamples)
    observed, drawn_ranks = _ranked(means[None])[0], np.sort(_ranked(drawn), axis=0)
    below = math.floor(alpha / 2 * resamples)
    limits = zip(observed, drawn_ranks[below], drawn_ranks[resamples - 1 - below], strict=True)
    return [Rank(float(rank), float(min(low, rank)), float(max(high, rank))) for rank, low, high in limits]


def interval_ranks(means: Sequence[float], intervals: Sequence[tuple[float, float]]) -> list[Rank]:
    """Ranks of runs for which only means and intervals are known, as on a board.

    A run is significantly better than another if their intervals do not overlap; the limits are whole numbers.
    """
    steps = [round(mean / TOLERANCE) for mean in means]
    rising, n = sorted(steps), len(intervals)
    lows, highs = sorted(low for low, _ in intervals), sorted(high for _, high in intervals)
    return [
        Rank(
            n - (bisect_left(rising, step) + bisect_right(rising, step) - 1) / 2,  # scipy would take a second to load
            1 + n - bisect_right(lows, high),
            n - bisect_left(highs, low),
        )
        for step, (low, high) in zip(steps, intervals, strict=True)
    ]


def _ranked(means: Values) -> Values:
    """Ranks in each row, 1 for the highest value."""
    from scipy.stats import rankdata

    ranked: Values = rankdata(-np.round(means / TOLERANCE), axis=1)
    return ranked


def frontier_shares(
    costs: Sequence[float], cells: Sequence[tuple[Sequence[int], npt.ArrayLike]], *, resamples: int = 2_000
) -> list[tuple[bool, float]]:
    """Whether each point of cost and mean score is on the frontier, and the share of resamples in which it is.

    A point is off the frontier if another costs no more and scores no less, and is better in one of the two. Each
    resample draws the samples of each cell anew, the same ones for all its points; costs stay. Of two points with truly
    equal scores, the more expensive one is on the frontier in about half of the resamples. Cells are those of
    ``resampled_scores``.

    Raises:
        ValueError: A cost is NaN, or a point has no score in any cell, or in one that names it.
    """
    prices = np.asarray(costs, dtype=np.float64)
    if np.isnan(prices).any():
        raise ValueError("each cost must be a number")
    means, drawn = resampled_scores(len(prices), cells, resamples)
    observed = _on_frontier(prices, means[None])[0]
    shares = _on_frontier(prices, drawn).mean(axis=0)
    return [(bool(on), float(share)) for on, share in zip(observed, shares, strict=True)]


def _on_frontier(costs: Values, scores: Values) -> npt.NDArray[np.bool_]:
    """Whether each column is on the frontier, in each row of ``scores``."""
    rounded = np.round(scores / TOLERANCE)
    order = np.argsort(costs, kind="stable")
    _, starts, group = np.unique(costs[order], return_index=True, return_inverse=True)
    best = np.maximum.reduceat(rounded[:, order], starts, axis=1)  # of each cost
    cheaper = np.full_like(best, -np.inf)
    cheaper[:, 1:] = np.maximum.accumulate(best, axis=1)[:, :-1]
    on = np.empty(scores.shape, dtype=np.bool_)
    on[:, order] = (rounded[:, order] >= best[:, group]) & (rounded[:, order] > cheaper[:, group])
    return on
