"""The logistic law finds known coefficients, its intervals hold them, and data without a fit is refused."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta

from sparse_tasks.evaluators.statistics import LogitRegression, SeparatedError, logit_regression

EPS, ALPHA, BETA, GAMMA = -16.92, 1.31, -1.15, -1.00  # those that the paper prints
SIZES, LENGTHS, COMPRESSIONS = (8e9, 70e9), (16_384, 32_768, 65_536), (1, 3, 10)
DELTA = (-0.6, 0.6)


@dataclass(frozen=True)
class World:
    """Cells of tasks, sizes, lengths and compressions; the same samples for all sizes and compressions."""

    n: int  # samples of a task at a length
    shared: float  # share of answers that depend on the sample alone
    graded: bool = False

    @property
    def cells(self) -> npt.NDArray[np.float64]:
        grid = [(t, s, length, c) for t in (0, 1) for s in SIZES for length in LENGTHS for c in COMPRESSIONS]
        return np.array(grid, dtype=np.float64)

    @property
    def design(self) -> npt.NDArray[np.float64]:
        cells = self.cells
        logs = np.log(cells[:, 1:])
        return np.column_stack([np.ones(len(cells)), 2 * cells[:, 0] - 1, logs - logs.mean(axis=0)])

    @property
    def truth(self) -> npt.NDArray[np.float64]:
        centre = np.log(self.cells[:, 1:]).mean(axis=0) @ [ALPHA, BETA, GAMMA]
        return np.array([EPS + centre, DELTA[1], ALPHA, BETA, GAMMA])

    @property
    def stratum(self) -> npt.NDArray[np.int64]:
        """Of each cell: its task and length."""
        return np.unique(self.cells[:, [0, 2]], axis=0, return_inverse=True)[1]

    def draw(self, seed: int) -> npt.NDArray[np.float64]:
        """Scores, shape ``[cells, n]``, whose mean is exactly that of the law."""
        rng = np.random.default_rng(seed)
        mean = expit(self.design @ self.truth)[:, None]
        shape = (len(mean), self.n)
        hard = rng.random((self.stratum.max() + 1, self.n))[self.stratum]
        luck = np.where(rng.random(shape) < self.shared, hard, rng.random(shape))
        if self.graded:
            return np.clip(beta.ppf(luck, 2 * mean, 2 * (1 - mean)), 0, 1)
        return (luck < mean).astype(np.float64)

    def fit(self, scores: npt.NDArray[np.float64]) -> LogitRegression:
        cells, n = scores.shape
        sample = self.stratum[:, None] * n + np.arange(n)
        strata = np.repeat(np.arange(self.stratum.max() + 1), n)
        return logit_regression(self.design, scores.ravel(), np.repeat(np.arange(cells), n), sample.ravel(), strata)

    def coverage(self, runs: int) -> npt.NDArray[np.float64]:
        """The share of data sets whose intervals hold the truth, for each coefficient."""
        hits = np.zeros(len(self.truth))
        for seed in range(runs):
            fit = self.fit(self.draw(seed))
            found = [fit.combined(row)[1] for row in np.eye(len(hits))]
            hits += [one.low <= true <= one.high for one, true in zip(found, self.truth, strict=True)]
        return hits / runs


@pytest.mark.parametrize("shared", [0.7, *(pytest.param(share, marks=pytest.mark.nightly) for share in (0.0, 1.0))])
def test_intervals_hold_the_papers_coefficients_however_alike_the_answers_are(shared: float) -> None:
    held = World(20, shared).coverage(200)
    assert (held >= 0.9).all(), held
    assert (held <= 0.99).all(), held


@pytest.mark.nightly
def test_intervals_hold_the_papers_coefficients_of_graded_scores() -> None:
    held = World(20, 0.7, graded=True).coverage(100)
    assert (held >= 0.88).all(), held


def test_graded_scores_scatter_less_than_shares_of_right_answers() -> None:
    assert World(200, 0.0, graded=True).fit(World(200, 0.0, graded=True).draw(1)).scale < 0.6
    assert World(200, 0.0).fit(World(200, 0.0).draw(1)).scale == pytest.approx(1, abs=0.4)


def test_estimates_are_those_of_a_binomial_regression_and_the_covariance_that_of_a_bootstrap() -> None:
    world = World(60, 0.8)
    scores = world.draw(3)
    fit = world.fit(scores)
    # The score equations of a binomial regression: residuals have nothing to do with the regressors.
    residuals = scores.mean(axis=1) - fit.predict(world.design)
    assert world.design.T @ residuals == pytest.approx(np.zeros(5), abs=1e-8)

    rng = np.random.default_rng(1)
    refits = []
    for _ in range(150):
        drawn = rng.integers(0, 60, (world.stratum.max() + 1, 60))[world.stratum]
        refits.append(world.fit(np.take_along_axis(scores, drawn, axis=1)).estimates)
    assert np.sqrt(np.diag(fit.covariance)) == pytest.approx(np.std(refits, axis=0), rel=0.25)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_samples_may_have_any_numbers(seed: int) -> None:
    world = World(6, 0.5)
    scores = world.draw(seed)
    try:
        fit = world.fit(scores)
    except SeparatedError:
        return
    columns = np.random.default_rng(seed).permutation(6)
    again = world.fit(scores[:, columns])
    assert again.estimates == pytest.approx(fit.estimates, rel=1e-6, abs=1e-9)
    assert again.covariance == pytest.approx(fit.covariance, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0, 1, 2, 3], [0.0, 0.0, 1.0, 1.0]),  # apart
        ([0, 1, 1, 2], [0.0, 0.0, 1.0, 1.0]),  # touching
        ([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0]),  # one value alone
        ([0, 1, 2, 3], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_scores_without_a_finite_fit_are_reported_and_no_warning_escapes(x: list[float], y: list[float]) -> None:
    design = np.column_stack([np.ones(4), x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SeparatedError):
            logit_regression(design, y, range(4), range(4), [0] * 4)


def test_a_task_that_is_right_throughout_is_reported() -> None:
    # One offset would grow for ever, while all else fits well: the fit settles, at a number that means nothing.
    task, x = np.repeat([0.0, 1.0], 10), np.tile(np.arange(10.0), 2)
    scores = np.where(task == 1, 1.0, np.tile([0.0, 1.0, 0.0, 1.0, 0.0], 4))
    design = np.column_stack([np.ones(20), task, x])
    with pytest.raises(SeparatedError):
        logit_regression(design, scores, range(20), range(20), [0] * 20)


def test_scores_that_overlap_have_a_fit_though_each_is_0_or_1() -> None:
    design = np.column_stack([np.ones(6), [0, 1, 2, 3, 4, 5]])
    fit = logit_regression(design, [0, 0, 1, 0, 1, 1], range(6), range(6), [0] * 6)
    assert 0.5 < fit.estimates[1] < 3
    estimate, interval = fit.combined([0, 1])
    assert interval.low < estimate < interval.high
    assert interval.method == "sandwich"


def test_invalid_input_is_refused() -> None:
    design = np.column_stack([np.ones(4), [0, 1, 0, 1]])
    with pytest.raises(ValueError, match="depend on each other"):
        logit_regression(np.column_stack([design, design[:, 1]]), [0, 1, 1, 0], range(4), range(4), [0] * 4)
    with pytest.raises(ValueError, match="each cell must have a score"):
        logit_regression(design, [0, 1, 1], [0, 1, 2], range(3), [0] * 3)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        logit_regression(design, [0, 1, 1, 2], range(4), range(4), [0] * 4)
    with pytest.raises(ValueError, match="level"):
        logit_regression(design, [0, 1, 1, 0], range(4), range(4), [0] * 4, level=1)


def test_no_more_cells_than_coefficients_leave_no_scale() -> None:
    design = np.column_stack([np.ones(2), [0, 1]])
    fit = logit_regression(design, [0.25, 0.5, 0.75, 0.5], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0])
    assert np.isnan(fit.scale)
    assert fit.predict(design) == pytest.approx([0.375, 0.625])
