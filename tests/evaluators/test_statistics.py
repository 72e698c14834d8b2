"""Intervals cover as often as they promise, the test is valid, and nothing is NaN or out of range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.evaluators.statistics import (
    Interval,
    difference_interval,
    holm,
    macro,
    mean_interval,
    sign_flip_p_value,
    smallest_detectable,
)

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def entries(of: int, a: float, b: float) -> Draw:
    """Scores of a task with this many entries, with samples of varying difficulty (beta-binomial)."""
    return lambda rng, shape: rng.binomial(of, rng.beta(a, b, shape)) / of


def overlap(hit: float, extra: float) -> Draw:
    """Intersection over union with a set of three."""
    return lambda rng, shape: rng.binomial(3, hit, shape) / (3 + rng.poisson(extra, shape))


def beta(a: float, b: float) -> Draw:
    return lambda rng, shape: rng.beta(a, b, shape)


def values(*weighted: tuple[float, float]) -> Draw:
    """Each value with its probability."""
    points, weights = zip(*weighted, strict=True)
    return lambda rng, shape: rng.choice(points, size=shape, p=weights)


def failing(share: float, draw: Draw) -> Draw:
    """The same, but a share of answers fails outright."""
    return lambda rng, shape: np.where(rng.random(shape) < share, 0.0, draw(rng, shape))


def pairs(of: int, a: float, b: float, kept: float) -> Draw:
    """Differences of two runs on samples of equal difficulty, the second knowing a share of what the first knows."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        easy = rng.beta(a, b, shape)
        return (rng.binomial(of, easy * kept) - rng.binomial(of, easy)) / of

    return draw


