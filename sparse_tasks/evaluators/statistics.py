"""How sure a number is: intervals, the paired test, and what a run was too small to see.

This is the only place where uncertainty is computed. Every function takes the scores of samples as they are and
gives the same answer for the same scores in any order: what is drawn at random is drawn with a fixed seed, from
sorted values.

The samples of a task are taken as independent draws; what an interval covers is the mean over all samples that
the task could have written, not over those of this data set.

Nothing here can know of what did not occur. Where one answer in twenty fails outright and the others are nearly
right, a third of all runs of 20 samples hold no failure, and their intervals may lie above the truth. About five such
failures have to be expected in a run before its interval can be trusted. The tests measure both.
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, expit, ndtri, rel_entr, stdtrit

__all__ = [
    "Interval",
    "LogitRegression",
    "Method",
    "Rank",
    "SeparatedError",
    "difference_interval",
    "difference_intervals",
    "fixed_sequence",
    "frontier_shares",
    "hoeffding_bentkus_p_value",
    "holm",
    "logit_regression",
    "macro",
    "mean_interval",
    "ranks",
    "relative_error_interval",
    "samples_needed",
    "sign_flip_p_value",
    "smallest_detectable",
]

Method = Literal["wilson", "score", "gains_losses", "bootstrap", "mover", "sandwich"]
_Values = npt.NDArray[np.float64]

_SEED: Final = 20_081_988  # any number does, as long as it stays the same
_CELLS: Final = 1_000_000  # random numbers held at once: 8 MB
_EXACT: Final = 14  # up to so many changed samples, every pattern of signs is tried
_FLIPS: Final = 19_999  # random patterns otherwise; a p-value of 0.05 is then known to within 0.003
_RESAMPLES: Final = 9_999
_TOLERANCE: Final = 1e-9  # values nearer than this differ by rounding only
_NO_SPREAD: Final = 1e-7  # what rounding leaves of a spread of 0 that is a difference of squares
_COLUMNS: Final = 256  # intervals found at once: 20 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, and how it was found.

    Attributes:
        low: Lower limit, never NaN.
        high: Upper limit, at least ``low``.
        method: "wilson" or "score" (``mean_interval``), "gains_losses" or "bootstrap"
            (``difference_interval``, ``relative_error_interval``), "mover" (``macro``), "sandwich"
            (``logit_regression``).
    """

    low: float
    high: float
    method: Method


# --- the mean of scores -------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """A confidence interval for the mean of scores in [0, 1].

    The score interval of Wilson (1927) turned to graded scores: those limits ``m`` for which the mean lies just
    at the edge of what chance allows if the variance is ``f * m * (1 - m)``, with the factor ``f`` estimated from
    the scores. That is Wilson's interval for the effective sample size ``n / f``, with Student's quantile because
    ``f`` is estimated; it never leaves [0, 1] and leans away from the near end as it should. Franco, Little,
    Louis and Slud (2019, Journal of Survey Statistics and Methodology 7, 334-364) compare seven such intervals
    for surveys and recommend this form.

    A bootstrap does worse here. For 20 scores of a task that asks for 4 or 16 entries, with a mean of 0.9 or more,
    95% intervals hold the mean in 87 to 92% of runs by percentile and BCa, and in up to 98% by the studentised
    bootstrap, which is up to 1.8 times as wide; this one holds it in 94 to 96%.

    Scores of 0 and 1 alone get Wilson's interval for ``n`` samples ("wilson"). So do scores of which all or all
    but one are the same: they say nothing about the variance, and that of 0 and 1 is the largest there can be.

    Args:
        values: Scores, shape ``[n]``, each in [0, 1], in any order.
        level: The share of such intervals that shall hold the true mean, in (0, 1).

    Raises:
        ValueError: No scores, or one that is not in [0, 1], or a level that is not in (0, 1).
    """
    scores = _checked(values, low=0.0)
    tail = 1 - _alpha(level) / 2
    n, mean = len(scores), _mean(scores)
    if _unlike_commonest(scores) < 2 or bool(np.isin(scores, (0.0, 1.0)).all()):
        return _wilson(mean, n, float(ndtri(tail)), "wilson")
    effective = n * mean * (1 - mean) / float(scores.var(ddof=1))
    return _wilson(mean, effective, float(stdtrit(n - 1, tail)), "score")


def _wilson(mean: float, n: float, z: float, method: Method) -> Interval:
    """Wilson's interval for a proportion ``mean`` among ``n``: both roots m of (mean - m)^2 = z^2 m (1 - m) / n."""
    shrink = 1 + z * z / n
    centre = (mean + z * z / (2 * n)) / shrink
    half = z * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2) / shrink
    # At a mean of 0 or 1 one limit is the mean itself, which rounding may miss by a hair on either side.
    return Interval(max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)), method)


# --- paired differences -------------------------------------------------------------------------------------


