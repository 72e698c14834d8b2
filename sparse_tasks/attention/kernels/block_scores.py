"""Top key blocks of each block of queries, by the products of pooled queries and keys."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_floats, check_heads, check_same, check_size, implementation
from sparse_tasks.attention.kernels.selection import select_top_torch
from sparse_tasks.core.errors import UsageError

CELLS: Final = 1 << 24
"""Scores that are held at once: 64 MB of fp32."""


def top_blocks(
    q_pool: Tensor,
    k_pool: Tensor,
    top_k: int,
    *,
    n_q: int,
    n_k: int,
    block_q: int,
    block_k: int,
    sinks: int = 1,
    impl: str = "auto",
) -> BlockIndex:
    """The key blocks with the highest pooled scores for each query block (MInference's block-sparse heads).

    A score is the product of a pooled query and a pooled key (Jiang et al. 2024, algorithm 3). Key blocks after the
    query block are never taken; those containing its own positions, and the first ones, always are, and count. Scores
    are computed for a chunk of query blocks at a time, so memory does not grow quadratically.

    Args:
        q_pool: ``[heads, rows, head_size]``: a row for each query block with any of the ``n_q`` last of ``n_k``
            positions, as ``mean_pool(q, block_q, offset=n_k - n_q)`` gives it. ``heads`` are the index's: query heads,
            or KV heads if the queries of a group were pooled into one.
        k_pool: ``[kv_heads, columns, head_size]``, of q_pool's dtype, as ``mean_pool(k, block_k)`` gives it.
        top_k: Key blocks per query block, including those always taken.
        n_q: Queries.
        n_k: Keys.
        block_q: Positions in a query block.
        block_k: Positions in a key block.
        sinks: Number of first key blocks that are always taken.
        impl: "auto", "triton" or "torch".

    Returns:
        The index, ``min(top_k, columns)`` wide.

    Raises:
        UsageError: Shapes, types or sizes do not fit, or ``top_k`` is below the number of blocks always taken.
    """
    for name, value, least in (("block_q", block_q, 1), ("block_k", block_k, 1), ("sinks", sinks, 0)):
        if value < least:
            raise UsageError(name, value, f"has to be at least {least}")
    if not 1 <= n_q <= n_k:
        raise UsageError("n_q", n_q, f"has to be from 1 to the number of keys, {n_k}")
    rows, columns = BlockIndex.rows(n_q, n_k, block_q), ceil_div(n_k, block_k)
    for name, tensor, count in (("q_pool", q_pool, rows), ("k_pool", k_pool, columns)):
        if tensor.ndim != 3 or 0 in tensor.shape or tensor.shape[1] != count:
            raise UsageError(name, tuple(tensor.shape), f"has to be [heads, {count}, head_size] at these lengths")
    if q_pool.shape[2] != k_pool.shape[2]:
        raise UsageError("k_pool", tuple(k_pool.shape), f"has to end in the head size of q_pool, {q_pool.shape[2]}")
    check_heads(q_pool.shape[0], k_pool.shape[0])
    check_size("head_size", q_pool.shape[2], device=q_pool.device.type)
    check_floats(q_pool=q_pool, k_pool=k_pool)
    check_same("device", q_pool=q_pool, k_pool=k_pool)
    # A query block overlaps one more key block if the grids are not multiples of one another.
    touched = ceil_div(block_q, block_k) + (block_q % block_k != 0 and block_k % block_q != 0)
    always = min(columns, sinks + touched)
    if top_k < always:
        raise UsageError("top_k", top_k, f"has to be at least {always}: sinks and diagonal are always taken")
    if implementation(impl, q_pool) == "torch":
        return top_blocks_torch(q_pool, k_pool, top_k, n_q=n_q, n_k=n_k, block_q=block_q, block_k=block_k, sinks=sinks)
    from sparse_tasks.attention.kernels.triton.block_scores import top_blocks_triton

    return top_blocks_triton(q_pool, k_pool, top_k, n_q=n_q, n_k=n_k, block_q=block_q, block_k=block_k, sinks=sinks)


def top_blocks_torch(
    q_pool: Tensor, k_pool: Tensor, top_k: int, *, n_q: int, n_k: int, block_q: int, block_k: int, sinks: int = 1
) -> BlockIndex:
    """Torch twin of ``top_blocks``."""
    (heads, rows, _), (kv_heads, columns, _) = q_pool.shape, k_pool.shape
    width, first = min(top_k, columns), (n_k - n_q) // block_q
    keys = k_pool.float().repeat_interleave(heads // kv_heads, 0)
    blocks = torch.empty(heads, rows, width, dtype=torch.int32, device=q_pool.device)
    counts = torch.empty(heads, rows, dtype=torch.int32, device=q_pool.device)
    column = torch.arange(columns, device=q_pool.device) * block_k
    for start, stop, _ in row_chunks(heads, rows, columns, first, block_q, block_k):
        row = (torch.arange(start, stop, device=q_pool.device)[:, None] + first) * block_q
        scores = q_pool[:, start:stop].float() @ keys.transpose(1, 2)
        scores.masked_fill_((column + block_k > row) | (column < sinks * block_k), float("inf"))
        scores.masked_fill_(column >= row + block_q, float("-inf"))
        blocks[:, start:stop], counts[:, start:stop] = select_top_torch(scores, top_k, width=width)
    return BlockIndex(blocks, counts, block_q, block_k, n_q, n_k)


def row_chunks(
    heads: int, rows: int, columns: int, first: int, block_q: int, block_k: int
) -> Iterator[tuple[int, int, int]]:
    """Chunks of query blocks whose causal scores fit into ``CELLS``; at least one row.

    Yields:
        The first row, the row after the last, and the number of key blocks up to the last row's diagonal.
    """

    def reach(stop: int) -> int:
        return min(columns, ceil_div((first + stop) * block_q, block_k))

    def cells(start: int) -> Callable[[int], int]:
        return lambda stop: heads * (stop - start) * reach(stop)

    start = 0
    while start < rows:
        stops = range(start + 1, rows + 1)
        fitting = bisect.bisect_right(stops, CELLS, key=cells(start))
        stop = start + max(1, fitting)
        yield start, stop, reach(stop)
        start = stop
