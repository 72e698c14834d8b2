"""Page bounds in Triton: two small products of a KV head's group with tiles of minima and maxima.

Memory-bound, like ``sparse_decode.py``, with the same structure: the block of the next tile is looked up while a tile
is computed.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.triton.sparse_decode import FAR, chunks_of, halves, processors

PROGRAMS: Final = 9
"""Programs a processor, if the lists are long enough: 3 waves of the 3 that are resident, to even out the load."""


@triton.jit
def _load_block(table, page, last, BLOCK_PAGES: tl.constexpr):
    """The cache block of a page."""
    return tl.load(table + page // BLOCK_PAGES, mask=page < last, other=0)


@triton.jit
def _signed(queries, dim, HEAD: tl.constexpr):
    """The positive and the negative elements of queries, with 0 elsewhere."""
    numbers = tl.load(queries + dim[None, :], mask=(dim < HEAD)[None, :], other=0.0)
    wide = numbers.to(tl.float32)
    return tl.maximum(wide, 0.0).to(numbers.dtype), tl.minimum(wide, 0.0).to(numbers.dtype)


@triton.jit
def _add(bound, positive, negative, summaries, held, dim, HEAD: tl.constexpr):
    """The contribution of some of a head's elements to the bound of pages."""
    inside = held[:, None] & (dim < HEAD)[None, :]
    low = tl.load(summaries + dim[None, :], mask=inside, other=0.0).to(positive.dtype)  # a conversion only from 8 bits
    high = tl.load(summaries + HEAD + dim[None, :], mask=inside, other=0.0).to(positive.dtype)
    bound = tl.dot(negative, tl.trans(low), bound, input_precision="tf32x3")
    return tl.dot(positive, tl.trans(high), bound, input_precision="tf32x3")


@triton.jit(do_not_specialize=["pages", "table_stride", "block_pages"])
def _score(
    q, summaries, table, lengths, scores, stride_qb, stride_qh, pages, table_stride, block_pages,
    GROUP: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    TILE: tl.constexpr, UNIT: tl.constexpr, BLOCK_PAGES: tl.constexpr, CURRENT: tl.constexpr,
):  # fmt: skip
    # KV heads of a sequence run together: the summaries of a page are adjacent.
    kv_head, part, sequence = tl.program_id(0) // CHUNKS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    kv_heads, parts = tl.num_programs(0) // CHUNKS, tl.num_programs(1)
    length = tl.load(lengths + sequence)
    table += sequence * table_stride
    scores += (sequence * tl.num_programs(0) + tl.program_id(0)) * pages
    # Rows past the group repeat it, which does not change the maximum.
    row = kv_head * GROUP + (tl.program_id(0) % CHUNKS * ROWS + tl.arange(0, ROWS)) % GROUP
    q += sequence * stride_qb
    positive, negative = _signed(q + row[:, None] * stride_qh, tl.arange(0, MAIN), HEAD)
    if REST > 0:
        positive_rest, negative_rest = _signed(q + row[:, None] * stride_qh, MAIN + tl.arange(0, REST), HEAD)

    held_pages = tl.cdiv(length, UNIT)
    tiles = tl.cdiv(pages, TILE)
    first, last = part * tiles // parts, (part + 1) * tiles // parts
    page = first * TILE + tl.arange(0, TILE)
    block = _load_block(table, page, held_pages, BLOCK_PAGES)
    for tile in range(first, last):
        page = tile * TILE + tl.arange(0, TILE)
        held = page < held_pages
        number = block.to(tl.int64) * block_pages + page % BLOCK_PAGES
        where = summaries + ((number * kv_heads + kv_head) * (2 * HEAD))[:, None]
        bound = tl.zeros([ROWS, TILE], tl.float32)
        bound = _add(bound, positive, negative, where, held, tl.arange(0, MAIN), HEAD)
        if REST > 0:
            bound = _add(bound, positive_rest, negative_rest, where, held, MAIN + tl.arange(0, REST), HEAD)
        best = tl.where(held, tl.max(bound, 0), float("-inf"))
        if CURRENT:
            best = tl.where(page == held_pages - 1, float("inf"), best)
        tl.store(scores + page, best, mask=page < pages)
        block = _load_block(table, page + TILE, held_pages, BLOCK_PAGES)


def page_scores_triton(
    q: Tensor, summaries: Tensor, cache: PagedCache, *, unit: int, longest: int, current: bool
) -> Tensor:
    """As ``page_scores.page_scores``."""
    (batch, heads, size), kv_heads, pages = q.shape, cache.kv_heads, ceil_div(longest, unit)
    q = q if q.stride(2) == 1 else q.contiguous()
    table = cache.block_table if cache.block_table.stride(1) == 1 else cache.block_table.contiguous()
    group, (main, rest), block_pages = heads // kv_heads, halves(size), ceil_div(cache.block_size, unit)
    chunk, chunks = chunks_of(group, main)
    scores = torch.empty(batch, kv_heads, chunks, pages, dtype=torch.float32, device=q.device)
    width = main * q.element_size()
    tile = 64 if width <= 256 else 32 if width <= 1024 else 16
    parts = max(1, min(PROGRAMS * processors(q.device) // (batch * kv_heads * chunks), ceil_div(pages, 2 * tile)))
    _score[(kv_heads * chunks, parts, batch)](
        q, summaries, table, cache.lengths.contiguous(), scores, q.stride(0), q.stride(1),
        pages, table.stride(0), block_pages,
        GROUP=group, ROWS=chunk, CHUNKS=chunks, HEAD=size, MAIN=main, REST=rest,
        TILE=tile, UNIT=unit, BLOCK_PAGES=block_pages if table.shape[1] > 1 else FAR,
        CURRENT=current,
        num_warps=4 if q.element_size() == 2 and chunk <= 32 else 8, num_stages=3 if width <= 1024 else 2,
    )  # fmt: skip
    return scores[:, :, 0] if chunks == 1 else scores.amax(2)
