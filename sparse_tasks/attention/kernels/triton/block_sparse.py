"""Block-sparse prefill in plain Triton: a program per query tile and head, keys gathered through the index.

It runs on every GPU that Triton supports and in the interpreter, with every head size and block size; on Hopper the
kernel in ``gluon/`` is used where supported. Its loops are not pipelined: with two stages Triton 3.6 gives wrong
numbers in the masked loop on an H100, and gains little in the other.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.gather import TILE, gather_rows
from sparse_tasks.attention.index import BlockIndex, LineIndex
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.triton.lines import FAR
from sparse_tasks.attention.kernels.triton.soft_cap import bent
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax

LARGE_HEAD_KEYS: Final = 32
"""Keys of a tile where heads have more than 128 numbers of 16 bits."""

_FAR = tl.constexpr(FAR)
_LOG2_E = tl.constexpr(LOG2_E)


@triton.jit
def _accumulate(
    q, k, v, key, visible, kv_head, stride_kn, stride_kh, stride_vn, stride_vh, n_k, o, m, total, factor, bend,
    HEAD: tl.constexpr, PADDED: tl.constexpr, VALUE: tl.constexpr, PADDED_VALUE: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax, over the keys at the positions ``key``; ``m`` is in units of the scores.

    ``factor`` and ``bend``, which is None without a soft cap, as of ``Softmax.exponents``.
    """
    dim = tl.arange(0, PADDED)
    value_dim = tl.arange(0, PADDED_VALUE)
    there = key < n_k
    inside = there[:, None] & (dim < HEAD)[None, :]
    rows = key.to(tl.int64)[:, None]
    keys = tl.load(k + rows * stride_kn + kv_head * stride_kh + dim[None, :], mask=inside, other=0.0)
    s = tl.dot(q, tl.trans(keys), input_precision="ieee")
    if bend is not None:
        s = bent(s, bend)
    s = tl.where(visible & there[None, :], s, float("-inf"))
    new = tl.maximum(m, tl.max(s, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2((s - safe[:, None]) * factor)
    shrink = tl.exp2((m - safe) * factor)
    inside = there[:, None] & (value_dim < VALUE)[None, :]
    values = tl.load(v + rows * stride_vn + kv_head * stride_vh + value_dim[None, :], mask=inside, other=0.0)
    o = o * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
    return o, new, total * shrink + tl.sum(p, 1)


@triton.jit
def _accumulate_all(
    q, k, v, start, stride_kn, stride_vn, o, m, total, factor, bend,
    HEAD: tl.constexpr, PADDED: tl.constexpr, VALUE: tl.constexpr, PADDED_VALUE: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """One step over the keys from ``start`` on, all of which exist and are seen by all queries."""
    dim = tl.arange(0, PADDED)
    value_dim = tl.arange(0, PADDED_VALUE)
    rows = (start + tl.arange(0, TILE_K)).to(tl.int64)[:, None]
    keys = tl.load(k + rows * stride_kn + dim[None, :], mask=(dim < HEAD)[None, :], other=0.0)
    s = tl.dot(q, tl.trans(keys), input_precision="ieee")
    if bend is not None:
        s = bent(s, bend)
    new = tl.maximum(m, tl.max(s, 1))
    p = tl.exp2(s * factor - (new * factor)[:, None])
    shrink = tl.exp2((m - new) * factor)
    values = tl.load(v + rows * stride_vn + value_dim[None, :], mask=(value_dim < VALUE)[None, :], other=0.0)
    o = o * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
    return o, new, total * shrink + tl.sum(p, 1)


@triton.jit(do_not_specialize=["n_q", "n_k", "rows", "width", "columns_width", "bands"])
def _kernel(
    q, k, v, out, blocks, counts, bits, columns, column_counts, band_flags, sinks,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh,
    n_q, n_k, rows, width, columns_width, bands, heads, group, index_group, factor, bend,
    HEAD: tl.constexpr, PADDED: tl.constexpr, VALUE: tl.constexpr, PADDED_VALUE: tl.constexpr,
    TILE_Q: tl.constexpr, TILE_K: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, LINES: tl.constexpr, BITS: tl.constexpr,
    WHOLE: tl.constexpr, DIAGONAL: tl.constexpr,
):  # fmt: skip
    # Heads of a group run together, which keeps their keys in the L2 cache; long rows come first.
    head = tl.program_id(0) % heads
    line_row = rows - 1 - tl.program_id(0) // heads
    kv_head = (head // group).to(tl.int64)
    index_head = (head // index_group).to(tl.int64)
    line = index_head * rows + line_row
    row = (n_k - n_q) // TILE_Q + line_row
    query = row * TILE_Q + tl.arange(0, TILE_Q)
    place = query - (n_k - n_q)
    dim = tl.arange(0, PADDED)
    held = ((place >= 0) & (place < n_q))[:, None] & (dim < HEAD)[None, :]
    at = place.to(tl.int64)[:, None]
    queries = tl.load(q + at * stride_qn + head * stride_qh + dim[None, :], mask=held, other=0.0)
    o = tl.zeros([TILE_Q, PADDED_VALUE], tl.float32)
    m = tl.full([TILE_Q], float("-inf"), tl.float32)
    total = tl.zeros([TILE_Q], tl.float32)
    if sinks is not None:  # like a first key with that score and no value
        m = tl.zeros([TILE_Q], tl.float32) + tl.load(sinks + head).to(tl.float32) * (_LOG2_E / factor)
        total += 1.0
    within = tl.arange(0, TILE_K)
    count = tl.load(counts + line)
    begin = 0
    if WHOLE:
        # Lists ascend, and only their ends may touch the diagonal: earlier blocks are seen by all queries.
        free = tl.maximum(count - DIAGONAL, 0)
        for step in range(free * (BLOCK_K // TILE_K)):
            block = tl.load(blocks + line * width + step // (BLOCK_K // TILE_K))
            start = block * BLOCK_K + step % (BLOCK_K // TILE_K) * TILE_K
            o, m, total = _accumulate_all(
                queries, k + kv_head * stride_kh, v + kv_head * stride_vh, start, stride_kn, stride_vn,
                o, m, total, factor, bend, HEAD, PADDED, VALUE, PADDED_VALUE, TILE_K,
            )  # fmt: skip
        begin = free * BLOCK_K
    for first in range(begin, count * BLOCK_K, TILE_K):
        entry = (first + within) // BLOCK_K
        if LINES:
            band = tl.load(blocks + index_head * width + entry, mask=entry < count, other=0)
            block = (row + 1) * (TILE_Q // BLOCK_K) - 1 - band
        else:
            block = tl.load(blocks + line * width + entry, mask=entry < count, other=0)
        key = tl.where(entry < count, block * BLOCK_K + (first + within) % BLOCK_K, _FAR)
        visible = key[None, :] <= query[:, None]
        if BITS:
            bit = tl.load(bits + line * width + entry, mask=entry < count, other=0).to(tl.int32)
            visible &= ((bit[None, :] >> (tl.arange(0, TILE_Q) // BLOCK_Q)[:, None]) & 1) == 1
        o, m, total = _accumulate(
            queries, k, v, key, visible, kv_head, stride_kn, stride_kh, stride_vn, stride_vh, n_k,
            o, m, total, factor, bend, HEAD, PADDED, VALUE, PADDED_VALUE,
        )  # fmt: skip
    if LINES:
        for first in range(0, tl.load(column_counts + line), TILE_K):
            key = tl.load(columns + index_head * columns_width + first + within)
            band = (row + 1) * (TILE_Q // BLOCK_K) - 1 - key // BLOCK_K
            inside = (band >= 0) & (band < bands)
            seen = tl.load(band_flags + index_head * bands + band, mask=inside, other=0) != 0
            visible = (key[None, :] <= query[:, None]) & ~seen[None, :]
            o, m, total = _accumulate(
                queries, k, v, key, visible, kv_head, stride_kn, stride_kh, stride_vn, stride_vh, n_k,
                o, m, total, factor, bend, HEAD, PADDED, VALUE, PADDED_VALUE,
            )  # fmt: skip
    o = o / tl.where(total > 0, total, 1.0)[:, None]
    value_dim = tl.arange(0, PADDED_VALUE)
    held = ((place >= 0) & (place < n_q))[:, None] & (value_dim < VALUE)[None, :]
    tl.store(out + (at * heads + head) * VALUE + value_dim[None, :], o.to(out.dtype.element_ty), mask=held)


def block_sparse_triton(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """As ``block_sparse.block_sparse_attention``."""
    if index.block_q < TILE:
        gathered = gather_rows(index)
        return launch(q, k, v, gathered.blocks, gathered.counts, index, TILE, scale, softmax,
                      bits=gathered.bits)  # fmt: skip
    return launch(q, k, v, index.blocks, index.counts, index, index.block_q, scale, softmax)


def launch(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, counts: Tensor, index: BlockIndex | LineIndex,
    tile_q: int, scale: float, softmax: Softmax, *, bits: Tensor | None = None,
    lines: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Launch the kernel; q, k, v, scale and softmax as in ``block_sparse_attention``.

    Args:
        blocks: int32 ``[index_heads, tiles, width]``, or bands, ``[index_heads, width]``.
        counts: int32 ``[index_heads, tiles]``.
        index: Index that gives the block sizes.
        tile_q: Queries in a tile.
        bits: uint8, like ``blocks``: query blocks of a tile that read the block.
        lines: Columns int32 ``[heads, columns]``, their number for each tile int32 ``[heads, tiles]``, and flags of the
            bands that are read int8 ``[heads, bands]``.
    """
    (n_q, heads, size), (n_k, kv_heads, _), value = q.shape, k.shape, v.shape[2]
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    blocks, counts = blocks.contiguous(), counts.contiguous()
    out = torch.empty(n_q, heads, value, dtype=q.dtype, device=q.device)
    columns, column_counts, band_flags = lines or (counts, counts, counts)
    rows = counts.shape[1]
    tile_k = 32 if q.element_size() == 4 else LARGE_HEAD_KEYS if max(size, value) > 128 else 64
    block_k = index.block_k if isinstance(index, BlockIndex) else index.unit
    factor, bend = softmax.exponents(scale)
    _kernel[(rows * heads,)](
        q, k, v, out, blocks, counts, counts if bits is None else bits, columns, column_counts, band_flags,
        softmax.sinks, q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        n_q, n_k, rows, blocks.shape[-1], columns.shape[-1], band_flags.shape[-1],
        heads, heads // kv_heads, heads // blocks.shape[0], factor, bend,
        HEAD=size, PADDED=power_of_2(size), VALUE=value, PADDED_VALUE=power_of_2(value), TILE_Q=tile_q, TILE_K=tile_k,
        BLOCK_Q=index.block_q, BLOCK_K=block_k,
        LINES=lines is not None, BITS=bits is not None,
        WHOLE=lines is None and bits is None and block_k % tile_k == 0, DIAGONAL=max(1, tile_q // block_k),
        num_warps=4 if tile_q == 64 else 8, num_stages=1,
    )  # fmt: skip
    return out
