"""Guards SnapKV: the paper's capacities, importance written out, and what always stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.methods.snapkv import SnapKV
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import (
    CAPACITIES,
    DENSITIES,
    attention,
    ends,
    kept_lists,
    make_sequence,
    smoothed,
    top,
)


@pytest.mark.parametrize("length", CAPACITIES)
def test_capacities_of_the_paper(length: int) -> None:
    found = [SnapKV(sparsity=1 - density).at(length).capacity for density in DENSITIES]
    assert tuple(found) == CAPACITIES[length]


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 2_000_000), density=st.integers(1, 1000))
def test_capacity_is_rounded_down_to_whole_tokens(length: int, density: int) -> None:
    """For shares in thousandths, integer arithmetic gives the result that rounding must not change."""
    assert SnapKV(sparsity=1 - density / 1000).at(length).capacity == max(1, length * density // 1000)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "dtype"),
    [
        (70, 70, 4, 2, 64, torch.float32),
        (9, 101, 3, 3, 96, torch.float16),  # fewer queries than the window
        (101, 101, 8, 1, 128, torch.float32),
    ],
)
def test_like_naive(impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    q, k = make_sequence(n_q, n_k, heads, kv_heads, size, dtype)
    kept = SnapKV(capacity=24, window=12, kernel=5, sinks=3, recent=7).keep(q, k, impl=impl)
    weights = attention(q[-12:], k).sum(1).reshape(kv_heads, -1, n_k).mean(1)
    assert kept_lists(kept) == [top(head, 24, ends(n_k, 3, 7)) for head in smoothed(weights, 5)]
    assert kept.length == n_k


def test_attention_is_padded_with_zeros() -> None:
    q, k = make_sequence(40, 40, 2, 1, 64)
    kept = SnapKV(capacity=12, kernel=21, sinks=0, recent=0).keep(q, k, impl="torch")
    assert kept_lists(kept) == [top(smoothed(attention(q, k).sum(1).mean(0), 21), 12, set())]


def test_bfloat16_keeps_the_same_as_fp32() -> None:
    q, k = make_sequence(80, 80, 4, 2, 64, torch.bfloat16)
    half, full = (SnapKV(capacity=20).keep(q.to(t), k.to(t), impl="torch") for t in (torch.bfloat16, torch.float32))
    assert kept_lists(half) == kept_lists(full)


@pytest.mark.parametrize(("capacity", "sinks", "recent"), [(500, 4, 128), (100, 4, 50), (10, 2, 5), (1, 0, 0)])
def test_first_and_recent_tokens_are_kept_but_leave_room(capacity: int, sinks: int, recent: int) -> None:
    q, k = make_sequence(64, 600, 2, 1, 16)
    k[200] = 20 * q[:, 0].mean(0)  # a needle for the window
    (kept,) = kept_lists(SnapKV(capacity=capacity, kernel=1).keep(q, k, impl="torch"))
    assert len(kept) == capacity
    assert ends(600, sinks, recent) <= set(kept)


def test_the_budget_may_be_for_another_length() -> None:
    q, k = make_sequence(20, 50, 2, 1, 16)
    assert kept_lists(SnapKV(sparsity=0.9).keep(q, k, length=200, impl="torch"))[0] != []
    assert int(SnapKV(sparsity=0.9).keep(q, k, length=200, impl="torch").counts) == 20
    assert int(SnapKV(sparsity=0.9).keep(q, k, impl="torch").counts) == 5


def test_the_default_capacity_and_the_next_token() -> None:
    q, k = make_sequence(2, 1100, 2, 2, 16)
    kept = SnapKV().keep(q, k, impl="torch")
    assert kept.counts.tolist() == [1024, 1024]
    grown = SnapKV().advance(kept, 1100)
    assert kept_lists(grown) == [[*head, 1100] for head in kept_lists(kept)]


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(UsageError, match=r"snapkv\.kernel"):
        SnapKV(kernel=6)
