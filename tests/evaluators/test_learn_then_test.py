"""P-values of losses are valid, sequences keep their error rate, and both agree with others' code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sparse_tasks.evaluators.statistics import (
    fixed_sequence,
    hoeffding_bentkus_p_value,
    samples_needed,
)

ROUNDING = 1 + 1e-9
grades = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1), st.integers(0, 10).map(lambda tenths: 1 - tenths / 10))
tasks = st.lists(st.lists(grades, min_size=1, max_size=30), min_size=1, max_size=4)
whole_tasks = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n), min_size=1, max_size=4)
)
tolerances = st.floats(0.001, 0.999)
chains = st.lists(
    st.lists(st.floats(0, 1).map(lambda p: p**4), min_size=1, max_size=5),
    min_size=1,
    max_size=5,
)
errors = st.floats(0.001, 0.999)


def counted(k: int, n: int) -> list[list[float]]:
    """One task that lost k of n samples."""
    return [[1.0] * k + [0.0] * (n - k)]


@settings(deadline=None)
@given(tasks | whole_tasks, tolerances, tolerances)
def test_a_larger_tolerance_never_has_a_larger_p_value(losses: list[list[float]], a: float, b: float) -> None:
    whole = all(loss in (0, 1) for task in losses for loss in task)
    low, high = (hoeffding_bentkus_p_value(losses, at, all_or_nothing=whole) for at in sorted((a, b)))
    assert high <= low * ROUNDING


@settings(deadline=None)
@given(tasks, tolerances, st.randoms(use_true_random=False))
def test_a_p_value_does_not_depend_on_the_order(losses: list[list[float]], tolerance: float, random: Any) -> None:
    mixed = [random.sample(task, len(task)) for task in random.sample(losses, len(losses))]
    assert hoeffding_bentkus_p_value(mixed, tolerance) == hoeffding_bentkus_p_value(losses, tolerance)


@settings(deadline=None)
@given(st.integers(1, 300), tolerances, st.data())
def test_the_p_value_of_whole_losses_is_what_the_formula_says(n: int, tolerance: float, data: Any) -> None:
    k = data.draw(st.integers(0, n))
    mean = k / n
    divergence = mean * math.log(mean / tolerance) if mean else 0.0
    divergence += (1 - mean) * math.log((1 - mean) / (1 - tolerance)) if mean < 1 else 0.0
    hoeffding = math.exp(-n * divergence) if mean < tolerance else 1.0
    expected = min(hoeffding, math.e * binom.cdf(k, n, tolerance), 1.0)
    assert hoeffding_bentkus_p_value(counted(k, n), tolerance) == pytest.approx(expected, rel=1e-7, abs=1e-300)


def test_sums_are_robust_to_rounding() -> None:
    assert 100 * 0.07 > 7  # what a mean makes of it
    for seven in (counted(7, 50), [[0.7] * 10 + [0.0] * 40], [[1 - 0.9] * 50 + [1.0] * 2], [[0.14] * 50]):
        lost = math.fsum(seven[0])
        assert lost == pytest.approx(7)
        n = len(seven[0])
        assert hoeffding_bentkus_p_value(seven, 0.3) == pytest.approx(
            hoeffding_bentkus_p_value(counted(7, n), 0.3), rel=1e-9
        )


def test_samples_of_one_task_do_not_tighten_a_mean_over_tasks() -> None:
    small, large = [0.0] * 30, [0.0] * 300
    unequal = hoeffding_bentkus_p_value([small, large], 0.05)
    assert unequal == pytest.approx(hoeffding_bentkus_p_value([small, small], 0.05))
    assert unequal == pytest.approx(0.95**60)


@pytest.mark.parametrize(
    ("losses", "tolerance"),
    [([], 0.1), ([[0.0], []], 0.1), ([[1.1]], 0.1), ([[0.5]], 0.1), ([[1.0]], 0.0), ([[1.0]], 1.0)],
)
def test_invalid_losses_and_tolerances_are_refused(losses: list[list[float]], tolerance: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        hoeffding_bentkus_p_value(losses, tolerance, all_or_nothing=True)


probabilities = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.05]))


def count_distribution(probabilities: Sequence[float]) -> np.ndarray:
    """How likely each number of losses is among samples that each have their own probability."""
    found = np.ones(1)
    for p in probabilities:
        found = np.convolve(found, [1 - p, p])
    return found


def assert_valid(outcomes: Sequence[tuple[float, float]]) -> None:
    """No p-value is seen more often than it says; outcomes are p-values with their probabilities."""
    seen = 0.0
    for p_value, probability in sorted(outcomes):
        seen += probability
        assert seen <= p_value + 1e-9


@settings(deadline=None)
@given(st.lists(probabilities, min_size=1, max_size=25), st.booleans())
def test_p_values_hold_for_samples_that_are_not_alike(chances: list[float], all_or_nothing: bool) -> None:
    tolerance = math.fsum(chances) / len(chances)  # the hypothesis at its edge
    assume(0.001 < tolerance < 0.999)
    distribution = count_distribution(chances)
    n = len(chances)
    p_values = [
        hoeffding_bentkus_p_value(counted(k, n), tolerance, all_or_nothing=all_or_nothing) for k in range(n + 1)
    ]
    outcomes = zip(p_values, distribution.tolist(), strict=True)
    # Equal p-values are one event; sorting by count gives the right order.
    assert_valid(list(outcomes))


@settings(max_examples=60)
@given(st.lists(probabilities, min_size=1, max_size=9), st.lists(probabilities, min_size=1, max_size=9))
def test_p_values_hold_for_means_over_tasks_of_unequal_size(one: list[float], other: list[float]) -> None:
    tolerance = (math.fsum(one) / len(one) + math.fsum(other) / len(other)) / 2
    assume(0.001 < tolerance < 0.999)
    first, second = count_distribution(one), count_distribution(other)
    assert_valid(
        [
            (
                hoeffding_bentkus_p_value([*counted(i, len(one)), *counted(j, len(other))], tolerance),
                float(first[i] * second[j]),
            )
            for i, j in product(range(len(first)), range(len(second)))
        ]
    )


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), min_size=1, max_size=12))
def test_p_values_hold_for_graded_losses(weights: list[list[float]]) -> None:
    """Losses in quarters, each sample with its own distribution."""
    shares = [np.array(row) / math.fsum(row) for row in weights]
    n = len(shares)
    tolerance = math.fsum(float(share @ np.arange(5)) / 4 for share in shares) / n
    assume(0.001 < tolerance < 0.999)
    total = np.ones(1)
    for share in shares:
        total = np.convolve(total, share)
    p_values = []
    for quarters in range(4 * n + 1):
        full, rest = divmod(quarters, 4)
        p_values.append(hoeffding_bentkus_p_value([([1.0] * full + [rest / 4] + [0.0] * n)[:n]], tolerance))
    assert_valid(list(zip(p_values, total.tolist(), strict=True)))


@settings(deadline=None)
@given(st.floats(0.005, 0.9), st.floats(0.001, 0.5))
def test_the_needed_number_of_samples_is_minimal(tolerance: float, error: float) -> None:
    n = samples_needed(tolerance, error)
    assert hoeffding_bentkus_p_value([[0.0] * n], tolerance) <= error
    assert n == 1 or hoeffding_bentkus_p_value([[0.0] * (n - 1)], tolerance) > error


@pytest.mark.parametrize(("tolerance", "error"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 1.0), (math.nan, 0.1)])
def test_how_many_samples_has_no_answer_outside_the_unit_interval(tolerance: float, error: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        samples_needed(tolerance, error)


def graph(chains: Sequence[Sequence[float]], error: float) -> list[int]:
    """The graphical procedure of Bretz and others (2009), step by step, as their algorithm 1 has it."""
    names = [(c, i) for c, chain in enumerate(chains) for i in range(len(chain))]
    share = {(c, i): error / len(chains) if i == 0 else 0.0 for c, i in names}
    passes = {(a, b): 0.0 for a in names for b in names}
    for c, i in names:
        if i + 1 < len(chains[c]):
            passes[(c, i), (c, i + 1)] = 1.0
        else:
            for other in range(len(chains)):
                if other != c:
                    passes[(c, i), (other, 0)] = 1 / (len(chains) - 1)
    left, rejected = set(names), [0] * len(chains)
    # A hair more than its share: it comes in parts here.
    while found := next((h for h in sorted(left) if share[h] > 0 and chains[h[0]][h[1]] <= share[h] * ROUNDING), None):
        left.remove(found)
        rejected[found[0]] += 1
        new = {}
        for a, b in product(left, left):
            loop = passes[a, found] * passes[found, a]
            gained = passes[a, b] + passes[a, found] * passes[found, b]
            new[a, b] = gained / (1 - loop) if a != b and loop < 1 else 0.0
        for h in left:
            share[h] += share[found] * passes[found, h]
        passes.update(new)
    return rejected


@settings(deadline=None)
@given(chains, errors)
def test_sequences_are_the_graphical_procedure(p_values: list[list[float]], error: float) -> None:
    passed, level = fixed_sequence(p_values, error)
    assume(all(abs(p * k - error) > 1e-6 * error for chain in p_values for p in chain for k in range(1, 6)))
    assert passed == graph(p_values, error)
    assert error / len(p_values) <= level <= error


def test_a_finished_sequence_passes_its_share_on() -> None:
    assert fixed_sequence([[0.04, 0.2], [0.9]], 0.05) == ([0, 0], 0.025)
    assert fixed_sequence([[0.04, 0.2], [0.02]], 0.05) == ([1, 1], 0.05)


def test_nothing_to_test_rejects_nothing() -> None:
    assert fixed_sequence([], 0.05) == ([], 0.05)
    assert fixed_sequence([[], [0.04, 0.06]], 0.05) == ([0, 1], 0.05)


@pytest.mark.parametrize(("p", "error"), [(-0.1, 0.05), (1.1, 0.05), (math.nan, 0.05), (0.1, 0.0), (0.1, 1.0)])
def test_invalid_p_values_and_error_rates_are_refused(p: float, error: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        fixed_sequence([[p]], error)


"""Of three tasks at each sparsity: they cross a tolerance of .1, some just so, and some come back."""


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 0.99), st.booleans(), st.data())
def test_p_values_match_mapie_up_to_rounding(n: int, tolerance: float, binary: bool, data: Any) -> None:
    methods = pytest.importorskip("mapie.risk_control.methods")
    k = data.draw(st.integers(0, n))
    theirs = float(methods.compute_hoeffding_bentkus_p_value(np.array([k / n]), n, tolerance, binary)[0, 0])
    ours = hoeffding_bentkus_p_value(counted(k, n), tolerance, all_or_nothing=binary)
    rounded_up = math.ceil(n * (k / n)) > k
    not_alike = binary and k > n * tolerance - 1  # where the tail does not hold for heterogeneous samples
    if not rounded_up and not not_alike:
        assert ours == pytest.approx(min(1.0, theirs), rel=1e-7, abs=1e-300)
    elif not not_alike:
        assert ours <= theirs * ROUNDING + 1e-300