def difference_interval(differences: Sequence[float], level: float = 0.95, *, resamples: int = _RESAMPLES) -> Interval:
    """A confidence interval for the mean of paired differences in [-1, 1].

    The symmetric studentised bootstrap (Hall 1988, Journal of the Royal Statistical Society B 50, 35-45): the
    mean plus and minus so many standard errors as ``level`` of the resamples stay within. Most pairs of a dense
    and a sparse run are ties, and the rest lean one way. There percentile and Student's intervals promise too
    much: with 20 samples of which 3 in 10 lost something, 95% intervals hold the mean in 86 to 88% of runs. This
    one holds it in 97%.

    Where too few samples changed for that (two of 20, or none), more than ``1 - level`` of the resamples have no
    spread at all. Then gains and losses each get Wilson's interval, and the limits are the least gain less the
    greatest loss, and the reverse ("gains_losses"). That is careful: it covers more often than ``level`` says.
    Without any difference it is [-w, w], where w is Wilson's upper limit for 0 of ``n``: the share of samples
    that may differ, for all that was seen.

    Exchanging the two runs mirrors the interval exactly.

    Args:
        differences: Shape ``[n]``, each in [-1, 1], in any order.
        level: The share of such intervals that shall hold the true mean difference, in (0, 1).
        resamples: How often to draw the samples anew.

    Raises:
        ValueError: No differences, or one that is not in [-1, 1], or a level that is not in (0, 1).
    """
    (interval,) = difference_intervals([differences], level, resamples=resamples)
    return interval


def difference_intervals(
    rows: Sequence[Sequence[float]], level: float = 0.95, *, resamples: int = _RESAMPLES
) -> list[Interval]:
    """What ``difference_interval`` gives for each row, much faster where many rows are equally long.

    Args:
        rows: Differences, each in [-1, 1], in any order; a row for each interval.
        level: The share of such intervals that shall hold the true mean difference, in (0, 1).
        resamples: How often to draw the samples anew.

    Raises:
        ValueError: A row is empty, a difference is not in [-1, 1], or a level is not in (0, 1).
    """
    alpha = _alpha(level)
    changes = [_changes(row) for row in rows]
    found: dict[int, Interval] = {}
    by_size: dict[int, list[int]] = {}
    for number, row in enumerate(changes):
        by_size.setdefault(len(row), []).append(number)
    for numbers in by_size.values():
        for start in range(0, len(numbers), _COLUMNS):
            some = numbers[start : start + _COLUMNS]
            halves = _half_widths([changes[number] for number in some], alpha, resamples)
            for number, half in zip(some, halves, strict=True):
                mean = _mean(changes[number])
                found[number] = (
                    _gains_less_losses(changes[number], alpha)
                    if math.isinf(half)
                    else Interval(max(-1.0, mean - half), min(1.0, mean + half), "bootstrap")
                )
    return [found[number] for number in range(len(changes))]


def _half_widths(rows: Sequence[_Values], alpha: float, resamples: int) -> list[float]:
    """How far the mean of each row may lie from the truth; infinite where too many resamples have no spread.

    All rows are equally long, and resampled alike.
    """
    # Of the differences and their mirror image one is resampled, whichever way round they come.
    values = np.stack([max((row, np.sort(-row)), key=np.ndarray.tolist) for row in rows]).T
    # About their own mean, so that the spread of a resample is no small difference of large numbers.
    values = values - np.array([_mean(row) for row in values.T])
    n = len(values)
    generator = np.random.default_rng(_SEED)
    roots = []
    for drawn in _chunks(resamples, n):
        places = generator.integers(0, n, size=(drawn, n)) + n * np.arange(drawn)[:, None]
        # How often each value is in each resample: all rows are resampled by one product.
        counts = np.bincount(places.ravel(), minlength=drawn * n).reshape(drawn, n).astype(np.float64)
        means = counts @ values / n
        spreads = np.sqrt(np.maximum(counts @ values**2 / n - means**2, 0))
        # A resample of one value over and over counts as infinitely far from the mean, the careful side.
        roots.append(np.divide(np.abs(means), spreads, out=np.full(means.shape, np.inf), where=spreads > _NO_SPREAD))
    rank = min(resamples, resamples + 1 - math.floor(alpha * (resamples + 1)))
    at = np.partition(np.concatenate(roots), rank - 1, axis=0)[rank - 1]
    return [
        math.inf if row.max() - row.min() <= _TOLERANCE else float(root * row.std())
        for root, row in zip(at, values.T, strict=True)
    ]


def _gains_less_losses(changes: _Values, alpha: float) -> Interval:
    """Limits that hold whatever sizes the changes have that were not seen."""
    n, z = len(changes), float(ndtri(1 - alpha / 2))
    gain = _wilson(_mean(np.maximum(changes, 0)), n, z, "wilson")
    loss = _wilson(_mean(np.maximum(-changes, 0)), n, z, "wilson")
    return Interval(gain.low - loss.high, gain.high - loss.low, "gains_losses")


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """The p-value of the paired permutation test, two-sided, in (0, 1].

    If the two runs are alike, each difference could as well have had the other sign (Fisher 1935, The Design of
    Experiments, section 21). The p-value is the share of sign patterns whose mean is at least as far from zero as
    the one seen. Up to 14 differences other than zero, all patterns are tried; beyond, 19,999 are drawn, and the
    pattern seen is counted among them, without which the test would not be valid (Phipson and Smyth 2010,
    Statistical Applications in Genetics and Molecular Biology 9, 39). Zeros change nothing.

    Args:
        differences: Shape ``[n]``, each in [-1, 1], in any order.

    Raises:
        ValueError: No differences, or one that is not in [-1, 1].
    """
    changes = _changes(differences)
    sizes = np.sort(np.abs(changes[changes != 0]))
    # Patterns that differ from the one seen by rounding alone are as extreme as it is.
    seen = abs(math.fsum(changes)) - _TOLERANCE * math.fsum(sizes)
    if len(sizes) <= _EXACT:
        patterns = (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * patterns) @ sizes) >= seen))
    generator = np.random.default_rng(_SEED)
    extreme = 0
    for rows in _chunks(_FLIPS, len(sizes)):
        signs = 1.0 - 2.0 * generator.integers(0, 2, size=(rows, len(sizes)), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(signs @ sizes) >= seen))
    return (extreme + 1) / (_FLIPS + 1)


