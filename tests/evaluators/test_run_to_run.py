"""Serving variance has known truths: of runs that differ by chance, and of engines that differ by more."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sparse_tasks.evaluators.statistics import run_to_run

Scores = npt.NDArray[np.float64]
SHAPES = st.tuples(st.integers(2, 5), st.integers(1, 30))
TABLES = arrays.arrays(np.float64, SHAPES, elements=st.sampled_from([0, 0.5, 1]))


def runs(generator: np.random.Generator, right: Scores, count: int) -> Scores:
    """Runs of samples that are right with these probabilities, each time anew."""
    return (generator.random((count, len(right))) < right).astype(np.float64)


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("unsure", [0.1, 0.5])
def test_the_standard_deviation_is_that_of_runs_and_the_limit_holds_new_ones(count: int, unsure: float) -> None:
    generator = np.random.default_rng(7)
    right = np.where(np.arange(100) < 100 * unsure, 0.7, 1.0)
    truth = math.sqrt(np.sum(right * (1 - right))) / 100
    variances, held = [], []
    for _ in range(150):
        found = run_to_run([runs(generator, right, count).tolist()])
        first, second = runs(generator, right, 2).mean(axis=1)
        variances.append(found.sd**2)
        held.append(abs(first - second) <= found.limit)
    # The larger of two estimates, neither of which is biased, is a little too large.
    assert truth <= math.sqrt(np.mean(variances)) <= 1.35 * truth
    assert np.mean(held) >= 0.92


def test_a_mean_over_tasks_varies_less_than_each_of_them() -> None:
    generator = np.random.default_rng(3)
    tasks = [runs(generator, np.full(50, 0.8), 4).tolist() for _ in range(4)]
    each = [run_to_run([task]).sd for task in tasks]
    assert run_to_run(tasks).sd == pytest.approx(np.mean(each) / 2, rel=0.5)
    assert run_to_run(tasks).limit < min(run_to_run([task]).limit for task in tasks)


def test_common_shifts_of_samples_count() -> None:
    one, other = np.ones(1000), np.ones(1000)
    other[:100] = 0
    found = run_to_run([[one.tolist(), other.tolist()]])
    assert found.limit == pytest.approx(0.1)
    assert found.sd == pytest.approx(0.1 / math.sqrt(2))
    assert found.changed == 0.1


def test_the_limit_without_changes_falls_with_the_sample_size() -> None:
    limits = [run_to_run([np.ones((2, n)).tolist()]).limit for n in (10, 50, 500)]
    assert limits == sorted(limits, reverse=True)
    assert limits[1] == pytest.approx(1.96 * math.sqrt(2.71 / 52.7 / 50), rel=0.01)
    assert limits[2] < 0.01
    assert run_to_run([np.ones((2, 50)).tolist()]).sd == 0


@given(table=TABLES, seed=st.integers(0, 100))
def test_the_order_of_runs_and_samples_does_not_matter(table: Scores, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(generator.permutation(table, axis=0), axis=1)
    found = run_to_run([table.tolist()])
    assert run_to_run([shuffled.tolist()]) == found
    assert 0 <= found.sd <= found.limit <= 1
    assert abs(table.mean(axis=1)[0] - table.mean(axis=1)[1]) <= found.limit + 1e-12
    assert (found.changed > 0) == (found.sd > 0)


@pytest.mark.parametrize(
    "tasks", [[], [[[1.0, 0.0]]], [[[1.0], [0.0]], [[1.0], [1.0], [0.0]]], [[[], []]], [[[2.0], [0.0]]]]
)
def test_invalid_tables_are_refused(tasks: list[list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="must be"):
        run_to_run(tasks)
