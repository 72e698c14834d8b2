"""Guards selection: ties, what is forced or cannot be chosen, budgets by row, rows too long for registers, shares."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.kernels.selection import select_mass, select_top
from sparse_tasks.core.errors import UsageError

KERNELS = ["triton", "torch"]
INF = float("inf")


def naive_top(row: list[float], count: int) -> list[int]:
    """By sorting pairs of score and column."""
    possible = [(-score, column) for column, score in enumerate(row) if score > -INF]
    return sorted(column for _, column in sorted(possible)[:count])


def lists(columns: Tensor, counts: Tensor) -> list[list[int]]:
    """The lists of all rows, without undefined entries past the counts."""
    rows = zip(columns.flatten(0, -2).tolist(), counts.flatten().tolist(), strict=True)
    return [row[:count] for row, count in rows]


def uneven_scores(rows: int, columns: int, seed: int) -> Tensor:
    """Scores of both signs, with ties, zeros of both signs, and infinities; the last row cannot be chosen from."""
    make = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=make)
    scores[: rows // 2] = (scores[: rows // 2] * 2).round()  # ties, -0.0 among them
    drawn = torch.rand(rows, columns, generator=make)
    scores[drawn < 0.1], scores[drawn > 0.95] = -INF, INF
    scores[-1] = -INF
    return scores


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("columns", "count"), [(1, 1), (7, 3), (100, 10), (100, 0), (100, 100), (2500, 400)])
def test_the_largest_are_chosen_ties_by_column(impl: str, columns: int, count: int) -> None:
    scores = uneven_scores(6, columns, columns)
    found, counts = select_top(scores, count, impl=impl)
    assert found.dtype == counts.dtype == torch.int32
    assert lists(found, counts) == [naive_top(row, count) for row in scores.tolist()]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_extreme_floats_keep_their_order(impl: str) -> None:
    tiny, huge = 1e-45, 3.4028234e38
    row = [-0.0, tiny, 0.0, -huge, huge, INF, -tiny, -INF, 0.0, INF]
    for count in range(len(row) + 1):
        found, counts = select_top(torch.tensor([row]), count, impl=impl)
        assert lists(found, counts) == [naive_top(row, count)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 1), ()])
def test_budgets_may_differ_by_row(impl: str, shape: tuple[int, ...]) -> None:
    scores = uneven_scores(6, 50, 3).view(2, 3, 50)
    budgets = torch.randint(-1, 30, shape, generator=torch.Generator().manual_seed(5)).int()
    found, counts = select_top(scores, budgets, width=20, impl=impl)
    assert found.shape == (2, 3, 20)
    asked = budgets.expand(2, 3).flatten().tolist()
    rows = scores.flatten(0, 1).tolist()
    expected = [naive_top(row, min(20, max(0, count))) for row, count in zip(rows, asked, strict=True)]
    assert lists(found, counts) == expected


@pytest.mark.usefixtures("poisoned")
def test_a_share_of_a_long_row_is_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_tasks.attention.kernels.triton import selection as kernels

    monkeypatch.setattr(kernels, "WHOLE", 128)
    weights = (uneven_scores(4, 330, 7).abs() * 8).round()  # whole numbers: their sums are exact, and ties span pieces
    shares = select_mass(weights, 0.75, width=330, impl="triton")
    assert lists(*shares) == lists(*select_mass(weights, 0.75, width=330, impl="torch"))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("columns", [129, 330])
@pytest.mark.parametrize("count", [0, 12, 400])
def test_long_rows_are_divided_among_programs(columns: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_tasks.attention.kernels.triton import selection as kernels

    monkeypatch.setattr(kernels, "WHOLE", 128)
    monkeypatch.setattr(kernels, "PART", 64)
    scores = uneven_scores(6, columns, 8)
    scores[0] = scores[0].round()  # ties span the parts
    scores[1, 5:] = -INF
    scores[2, ::3] = INF
    scores[3] = 0.0
    scores[4, ::2] = -0.0
    found, counts = select_top(scores, count, impl="triton")
    assert lists(found, counts) == [naive_top(row, count) for row in scores.tolist()]
    budgets = torch.tensor([[3], [count], [0]], dtype=torch.int32)
    found, counts = select_top(scores.view(3, 2, columns), budgets, width=13, impl="triton")
    asked = [min(13, n) for n in (3, 3, count, count, 0, 0)]
    assert lists(found, counts) == [naive_top(row, n) for row, n in zip(scores.tolist(), asked, strict=True)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("columns", [384, 421])
def test_few_entries_of_a_long_row_are_chosen_in_a_tournament(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_tasks.attention.kernels.triton import selection as kernels

    monkeypatch.setattr(kernels, "WHOLE", 128)
    scores = uneven_scores(6, columns, 8)
    found, counts = select_top(scores, 12, impl="triton")
    assert lists(found, counts) == [naive_top(row, 12) for row in scores.tolist()]
    budgets = torch.tensor([[3], [14], [0]], dtype=torch.int32)
    found, counts = select_top(scores.view(3, 2, columns), budgets, width=13, impl="triton")
    asked = [3, 3, 13, 13, 0, 0]
    assert lists(found, counts) == [naive_top(row, n) for row, n in zip(scores.tolist(), asked, strict=True)]


@settings(max_examples=15, deadline=None)
@given(columns=st.integers(1, 130), count=st.integers(0, 140), seed=st.integers(0, 99))
def test_the_kernel_matches_its_twin(columns: int, count: int, seed: int) -> None:
    scores = uneven_scores(4, columns, seed)
    twin = select_top(scores, count, impl="torch")
    assert lists(*select_top(scores, count, impl="triton")) == lists(*twin)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("mass", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("minimum", [1, 12])
def test_a_share_takes_the_fewest_entries(impl: str, mass: float, minimum: int) -> None:
    weights = torch.randn(5, 300, generator=torch.Generator().manual_seed(2)).mul(3).softmax(-1)
    weights[:, 200:] = -INF
    weights[:, 7] = INF
    found = lists(*select_mass(weights, mass, width=300, minimum=minimum, impl=impl))
    for row, chosen in zip(weights.tolist(), found, strict=True):
        assert 7 in chosen
        assert chosen == naive_top(row, len(chosen))  # the largest
        finite = [weight for weight in row if math.isfinite(weight)]
        held = [row[column] for column in chosen if column != 7]
        assert sum(held) >= mass * sum(finite) - 1e-6
        assert len(chosen) >= minimum
        if len(chosen) > minimum and held:
            assert sum(held) - min(held) < mass * sum(finite) + 1e-6


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_only_as_many_equal_weights_are_taken_as_needed(impl: str) -> None:
    weights = torch.tensor([[2.0, 1, 1, 8, 1, 1, 2, 0], [0] * 8, [INF] * 3 + [4.0, 0, 1, 1, 0], [-INF] * 8])
    expected = [[0, 1, 2, 3, 6], [0], [0, 1, 2, 3, 5, 6], []]
    assert lists(*select_mass(weights, 13.5 / 16, width=8, impl=impl)) == expected
    # Within a width the largest stay.
    assert lists(*select_mass(weights, 13.5 / 16, width=2, impl=impl)) == [[0, 3], [0], [0, 1], []]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_shares_may_differ_by_row(impl: str) -> None:
    weights = torch.tensor([[1.0, 2, 4, 8]]).expand(3, 2, 4)
    shares = torch.tensor([[0.5], [0.75], [1.0]])
    found = lists(*select_mass(weights, shares, width=4, impl=impl))
    assert found == [[3], [3], [2, 3], [2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: select_top(torch.zeros(3, 0), 1), "scores"),
        (lambda: select_top(torch.zeros(3, 4).double(), 1), "scores"),
        (lambda: select_top(torch.zeros(3, 4), -1), "count"),
        (lambda: select_top(torch.zeros(3, 4), torch.zeros(3).int()), "width"),
        (lambda: select_top(torch.zeros(3, 4), torch.zeros(2).int(), width=2), "count"),
        (lambda: select_top(torch.zeros(3, 4), torch.zeros(3), width=2), "count"),
        (lambda: select_top(torch.zeros(3, 4), 1, width=0), "width"),
        (lambda: select_mass(torch.zeros(3, 4), 1.5, width=2), "mass"),
        (lambda: select_mass(torch.zeros(3, 4), torch.zeros(3).double(), width=2), "mass"),
        (lambda: select_mass(torch.zeros(3, 4), 0.5, width=2, minimum=0), "minimum"),
    ],
)
def test_bad_input_is_named(call: object, field: str) -> None:
    with pytest.raises(UsageError) as error:
        call()  # type: ignore[operator]
    assert error.value.field == field
