"""Bootstrap resamples: samples drawn with replacement, by a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sparse_tasks.evaluators.statistics.values import Values

SEED: Final = 20_081_988  # arbitrary, but fixed
NO_SPREAD: Final = 1e-7  # upper bound of a spread of 0 after rounding

_CELLS: Final = 1_000_000  # random numbers held at once: 8 MB


def resampled_counts(n: int, resamples: int, stream: int = 0) -> Iterator[Values]:
    """Multiplicity of each of ``n`` samples in each resample, in tables of shape ``[some resamples, n]``."""
    generator = np.random.default_rng([SEED, stream])
    most = max(1, _CELLS // n)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def resampled_scores(
    columns: int, cells: Sequence[tuple[Sequence[int], npt.ArrayLike]], resamples: int
) -> tuple[Values, Values]:
    """Mean scores over cells, and those of resamples of each cell's samples.

    Args:
        columns: Number of methods, or runs, that are compared.
        cells: Columns that answered the same samples of one task, and their scores, shape ``[samples, those columns]``,
            NaN where a column lacks a sample. Samples and cells may come in any order.
        resamples: How often to draw samples.

    Returns:
        Means with equal weight of cells, shape ``[columns]``, and the same of resamples, ``[resamples, columns]``. A
        column of which no sample was drawn keeps its mean.

    Raises:
        ValueError: A column has no score in any cell, or in one that names it.
    """
    tables = [(np.asarray(names, dtype=np.intp), np.asarray(scores, dtype=np.float64)) for names, scores in cells]
    tables = [(names, table[np.lexsort(table.T)]) for names, table in tables]
    tables.sort(key=lambda cell: (cell[0].tolist(), cell[1].tobytes()))
    weights, means, drawn = np.zeros(columns), np.zeros(columns), np.zeros((resamples, columns))
    for stream, (names, table) in enumerate(tables):
        answered = ~np.isnan(table)
        if not answered.any(axis=0).all():
            raise ValueError("each column must have a score in each of its cells")
        scores = np.where(answered, table, 0.0)
        mean = scores.sum(axis=0) / answered.sum(axis=0)
        weights[names] += 1
        means[names] += mean
        start = 0
        for counts in resampled_counts(len(table), resamples, stream):
            totals, sizes = counts @ scores, counts @ answered.astype(np.float64)
            drawn[start : start + len(counts), names] += np.divide(
                totals, sizes, out=np.tile(mean, (len(counts), 1)), where=sizes > 0
            )
            start += len(counts)
    if not weights.all():
        raise ValueError("each column must have a score in some cell")
    return means / weights, drawn / weights


def critical_root(roots: Values, miss_rate: float) -> Values:
    """The distance that a share ``1 - miss_rate`` of ``roots``, shape ``[resamples, ...]``, stays within."""
    resamples = len(roots)
    rank = min(resamples, resamples + 1 - math.floor(miss_rate * (resamples + 1)))
    critical: Values = np.partition(roots, rank - 1, axis=0)[rank - 1]
    return critical
