"""Guards Block-Sparse: the paper's budgets, the count that they come from, and blocks as the products written out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.methods.block_sparse import BlockSparse
from sparse_tasks.attention.steps import select_prompt
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import block_lists, cells, make_sequence, pooled_products, top

DENSITIES = (0.05, 0.0667, 0.1, 0.1333, 0.2, 1 / 3, 0.5)
BUDGETS = {
    16384: (26, 35, 53, 71, 108, 188, 300),
    32768: (52, 69, 105, 141, 216, 376, 600),
    65536: (104, 139, 210, 283, 432, 752, 1200),
}


@pytest.mark.parametrize("length", BUDGETS)
def test_budgets_of_the_paper(length: int) -> None:
    """The paper counts blocks of the triangle, those on the diagonal as whole ones; here interactions are counted."""
    for density, budget in zip(DENSITIES, BUDGETS[length], strict=True):
        top_k = BlockSparse(block=16, sparsity=1 - density).at(length).top_k
        assert top_k is not None
        assert abs(top_k - budget) <= 1


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("length", [1, 128, 333, 640, 1001])
def test_the_count_matches_single_queries(block: int, length: int) -> None:
    rows = -(-length // block)
    for top_k in {1, 2, 3, max(1, rows - 1), rows, rows + 5}:
        read = [(r, c) for r in range(rows) for c in range(r + 1) if c > r - top_k]  # whichever they are
        expected = sum(cells(r, c, block, length, length) for r, c in read)
        assert BlockSparse(block=block)._count(length, top_k) == expected


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 3000), density=st.floats(0.01, 1), block=st.sampled_from([16, 64, 128]))
def test_no_other_number_of_blocks_is_nearer(length: int, density: float, block: int) -> None:
    method = BlockSparse(block=block)
    found = method.solve(length, density)["top_k"]
    wanted = density * causal_count(length, length)
    errors = {k: abs(method._count(length, k) - wanted) for k in range(2, max(3, -(-length // block) + 1))}
    assert errors[found] == min(errors.values())


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "block", "top_k"),
    [
        (200, 200, 4, 2, 64, 16, 4),
        (75, 203, 3, 3, 96, 32, 3),  # a chunk that begins within a block
        (300, 300, 2, 1, 64, 128, 2),  # sink and diagonal take it all
    ],
)
def test_like_naive(
    impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, block: int, top_k: int
) -> None:
    q, k = make_sequence(n_q, n_k, heads, kv_heads, size)
    index = BlockSparse(top_k=top_k, block=block).select(q, k, impl=impl)
    assert index is not None
    expected = [[top(row, top_k, {0, len(row) - 1}) for row in head] for head in pooled_products(q, k, block)]
    assert block_lists(index) == expected


def test_a_chunk_has_the_budget_of_its_prompt_and_the_same_blocks() -> None:
    q, k = make_sequence(320, 320, 4, 2, 64)
    method = BlockSparse(sparsity=0.7, block=16)
    whole = method.select(q, k, impl="torch")
    early = method.select(q[96:192], k[:192], length=320, impl="torch")
    last = method.select(q[192:], k, impl="torch")
    assert whole is not None
    assert early is not None
    assert last is not None
    expected = block_lists(whole)
    assert block_lists(early) == [head[6:12] for head in expected]
    assert block_lists(last) == [head[12:] for head in expected]


def test_the_density_is_that_of_the_count() -> None:
    q, k = make_sequence(1000, 1000, 2, 1, 16)
    for block in (16, 64):
        method = BlockSparse(sparsity=0.75, block=block)
        top_k = method.at(1000).top_k
        assert top_k is not None
        (index,) = select_prompt(method, q, k, impl="torch")
        assert index.selected_density().tolist() == [method._count(1000, top_k) / causal_count(1000, 1000)] * 2


def test_long_prompts_are_selected_in_chunks() -> None:
    assert BlockSparse(block=16).stretches(5000, 9000, 9000) == [2048, 2048, 904]
    assert BlockSparse(block=128).stretches(131_072, 131_072, 131_072) == [131_072]


def test_unsupported_block_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"block_sparse\.block"):
        BlockSparse(block=48)
