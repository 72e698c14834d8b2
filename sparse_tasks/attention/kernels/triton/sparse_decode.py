"""Sparse decoding in Triton: each list of pages is cut into splits, whose results are then combined (flash-decoding).

Memory-bound: a byte of the cache is read once for the whole group of query heads, with enough reads in flight at any
time. The addresses of a tile depend on two earlier reads (page and block), so these are prefetched: while a tile is
computed, the blocks of the next and the pages of the one after it are being read.

In a latent cache (DeepSeek-V2: values are the first part of the keys, and all query heads share them) a row is read
once for both products, by each program of 16 heads.
"""

from __future__ import annotations

import functools
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.triton.soft_cap import bent
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax

FAR: Final = 2**30
"""A position after every sequence's end, which hides what has it; also the block size of a sequence in one block."""

TILE_BYTES: Final = 16384
"""Bytes of keys in a tile, of at most 64 positions. With 3 stages, 1 to 2 tiles are under way, values besides."""

PROGRAMS: Final = 9
"""Programs a processor, if the lists are long enough: 3 waves of the 3 that are resident, to even out the load."""

TILES: Final = 4
"""Tiles that a split should have at least, so that its pipeline is worth filling."""

LARGE_GROUP: Final = 16
"""Query heads of a program where values have more than 256 numbers; others take their whole group."""

_FAR = tl.constexpr(FAR)
_LOG2_E = tl.constexpr(LOG2_E)


