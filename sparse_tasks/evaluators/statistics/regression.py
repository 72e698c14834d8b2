"""Logistic regression of mean scores, with intervals that account for repeated answers to the same samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_tasks.evaluators.statistics.intervals import Interval
from sparse_tasks.evaluators.statistics.values import TOLERANCE, Values, checked, miss_rate


class SeparatedError(ValueError):
    """No finite fit exists: some combination of the regressors separates scores of 0 from scores of 1."""


@dataclass(frozen=True, slots=True)
class LogitRegression:
    """A fitted logistic law.

    ``scale`` is Pearson's X2 over its degrees of freedom: about 1 where the cells scatter about the law as binomial
    shares do, below where scores are graded, far above where the law does not describe the cells. It is NaN where
    there are no more cells than coefficients.
    """

    estimates: Values  # coefficients, shape ``[p]``
    covariance: Values  # of the estimates, shape ``[p, p]``
    scale: float
    degrees: int  # of freedom, of Student's quantile
    level: float  # confidence level of the intervals

    def combined(self, weights: Sequence[float]) -> tuple[float, Interval]:
        """A weighted sum of the coefficients, and its interval."""
        from scipy.special import stdtrit

        factors = np.asarray(weights, dtype=np.float64)
        estimate = float(factors @ self.estimates)
        error = math.sqrt(max(0.0, float(factors @ self.covariance @ factors)))
        half = float(stdtrit(self.degrees, 1 - (1 - self.level) / 2)) * error
        return estimate, Interval(estimate - half, estimate + half, "sandwich")

    def predict(self, design: npt.ArrayLike) -> Values:
        """Mean scores in [0, 1], shape ``[cells]``, for regressors of shape ``[cells, p]``."""
        from scipy.special import expit

        shares: Values = expit(np.asarray(design, dtype=np.float64) @ self.estimates)
        return shares


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
    and Wooldridge 1996, Journal of Applied Econometrics 11, 619-632). The covariance is the sandwich clustered by
    sample (Liang and Zeger 1986, Biometrika 73, 13-22), about the mean of each stratum: to first order that of a
    bootstrap which draws samples anew within strata, the same for all cells.

    Args:
        design: Regressors of each cell, shape ``[cells, p]``, with a column of ones for an intercept.
        scores: In [0, 1], shape ``[n]``.
        cells: Row of ``design`` of each score, shape ``[n]``.
        samples: Number of the sample of each score, from 0, shape ``[n]``.
        strata: Number of the stratum of each sample, from 0, such as its task and length; shape ``[samples]``.
        level: Confidence level of the intervals, in (0, 1).

    Raises:
        SeparatedError: The scores have no finite fit.
        ValueError: The columns of ``design`` depend on each other, a cell has no score, a score is outside [0, 1], or
            the level outside (0, 1).
    """
    from scipy.special import expit

    miss_rate(level)
    x, y = np.asarray(design, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    cell, sample, stratum = (np.asarray(numbers, dtype=np.int64) for numbers in (cells, samples, strata))
    checked(y)
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
    # A single sample in a stratum has no scatter; its full influence counts.
    alone = size[stratum] < 2
    centred = np.where(alone[:, None], pulls, pulls - centres[stratum])
    centred *= np.sqrt(np.where(alone, 1.0, size[stratum] / np.maximum(size[stratum] - 1, 1)))[:, None]
    covariance = bread @ (centred.T @ centred) @ bread
    degrees = max(1, len(stratum) - int(np.count_nonzero(size)))
    return LogitRegression(estimates, covariance, scale, degrees, level)


def _separated(design: Values, means: Values) -> bool:
    """Whether the likelihood has no finite maximum (Albert and Anderson 1984, Biometrika 71, 1-10)."""
    from scipy.optimize import linprog

    # That holds if some b has x b >= 0 where all scores are 1, x b <= 0 where all are 0, and x b = 0 elsewhere, but is
    # not 0 everywhere: a linear program finds it.
    ones, zeros = means >= 1 - TOLERANCE, means <= TOLERANCE
    if not (ones | zeros).any():
        return False
    unit = design / np.abs(design).max(axis=0)
    signed = np.concatenate([unit[ones], -unit[zeros]])
    between = unit[~(ones | zeros)]
    answer = linprog(
        -signed.sum(axis=0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        A_eq=between if len(between) else None,
        b_eq=np.zeros(len(between)) if len(between) else None,
        bounds=(-1, 1),
    )
    return bool(answer.status != 0 or -answer.fun > 1e-6)


def _fit(design: Values, means: Values, n: Values) -> tuple[Values, float]:
    """Estimates of a quasi-binomial regression, and its scale."""
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    # Separation was ruled out before; a perfect fit, of which statsmodels also warns, is no failure.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fit = GLM(means, design, family=Binomial(), var_weights=n).fit(maxiter=100, scale=1.0)
    estimates = np.asarray(fit.params, dtype=np.float64)
    if not (fit.converged and np.isfinite(estimates).all()):
        raise SeparatedError("the fit does not settle")
    return estimates, float(fit.pearson_chi2 / fit.df_resid) if fit.df_resid else math.nan
