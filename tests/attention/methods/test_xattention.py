"""Guards XAttention: blocks that hold a threshold as written out, and under a sparsity one threshold for all heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.mass import mass_from
from sparse_tasks.attention.methods.xattention import XAttention
from sparse_tasks.attention.ops.coverage import blocks_that_hold, room_for_first
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.test_antidiagonal import naive as antidiagonals
from tests.attention.methods.naive import Array, before_each, block_lists, cells, make_sequence
from tests.attention.toys import block_index

SHARPNESS = torch.tensor([1.0, 4.0, 12.0, 30.0])[:, None]


def shares_before(q: Tensor, k: Tensor, stride: int, sink: bool = True) -> list[list[Array]]:
    """Of each head and query block, the share that comes before each key block up to the diagonal."""
    scores = antidiagonals(q, k, 128, stride, q.shape[2] ** -0.5).numpy()
    first = (len(k) - len(q)) // 128
    return [
        [
            before_each(row[: first + r + 1], {0, first + r} if sink else {first + r})
            for r, row in enumerate(head)
        ]
        for head in scores
    ]  # fmt: skip


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "stride", "threshold"),
    [
        (700, 700, 4, 2, 16, 0.9),
        (333, 801, 2, 1, 8, 0.6),  # a chunk that begins within a block
        (500, 500, 3, 3, 32, 0.0),  # sink and diagonal alone
    ],
)
def test_like_naive(impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, stride: int, threshold: float) -> None:
    q, k = make_sequence(n_q, n_k, heads, kv_heads, 64)
    q = q * SHARPNESS[:heads]
    index = XAttention(threshold=threshold, stride=stride).select(q, k, impl=impl)
    assert index is not None
    expected = [
        [[c for c, share in enumerate(row) if share < threshold] for row in head]
        for head in (
            [np.where(row < 0, -np.inf, row) for row in head] for head in shares_before(q, k, stride)
        )
    ]  # fmt: skip
    assert block_lists(index) == expected


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("n_q", "n_k"), [(900, 900), (333, 801)])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_a_sparsity_finds_one_threshold_for_all_heads(impl: str, n_q: int, n_k: int, sparsity: float) -> None:
    q, k = make_sequence(n_q, n_k, 4, 2, 64)
    q = q * SHARPNESS
    index = XAttention(sparsity=sparsity, stride=16).select(q, k, impl=impl)
    assert index is not None
    first = (n_k - n_q) // 128
    always = sum(cells(r, c, 128, n_q, n_k) for r in range(first, -(-n_k // 128)) for c in {0, r})
    sink = always <= (1 - sparsity) * causal_count(n_q, n_k)
    assert sink == (sparsity < 0.9)
    met, left, total = [0.0], [1.0], 0
    for taken, shares in zip(block_lists(index), shares_before(q, k, 16, sink), strict=True):
        for r, (blocks, row) in enumerate(zip(taken, shares, strict=True)):
            assert {first + r, *({0} if sink else ())} <= set(blocks)
            met += [row[c] for c in blocks]
            left += [share for c, share in enumerate(row) if c not in blocks]
            total += sum(cells(first + r, c, 128, n_q, n_k) for c in blocks)
    assert max(met) <= min(left) + 1e-5
    wanted = 4 * (1 - sparsity) * causal_count(n_q, n_k)
    diagonal = 4 * sum(cells(r, r, 128, n_q, n_k) for r in range(first, -(-n_k // 128)))
    assert abs(total - max(wanted, diagonal)) <= 128 * 128 / 2 + 1
    read = index.computed()
    assert read[0] > read[3] or sparsity == 0.9  # sharp attention needs less


@settings(max_examples=40, deadline=None)
@given(n_k=st.integers(1, 2000), chunk=st.floats(0.01, 1), density=st.floats(0.001, 1))
def test_the_first_block_counts_in_the_budget(n_k: int, chunk: float, density: float) -> None:
    n_q = max(1, round(chunk * n_k))
    rows = range((n_k - n_q) // 128, -(-n_k // 128))
    always = sum(cells(r, c, 128, n_q, n_k) for r in rows for c in {0, r})
    assert room_for_first(n_q, n_k, density) == (always <= density * causal_count(n_q, n_k))
    assert room_for_first(n_q, n_k, None)


@settings(max_examples=40, deadline=None)
@given(n_k=st.integers(1, 1500), chunk=st.floats(0.01, 1), density=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_any_density_is_met_within_half_a_block(n_k: int, chunk: float, density: float, seed: int) -> None:
    n_q, heads = max(1, round(chunk * n_k)), 3
    rows, columns = BlockIndex.rows(n_q, n_k, 128), -(-n_k // 128)
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 4, (heads, rows, columns), generator=draw).float() + 1  # many are equal
    diagonal = torch.arange(columns) == torch.arange(columns - rows, columns)[:, None]
    index = blocks_that_hold(
        mass_from(weights, diagonal, impl="torch"), n_q=n_q, n_k=n_k, density=density, impl="torch"
    )
    block_lists(index)
    least = int(block_index(diagonal[None], 128, 128, n_q, n_k).seen()) * heads
    wanted = max(density * heads * causal_count(n_q, n_k), least)
    assert abs(int(index.computed().sum()) - wanted) <= 128 * 128 / 2 + 1


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_small_weights_stay_distinct(impl: str) -> None:
    weights = torch.tensor([[1.0, 1e-12, 3e-12, 0.0, 2e-12]])
    found = mass_from(weights, torch.tensor([True, False, False, False, False]), impl=impl)
    assert found[0].tolist() == pytest.approx([float("inf"), 1e-12, 6e-12, 0, 3e-12])
    found = mass_from(weights, torch.tensor(False), least=2, impl=impl)
    assert (found == float("inf")).tolist() == [[True, False, True, False, False]]


def test_long_prompts_are_selected_in_chunks() -> None:
    assert XAttention().stretches(40_000, 50_000, 50_000) == [8192, 8192, 8192, 8192, 7232]


def test_strides_divide_a_block() -> None:
    with pytest.raises(UsageError, match=r"xattention\.stride"):
        XAttention(stride=7)
