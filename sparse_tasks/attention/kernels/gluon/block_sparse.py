"""Sparse prefill for Hopper: TMA copies, warpgroup matrix instructions, specialised warps.

One producer warp copies the tiles that the index lists into a ring of shared memory; two groups of four warps each
consume them for half of a tile's queries, so that one group's softmax overlaps with the other's matrix products.
Programs are persistent: while the consumers finish one query tile, the producer is already copying for the next.

Within a consumer the scores of the next tile are issued before the softmax of the current one, so that the tensor cores
work during it (Shah et al. 2024, FlashAttention-3, section 3.2).

Tiles are 128 queries by 128 keys, which keeps the tensor cores busy. Key blocks of 64 come two to a tile, each copied
separately into its half; with an odd number the first tile is half empty, and masked.

Both kinds of index run here. In a ``BlockIndex`` each query tile has its own list of key blocks. In a ``LineIndex`` the
list is the head's bands relative to the query tile, followed by tiles of the head's verticals, gathered once into
separate tensors; verticals within a band are masked there.

With a threshold (BLASST: Yuan et al. 2025, section 3) each consumer group, once it has the scores of a tile, skips the
rest of it (softmax and values) if none of its 64 queries comes near its running maximum, and records which tiles it
kept. Values are copied anyway: the producer is ahead, and does not know.
"""

from __future__ import annotations

import functools
from typing import Final

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from sparse_tasks.attention.index import BlockIndex, LineIndex, SkipIndex
from sparse_tasks.attention.kernels.triton.columns import gather_columns
from sparse_tasks.attention.kernels.triton.lines import FAR, tile_lists
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax

_FAR = gl.constexpr(FAR)
_LOG2_E = gl.constexpr(LOG2_E)

# Triton 3.9 only has the new names.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

SIZES: Final = (64, 128)
"""Head sizes whose tiles have room in shared memory: of 256 numbers, queries and keys would take 384 KB of 227."""

TILE: Final = 128
"""Queries of a tile, and keys."""

_PANEL = gl.constexpr(64)
"""Numbers of a head that lie side by side in shared memory: 128 bytes, the width of its swizzle."""


@gluon.jit
def _turns(items):
    """Number of items of a program; one more if the last round has one for it."""
    program, programs = gl.program_id(0), gl.num_programs(0)
    rounds = items // programs
    return rounds + gl.where((program + rounds) % programs < items % programs, 1, 0)


@gluon.jit
def _item(turn, rows, heads, group):
    """Order of work that keeps heads of a group together, and so their keys in the L2 cache.

    Long rows come first, so that no program ends with one. Positions are shifted by one in each round: heads differ in
    how much they read, and a program should not get the same head of a group every time.
    """
    program, programs = gl.program_id(0), gl.num_programs(0)
    item = turn * programs + (program + turn) % programs
    per_kv_head = rows * group
    kv_head = item // per_kv_head
    rest = item % per_kv_head
    return rows - 1 - rest // group, kv_head * group + rest % group, kv_head


@gluon.jit
def _next(slot, phase, SLOTS: gl.constexpr):
    """The next slot of a ring; the phase flips with each round."""
    slot += 1
    if slot == SLOTS:
        slot = 0
        phase ^= 1
    return slot, phase


@gluon.jit
def _listed(blocks, line, index_head, row, width, count, entry, LINES: gl.constexpr, PER_ROW: gl.constexpr):
    """The key block of an entry, counted backwards from the diagonal; 0 if there is none."""
    there = (entry >= 0) & (entry < count)
    if LINES:
        band = gl.load(blocks + index_head.to(gl.int64) * width + entry, mask=there, other=0)
        block = gl.where(there, (row + 1) * PER_ROW - 1 - band, 0)
    else:
        block = gl.load(blocks + line.to(gl.int64) * width + count - 1 - entry, mask=there, other=0)
    return block


@gluon.jit
def _pair(blocks, line, index_head, row, width, count, tile, LINES: gl.constexpr, PER_ROW: gl.constexpr):
    """Where the halves of a tile begin (two blocks of 64 keys, or halves of one), and the second's place in the list.

    With an odd number of blocks the first tile only has its second half: the first half's place is -1, before the list.
    """
    if PER_ROW == 1:
        entry = tile
        first = _listed(blocks, line, index_head, row, width, count, entry, LINES, PER_ROW) * 128
        second = first + 64
    else:
        entry = 2 * tile + 1 - count % 2
        first = _listed(blocks, line, index_head, row, width, count, entry - 1, LINES, PER_ROW) * 64
        second = _listed(blocks, line, index_head, row, width, count, entry, LINES, PER_ROW) * 64
    return first, second, entry


