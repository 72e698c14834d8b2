"""Weights of a step in Triton: scores of all query heads, with the sums of each part, and then the sum over the group.

Memory-bound, like ``sparse_decode.py``, with the same structure: a key is read once for its group, and while a tile is
computed the blocks of the next one are looked up. The only intermediate result is the scores, one per key and query
head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.triton.soft_cap import bent
from sparse_tasks.attention.kernels.triton.sparse_decode import (
    FAR,
    PROGRAMS,
    TILE_BYTES,
    TILES,
    _load_page,
    _locate,
    chunks_of,
    halves,
    processors,
)
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax

WEIGHED = 1024
"""Positions whose scores a program turns into weights."""

_LOG2_E = tl.constexpr(LOG2_E)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_WHOLE = tl.constexpr(1.5 * 2.0**23)  # adding it rounds to integers, halves to even, since fp32 has no fractions there


@triton.jit
def _position(pages, place, count, UNIT: tl.constexpr):
    """The position at each place in a list of pages, or in the list of all positions."""
    position = place
    if pages is not None:
        position = _load_page(pages, place, count, UNIT) * UNIT + place % UNIT
    return position


@triton.jit
def _places(lengths, counts, sequence, line, UNIT: tl.constexpr):
    """Number of places in a list, or of positions in a sequence."""
    if counts is None:
        places = tl.load(lengths + sequence)
    else:
        places = tl.load(counts + line) * UNIT
    return places


@triton.jit
def _levels(keys, step):
    """Keys as integer multiples of their steps, halves to even."""
    wide = keys.to(tl.float32)
    return tl.div_rn(wide, tl.broadcast_to(step[:, None], wide.shape)) + _WHOLE - _WHOLE


@triton.jit
def _finished(s, seen, cap):
    """Scores in base 2 under a cap, -inf for positions that are not seen."""
    if cap is not None:
        s = cap * bent(s, 2 * _LOG2_E / cap)
    return tl.where(seen[None, :], s * _LOG2_E, float("-inf"))


@triton.jit
def _added(m, total, s):
    """The running maximum and sum of a softmax, with another tile's scores."""
    new = tl.maximum(m, tl.max(s, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    return new, total * tl.exp2(m - safe) + tl.sum(tl.exp2(s - safe[:, None]), 1)


@triton.jit
def _log_sum(m, total):
    """The logarithm of the sum, in base 2; -inf without scores."""
    return m + tl.log2(tl.where(m == float("-inf"), 1.0, total))


@triton.jit(do_not_specialize=["number", "width", "table_stride"])
def _score(
    q, keys, table, lengths, pages, counts, scales, scores, part_lse,
    stride_qb, stride_qh, stride_kb, stride_kn, stride_kh, number, width, table_stride, scale, cap,
    GROUP: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, LEVELS: tl.constexpr,
    TILE: tl.constexpr, UNIT: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    # KV heads of a sequence run together: their keys are adjacent.
    kv_head, part, sequence = tl.program_id(0) // CHUNKS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    parts = tl.num_programs(1)
    line = sequence * (tl.num_programs(0) // CHUNKS) + kv_head
    length = tl.load(lengths + sequence)
    count = 0
    if pages is not None:
        count = tl.load(counts + line)
        pages += line * width
    table += sequence * table_stride
    row = tl.program_id(0) % CHUNKS * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, MAIN)
    inside = (row < GROUP)[:, None] & (dim < HEAD)[None, :]
    of_row = q + sequence * stride_qb + (kv_head * GROUP + row)[:, None] * stride_qh
    queries = tl.load(of_row + dim[None, :], mask=inside, other=0.0)
    if REST > 0:
        rest = MAIN + tl.arange(0, REST)
        inside = (row < GROUP)[:, None] & (rest < HEAD)[None, :]
        queries_rest = tl.load(of_row + rest[None, :], mask=inside, other=0.0)
    head = line * GROUP + row
    factor = tl.full([ROWS], 1.0, tl.float32) * scale
    if scales is not None:
        factor = tl.load(scales + head, mask=row < GROUP, other=0.0)
    keys += kv_head.to(tl.int64) * stride_kh

    tiles = tl.cdiv(_places(lengths, counts, sequence, line, UNIT), TILE)
    first, last = part * tiles // parts, (part + 1) * tiles // parts
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    place = first * TILE + tl.arange(0, TILE)
    position = _position(pages, place, count, UNIT)
    block, slot = _locate(table, position, place, length, 1, BLOCK_SIZE)
    position = _position(pages, place + TILE, count, UNIT)  # of the next tile
    for tile in range(first, last):
        place = tile * TILE + tl.arange(0, TILE)
        seen = slot >= 0
        at = keys + (block.to(tl.int64) * stride_kb + slot.to(tl.int64) * stride_kn)[:, None]
        # Names in a loop must keep their type.
        cached = tl.load(at + dim[None, :], mask=seen[:, None] & (dim < HEAD)[None, :], other=0.0)
        if REST > 0:
            cached_rest = tl.load(at + rest[None, :], mask=seen[:, None] & (rest < HEAD)[None, :], other=0.0)
        if LEVELS > 0:
            largest = tl.max(tl.abs(cached.to(tl.float32)), 1)
            if REST > 0:
                largest = tl.maximum(largest, tl.max(tl.abs(cached_rest.to(tl.float32)), 1))
            step = tl.maximum(tl.div_rn(largest, tl.full([TILE], LEVELS, tl.float32)), _TINY)
            k = _levels(cached, step).to(queries.dtype)
            if REST > 0:
                k_rest = _levels(cached_rest, step).to(queries.dtype)
        else:
            k = cached.to(queries.dtype)  # a conversion only from 8 bits
            if REST > 0:
                k_rest = cached_rest.to(queries.dtype)
        s = tl.dot(queries, tl.trans(k), input_precision="tf32x3")
        if REST > 0:
            s = tl.dot(queries_rest, tl.trans(k_rest), s, input_precision="tf32x3")
        if LEVELS > 0:
            s *= step[None, :]
        s = _finished(s * factor[:, None], seen, cap)
        held = (row < GROUP)[:, None] & (place < number)[None, :]
        tl.store(scores + head[:, None] * number + place[None, :], s, mask=held)
        m, total = _added(m, total, s)
        block, slot = _locate(table, position, place, length, 1, BLOCK_SIZE)
        position = _position(pages, place + 2 * TILE, count, UNIT)

    tl.store(part_lse + head * parts + part, _log_sum(m, total), mask=row < GROUP)


@triton.jit(do_not_specialize=["number", "parts"])
def _weigh(
    scores, part_lse, lengths, counts, sinks, weights, number, parts,
    GROUP: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    kv_head, sequence = tl.program_id(0), tl.program_id(2).to(tl.int64)
    line = sequence * tl.num_programs(0) + kv_head
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    held = place < tl.minimum(_places(lengths, counts, sequence, line, UNIT), number)
    part = tl.arange(0, PARTS)
    total = tl.zeros([TILE], tl.float32)
    highest = tl.full([TILE], float("-inf"), tl.float32)
    for member in range(GROUP):
        head = line * GROUP + member
        share = tl.load(part_lse + head * parts + part, mask=part < parts, other=float("-inf"))
        m = tl.max(share, 0)
        if sinks is not None:
            sink = tl.load(sinks + kv_head * GROUP + member).to(tl.float32) * _LOG2_E
            m = tl.maximum(m, sink)
        m = tl.where(m == float("-inf"), 0.0, m)
        denominator = tl.sum(tl.exp2(share - m), 0)
        if sinks is not None:
            denominator += tl.exp2(sink - m)
        m += tl.log2(tl.where(denominator > 0, denominator, 1.0))
        s = tl.load(scores + head * number + place, mask=held, other=float("-inf"))
        total += tl.exp2(s - m)
        highest = tl.maximum(highest, s)
    tl.store(
        weights + line * number + place, tl.where(highest > float("-inf"), total, float("-inf")), mask=place < number
    )


def step_weights_triton(
    q: Tensor,
    cache: PagedCache,
    listed: PageIndex | None,
    *,
    scales: Tensor | None,
    levels: int | None,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """As ``step_weights.step_weights``, in groups of sequences that fit into the memory for scores."""
    number = cache.capacity if listed is None else listed.pages.shape[2] * listed.unit
    found = []
    for rows, some in cache.groups(q.shape[1] * number):
        factors = None if scales is None else scales[rows].contiguous()
        found.append(_weights(q[rows], some, None if listed is None else listed.rows(rows), factors, levels, softmax))
    return found[0] if len(found) == 1 else torch.cat(found)


def _weights(
    q: Tensor, cache: PagedCache, listed: PageIndex | None, scales: Tensor | None, levels: int | None, softmax: Softmax
) -> Tensor:
    """``step_weights_triton`` of sequences whose scores are in memory at once."""
    (batch, heads, size), kv_heads = q.shape, cache.kv_heads
    group, (main, rest) = heads // kv_heads, halves(size)
    chunk, chunks = chunks_of(group, main)
    q = q if q.stride(2) == 1 else q.contiguous()
    table = cache.block_table if cache.block_table.stride(1) == 1 else cache.block_table.contiguous()
    lengths, keys = cache.lengths.contiguous(), cache.keys
    pages, counts, width, unit = None, None, 0, 1
    if listed is not None:
        pages, counts = listed.pages.contiguous(), listed.counts.contiguous()
        width, unit = pages.shape[2], listed.unit
    number = cache.capacity if listed is None else width * unit
    tile = max(16, min(64, TILE_BYTES // (main * q.element_size())))
    parts = PROGRAMS * processors(q.device) // (batch * kv_heads * chunks)
    parts = max(1, min(parts, ceil_div(ceil_div(number, tile), TILES)))
    scores = torch.empty(batch, heads, number, dtype=torch.float32, device=q.device)
    part_lse = torch.empty(batch, heads, parts, dtype=torch.float32, device=q.device)
    _score[(kv_heads * chunks, parts, batch)](
        q, keys, table, lengths, pages, counts, scales, scores, part_lse,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        number, width, table.stride(0), size**-0.5, softmax.soft_cap,
        GROUP=group, ROWS=chunk, CHUNKS=chunks, HEAD=size, MAIN=main, REST=rest, LEVELS=levels or 0,
        TILE=tile, UNIT=unit, BLOCK_SIZE=cache.block_size if table.shape[1] > 1 else FAR,
        num_warps=4 if q.element_size() == 2 and chunk <= 32 else 8, num_stages=3,
    )  # fmt: skip
    return summed(scores, part_lse, lengths, kv_heads, counts, unit, softmax)


def summed(
    scores: Tensor,
    part_lse: Tensor,
    lengths: Tensor,
    kv_heads: int,
    counts: Tensor | None = None,
    unit: int = 1,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Weights of scores, summed over each group.

    Args:
        scores: fp32 ``[batch, query_heads, positions]``, in base 2; undefined past a sequence's or a list's end.
        part_lse: fp32 ``[batch, query_heads, parts]``: logarithms, in base 2, of the sums of parts of them.
        lengths: int32 ``[batch]``, contiguous.
        kv_heads: KV heads, which divide the query heads.
        counts: int32 ``[batch, kv_heads]``, contiguous: listed pages; None for all positions.
        unit: Positions in a page.
        softmax: The model's sinks and soft cap, which is in the scores already.

    Returns:
        fp32 ``[batch, kv_heads, positions]``; -inf past the end.
    """
    batch, heads, number = scores.shape
    weights = torch.empty(batch, kv_heads, number, dtype=torch.float32, device=scores.device)
    _weigh[(kv_heads, ceil_div(number, WEIGHED), batch)](
        scores, part_lse, lengths, counts, softmax.sinks, weights, number, part_lse.shape[2],
        GROUP=heads // kv_heads, UNIT=unit, TILE=WEIGHED, PARTS=power_of_2(part_lse.shape[2]), num_warps=4,
    )  # fmt: skip
    return weights
