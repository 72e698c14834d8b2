"""Many intervals at once are those found one by one; relative errors and ranks hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.evaluators.statistics import (
    Rank,
    difference_interval,
    difference_intervals,
    interval_ranks,
    ranks,
    relative_error_interval,
)

Pairs = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
quarters = st.integers(0, 4).map(lambda number: number / 4)


@given(rows=st.lists(st.lists(st.integers(-4, 4).map(lambda x: x / 4), min_size=1, max_size=12), max_size=6))
@settings(max_examples=40, deadline=None)
def test_many_intervals_match_single_ones(rows: list[list[float]]) -> None:
    many = difference_intervals(rows, resamples=499)
    one_by_one = [difference_interval(row, resamples=499) for row in rows]
    assert [one.method for one in many] == [one.method for one in one_by_one]
    for a, b in zip(many, one_by_one, strict=True):
        assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-9)


def test_chunked_rows_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.choice([-0.5, 0.0, 0.25], n).tolist() for n in [20, 30] * 80]
    many = difference_intervals(rows, resamples=199)
    for found, row in zip(many[::37], rows[::37], strict=True):
        (alone,) = difference_intervals([row], resamples=199)
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


def test_invalid_differences_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        difference_intervals([[0.5], []])
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        difference_intervals([[0.5], [math.nan]])
    with pytest.raises(ValueError, match="level"):
        difference_intervals([[0.5]], level=0)


def entries(of: int, a: float, b: float, kept: float) -> Callable[[np.random.Generator, int, int], Pairs]:
    """Two runs over samples that are unequally hard; tasks differ."""

    def draw(rng: np.random.Generator, n: int, task: int) -> Pairs:
        easy = rng.beta(a + task, b, n)
        return rng.binomial(of, easy) / of, rng.binomial(of, easy * kept) / of

    return draw


@pytest.mark.parametrize(
    "draw",
    [entries(16, 9, 1, 0.9), entries(4, 2, 1, 0.5), entries(1, 2, 1, 0.7), entries(1, 1, 9, 0.5)],
    ids=["16 entries, .1 lost", "4 entries, .5 lost", "right or wrong, .3 lost", "hard, .5 lost"],
)
@pytest.mark.parametrize(("n", "tasks"), [(20, 4), pytest.param(50, 2, marks=pytest.mark.nightly)])
def test_intervals_hold_the_relative_error(
    draw: Callable[[np.random.Generator, int, int], Pairs], n: int, tasks: int
) -> None:
    large = [draw(np.random.default_rng(99 + task), 500_000, task) for task in range(tasks)]
    dense, sparse = (sum(task[i].mean() for task in large) for i in (0, 1))
    truth = (dense - sparse) / dense
    rng, held = np.random.default_rng(n), 0
    for _ in range(250):
        found = relative_error_interval([np.column_stack(draw(rng, n, task)) for task in range(tasks)])
        held += found.low <= truth <= found.high
    assert held >= 0.91 * 250


def test_where_nothing_changed_the_interval_still_allows_for_what_was_not_seen() -> None:
    small = relative_error_interval([[(1.0, 1.0), (0.5, 0.5)] * 10])
    large = relative_error_interval([[(1.0, 1.0), (0.5, 0.5)] * 100])
    assert small.method == large.method == "gains_losses"
    assert small.low < large.low < 0 < large.high < small.high
    assert large.high < 0.05


def test_where_all_is_lost_the_limit_is_1() -> None:
    found = relative_error_interval([[(1.0, 0.0), (0.5, 0.0)] * 10])
    assert 0 < found.low < found.high == 1


def test_dense_scores_near_0_leave_no_limit_and_dense_scores_of_0_are_refused() -> None:
    found = relative_error_interval([[(0.0, 0.0)] * 20, [(0.01, 0.0)] + [(0.0, 0.0)] * 19])
    assert found.low <= 0 < found.high <= 1
    assert relative_error_interval([[(1e-12, 0.0)]]).low == -math.inf
    for tasks in ([], [[]], [[(0.0, 0.5)]]):
        with pytest.raises(ValueError, match=r"at least one value|dense score above 0"):
            relative_error_interval(tasks)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        relative_error_interval([[(1.5, 0.0)]])


@given(
    tasks=st.lists(st.lists(st.tuples(quarters, quarters), min_size=1, max_size=9), min_size=1, max_size=3),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_a_relative_error_lies_in_its_interval_whatever_the_order(
    tasks: list[list[tuple[float, float]]], order
) -> None:  # type: ignore[no-untyped-def]
    dense = math.fsum(np.mean([a for a, _ in task]) for task in tasks)
    if dense == 0:
        return
    sparse = math.fsum(np.mean([b for _, b in task]) for task in tasks)
    found = relative_error_interval(tasks)
    assert found.low - 1e-9 <= (dense - sparse) / dense <= found.high + 1e-9
    assert found.high <= 1
    shuffled = [order.sample(task, len(task)) for task in order.sample(tasks, len(tasks))]
    assert relative_error_interval(shuffled) == found


def test_a_clear_order_is_certain_and_a_close_one_is_not() -> None:
    rng = np.random.default_rng(1)
    cell = (rng.random((100, 1)) < [[0.95, 0.5, 0.5, 0.05]]).astype(float)
    cell[:, 2] = rng.permutation(cell[:, 1])
    best, second, third, last = ranks([cell])
    assert best == Rank(1, 1, 1)
    assert last == Rank(4, 4, 4)
    assert second == third == Rank(2.5, 2, 3)


def test_methods_with_the_same_answers_share_their_place_in_every_resample() -> None:
    scores = np.random.default_rng(2).random((30, 1)) * [[1, 1, 0.5]]
    assert ranks([scores]) == [Rank(1.5, 1.5, 1.5), Rank(1.5, 1.5, 1.5), Rank(3, 3, 3)]


def test_missing_answers_do_not_count() -> None:
    scores = np.array([[1.0, 0.5], [1.0, math.nan], [0.0, math.nan], [0.0, 0.4]])
    assert [one.rank for one in ranks([scores])] == [1, 2]
    assert ranks([scores[:, :1]]) == [Rank(1, 1, 1)]


@pytest.mark.nightly
def test_limits_hold_the_true_place() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        hard = rng.random((50, 1))
        luck = np.where(rng.random((50, 3)) < 0.5, hard, rng.random((50, 3)))
        places = ranks([(luck < [[0.8, 0.6, 0.4]]).astype(float)], resamples=199)
        held += all(place.low <= true <= place.high for place, true in zip(places, (1, 2, 3), strict=True))
    assert held >= 180


@given(
    cells=st.integers(1, 4).flatmap(
        lambda methods: st.lists(
            st.lists(st.lists(quarters, min_size=methods, max_size=methods), min_size=1, max_size=6),
            min_size=1,
            max_size=3,
        )
    ),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_ranks_add_up_lie_in_their_limits_and_know_no_order(cells: list[list[list[float]]], order) -> None:  # type: ignore[no-untyped-def]
    found = ranks(cells, resamples=99)
    methods = len(cells[0][0])
    assert math.fsum(one.rank for one in found) == pytest.approx(methods * (methods + 1) / 2)
    assert all(1 <= one.low <= one.rank <= one.high <= methods for one in found)
    shuffled = [order.sample(cell, len(cell)) for cell in order.sample(cells, len(cells))]
    assert ranks(shuffled, resamples=99) == found


def test_invalid_cells_are_refused() -> None:
    for cells in ([], [[[]]], [[]], [[0.5]]):
        with pytest.raises(ValueError, match="at least one cell"):
            ranks(cells)
    with pytest.raises(ValueError, match="each column must have a score"):
        ranks([[[0.5, math.nan]]])


def test_ranks_depend_on_overlaps_of_intervals() -> None:
    assert interval_ranks([0.9, 0.5, 0.4], [(0.8, 1.0), (0.4, 0.6), (0.3, 0.5)]) == [
        Rank(1, 1, 1), Rank(2, 2, 3), Rank(3, 2, 3),
    ]  # fmt: skip
    assert interval_ranks([0.5, 0.5], [(0.4, 0.6), (0.4, 0.6)]) == [Rank(1.5, 1, 2)] * 2
    assert interval_ranks([], []) == []