@gluon.jit
def _keys(first, second, entry, count, lane, PER_ROW: gl.constexpr):
    """The positions of a tile's keys; far away where there are none."""
    key = gl.where(lane < 64, first + lane, second + lane - 64)
    if PER_ROW == 1:
        key = gl.where(entry < count, key, _FAR)
    else:
        key = gl.where((entry < count) & ((lane >= 64) | (entry > 0)), key, _FAR)
    return key


@gluon.jit
def _copy(desc, first, second, column, ring, full, empty, slot, phase, HEAD: gl.constexpr):
    """Copy the two halves of a tile into a slot of a ring as soon as it is empty."""
    mbarrier.wait(empty.index(slot), phase)
    mbarrier.expect(full.index(slot), 2 * (HEAD // _PANEL) * desc.block_type.nbytes)
    for panel in gl.static_range(HEAD // _PANEL):
        place = ring.index(slot).slice(panel * _PANEL, _PANEL, 1)
        at = column + panel * _PANEL
        _load(desc, [first, at], full.index(slot), place.slice(0, 64, 0))
        _load(desc, [second, at], full.index(slot), place.slice(64, 64, 0))


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, column_k_desc, column_v_desc, read, rings, barriers, sizes,
    HEAD: gl.constexpr, PER_ROW: gl.constexpr, STAGES: gl.constexpr, Q_STAGES: gl.constexpr, LINES: gl.constexpr,
):  # fmt: skip
    blocks, counts, columns, column_tiles, band_flags = read
    q_ring, k_ring, v_ring = rings
    q_full, q_empty, k_full, k_empty, v_full, v_empty = barriers
    n_q, n_k, rows, width, columns_width, heads, group, index_group, bands = sizes
    first_row = (n_k - n_q) // 128
    slot = 0
    phase = 1
    q_slot = 0
    q_phase = 1
    for turn in range(_turns(rows * heads)):
        row, head, kv_head = _item(turn, rows, heads, group)
        index_head = head // index_group
        line = index_head * rows + row
        count = gl.load(counts + line)
        first, second, _ = _pair(blocks, line, index_head, first_row + row, width, count, 0, LINES, PER_ROW)
        q_start = (first_row + row) * 128 - (n_k - n_q)
        mbarrier.wait(q_empty.index(q_slot), q_phase)
        mbarrier.expect(q_full.index(q_slot), 2 * q_desc.block_type.nbytes)
        for half in gl.static_range(2):
            _load(q_desc, [q_start + half * 64, head * HEAD], q_full.index(q_slot), q_ring.index(q_slot * 2 + half))
        q_slot, q_phase = _next(q_slot, q_phase, Q_STAGES)
        for tile in range(gl.maximum((count + PER_ROW - 1) // PER_ROW, 1)):
            _copy(k_desc, first, second, kv_head * HEAD, k_ring, k_full, k_empty, slot, phase, HEAD)
            # Issued now, so that they have arrived when a slot is empty.
            after, after_second, _ = _pair(
                blocks, line, index_head, first_row + row, width, count, tile + 1, LINES, PER_ROW
            )
            _copy(v_desc, first, second, kv_head * HEAD, v_ring, v_full, v_empty, slot, phase, HEAD)
            first = after
            second = after_second
            slot, phase = _next(slot, phase, STAGES)
        if LINES:
            for tile in range(gl.load(column_tiles + line)):
                at = tile * 128
                _copy(column_k_desc, at, at + 64, head * HEAD, k_ring, k_full, k_empty, slot, phase, HEAD)
                _copy(column_v_desc, at, at + 64, head * HEAD, v_ring, v_full, v_empty, slot, phase, HEAD)
                slot, phase = _next(slot, phase, STAGES)


@gluon.jit
def _bent(s, bend):
    if bend is not None:
        s = 1.0 - 2.0 / (gl.exp2(gl.minimum(s * bend, 126.0)) + 1.0)
    return s


@gluon.jit
def _softmax(s, m, total, factor, bend, query, key, MASKED: gl.constexpr):
    """One step of the online softmax; ``m`` is in units of the scores, ``factor`` turns them into powers of two.

    ``bend``, which is None without a soft cap, as of ``Softmax.exponents``.
    """
    s = _bent(s, bend)
    if MASKED:
        s = gl.where(key[None, :] <= query[:, None], s, float("-inf"))
    new = gl.maximum(m, gl.max(s, 1))
    if MASKED:
        safe = gl.where(new == float("-inf"), 0.0, new)
    else:
        safe = new
    p = gl.exp2(s * factor - (safe * factor)[:, None])
    shrink = gl.exp2((m - safe) * factor)
    return p, new, total * shrink + gl.sum(p, 1), shrink


@gluon.jit
def _step(
    q, rings, barriers, slot, phase, p, o, m, total, factor, bend, query, key, nothing,
    STAGES: gl.constexpr, S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, P_LAYOUT: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Scores of the next tile, and meanwhile the output of the last one, whose weights are ``p``."""
    _, k_ring, v_ring = rings
    _, _, k_full, k_empty, v_full, v_empty = barriers
    last_slot = slot
    last_phase = phase
    slot, phase = _next(slot, phase, STAGES)
    mbarrier.wait(k_full.index(slot), phase)
    s = warpgroup_mma(q, k_ring.index(slot).permute((1, 0)), nothing, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(last_slot), last_phase)
    o = warpgroup_mma(p, v_ring.index(last_slot), o, is_async=True)
    s = warpgroup_mma_wait(1, [s])
    mbarrier.arrive(k_empty.index(slot))
    p_next, m, total, shrink = _softmax(s, m, total, factor, bend, query, key, MASKED)
    o = warpgroup_mma_wait(0, [o])
    mbarrier.arrive(v_empty.index(last_slot))
    o = o * gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None]
    p = gl.convert_layout(p_next.to(q.dtype), P_LAYOUT)
    return slot, phase, p, o, m, total


@gluon.jit
def _step_or_skip(
    q, rings, barriers, slot, phase, p, o, m, total, pending, factor, bend, mark, held, query, key, nothing,
    STAGES: gl.constexpr, O_LAYOUT: gl.constexpr, P_LAYOUT: gl.constexpr,
):  # fmt: skip
    """``_step`` if the last tile was kept (``pending``), else only scores; returns whether this tile is kept.

    It is kept if the largest score of a query that is ``held`` is above its running maximum plus ``mark``, a base-2
    logarithm. No product is in flight where the branches split and join.
    """
    _, k_ring, v_ring = rings
    _, _, k_full, k_empty, v_full, v_empty = barriers
    last_slot = slot
    last_phase = phase
    slot, phase = _next(slot, phase, STAGES)
    mbarrier.wait(k_full.index(slot), phase)
    if pending != 0:
        s = warpgroup_mma(q, k_ring.index(slot).permute((1, 0)), nothing, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(last_slot), last_phase)
        o = warpgroup_mma(p, v_ring.index(last_slot), o, is_async=True)
        s = warpgroup_mma_wait(1, [s])
        mbarrier.arrive(k_empty.index(slot))
        s = _bent(s, bend)
        kept = gl.max(gl.where(held, (gl.max(s, 1) - m) * factor, float("-inf")), 0) > mark
        # The tensor cores are busy meanwhile, so the softmax of a tile that is then skipped costs little.
        p_next, new, sums, shrink = _softmax(s, m, total, factor, None, query, key, False)
        o = warpgroup_mma_wait(0, [o])
        mbarrier.arrive(v_empty.index(last_slot))
        if kept:
            m = new
            total = sums
            o = o * gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None]
            p = gl.convert_layout(p_next.to(q.dtype), P_LAYOUT)
        pending = kept.to(gl.int32)
    else:
        s = warpgroup_mma(q, k_ring.index(slot).permute((1, 0)), nothing, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, [s])
        mbarrier.arrive(k_empty.index(slot))
        s = _bent(s, bend)
        kept = gl.max(gl.where(held, (gl.max(s, 1) - m) * factor, float("-inf")), 0) > mark
        if kept:
            p_next, m, total, shrink = _softmax(s, m, total, factor, None, query, key, False)
            o = o * gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None]
            p = gl.convert_layout(p_next.to(q.dtype), P_LAYOUT)
        pending = kept.to(gl.int32)
    if pending == 0:  # its values have to arrive before their slot is reused
        mbarrier.wait(v_full.index(slot), phase)
        mbarrier.arrive(v_empty.index(slot))
    return slot, phase, p, o, m, total, pending


@gluon.jit
def _consume(
    o_desc, read, rings, barriers, sizes, sinks, factor, bend, skip,
    WHICH: gl.constexpr, HEAD: gl.constexpr, PER_ROW: gl.constexpr,
    STAGES: gl.constexpr, Q_STAGES: gl.constexpr, LINES: gl.constexpr, SKIP: gl.constexpr,
):  # fmt: skip
    blocks, counts, columns, column_tiles, band_flags = read
    q_ring, k_ring, v_ring = rings
    q_full, q_empty, k_full, k_empty, v_full, v_empty = barriers
    n_q, n_k, rows, width, columns_width, heads, group, index_group, bands = sizes
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    dtype: gl.constexpr = o_desc.dtype
    lane = gl.arange(0, 128, gl.SliceLayout(0, S_LAYOUT))
    nothing = gl.zeros([64, 128], gl.float32, S_LAYOUT)
    first_row = (n_k - n_q) // 128
    slot = 0
    phase = 0
    q_slot = 0
    q_phase = 0
    for turn in range(_turns(rows * heads)):
        row, head, kv_head = _item(turn, rows, heads, group)
        index_head = head // index_group
        line = index_head * rows + row
        row += first_row
        count = gl.load(counts + line)
        tiles = gl.maximum((count + PER_ROW - 1) // PER_ROW, 1)
        # The list begins at the diagonal, the only place with keys after a query.
        first, second, entry = _pair(blocks, line, index_head, row, width, count, 0, LINES, PER_ROW)
        key = _keys(first, second, entry, count, lane, PER_ROW)
        query = row * 128 + WHICH * 64 + gl.arange(0, 64, gl.SliceLayout(1, S_LAYOUT))
        m = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, S_LAYOUT))
        total = gl.zeros([64], gl.float32, gl.SliceLayout(1, S_LAYOUT))
        if sinks is not None:  # like a first key with that score and no value
            m = gl.zeros([64], gl.float32, gl.SliceLayout(1, S_LAYOUT))
            m += gl.load(sinks + head).to(gl.float32) * (_LOG2_E / factor)
            total += 1.0
        o = gl.zeros([64, HEAD], gl.float32, O_LAYOUT)
        q = q_ring.index(q_slot * 2 + WHICH)
        mbarrier.wait(q_full.index(q_slot), q_phase)
        mbarrier.wait(k_full.index(slot), phase)
        s = warpgroup_mma(q, k_ring.index(slot).permute((1, 0)), nothing, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, [s])
        mbarrier.arrive(k_empty.index(slot))
        p, m, total, _ = _softmax(s, m, total, factor, bend, query, key, True)
        p = gl.convert_layout(p.to(dtype), P_LAYOUT)
        # With an odd number of blocks of 64, the second one on the diagonal is in the second tile.
        for tile in range(1, gl.minimum(tiles, PER_ROW)):
            first, second, entry = _pair(blocks, line, index_head, row, width, count, tile, LINES, PER_ROW)
            slot, phase, p, o, m, total = _step(
                q, rings, barriers, slot, phase, p, o, m, total, factor, bend, query,
                _keys(first, second, entry, count, lane, PER_ROW), nothing,
                STAGES, S_LAYOUT, O_LAYOUT, P_LAYOUT, True,
            )  # fmt: skip
        pending = 1
        if SKIP:
            kept, kept_rows, kept_width, begin, mark = skip
            held = (query >= begin) & (query < n_k)
            kept_row = row * 2 + WHICH - begin // 64
            there = (kept_row >= 0) & (kept_row < kept_rows)
            flags = kept + (head * kept_rows + kept_row).to(gl.int64) * kept_width + row
            gl.store(flags, 1, mask=there)
            for tile in range(1, tiles):
                slot, phase, p, o, m, total, pending = _step_or_skip(
                    q, rings, barriers, slot, phase, p, o, m, total, pending, factor, bend, mark, held, query, key,
                    nothing, STAGES, O_LAYOUT, P_LAYOUT,
                )  # fmt: skip
                gl.store(flags - tile, pending, mask=there)
        else:
            for _ in range(PER_ROW, tiles):
                slot, phase, p, o, m, total = _step(
                    q, rings, barriers, slot, phase, p, o, m, total, factor, bend, query, key, nothing,
                    STAGES, S_LAYOUT, O_LAYOUT, P_LAYOUT, False,
                )  # fmt: skip
        if LINES:
            for tile in range(gl.load(column_tiles + line)):
                key = gl.load(columns + index_head.to(gl.int64) * columns_width + tile * 128 + lane)
                band = (row + 1) * PER_ROW - 1 - key // (128 // PER_ROW)
                inside = (band >= 0) & (band < bands)
                seen = gl.load(band_flags + index_head.to(gl.int64) * bands + band, mask=inside, other=0)
                slot, phase, p, o, m, total = _step(
                    q, rings, barriers, slot, phase, p, o, m, total, factor, bend, query,
                    gl.where(seen != 0, _FAR, key), nothing,
                    STAGES, S_LAYOUT, O_LAYOUT, P_LAYOUT, True,
                )  # fmt: skip
        if pending != 0:
            mbarrier.wait(v_full.index(slot), phase)
            o = warpgroup_mma(p, v_ring.index(slot), o, is_async=True)
            o = warpgroup_mma_wait(0, [o])
            mbarrier.arrive(v_empty.index(slot))
        slot, phase = _next(slot, phase, STAGES)
        share = 1.0 / gl.where(total > 0, total, 1.0)
        o = o * gl.convert_layout(share, gl.SliceLayout(1, O_LAYOUT))[:, None]
        # The queries are no longer needed: their memory takes the output.
        q.store(o.to(dtype))
        fence_async_shared()
        _store(o_desc, [row * 128 + WHICH * 64 - (n_k - n_q), head * HEAD], q)
        tma.store_wait(0)
        mbarrier.arrive(q_empty.index(q_slot))
        q_slot, q_phase = _next(q_slot, q_phase, Q_STAGES)


@gluon.jit
def _barriers(SLOTS: gl.constexpr, arrivals: gl.constexpr):
    barriers = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(SLOTS):
        mbarrier.init(barriers.index(slot), count=arrivals)
    return barriers


_NUMBERS: Final = ["n_q", "n_k", "rows", "width", "columns_width", "bands", "kept_rows", "kept_width", "begin"]


@gluon.jit(do_not_specialize=_NUMBERS)
def _kernel(
    q_desc, k_desc, v_desc, column_k_desc, column_v_desc, o_desc,
    blocks, counts, columns, column_tiles, band_flags, sinks,
    n_q, n_k, rows, width, columns_width, heads, group, index_group, bands, factor, bend,
    kept, kept_rows, kept_width, begin, mark,
    HEAD: gl.constexpr, PER_ROW: gl.constexpr, STAGES: gl.constexpr, Q_STAGES: gl.constexpr, LINES: gl.constexpr,
    SKIP: gl.constexpr,
):  # fmt: skip
    TILE_LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([128, HEAD], k_desc.dtype)
    rings = (
        gl.allocate_shared_memory(q_desc.dtype, [2 * Q_STAGES, 64, HEAD], q_desc.layout),
        gl.allocate_shared_memory(k_desc.dtype, [STAGES, 128, HEAD], TILE_LAYOUT),
        gl.allocate_shared_memory(v_desc.dtype, [STAGES, 128, HEAD], TILE_LAYOUT),
    )
    # A tile is full when its copies have arrived, empty when both consumers are done with it.
    barriers = (
        _barriers(Q_STAGES, 1), _barriers(Q_STAGES, 2),
        _barriers(STAGES, 1), _barriers(STAGES, 2),
        _barriers(STAGES, 1), _barriers(STAGES, 2),
    )  # fmt: skip
    fence_async_shared()
    sizes = (n_q, n_k, rows, width, columns_width, heads, group, index_group, bands)
    read = (blocks, counts, columns, column_tiles, band_flags)
    skip = (kept, kept_rows, kept_width, begin, mark)
    gl.warp_specialize(
        [
            (_consume, (
                o_desc, read, rings, barriers, sizes, sinks, factor, bend, skip,
                0, HEAD, PER_ROW, STAGES, Q_STAGES, LINES, SKIP,
            )),
            (_consume, (
                o_desc, read, rings, barriers, sizes, sinks, factor, bend, skip,
                1, HEAD, PER_ROW, STAGES, Q_STAGES, LINES, SKIP,
            )),
            (_produce, (
                q_desc, k_desc, v_desc, column_k_desc, column_v_desc, read, rings, barriers, sizes,
                HEAD, PER_ROW, STAGES, Q_STAGES, LINES,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def serves(q: Tensor, v: Tensor, block_q: int, block_k: int) -> bool:
    """Whether this kernel supports the inputs: Hopper, 16-bit floats, head sizes 64, 128, blocks of 128 by 64 or 128.

    Keys and values must have the same size.
    """
    return (
        q.is_cuda
        and torch.cuda.get_device_capability(q.device)[0] == 9
        and q.element_size() == 2
        and q.shape[2] in SIZES
        and v.shape[2] == q.shape[2]
        and block_q == TILE
        and block_k in (64, 128)
    )


def block_sparse_gluon(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """As ``block_sparse.block_sparse_attention``, for what ``serves`` accepts."""
    none = index.counts
    return _launch(q, k, v, k, v, index.blocks, index.counts, none, none, none, index, index.block_k, scale,
                   softmax)  # fmt: skip


def skipping_gluon(
    q: Tensor, k: Tensor, v: Tensor, index: SkipIndex, dense: BlockIndex, *, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """As ``skipping.skipping_attention``, for what ``serves`` accepts; ``dense`` lists all blocks of ``TILE``."""
    none = dense.counts
    return _launch(q, k, v, k, v, dense.blocks, dense.counts, none, none, none, dense, TILE, scale, softmax,
                   index)  # fmt: skip


def vertical_slash_gluon(
    q: Tensor, k: Tensor, v: Tensor, index: LineIndex, *, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """As ``vertical_slash.vertical_slash_attention``, for what ``serves`` accepts."""
    columns, counts, column_tiles, flags = tile_lists(index, stretch=TILE)
    column_k, column_v = gather_columns(k, v, columns, q.shape[1], FAR)
    bands = index.bands.contiguous()
    return _launch(q, k, v, column_k, column_v, bands, counts, columns, column_tiles, flags, index, index.unit,
                   scale, softmax)  # fmt: skip


@functools.cache
def _layout(width: int, dtype: gl.dtype) -> gl.NVMMASharedLayout:
    """Cached, since making one takes longer than launching a kernel, and each launch needs six."""
    return gl.NVMMASharedLayout.get_default_for([64, width], dtype)


def _launch(
    q: Tensor, k: Tensor, v: Tensor, column_k: Tensor, column_v: Tensor,
    blocks: Tensor, counts: Tensor, columns: Tensor, column_tiles: Tensor, band_flags: Tensor,
    index: BlockIndex | LineIndex, block_k: int, scale: float, softmax: Softmax, skip: SkipIndex | None = None,
) -> Tensor:  # fmt: skip
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    dtype = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}[q.dtype]
    # Copies cannot have negative coordinates: queries that begin within a tile get padding rows before them.
    before = (n_k - n_q) % TILE
    if before:
        q = torch.cat([q.new_zeros(before, heads, size), q])
    out = torch.empty(before + n_q, heads, size, dtype=q.dtype, device=q.device)

    def described(x: Tensor, width: int) -> TensorDescriptor:
        # Copies begin at multiples of 16 bytes.
        fits = x.stride(1) == size and x.stride(2) == 1 and x.stride(0) % 8 == 0 and x.data_ptr() % 16 == 0
        flat = x if fits else x.clone(memory_format=torch.contiguous_format)
        return TensorDescriptor(
            flat, [x.shape[0], x.shape[1] * size], [flat.stride(0), 1], [64, width], _layout(width, dtype)
        )

    rows = counts.shape[1]
    factor, bend = softmax.exponents(scale)
    programs = min(rows * heads, torch.cuda.get_device_properties(q.device).multi_processor_count)
    _kernel[(programs,)](
        described(q, size), described(k, 64), described(v, 64),
        described(column_k, 64), described(column_v, 64), described(out, size),
        blocks, counts, columns, column_tiles, band_flags, softmax.sinks,
        before + n_q, n_k, rows, blocks.shape[-1], columns.shape[-1], heads, heads // kv_heads,
        heads // blocks.shape[0], band_flags.shape[-1], factor, bend,
        *((counts, 0, 0, 0, 0.0) if skip is None else (skip.kept, *skip.kept.shape[1:], n_k - n_q, skip.mark)),
        HEAD=size, PER_ROW=TILE // block_k, STAGES=2, Q_STAGES=2,
        LINES=isinstance(index, LineIndex), SKIP=skip is not None, num_warps=4,
    )  # fmt: skip
    return out[before:]
