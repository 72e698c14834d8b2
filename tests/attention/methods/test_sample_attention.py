"""Guards SampleAttention: the fewest columns that hold a share with a window, as in a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.methods.sample_attention import SampleAttention
from sparse_tasks.attention.ops.sampled import columns_that_hold
from tests.attention.methods.naive import Array, attention, make_sequence

SHARPNESS = torch.tensor([0.3, 3.0, 6.0, 9.0])[:, None]


def window_begin(position: int, bands: int) -> int:
    """The first key of a window of tiles of 64 that end with the query's block of 128."""
    return max(0, (position // 128 + 1) * 128 - 64 * bands)


def beside_window(q: Tensor, k: Tensor, stride: int, bands: int) -> tuple[Array, int]:
    """What every ``stride``-th query, back from the last, attends to before its window, by key; and their number."""
    weights, n_q, n_k = attention(q, k), len(q), len(k)
    rows = range(n_q - 1, -1, -stride)
    for row in rows:
        weights[:, row, window_begin(n_k - n_q + row, bands) :] = 0
    return weights[:, list(rows)].sum(1), len(rows)


def columns_of(index: LineIndex) -> list[list[int]]:
    lists = [row[:count] for row, count in zip(index.columns.tolist(), index.column_counts.tolist(), strict=True)]
    assert all(head == sorted(set(head)) for head in lists)
    return lists


def costs_of(bands: int, n_q: int, n_k: int) -> list[int]:
    """Of each column the queries whose windows begin after it."""
    begins = np.array([window_begin(position, bands) for position in range(n_k - n_q, n_k)])
    costs: list[int] = (begins > np.arange(n_k)[:, None]).sum(1).tolist()
    return costs


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "stride", "window", "alpha"),
    [(400, 400, 7, 0.1, 0.9), (150, 500, 20, 0.3, 0.6), (200, 390, 1, 0.0, 0.95), (300, 300, 50, 0.0, 0.0)],
)
def test_like_naive(impl: str, n_q: int, n_k: int, stride: int, window: float, alpha: float) -> None:
    q, k = make_sequence(n_q, n_k, 4, 2, 32)
    q = q * SHARPNESS
    index = SampleAttention(alpha=alpha, stride=stride, window=window).select(q, k, impl=impl)
    assert isinstance(index, LineIndex)
    bands = int(index.band_counts[0])
    assert index.bands.tolist() == [list(range(bands))] * 4
    keys = max(1, round(window * n_k))
    assert all(position - window_begin(position, bands) + 1 >= min(keys, position + 1) for position in range(n_k))
    before, sampled = beside_window(q, k, stride, bands)
    for head, columns in enumerate(columns_of(index)):
        lost = before[head].sum() - before[head][columns].sum()
        assert lost <= (1 - alpha) * sampled + 1e-4
        if columns:
            least = before[head][columns].min()
            assert lost + least > (1 - alpha) * sampled - 1e-4  # with one column fewer it would be too much
            others = np.delete(before[head], columns)
            assert others.max() <= least + 1e-6


def test_heads_with_spread_attention_take_more() -> None:
    q, k = make_sequence(600, 600, 4, 2, 32)
    index = SampleAttention(window=0.02).select(q * SHARPNESS, k, impl="torch")
    assert index is not None
    counts = index.column_counts.tolist()
    assert counts[0] > 2 * counts[3] > 0


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.85])
@pytest.mark.parametrize(("n_q", "n_k"), [(1200, 1200), (500, 1500)])
def test_a_sparsity_finds_one_share_for_all_heads(n_q: int, n_k: int, sparsity: float) -> None:
    q, k = make_sequence(n_q, n_k, 4, 2, 32)
    q = q * SHARPNESS
    index = SampleAttention(sparsity=sparsity).select(q, k, impl="torch")
    assert index is not None
    bands = int(index.band_counts[0])
    before, sampled = beside_window(q, k, 20, bands)
    met, left, costs = [], [], costs_of(bands, n_q, n_k)
    for head, columns in enumerate(columns_of(index)):
        taken, free = set(columns), [c for c in range(n_k) if costs[c]]
        ranked = sorted(free, key=lambda c, head=head: (-before[head][c], c))  # type: ignore[misc]
        assert set(ranked[: len(taken)]) == taken
        after = np.cumsum(before[head][ranked][::-1])[::-1] / sampled
        met += [after[len(taken) - 1]] if taken else []
        left += [after[len(taken)]] if len(taken) < len(ranked) else []
    assert min(met) >= max(left) - 1e-5
    total = float(index.density().mean()) * causal_count(n_q, n_k)
    assert (1 - sparsity) * causal_count(n_q, n_k) - n_q <= total <= (1 - sparsity) * causal_count(n_q, n_k)
    window = sum(position + 1 - window_begin(position, bands) for position in range(n_k - n_q, n_k))
    assert window <= (1 - sparsity) * causal_count(n_q, n_k) / 2 or bands == 2


@settings(max_examples=40, deadline=None)
@given(n_k=st.integers(129, 900), chunk=st.floats(0.01, 1), density=st.floats(0.01, 1), bands=st.integers(2, 9))
def test_columns_are_counted(n_k: int, chunk: float, density: float, bands: int) -> None:
    """Whole columns of equal weight, until none fits any more."""
    n_q = max(1, round(chunk * n_k))
    index = columns_that_hold(
        torch.ones(2, n_k), 10, bands=bands, n_q=n_q, n_k=n_k, block_q=128, unit=64, density=density, impl="torch"
    )
    window = sum(position + 1 - window_begin(position, bands) for position in range(n_k - n_q, n_k))
    costs = costs_of(bands, n_q, n_k)
    expected = [window + sum(costs[column] for column in columns) for columns in columns_of(index)]
    assert index.computed().tolist() == expected
    assert all(costs[column] > 0 for columns in columns_of(index) for column in columns)
    target = int(density * causal_count(n_q, n_k) * 2)
    assert sum(expected) <= max(target, 2 * window)
    everything = window + sum(costs)
    assert sum(expected) > target - n_q or expected == [everything, everything]


def test_lists_have_a_maximum() -> None:
    outside = torch.ones(2, 400)
    outside[0] *= 100
    index = columns_that_hold(
        outside, 10, bands=2, n_q=400, n_k=400, block_q=128, unit=64, density=0.6, width=30, impl="torch"
    )
    assert index.columns.shape == (2, 30)
    assert index.column_counts.tolist() == [30, 30]
    few = columns_that_hold(
        outside, 10, bands=2, n_q=400, n_k=400, block_q=128, unit=64, density=0.39, width=30, impl="torch"
    )
    assert few.column_counts[0] == 30 > few.column_counts[1]


def test_windows_of_chunks_are_those_of_the_whole_prompt() -> None:
    q, k = make_sequence(300, 300, 2, 1, 32)
    chunk = SampleAttention(window=0.1).select(q, k, length=3000, impl="torch")
    assert chunk is not None
    assert int(chunk.band_counts[0]) == -(-(300 + 127) // 64)