def smallest_detectable(differences: Sequence[float], level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true mean difference that so many samples would probably have shown, in (0, 1].

    ``(z(1 - a/2) + z(power)) * sd / sqrt(n)``, with ``a = 1 - level``: with a mean difference of this size and
    differences that scatter as those seen, a test at level ``a`` finds it in a share ``power`` of all runs. It is
    a statement about the run's size, made with its own scatter; the difference seen plays no part in it.

    Two limits keep it honest where the scatter seen is small, by chance or for want of changes:

    - The sign-flip test cannot reject at all unless enough samples changed: k that all change one way have
      p = 2 * 2^-k, so at 5% it takes 6. A mean difference made of 6 changes, each as small as the smallest seen,
      is the least that could be found, in a lucky run; none below is claimed. With no scatter at all the data say
      nothing of how large changes are, and the largest possible is assumed: 6/n.
    - With fewer samples than that, no difference of any size could have been found, and the answer is 1.

    It is an estimate, as uncertain as the standard deviation in it (16% at 20 samples of a normal scatter).

    Args:
        differences: Shape ``[n]``, each in [-1, 1], in any order.
        level: One less the size of the test, in (0, 1).
        power: The share of runs in which the difference shall be found, in (0, 1).

    Raises:
        ValueError: No differences, or one that is not in [-1, 1], or a level or power that is not in (0, 1).
    """
    changes = _changes(differences)
    if not 0 < power < 1:
        raise ValueError(f"power must be in (0, 1), not {power}")
    alpha = _alpha(level)
    n, least = len(changes), _least_changes(alpha)
    if n < least:
        return 1.0
    if changes[-1] - changes[0] <= _TOLERANCE:
        return least / n
    by_scatter = float(ndtri(1 - alpha / 2) + ndtri(power)) * float(changes.std(ddof=1)) / math.sqrt(n)
    sizes = np.abs(changes)
    by_changes = least * float(sizes[sizes > 0].min()) / n
    return min(1.0, max(by_scatter, by_changes))


def _least_changes(alpha: float) -> int:
    """The fewest samples that the sign-flip test can tell from none: the smallest k with 2 * 2^-k <= alpha."""
    return math.ceil(1 - math.log2(alpha))


# --- several at once ----------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several, by Holm (1979, Scandinavian Journal of Statistics 6, 65-70).

    Calling those at most ``a`` significant makes a false call with probability at most ``a``, whatever the
    dependence between them. The order is that of the argument; none is below its raw value or above 1.

    Args:
        p_values: Shape ``[m]``, each in [0, 1]; may be empty.

    Raises:
        ValueError: One is not in [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be in [0, 1], not {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted


def macro(means_and_intervals: Sequence[tuple[float, Interval]]) -> tuple[float, Interval]:
    """The unweighted mean over tasks, with an interval made of theirs.

    MOVER (Zou and Donner 2008, Statistics in Medicine 27, 1693-1702): the distance from a mean to each of its
    limits stands for a standard error on that side, and those of independent tasks add up in squares. So skewed
    intervals give a skewed interval, inside the tasks' own bounds.

    Args:
        means_and_intervals: Shape ``[tasks]``: a mean and its interval each, all of one level, of tasks that
            share no samples.

    Raises:
        ValueError: There are none, or a mean lies outside its interval or is no number.
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
    # The mean of the limits is always further out; only rounding could pass it, and with it the end of the scale.
    lowest = math.fsum(interval.low for _, interval in means_and_intervals) / tasks
    highest = math.fsum(interval.high for _, interval in means_and_intervals) / tasks
    return average, Interval(max(lowest, average - below), min(highest, average + above), "mover")


# --- relative errors ----------------------------------------------------------------------------------------


def relative_error_interval(
    tasks: Sequence[Sequence[tuple[float, float]]], level: float = 0.95, *, resamples: int = 999
) -> Interval:
    """A confidence interval for how much sparse attention loses of what dense attention scores.

    The relative error is ``(D - S) / D``, where D and S are means over tasks, each task with the same weight, of
    dense and sparse scores. The interval is the symmetric studentised bootstrap, as in ``difference_interval``: pairs
    are drawn anew within each task, and the standard error is that of the ratio to first order (the delta method).

    Where too few samples changed for that, gains and losses get Wilson's limits ("gains_losses") as there, averaged
    over tasks by ``macro`` and divided by that limit of D which makes them wider; that is careful.

    For 20 to 100 samples a task and up to four tasks, 95% intervals hold the true relative error in 93 to 100% of runs.

    Args:
        tasks: For each task, pairs of a dense and a sparse score, each in [0, 1], in any order.
        level: The share of such intervals that shall hold the true relative error, in (0, 1).
        resamples: How often to draw the samples anew.

    Returns:
        Limits that are at most 1. They are infinite where dense scores are so near to 0 that the ratio may be
        anything.

    Raises:
        ValueError: No tasks, a task without pairs, dense scores that are all 0, a score that is not in [0, 1], or a
            level that is not in (0, 1).
    """
    alpha = _alpha(level)
    pairs = sorted((_pairs(task) for task in tasks), key=np.ndarray.tolist)
    dense = [_mean(task[:, 0]) for task in pairs]
    if not math.fsum(dense) > 0:
        raise ValueError("there must be a task with a dense score above 0")
    loss = math.fsum(_mean(task[:, 0] - task[:, 1]) for task in pairs)
    ratio = loss / math.fsum(dense)
    half = _ratio_half_width(pairs, ratio, alpha, resamples)
    if math.isfinite(half):
        return Interval(ratio - half, min(1.0, ratio + half), "bootstrap")
    differences = [task[:, 0] - task[:, 1] for task in pairs]
    _, limits = macro([(_mean(row), _gains_less_losses(_changes(row.tolist()), alpha)) for row in differences])
    intervals = [mean_interval(task[:, 0].tolist(), level) for task in pairs]
    _, of_dense = macro(list(zip(dense, intervals, strict=True)))
    if of_dense.low <= _TOLERANCE:
        return Interval(-math.inf, 1.0, "gains_losses")
    low = limits.low / (of_dense.low if limits.low < 0 else of_dense.high)
    high = limits.high / (of_dense.low if limits.high > 0 else of_dense.high)
    return Interval(low, min(1.0, high), "gains_losses")


def _pairs(task: Sequence[tuple[float, float]]) -> _Values:
    """Dense and sparse scores, shape ``[n, 2]``, sorted; refused where they are none."""
    pairs = np.asarray(task, dtype=np.float64).reshape(-1, 2)
    _checked(pairs.ravel().tolist(), low=0.0)
    ordered: _Values = pairs[np.lexsort(pairs.T)]
    return ordered


def _ratio_half_width(pairs: Sequence[_Values], ratio: float, alpha: float, resamples: int) -> float:
    """How far the ratio of summed means may lie from the truth; infinite where too many resamples cannot say."""
    loss, dense, lost_lost, lost_dense, dense_dense = np.zeros((5, resamples))
    spread = 0.0
    for number, task in enumerate(pairs):
        n, own, lost = len(task), task[:, 0], task[:, 0] - task[:, 1]
        sums = _counts(n, number, resamples) @ np.column_stack([lost, own, lost * lost, lost * own, own * own])
        of_lost, of_own, of_squares, of_products, of_own_squares = sums.T / n
        loss += of_lost
        dense += of_own
        # Variances and the covariance of the means.
        lost_lost += (of_squares - of_lost**2) / n
        lost_dense += (of_products - of_lost * of_own) / n
        dense_dense += (of_own_squares - of_own**2) / n
        spread += float((lost - ratio * own).var()) / n
    known = dense > _TOLERANCE
    drawn_ratio = np.divide(loss, dense, out=np.zeros(resamples), where=known)
    # Of the mean of loss - ratio * dense.
    variance = lost_lost - 2 * drawn_ratio * lost_dense + drawn_ratio**2 * dense_dense
    error = np.sqrt(np.maximum(variance, 0))
    known &= error > _NO_SPREAD
    roots = np.divide(np.abs(drawn_ratio - ratio) * dense, error, out=np.full(resamples, np.inf), where=known)
    rank = min(resamples, resamples + 1 - math.floor(alpha * (resamples + 1)))
    total = math.fsum(_mean(task[:, 0]) for task in pairs)
    root = float(np.sort(roots)[rank - 1])
    return root * math.sqrt(spread) / total if spread > 0 else math.inf


# --- ranks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rank:
    """A place among others by mean score, 1 for the highest; those with the same mean share the mean of their places.

    Attributes:
        rank: The place.
        low: Lower limit.
        high: Upper limit.
    """

    rank: float
    low: float
    high: float


def ranks(cells: Sequence[npt.ArrayLike], level: float = 0.95, *, resamples: int = 999) -> list[Rank]:
    """Places of methods by their mean score, and where other samples might have put them.

    Each resample draws samples anew within each cell, the same ones for all methods. The limits are percentiles of
    the places over the resamples. Two methods that are really alike change places in half of them, so that the limits
    hold both places; nothing more is promised of them.

    Args:
        cells: For each task and length, scores in [0, 1] of shape ``[samples, methods]``, NaN where a method has not
            answered; each method has answered a sample in every cell. Samples and cells may come in any order.
        level: The share of resamples within the limits, in (0, 1).
        resamples: How often to draw the samples anew.

    Returns:
        A place for each method, by the mean over cells, each cell with the same weight.

    Raises:
        ValueError: No cells, no methods, a method without a score in a cell, or a level that is not in (0, 1).
    """
    alpha = _alpha(level)
    tables = [np.asarray(cell, dtype=np.float64) for cell in cells]
    if not tables or any(table.ndim != 2 or 0 in table.shape for table in tables):
        raise ValueError("there must be at least one cell, with samples and methods")
    tables = sorted((table[np.lexsort(table.T)] for table in tables), key=np.ndarray.tobytes)
    if any(np.isnan(table).all(axis=0).any() for table in tables):
        raise ValueError("each method must have a score in each cell")
    if tables[0].shape[1] == 1:
        return [Rank(1.0, 1.0, 1.0)]
    means, drawn = np.zeros(tables[0].shape[1]), np.zeros((resamples, tables[0].shape[1]))
    for number, table in enumerate(tables):
        there = ~np.isnan(table)
        scores = np.where(there, table, 0.0)
        mean = scores.sum(axis=0) / there.sum(axis=0)
        counts = _counts(len(table), number, resamples)
        total = counts @ scores
        answered = np.full(total.shape, float(len(table))) if there.all() else counts @ there.astype(np.float64)
        # A method of which no sample was drawn stays where it is.
        drawn += np.divide(total, answered, out=np.tile(mean, (resamples, 1)), where=answered > 0)
        means += mean
    places, sorted_places = _places(means[None])[0], np.sort(_places(drawn), axis=0)
    below = math.floor(alpha / 2 * resamples)
    return [
        Rank(float(place), min(float(low), float(place)), max(float(high), float(place)))
        for place, low, high in zip(places, sorted_places[below], sorted_places[resamples - 1 - below], strict=True)
    ]


def _places(means: _Values) -> _Values:
    """Places in each row, 1 for the highest value."""
    rounded = np.round(means / _TOLERANCE)
    others, own = rounded[:, None, :], rounded[:, :, None]
    found: _Values = 0.5 + (others > own).sum(axis=2) + (others == own).sum(axis=2) / 2
    return found


# --- regression ---------------------------------------------------------------------------------------------


class SeparatedError(ValueError):
    """Some combination of the regressors tells scores of 0 from scores of 1 without fail: no finite fit exists."""


@dataclass(frozen=True, slots=True)
class LogitRegression:
    """A fitted logistic law.

    Attributes:
        estimates: Coefficients, shape ``[p]``.
        covariance: Of the estimates, shape ``[p, p]``.
        scale: Pearson's X2 over its degrees of freedom: about 1 where the cells scatter about the law as binomial
            shares do, below where scores are graded, far above where the law does not describe the cells. NaN where
            there are no more cells than coefficients.
        degrees: Degrees of freedom of Student's quantile.
        level: Of the intervals.
    """

    estimates: _Values
    covariance: _Values
    scale: float
    degrees: int
    level: float

    def combined(self, weights: Sequence[float]) -> tuple[float, Interval]:
        """A weighted sum of the coefficients, and its interval.

        Args:
            weights: Shape ``[p]``.
        """
        factors = np.asarray(weights, dtype=np.float64)
        estimate = float(factors @ self.estimates)
        error = math.sqrt(max(0.0, float(factors @ self.covariance @ factors)))
        half = float(stdtrit(self.degrees, 1 - (1 - self.level) / 2)) * error
        return estimate, Interval(estimate - half, estimate + half, "sandwich")

    def predict(self, design: npt.ArrayLike) -> _Values:
        """Mean scores in [0, 1], shape ``[cells]``, for regressors of shape ``[cells, p]``."""
        found: _Values = expit(np.asarray(design, dtype=np.float64) @ self.estimates)
        return found


def logit_regression(
    design: npt.ArrayLike,
    scores: npt.ArrayLike,
    cells: npt.ArrayLike,
    samples: npt.ArrayLike,
    strata: npt.ArrayLike,
    level: float = 0.95,
) -> LogitRegression:
    """Fit ``mean score = 1 / (1 + exp(-x b))`` to cells of scores, by quasi-binomial regression.

    The estimates are those of a binomial regression on the cells' means, weighted with the number of scores (Papke
    and Wooldridge 1996, Journal of Applied Econometrics 11, 619-632, for scores between 0 and 1).

    The same samples are answered in several cells (by other methods, or at another sparsity), so that cells are not
    independent: a hard sample lowers all of them. The covariance is the sandwich clustered by sample (Liang and Zeger
    1986, Biometrika 73, 13-22), about the mean of each stratum: to first order what a bootstrap gives that draws
    samples anew within strata, the same for all cells. It needs no assumption on the variance of graded scores.

    On data drawn from known coefficients, with 10 to 50 samples a cell of which 7 in 10 depend on how hard the sample
    is alone, 95% intervals hold them in 93 to 98% of data sets. Those of independent cells are too narrow: with 320
    cells of 50 samples, they hold the effect of length in about half. What they do not cover is that the
    law may be wrong: if each task at each length has a shift of its own, of 0.3 logits or so, they hold the effect of
    length in 7 of 10 data sets; ``scale`` is 1.4 then.

    Args:
        design: Regressors of each cell, shape ``[cells, p]``, a column of ones among them if there shall be one.
        scores: In [0, 1], shape ``[n]``.
        cells: Row of ``design`` of each score, shape ``[n]``.
        samples: Number of the sample of each score, from 0, shape ``[n]``.
        strata: Number of the stratum of each sample, from 0, such as its task and length; shape ``[samples]``.
        level: The share of intervals that shall hold the true coefficient, in (0, 1).

    Raises:
        SeparatedError: The scores have no finite fit.
        ValueError: The columns of ``design`` depend on each other, a cell has no score, a score is not in [0, 1], or
            a level is not in (0, 1).
    """
    _alpha(level)
    x, y = np.asarray(design, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    cell, sample, stratum = (np.asarray(numbers, dtype=np.int64) for numbers in (cells, samples, strata))
    _checked(y.tolist(), low=0.0)
    n = np.bincount(cell, minlength=len(x)).astype(np.float64)
    if not n.all():
        raise ValueError("each cell must have a score")
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError("the regressors depend on each other")
    means = np.clip(np.bincount(cell, y, minlength=len(x)) / n, 0.0, 1.0)
    if _separated(x, means):
        raise SeparatedError("scores of 0 and 1 are separated")
    estimates, scale = _fit(x, means, n)
    fitted = expit(x @ estimates)
    bread = np.linalg.inv((x * (n * fitted * (1 - fitted))[:, None]).T @ x)
    residuals = y - fitted[cell]
    pulls = np.column_stack(
        [np.bincount(sample, residuals * column[cell], minlength=len(stratum)) for column in x.T]
    )  # of each sample on each coefficient
    size = np.bincount(stratum).astype(np.float64)
    centres = np.column_stack([np.bincount(stratum, pull) for pull in pulls.T]) / np.maximum(size, 1)[:, None]
    # A sample that is alone in its stratum has no scatter to go by; it keeps its whole pull.
    alone = size[stratum] < 2
    centred = np.where(alone[:, None], pulls, pulls - centres[stratum])
    centred *= np.sqrt(np.where(alone, 1.0, size[stratum] / np.maximum(size[stratum] - 1, 1)))[:, None]
    covariance = bread @ (centred.T @ centred) @ bread
    degrees = max(1, len(stratum) - int(np.count_nonzero(size)))
    return LogitRegression(estimates, covariance, scale, degrees, level)


def _separated(design: _Values, means: _Values) -> bool:
    """Whether the likelihood has no finite maximum (Albert and Anderson 1984, Biometrika 71, 1-10).

    So it is if some direction b has x b >= 0 where all scores are 1, x b <= 0 where all are 0, and x b = 0 where there
    are others, but is not 0 everywhere: a linear program finds it.
    """
    from scipy.optimize import linprog

    one, none = means >= 1 - _TOLERANCE, means <= _TOLERANCE
    if not (one | none).any():
        return False
    unit = design / np.abs(design).max(axis=0)
    signed = np.concatenate([unit[one], -unit[none]])
    between = unit[~(one | none)]
    answer = linprog(
        -signed.sum(axis=0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        A_eq=between if len(between) else None,
        b_eq=np.zeros(len(between)) if len(between) else None,
        bounds=(-1, 1),
    )
    return bool(answer.status != 0 or -answer.fun > 1e-6)


def _fit(design: _Values, means: _Values, n: _Values) -> tuple[_Values, float]:
    """Estimates of a quasi-binomial regression, and its scale."""
    # Imported here: it takes longer than all else that scoring a run imports.
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    # Separation was ruled out before; a law that meets all cells, of which statsmodels warns too, is no failure.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = GLM(means, design, family=Binomial(), var_weights=n).fit(maxiter=100, scale=1.0)
    estimates = np.asarray(found.params, dtype=np.float64)
    if not (found.converged and np.isfinite(estimates).all()):
        raise SeparatedError("the fit does not settle")
    fitted = expit(design @ estimates)
    degrees = len(design) - design.shape[1]
    # Fitted shares that are 0 or 1 to rounding would divide by nothing.
    variance = np.maximum(fitted * (1 - fitted), 1e-12)
    return estimates, float(np.sum(n * (means - fitted) ** 2 / variance) / degrees) if degrees else math.nan


# --- Learn then Test ----------------------------------------------------------------------------------------


def hoeffding_bentkus_p_value(
    losses: Sequence[Sequence[float]], tolerance: float, *, all_or_nothing: bool = False
) -> float:
    """The p-value, in (0, 1], of the hypothesis that the mean loss over some tasks is above the tolerance.

    The mean is over tasks, each with the same weight, and of a task's own mean over its samples. With one task it
    is that of Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052): the smaller
    of two bounds on how likely so small a mean is if the true one is the tolerance,

    - Hoeffding's (1963, Journal of the American Statistical Association 58, 13-30), ``exp(-n * KL)``, with the
      Kullback-Leibler divergence of a coin that falls with the mean seen from one that falls with the tolerance;
    - Bentkus's (2004, Annals of Probability 32, 1650-1673), ``e * P(B <= ceil(n * mean))``, with ``B`` binomial
      of ``n`` draws at the tolerance.

    Both bound the same event, so that their minimum needs no correction.

    **Several tasks** with ``n_1 .. n_T`` samples count as ``n = T * min(n_t)``. Why: both bounds come from
    expectations of convex functions of the sum, and none of four steps lowers such an expectation. (1) Each loss
    becomes 0 or 1 with the same mean. (2) Within a task all get the task's mean as probability (Hoeffding 1956,
    Annals of Mathematical Statistics 27, 713-721). (3) The mean of a task's ``n_t`` such draws becomes that of
    ``min(n_t)`` of them, whose expectation, given all, it is. (4) All tasks get the same probability, by (2). What
    is left of ``n`` times the mean is binomial of ``n`` draws. Step (2) is also why the samples of a task need not
    be alike: they must be independent, and the mean that is tested is the mean of their expectations.

    **Losses that are 0 or 1 by what they are** have the binomial tail itself, up to e times smaller than
    Bentkus's bound. Where samples differ, Hoeffding (1956) has it for ``n * mean <= n * tolerance - 1`` only, and
    it is used there only. It needs whole counts, and so tasks of one size. That all losses seen are 0 or 1 is no
    reason: others might have been graded.

    Sums that miss a whole number by less than 1e-9 are that number: 7 losses of 50 are 7, not 8, as
    ``ceil(50 * 0.14)`` has it.

    Args:
        losses: Shape ``[tasks][n]``, each in [0, 1]; all independent. Tasks and samples in any order.
        tolerance: The mean loss that is held against, in (0, 1).
        all_or_nothing: The losses can only be 0 or 1.

    Raises:
        ValueError: There is no task, or one without losses; a loss is not in [0, 1], or not 0 or 1 where it must
            be; or the tolerance is not in (0, 1).
    """
    tasks = [_checked(task, low=0.0) for task in losses]
    if not tasks:
        raise ValueError("there must be at least one task")
    _in_unit_interval("tolerance", tolerance)
    if all_or_nothing and not all(np.isin(task, (0.0, 1.0)).all() for task in tasks):
        raise ValueError("losses must be 0 or 1")
    sizes = [len(task) for task in tasks]
    n = min(sizes) * len(tasks)
    lost = math.fsum(min(sizes) * _mean(task) for task in tasks)
    whole = max(0, math.ceil(lost - _TOLERANCE))
    tail = float(bdtr(whole, n, tolerance))
    if not (all_or_nothing and len(set(sizes)) == 1 and whole <= n * tolerance - 1):
        tail *= math.e
    return max(sys.float_info.min, min(1.0, _hoeffding(lost / n, n, tolerance), tail))


def samples_needed(tolerance: float, error: float) -> int:
    """The fewest samples that can show a mean loss to be at most ``tolerance``: so many without any loss.

    The smallest n with ``(1 - tolerance)^n <= error``; for 0.05 and 0.05 it is 59.

    Args:
        tolerance: In (0, 1).
        error: The largest p-value that counts, in (0, 1).

    Raises:
        ValueError: One of them is not in (0, 1).
    """
    _in_unit_interval("tolerance", tolerance)
    _in_unit_interval("error", error)
    n = max(1, math.ceil(math.log(error) / math.log1p(-tolerance)) - 1)
    while _hoeffding(0.0, n, tolerance) > error:  # at most twice: the logarithms are rounded
        n += 1
    return n


def _hoeffding(mean: float, n: int, tolerance: float) -> float:
    """Hoeffding's bound on the chance that the mean of ``n`` losses is so small."""
    if mean >= tolerance:
        return 1.0
    return math.exp(-n * float(rel_entr(mean, tolerance) + rel_entr(1 - mean, 1 - tolerance)))


def fixed_sequence(p_values_by_chain: Sequence[Sequence[float]], error: float) -> tuple[list[int], float]:
    """Test several chains of hypotheses, each in its order until the first that stands.

    The chance to reject any true hypothesis in any chain is at most ``error``, whatever the dependence between
    p-values. Each chain begins with an equal share of ``error`` and hands all of it from one hypothesis to the
    next (fixed sequence, Maurer, Hothorn and Lehmacher 1995); a chain that has rejected its last hands its share to
    the others in equal parts, and those that had stopped may go on. That is a graphical procedure of Bretz, Maurer,
    Brannath and Posch (2009, Statistics in Medicine 28, 586-604), whose result does not depend on the order of the
    steps. With such equal shares it is short: all chains that are not through have ``error`` over their number. With
    one chain it is the fixed sequence, with chains of one hypothesis Holm's test.

    The order within a chain must not be taken from the p-values.

    Args:
        p_values_by_chain: Shape ``[chains][hypotheses]``, each in [0, 1].
        error: The family-wise error rate, in (0, 1).

    Returns:
        How many hypotheses each chain has rejected, its first ones; and the level that the chains which are not
        through have in the end, ``error`` where all are.

    Raises:
        ValueError: A p-value is not in [0, 1], or the error rate not in (0, 1).
    """
    _in_unit_interval("error", error)
    if not all(0 <= p <= 1 for chain in p_values_by_chain for p in chain):
        raise ValueError("p-values must be in [0, 1]")
    highest = [max(chain, default=0.0) for chain in p_values_by_chain]
    waiting = len(highest)
    while waiting and (still := sum(p > error / waiting for p in highest)) < waiting:
        waiting = still
    level = error / max(1, waiting)
    return [sum(1 for _ in takewhile(level.__ge__, chain)) for chain in p_values_by_chain], level


def _in_unit_interval(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), not {value}")


# --- the frontier -------------------------------------------------------------------------------------------


def frontier_shares(
    costs: Sequence[float], cells: Sequence[tuple[Sequence[int], npt.ArrayLike]], *, resamples: int = 2_000
) -> list[tuple[bool, float]]:
    """Which points of cost and mean score no other point beats, and in how many resamples that holds.

    A point is beaten by one that costs no more and scores no less, and is better in one of the two. Each resample draws
    the samples of each cell anew, the same ones for all its points, and those of other cells apart from them; costs
    stay. A share near 1 or 0 can be trusted. Of two points that really score alike, the dearer one is on the frontier
    in about half of the resamples: its share says that the data cannot tell, not that it might be better.

    Args:
        costs: Shape ``[points]``.
        cells: Points, by number, that have answered the same samples of one task, and their scores in [0, 1], shape
            ``[samples, those points]``, NaN where a point lacks a sample. A point's score is the mean over its cells,
            each with the same weight. Samples and cells may come in any order.
        resamples: How often to draw the samples anew.

    Returns:
        For each point whether it is on the frontier, and the share of the resamples in which it is.

    Raises:
        ValueError: A cost is no number, or a point has no score in any cell, or in one that names it.
    """
    prices = np.asarray(costs, dtype=np.float64)
    if np.isnan(prices).any():
        raise ValueError("each cost must be a number")
    tables = [(np.asarray(points, dtype=np.intp), np.asarray(scores, dtype=np.float64)) for points, scores in cells]
    tables = [(points, table[np.lexsort(table.T)]) for points, table in tables]
    tables.sort(key=lambda cell: (cell[0].tolist(), cell[1].tobytes()))
    of_each, means, drawn = np.zeros(len(prices)), np.zeros(len(prices)), np.zeros((resamples, len(prices)))
    for stream, (points, table) in enumerate(tables):
        if np.isnan(table).all(axis=0).any():
            raise ValueError("each point must have a score in each cell that names it")
        mean, resampled = _resampled_means(table, stream, resamples)
        of_each[points] += 1
        means[points] += mean
        drawn[:, points] += resampled
    if not of_each.all():
        raise ValueError("each point must have a score in some cell")
    seen = _on_frontier(prices, means[None] / of_each)[0]
    shares = _on_frontier(prices, drawn / of_each).mean(axis=0)
    return [(bool(on), float(share)) for on, share in zip(seen, shares, strict=True)]


def _resampled_means(table: _Values, stream: int, resamples: int) -> tuple[_Values, _Values]:
    """The means of columns, NaN left out, and those of resamples of the rows, shape ``[resamples, columns]``."""
    there = ~np.isnan(table)
    scores = np.where(there, table, 0.0)
    mean: _Values = scores.sum(axis=0) / there.sum(axis=0)
    generator, n, means = np.random.default_rng([_SEED, stream]), len(table), []
    for rows in _chunks(resamples, n):
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        answered = counts @ there.astype(np.float64)
        # A column of which no row was drawn stays where it is.
        means.append(np.divide(counts @ scores, answered, out=np.tile(mean, (rows, 1)), where=answered > 0))
    return mean, np.concatenate(means)


def _on_frontier(costs: _Values, scores: _Values) -> npt.NDArray[np.bool_]:
    """Which columns are not beaten, in each row of ``scores``."""
    rounded = np.round(scores / _TOLERANCE)
    order = np.argsort(costs, kind="stable")
    _, starts, group = np.unique(costs[order], return_index=True, return_inverse=True)
    best = np.maximum.reduceat(rounded[:, order], starts, axis=1)  # of each cost
    cheaper = np.full_like(best, -np.inf)
    cheaper[:, 1:] = np.maximum.accumulate(best, axis=1)[:, :-1]
    on = np.empty(scores.shape, dtype=np.bool_)
    on[:, order] = (rounded[:, order] >= best[:, group]) & (rounded[:, order] > cheaper[:, group])
    return on


# --- shared -------------------------------------------------------------------------------------------------


def _checked(values: Sequence[float], low: float) -> _Values:
    """The values, sorted; refused where there are none or one is not in [low, 1]."""
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise ValueError("there must be at least one value, in a flat list")
    outside = given[~((given >= low) & (given <= 1))]  # NaN is not inside either
    if len(outside):
        raise ValueError(f"values must be in [{low:g}, 1], not {outside[0]}")
    return np.sort(given)


def _changes(differences: Sequence[float]) -> _Values:
    """The differences, sorted, without those that only rounding made; refused where they are no differences."""
    changes = _checked(differences, low=-1.0)
    changes[np.abs(changes) <= _TOLERANCE] = 0.0
    return changes


def _alpha(level: float) -> float:
    """The share of intervals that may miss; refused where there is none or all may."""
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), not {level}")
    return 1 - level


def _mean(values: _Values) -> float:
    """The mean, rounded once: the same in any order, and its mirror image for mirrored values."""
    return math.fsum(values) / len(values)


def _unlike_commonest(values: _Values) -> int:
    """How many values differ from the commonest one."""
    return len(values) - int(np.unique(np.round(values / _TOLERANCE), return_counts=True)[1].max())


def _chunks(rows: int, columns: int) -> Iterator[int]:
    """Row counts that add up to ``rows``, each small enough for a table of so many columns."""
    most = max(1, _CELLS // columns)
    yield from (min(most, rows - start) for start in range(0, rows, most))


@functools.lru_cache(maxsize=64)
def _counts(n: int, stream: int, resamples: int) -> npt.NDArray[np.uint8]:
    """How often each of ``n`` samples is in each resample, shape ``[resamples, n]``; other streams, other draws."""
    generator = np.random.default_rng([_SEED, stream])
    drawn = [generator.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.uint8) for rows in _chunks(resamples, n)]
    counts = np.concatenate(drawn)
    counts.setflags(write=False)  # one copy for all who ask
    return counts