@triton.jit
def _load_page(pages, place, count, UNIT: tl.constexpr):
    """The page at each place in the list of positions; past the end one beyond all sequences."""
    return tl.load(pages + place // UNIT, mask=place // UNIT < count, other=_FAR // UNIT)


@triton.jit
def _locate(table, page, place, length, UNIT: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """The block of each position and its place in it, -1 past the sequence's end."""
    position = page * UNIT + place % UNIT
    seen = position < length
    block = tl.load(table + position // BLOCK_SIZE, mask=seen, other=0)
    return block, tl.where(seen, position % BLOCK_SIZE, -1)


@triton.jit(do_not_specialize=["width", "table_stride"])
def _attend(
    q, keys, values, table, lengths, pages, counts, weights, parts, part_lse,
    stride_qb, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    width, table_stride, factor, bend,
    GROUP: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, VALUE: tl.constexpr, PADDED_VALUE: tl.constexpr,
    LATENT: tl.constexpr, TILE: tl.constexpr, UNIT: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    # KV heads of a sequence run together: for the same pages they read adjacent bytes. So do the chunks of a group,
    # which read the same bytes.
    kv_head, split, sequence = tl.program_id(0) // CHUNKS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    splits = tl.num_programs(1)
    line = sequence * (tl.num_programs(0) // CHUNKS) + kv_head
    count = tl.load(counts + line)
    length = tl.load(lengths + sequence)
    pages += line * width
    if weights is not None:
        weights += line * width
    table += sequence * table_stride
    row = tl.program_id(0) % CHUNKS * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, MAIN)
    held = (row < GROUP)[:, None] & (dim < HEAD)[None, :]
    head = kv_head * GROUP + row
    q += sequence * stride_qb
    queries = tl.load(q + head[:, None] * stride_qh + dim[None, :], mask=held, other=0.0)
    if REST > 0:
        rest = MAIN + tl.arange(0, REST)
        held = (row < GROUP)[:, None] & (rest < HEAD)[None, :]
        queries_rest = tl.load(q + head[:, None] * stride_qh + rest[None, :], mask=held, other=0.0)
    value_dim = tl.arange(0, PADDED_VALUE)
    keys += kv_head.to(tl.int64) * stride_kh
    values += kv_head.to(tl.int64) * stride_vh

    tiles = tl.cdiv(count * UNIT, TILE)
    first, last = split * tiles // splits, (split + 1) * tiles // splits
    o = tl.zeros([ROWS, PADDED_VALUE], tl.float32)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    place = first * TILE + tl.arange(0, TILE)
    block, slot = _locate(table, _load_page(pages, place, count, UNIT), place, length, UNIT, BLOCK_SIZE)
    page = _load_page(pages, place + TILE, count, UNIT)  # of the next tile
    for tile in range(first, last):
        place = tile * TILE + tl.arange(0, TILE)
        seen = slot >= 0
        base, offset = block.to(tl.int64), slot.to(tl.int64)
        at = keys + (base * stride_kb + offset * stride_kn)[:, None]
        k = tl.load(at + dim[None, :], mask=seen[:, None] & (dim < HEAD)[None, :], other=0.0)
        k = k.to(queries.dtype)  # a conversion only from 8 bits
        s = tl.dot(queries, tl.trans(k), input_precision="tf32x3")
        if REST > 0:
            k_rest = tl.load(at + rest[None, :], mask=seen[:, None] & (rest < HEAD)[None, :], other=0.0)
            s = tl.dot(queries_rest, tl.trans(k_rest.to(queries.dtype)), s, input_precision="tf32x3")
        if bend is not None:
            s = bent(s, bend)
        s *= factor
        if weights is not None:
            s += tl.load(weights + place // UNIT, mask=seen, other=0.0)[None, :] * _LOG2_E
        s = tl.where(seen[None, :], s, float("-inf"))
        new = tl.maximum(m, tl.max(s, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - safe[:, None])
        shrink = tl.exp2(m - safe)
        if LATENT:
            v = k
        else:
            at = values + (base * stride_vb + offset * stride_vn)[:, None]
            v = tl.load(at + value_dim[None, :], mask=seen[:, None] & (value_dim < VALUE)[None, :], other=0.0)
            v = v.to(queries.dtype)
        o = o * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="tf32x3")
        m, total = new, total * shrink + tl.sum(p, 1)
        block, slot = _locate(table, page, place + TILE, length, UNIT, BLOCK_SIZE)
        page = _load_page(pages, place + 2 * TILE, count, UNIT)

    # An empty split gives 0 and -inf, which the sum over splits ignores.
    total = tl.where(m == float("-inf"), 1.0, total)
    part = (line * splits + split) * GROUP + row
    held = (row < GROUP)[:, None] & (value_dim < VALUE)[None, :]
    tl.store(parts + part[:, None] * VALUE + value_dim[None, :], o / total[:, None], mask=held)
    tl.store(part_lse + part, m + tl.log2(total), mask=row < GROUP)


@triton.jit(do_not_specialize=["splits"])
def _combine(
    parts, part_lse, out, lse, sinks, splits,
    GROUP: tl.constexpr, VALUE: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The parts of a query head, weighted by their shares of the softmax's denominator."""
    head = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    dim = tl.arange(0, PADDED)
    o = tl.zeros([PADDED], tl.float32)
    m = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    if sinks is not None:  # like a split without values, so that it enters the denominator once
        m = tl.load(sinks + tl.program_id(0)).to(tl.float32) * _LOG2_E
        total += 1.0
    for first in range(0, splits, CHUNK):
        split = first + tl.arange(0, CHUNK)
        part = (head // GROUP * splits + split) * GROUP + head % GROUP
        held = (split < splits)[:, None] & (dim < VALUE)[None, :]
        share = tl.load(part_lse + part, mask=split < splits, other=float("-inf"))
        new = tl.maximum(m, tl.max(share, 0))
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight, shrink = tl.exp2(share - safe), tl.exp2(m - safe)
        o = o * shrink + tl.sum(weight[:, None] * tl.load(parts + part[:, None] * VALUE + dim, mask=held, other=0.0), 0)
        m, total = new, total * shrink + tl.sum(weight, 0)
    total = tl.where(m == float("-inf"), 1.0, total)
    tl.store(out + head * VALUE + dim, (o / total).to(out.dtype.element_ty), mask=dim < VALUE)
    tl.store(lse + head, (m + tl.log2(total)) * 0.6931471805599453)  # from base 2 to natural


def sparse_decode_triton(
    q: Tensor,
    cache: PagedCache,
    index: PageIndex,
    out: Tensor,
    *,
    scale: float,
    softmax: Softmax = PLAIN,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As ``sparse_decode.sparse_decode``; ``out`` is contiguous and written to."""
    (batch, heads, size), kv_heads, value = q.shape, cache.kv_heads, cache.value_size
    group, (main, rest), padded = heads // kv_heads, halves(size), power_of_2(value)
    chunk, chunks = chunks_of(group, max(main, padded))
    q = q if q.stride(2) == 1 else q.contiguous()
    table = cache.block_table if cache.block_table.stride(1) == 1 else cache.block_table.contiguous()
    pages, keys, values = index.pages.contiguous(), cache.keys, cache.values
    weights = None if index.log_weights is None else index.log_weights.contiguous()
    latent = value == main and values.data_ptr() == keys.data_ptr() and values.stride() == keys.stride()
    tile = max(16, min(64, TILE_BYTES // (max(main, padded) * q.element_size())))
    # From shapes alone: only the device knows the lengths of lists.
    longest = ceil_div(pages.shape[2] * index.unit, tile)
    # Rounded down: a few programs more than a whole wave would cost one more wave.
    splits = max(1, min(PROGRAMS * processors(q.device) // (batch * kv_heads * chunks), ceil_div(longest, TILES)))
    parts = torch.empty(batch * kv_heads, splits, group, value, dtype=torch.float32, device=q.device)
    part_lse = torch.empty(batch * kv_heads, splits, group, dtype=torch.float32, device=q.device)
    lse = torch.empty(batch, heads, dtype=torch.float32, device=q.device)
    factor, bend = softmax.exponents(scale)
    _attend[(kv_heads * chunks, splits, batch)](
        q, keys, values, table, cache.lengths.contiguous(), pages, index.counts.contiguous(),
        weights, parts, part_lse,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2),
        pages.shape[2], table.stride(0), factor, bend,
        GROUP=group, ROWS=chunk, CHUNKS=chunks,
        HEAD=size, MAIN=main, REST=rest, VALUE=value, PADDED_VALUE=padded, LATENT=latent,
        TILE=tile, UNIT=index.unit, BLOCK_SIZE=cache.block_size if table.shape[1] > 1 else FAR,
        num_warps=4 if q.element_size() == 2 and chunk <= 32 else 8, num_stages=3,
    )  # fmt: skip
    _combine[(heads, batch)](
        parts, part_lse, out, lse, softmax.sinks, splits,
        GROUP=group, VALUE=value, PADDED=padded, CHUNK=16, num_warps=2,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def halves(size: int) -> tuple[int, int]:
    """A power of 2 and another one, or 0, whose sum covers this many elements, with less waste than a single one."""
    whole = power_of_2(size)
    rest = power_of_2(size - whole // 2)
    return (whole, 0) if rest == whole // 2 or size == whole else (whole // 2, rest)


def chunks_of(group: int, size: int) -> tuple[int, int]:
    """Query heads per program, a power of 2 of at least 16, and the number of programs per group."""
    rows = max(16, power_of_2(group))
    rows = min(rows, LARGE_GROUP) if size > 256 else rows
    return rows, ceil_div(group, rows)


@functools.cache
def processors(device: torch.device) -> int:
    """Number of multiprocessors of a GPU; 1 for the interpreter."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 1