def losses(of: int, affected: float) -> Draw:
    """Differences where a share of nearly right answers loses some of its entries and the rest are ties."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        right = rng.binomial(of, rng.beta(20, 0.6, shape))
        return -rng.binomial(right, np.where(rng.random(shape) < affected, rng.beta(1, 2, shape), 0)) / of

    return draw


def some(share: float, draw: Draw) -> Draw:
    """Differences that are zero but for a share."""
    return failing(1 - share, draw)


SCORES = {
    "16 entries, mean 0.60": entries(16, 3, 2),
    "16 entries, mean 0.97": entries(16, 20, 0.6),
    "4 entries, mean 0.10": entries(4, 1, 9),
    "4 entries, 40% none, 40% all": values((0, 0.4), (0.25, 0.07), (0.5, 0.06), (0.75, 0.07), (1, 0.4)),
    "sets, mean 0.55": overlap(0.7, 1),
    "beta(2, 2)": beta(2, 2),
    "beta(0.5, 0.5)": beta(0.5, 0.5),
    "beta(5, 1)": beta(5, 1),
    "right or wrong, mean 0.80": values((0, 0.2), (1, 0.8)),
}
DIFFERENCES = {
    "16 entries, no change": pairs(16, 9, 1, 1),
    "16 entries, 10% lost": pairs(16, 9, 1, 0.9),
    "4 entries, 20% lost": pairs(4, 2, 1, 0.8),
    "losses in 90%": losses(16, 0.9),
    "40% change, both ways": some(0.4, lambda rng, shape: rng.uniform(-1, 1, shape)),
    "continuous": lambda rng, shape: rng.beta(2, 1, shape) - rng.beta(5, 1, shape),
    "right or wrong, 40% lost, 10% won": values((-1, 0.4), (0, 0.5), (1, 0.1)),
}


@cache
def true_mean(draw: Draw) -> float:
    """To within a hundredth of the narrowest interval here."""
    return float(draw(np.random.default_rng(99), (1_000_000,)).mean())


def coverage(draw: Draw, n: int, interval: Callable[[list[float]], Interval], runs: int) -> float:
    """The share of runs of n samples whose interval holds the true mean."""
    mean = true_mean(draw)
    found = [interval(run) for run in draw(np.random.default_rng(n), (runs, n)).tolist()]
    return sum(one.low <= mean <= one.high for one in found) / runs


def assert_holds(share: float, runs: int, low: float = 0.93, high: float = 0.97) -> None:
    """Coverage in [low, high], up to two standard errors of the share."""
    noise = 2 * math.sqrt(0.95 * 0.05 / runs)
    assert low - noise <= share <= high + noise, f"covers {share:.1%}"


def grid(shapes: Iterable[str]) -> list[object]:
    """Each shape at several sizes; beyond one size of each shape nightly."""
    small = [pytest.param(shape, 20) for shape in shapes]
    return small + [pytest.param(shape, n, marks=pytest.mark.nightly) for shape in shapes for n in (50, 100)]


@pytest.mark.parametrize(("shape", "n"), grid(SCORES))
def test_interval_of_a_mean_has_its_coverage(shape: str, n: int) -> None:
    assert_holds(coverage(SCORES[shape], n, mean_interval, runs=2000), 2000)


@pytest.mark.nightly
def test_other_levels_have_their_coverage() -> None:
    for level, tolerance in ((0.8, 0.03), (0.99, 0.01)):
        share = coverage(entries(16, 3, 2), 30, lambda scores: mean_interval(scores, level), runs=2000)  # noqa: B023
        assert abs(share - level) < tolerance


def test_rare_failures_need_a_longer_run() -> None:
    # The module says so: what did not occur cannot be known. One in twenty fails, the rest are nearly right.
    rare = failing(0.05, entries(16, 9, 1))
    assert 0.84 < coverage(rare, 20, mean_interval, runs=2000) < 0.92
    assert_holds(coverage(rare, 100, mean_interval, runs=2000), 2000)


def test_right_or_wrong_is_wilsons_interval() -> None:
    from scipy.stats import binomtest  # the reference, which takes a second to import

    for n, right in ((1, 0), (1, 1), (7, 3), (20, 0), (20, 19), (100, 50), (500, 499)):
        reference = binomtest(right, n).proportion_ci(0.95, method="wilson")
        found = mean_interval([1.0] * right + [0.0] * (n - right))
        assert found.method == "wilson"
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_all_answers_alike_is_not_certainty() -> None:
    # BCa gives NaN here, and the standard error is 0.
    for same in (0.0, 0.3, 1 / 3, 1.0):
        found = mean_interval([same] * 20)
        assert found.method == "wilson"
        assert found.high - found.low > 0.15
    # One answer that is a little off says no more about the others; rounding says nothing.
    assert mean_interval([1.0] * 19 + [15 / 16]).low < 0.85
    assert mean_interval([0.1 + 0.2] * 10 + [0.3] * 10).method == "wilson"


def quick_difference_interval(differences: list[float], level: float = 0.95) -> Interval:
    """With fewer resamples: each interval is a little less sharp, and on the average they hold as often."""
    return difference_interval(differences, level, resamples=199)


@pytest.mark.parametrize(("shape", "n"), grid(DIFFERENCES))
def test_interval_of_a_difference_has_its_coverage(shape: str, n: int) -> None:
    assert_holds(coverage(DIFFERENCES[shape], n, quick_difference_interval, runs=1200), 1200)


def test_no_observed_difference_is_not_certainty() -> None:
    # Wilson's upper limit for 0 of 20: the share of samples that may still differ.
    limit = mean_interval([0.0] * 20).high
    assert difference_interval([0.0] * 20) == Interval(-limit, limit, "gains_losses")
    assert limit == pytest.approx(0.1611, abs=1e-4)


@pytest.mark.parametrize("same", [-1.0, -0.3, 0.0, 0.3, 1.0])
def test_all_differences_alike_is_not_certainty(same: float) -> None:
    found = difference_interval([same] * 20)
    assert found.method == "gains_losses"
    assert found.high - found.low > 0.3


def test_a_few_changes_do_not_exclude_zero() -> None:
    # The sign-flip test needs six changes, so an interval that excludes zero after two would contradict it.
    for changed in range(1, 5):
        for size in (1 / 16, 1.0):
            found = difference_interval([0.0] * (20 - changed) + [-size] * changed)
            assert found.low < 0 < found.high


def quick_p_value(differences: list[float]) -> float:
    """With a tenth of the random patterns: the test is as valid, and ten times as fast."""
    return sign_flip_p_value(differences, flips=1_999)


@pytest.mark.parametrize(("n", "runs"), [(8, 4000), (30, 500)])
def test_p_values_are_uniform_where_nothing_differs(n: int, runs: int) -> None:
    draws = np.random.default_rng(n).uniform(-1, 1, (runs, n)).tolist()
    found = np.array([quick_p_value(run) for run in draws])
    for alpha in (0.0625, 0.125, 0.25, 0.5, 0.75):  # on the grid of p-values that eight signs can give
        assert abs(np.mean(found <= alpha) - alpha) < 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_sign_flip_is_the_permutation_test_of_scipy() -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(11)
    for n, tolerance in ((2, 1e-9), (5, 1e-9), (9, 1e-9), (15, 0.015)):  # the last one is drawn
        run = rng.choice([-4, -3, -2, -1, 1, 2, 3], n) / 16
        reference = permutation_test((run,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip_p_value(run.tolist()) == pytest.approx(reference, abs=tolerance)


def test_patterns_that_tie_but_for_rounding_are_as_extreme() -> None:
    # 0.1 + 0.2 - 0.3 is not 0.0; the four patterns with this sum, and their mirror images, all count.
    assert sign_flip_p_value([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_p_value([0.3, 0.1 + 0.2, -0.3]) == 1.0


def test_differences_that_only_rounding_made_are_none() -> None:
    rounding = [0.1 + 0.2 - 0.3, 1e-10, -6e-10, 6e-10] * 10
    assert sign_flip_p_value([1e-17] * 10) == sign_flip_p_value(rounding) == 1.0
    assert difference_interval(rounding) == difference_interval([0.0] * 40)
    assert smallest_detectable(rounding) == 6 / 40


@pytest.mark.parametrize(("n", "runs"), [(20, 500), (60, 300)])
def test_a_difference_of_the_detectable_size_is_found_four_times_in_five(n: int, runs: int) -> None:
    noise = np.random.default_rng(n).normal(0, 0.15, (runs, n)).clip(-0.5, 0.5)
    found = [quick_p_value((run + smallest_detectable(run.tolist())).tolist()) <= 0.05 for run in noise]
    assert 0.73 < np.mean(found) < 0.86


def test_less_than_six_changes_is_never_called_detectable() -> None:
    assert smallest_detectable([0.0] * 100) == 6 / 100
    assert smallest_detectable([0.3] * 100) == 6 / 100  # a scatter of zero is not known to be zero
    assert smallest_detectable([0.0] * 98 + [1.0, -1.0]) == 6 / 100
    assert smallest_detectable([0.0] * 98 + [-1 / 16] * 2) == 6 / 100 / 16
    assert smallest_detectable([0.0] * 6) == 1.0
    assert smallest_detectable([0.1, -0.1, 0.0, 0.2, 0.1]) == 1.0  # five samples cannot reach 5%
    assert smallest_detectable([0.0] * 100, level=0.99) == 8 / 100


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.0, 1.0, 0.3]):
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_mover_by_hand() -> None:
    one = (0.8, Interval(0.5, 0.9, "score"))
    assert macro([one]) == (0.8, Interval(0.5, pytest.approx(0.9), "mover"))
    average, interval = macro([one, (0.4, Interval(0.0, 0.7, "score"))])
    assert average == pytest.approx(0.6)
    assert interval.low == pytest.approx(0.6 - 0.5 / 2)  # a right triangle of 3, 4 and 5
    assert interval.high == pytest.approx(0.6 + math.sqrt(0.1) / 2)


def test_interval_of_an_average_over_tasks_holds_it() -> None:
    tasks = [SCORES[name] for name in ("16 entries, mean 0.97", "right or wrong, mean 0.80", "sets, mean 0.55")]
    truth = sum(map(true_mean, tasks)) / 3
    rng, runs, held = np.random.default_rng(8), 1500, 0
    for _ in range(runs):
        scores = [task(rng, (20,)) for task in tasks]
        interval = macro([(float(run.mean()), mean_interval(run.tolist())) for run in scores])[1]
        held += interval.low <= truth <= interval.high
    assert_holds(held / runs, runs)


SCORE = st.one_of(st.floats(0, 1), st.integers(0, 16).map(lambda k: k / 16), st.sampled_from([0.0, 1.0]))
SCORE_LISTS = st.lists(SCORE, min_size=1, max_size=40)
CHANGE = st.one_of(st.floats(-1, 1), st.integers(-16, 16).map(lambda k: k / 16), st.just(0.0))
CHANGE_LISTS = st.lists(CHANGE, min_size=1, max_size=40)
LEVEL = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@settings(deadline=None)
@given(scores=SCORE_LISTS, level=LEVEL, random=st.randoms(use_true_random=False))
def test_interval_of_any_scores(scores: list[float], level: float, random: object) -> None:
    found = mean_interval(scores, level)
    mean = math.fsum(scores) / len(scores)
    assert 0 <= found.low <= mean <= found.high <= 1
    assert found.low < found.high
    random.shuffle(scores)  # type: ignore[attr-defined]
    assert mean_interval(scores, level) == found


@settings(deadline=None)
@given(changes=CHANGE_LISTS, level=LEVEL, random=st.randoms(use_true_random=False))
def test_interval_of_any_differences(changes: list[float], level: float, random: object) -> None:
    found = quick_difference_interval(changes, level)
    mean = math.fsum(changes) / len(changes)
    assert -1 <= found.low <= mean <= found.high <= 1
    mirrored = quick_difference_interval([-change for change in changes], level)
    assert mirrored == Interval(-found.high, -found.low, found.method)
    random.shuffle(changes)  # type: ignore[attr-defined]
    assert quick_difference_interval(changes, level) == found


@settings(deadline=None, max_examples=50)
@given(changes=CHANGE_LISTS, random=st.randoms(use_true_random=False))
def test_p_value_and_power_of_any_differences(changes: list[float], random: object) -> None:
    p_value, detectable = sign_flip_p_value(changes), smallest_detectable(changes)
    assert 0 < p_value <= 1
    assert 0 < detectable <= 1
    opposite = [-change for change in changes]
    random.shuffle(opposite)  # type: ignore[attr-defined]
    assert sign_flip_p_value(opposite) == p_value
    assert smallest_detectable(opposite) == pytest.approx(detectable)
    assert sign_flip_p_value([*changes, 0.0]) == p_value


@given(p_values=st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(raw <= after <= 1 for raw, after in zip(p_values, adjusted, strict=True))
    in_order = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)


@given(runs=st.lists(SCORE_LISTS, min_size=1, max_size=6))
def test_average_over_any_tasks_stays_inside(runs: list[list[float]]) -> None:
    means = [(math.fsum(run) / len(run), mean_interval(run)) for run in runs]
    average, interval = macro(means)
    assert 0 <= interval.low <= average <= interval.high <= 1  # a schema says so, to the last bit


@pytest.mark.parametrize("function", [mean_interval, difference_interval, sign_flip_p_value, smallest_detectable])
@pytest.mark.parametrize("bad", [[], [math.nan], [0.5, math.inf], [0.5, 1.5], [-1.01], [[0.5]]])
def test_invalid_scores_are_refused(function: Callable[[object], object], bad: object) -> None:
    with pytest.raises(ValueError, match="value"):
        function(bad)


def test_negative_scores_are_refused_and_negative_differences_are_not() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], not -0.5"):
        mean_interval([0.5, -0.5])
    assert difference_interval([0.5, -0.5])


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 95.0, math.nan])
def test_invalid_levels_are_refused(level: float) -> None:
    for function in (mean_interval, difference_interval, smallest_detectable):
        with pytest.raises(ValueError, match="level"):
            function([0.5] * 10, level)  # type: ignore[operator]
    with pytest.raises(ValueError, match="power"):
        smallest_detectable([0.5] * 10, power=level)


def test_other_bad_input_is_refused() -> None:
    for bad in ([1.1], [-0.1], [0.5, math.nan]):
        with pytest.raises(ValueError, match="p-values"):
            holm(bad)
    with pytest.raises(ValueError, match="at least one task"):
        macro([])
    for mean, low, high in ((0.5, 0.6, 0.7), (math.nan, 0.0, 1.0), (0.5, math.nan, 1.0)):
        with pytest.raises(ValueError, match="within its interval"):
            macro([(mean, Interval(low, high, "score"))])
