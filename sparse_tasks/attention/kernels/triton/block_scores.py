"""Pooled scores in Triton, for a chunk of query blocks at a time, followed by the selection of ``selection.py``."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.block_scores import row_chunks
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.triton.selection import select_rows

TILE_ROWS: Final = 64
TILE_COLUMNS: Final = 64


@triton.jit(do_not_specialize=["start", "rows", "first", "columns", "held", "sinks"])
def _score(
    q_pool, k_pool, scores, stride_qh, stride_qr, stride_kh, stride_kc,
    start, rows, first, columns, held, sinks, group,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tl.program_id(0) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    dim = tl.arange(0, PADDED)
    query, key = (first + start + row) * BLOCK_Q, column * BLOCK_K  # the positions at which the blocks begin
    s = tl.zeros([TILE_ROWS, TILE_COLUMNS], tl.float32)
    last = (first + start + tl.minimum(rows, (tl.program_id(1) + 1) * TILE_ROWS)) * BLOCK_Q
    if tl.program_id(0) * TILE_COLUMNS * BLOCK_K < last:  # tiles entirely after the diagonal need no product
        q = tl.load(
            q_pool + head.to(tl.int64) * stride_qh + (start + row)[:, None] * stride_qr + dim[None, :],
            mask=(row < rows)[:, None] & (dim < HEAD)[None, :], other=0.0,
        )  # fmt: skip
        k = tl.load(
            k_pool + (head // group).to(tl.int64) * stride_kh + column[:, None] * stride_kc + dim[None, :],
            mask=(column < columns)[:, None] & (dim < HEAD)[None, :], other=0.0,
        )  # fmt: skip
        s = tl.dot(q, tl.trans(k), input_precision="tf32x3")
    forced = (key[None, :] + BLOCK_K > query[:, None]) | (column < sinks)[None, :]
    s = tl.where(forced, float("inf"), s)
    possible = (key[None, :] < query[:, None] + BLOCK_Q) & (column < columns)[None, :]
    s = tl.where(possible, s, float("-inf"))
    where = (head.to(tl.int64) * rows + row)[:, None] * held + column[None, :]
    tl.store(scores + where, s, mask=(row < rows)[:, None] & (column < held)[None, :])


def top_blocks_triton(
    q_pool: Tensor, k_pool: Tensor, top_k: int, *, n_q: int, n_k: int, block_q: int, block_k: int, sinks: int = 1
) -> BlockIndex:
    """As ``block_scores.top_blocks``."""
    (heads, rows, size), (kv_heads, columns, _) = q_pool.shape, k_pool.shape
    q_pool, k_pool = (x if x.stride(2) == 1 else x.contiguous() for x in (q_pool, k_pool))
    width, first = min(top_k, columns), (n_k - n_q) // block_q
    blocks = torch.empty(heads, rows, width, dtype=torch.int32, device=q_pool.device)
    counts = torch.empty(heads, rows, dtype=torch.int32, device=q_pool.device)
    for start, stop, reach in row_chunks(heads, rows, columns, first, block_q, block_k):
        held = 16 * ceil_div(reach, 16)  # aligns rows for wide reads
        scores = torch.empty(heads, stop - start, held, dtype=torch.float32, device=q_pool.device)
        _score[(ceil_div(held, TILE_COLUMNS), ceil_div(stop - start, TILE_ROWS), heads)](
            q_pool, k_pool, scores, q_pool.stride(0), q_pool.stride(1), k_pool.stride(0), k_pool.stride(1),
            start, stop - start, first, columns, held, sinks, heads // kv_heads,
            BLOCK_Q=block_q, BLOCK_K=block_k, HEAD=size, PADDED=power_of_2(size),
            TILE_ROWS=TILE_ROWS, TILE_COLUMNS=TILE_COLUMNS,
            num_warps=4 if q_pool.element_size() == 2 else 8,
        )  # fmt: skip
        select_rows(scores, top_k, blocks, counts, start=start)
    return BlockIndex(blocks, counts, block_q, block_k, n_q, n_k)
