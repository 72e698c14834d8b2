"""Keys by component in Triton: the weights of a step from a few components, and the copy that they are read from.

Memory-bound, with the structure of ``step_weights.py``: scores of all query heads of a group and the sums of their
parts, and then the sum over the group; the block of the next tile is looked up while a tile is computed. A tile has a
row for each component, in which the positions of a block are adjacent.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.triton.sparse_decode import (
    FAR,
    TILE_BYTES,
    TILES,
    chunks_of,
    halves,
    processors,
)
from sparse_tasks.attention.kernels.triton.step_weights import _finished, summed
from sparse_tasks.attention.softmax import Softmax

RUN: Final = 16
"""Positions that are read together: 32 bytes of a component in 16 bits, the least that memory gives."""

ROWS: Final = 16
"""Keys that a program copies."""

PROGRAMS: Final = 10
"""Programs a processor, if sequences are long enough: 2 waves of the 5 that are resident with 32 components."""

MOST: Final = 128
"""Most positions in a tile."""


@triton.jit
def _load_block(table, place, length, RUN: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """The block of each position, for whole runs, so that the compiler can tell that a run is in one block."""
    return tl.load(table + place // BLOCK_SIZE, mask=place // RUN * RUN < length, other=0)


@triton.jit
def _chosen(q, numbers, held, FIRST: tl.constexpr, PART: tl.constexpr, COUNT: tl.constexpr):
    """Some of the chosen components: their numbers, whether they exist, and the queries' values of them."""
    place = FIRST + tl.arange(0, PART)
    there = place < COUNT
    number = tl.load(numbers + place, mask=there, other=0)
    return number, there, tl.load(q[:, None] + number[None, :], mask=held[:, None] & there[None, :], other=0.0)


@triton.jit
def _added(m, total, s):
    """The running maximum and sum of a softmax at each place of a tile, with another tile's scores.

    Only the end needs those of all places.
    """
    new = tl.maximum(m, s)
    safe = tl.where(new == float("-inf"), 0.0, new)
    return new, total * tl.exp2(m - safe) + tl.exp2(s - safe)


@triton.jit
def _log_sum(m, total):
    """The logarithm of the sum over all places, in base 2; -inf without scores."""
    highest = tl.max(m, 1)
    safe = tl.where(highest == float("-inf"), 0.0, highest)
    sums = tl.sum(total * tl.exp2(m - safe[:, None]), 1)
    return highest + tl.log2(tl.where(highest == float("-inf"), 1.0, sums))


@triton.jit(do_not_specialize=["positions", "table_stride"])
def _score(
    q, components, numbers, table, lengths, scales, scores, part_lse,
    stride_qb, stride_qh, stride_block, stride_component, positions, table_stride, cap,
    GROUP: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr, HEAD: tl.constexpr, COUNT: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr, TILE: tl.constexpr, RUN: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    kv_head, part, sequence = tl.program_id(0) // CHUNKS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    parts = tl.num_programs(1)
    line = sequence * (tl.num_programs(0) // CHUNKS) + kv_head
    length = tl.load(lengths + sequence)
    table += sequence * table_stride
    row = tl.program_id(0) % CHUNKS * ROWS + tl.arange(0, ROWS)
    numbers += line * COUNT
    q += sequence * stride_qb + (kv_head * GROUP + row) * stride_qh
    head = line * GROUP + row
    factor = tl.load(scales + head, mask=row < GROUP, other=0.0)
    components += kv_head.to(tl.int64) * HEAD * stride_component
    number, there, queries = _chosen(q, numbers, row < GROUP, 0, MAIN, COUNT)
    at_component = number[:, None] * stride_component
    if REST > 0:
        number_rest, there_rest, queries_rest = _chosen(q, numbers, row < GROUP, MAIN, REST, COUNT)
        at_rest = number_rest[:, None] * stride_component

    tiles = tl.cdiv(length, TILE)
    first, last = part * tiles // parts, (part + 1) * tiles // parts
    m = tl.full([ROWS, TILE], float("-inf"), tl.float32)
    total = tl.zeros([ROWS, TILE], tl.float32)
    block = _load_block(table, first * TILE + tl.arange(0, TILE), length, RUN, BLOCK_SIZE)
    for tile in range(first, last):
        place = tile * TILE + tl.arange(0, TILE)
        read = (place // RUN * RUN < length)[None, :]
        at = components + (block.to(tl.int64) * stride_block + place % BLOCK_SIZE)[None, :]
        cached = tl.load(at + at_component, mask=read & there[:, None], other=0.0)
        s = tl.dot(queries, cached.to(queries.dtype), input_precision="tf32x3")  # a conversion only from 8 bits
        if REST > 0:
            cached_rest = tl.load(at + at_rest, mask=read & there_rest[:, None], other=0.0)
            s = tl.dot(queries_rest, cached_rest.to(queries.dtype), s, input_precision="tf32x3")
        s = _finished(s * factor[:, None], place < length, cap)
        held = (row < GROUP)[:, None] & (place < positions)[None, :]
        tl.store(scores + head[:, None] * positions + place[None, :], s, mask=held)
        m, total = _added(m, total, s)
        block = _load_block(table, place + TILE, length, RUN, BLOCK_SIZE)

    tl.store(part_lse + head * parts + part, _log_sum(m, total), mask=row < GROUP)


@triton.jit(do_not_specialize=["tokens"])
def _update(
    components, keys, slots, stride_kn, stride_kh, tokens, block_size,
    HEAD: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    slot = tl.load(slots + token, mask=token < tokens, other=-1).to(tl.int64)
    dim = tl.arange(0, PADDED)
    written = (slot >= 0)[:, None] & (dim < HEAD)[None, :]
    row = token.to(tl.int64) * stride_kn + head * stride_kh
    key = tl.load(keys + row[:, None] + dim[None, :], mask=written, other=0.0)
    column = (slot // block_size * tl.num_programs(1) + head) * HEAD * block_size + slot % block_size
    tl.store(components + column[:, None] + dim[None, :] * block_size, key, mask=written)


def update_key_components_triton(components: Tensor, keys: Tensor, slots: Tensor) -> None:
    """As ``key_components.update_key_components``."""
    tokens, kv_heads, size = keys.shape
    if tokens == 0:
        return
    keys = keys if keys.stride(2) == 1 else keys.contiguous()
    _update[(ceil_div(tokens, ROWS), kv_heads)](
        components, keys, slots.contiguous(), keys.stride(0), keys.stride(1), tokens, components.shape[3],
        HEAD=size, PADDED=power_of_2(size), ROWS=ROWS, num_warps=4,
    )  # fmt: skip


def component_weights_triton(
    q: Tensor, components: Tensor, cache: PagedCache, numbers: Tensor, scales: Tensor, *, softmax: Softmax
) -> Tensor:
    """As ``key_components.component_weights``, in groups of sequences that fit into the memory for scores."""
    found = [
        _weights(q[rows], components, some, numbers[rows].contiguous(), scales[rows].contiguous(), softmax)
        for rows, some in cache.groups(q.shape[1] * cache.capacity)
    ]
    return found[0] if len(found) == 1 else torch.cat(found)


def _weights(
    q: Tensor, components: Tensor, cache: PagedCache, numbers: Tensor, scales: Tensor, softmax: Softmax
) -> Tensor:
    """``component_weights_triton`` of sequences whose scores are in memory at once."""
    (batch, heads, size), kv_heads = q.shape, cache.kv_heads
    group, (main, rest) = heads // kv_heads, halves(ceil_div(numbers.shape[2], 16) * 16)
    chunk, chunks = chunks_of(group, main)
    q = q if q.stride(2) == 1 else q.contiguous()
    table = cache.block_table if cache.block_table.stride(1) == 1 else cache.block_table.contiguous()
    lengths, positions, block_size = cache.lengths.contiguous(), cache.capacity, cache.block_size
    tile = max(16, min(MOST, TILE_BYTES // (main * q.element_size())))
    parts = PROGRAMS * processors(q.device) // (batch * kv_heads * chunks)
    parts = max(1, min(parts, ceil_div(ceil_div(positions, tile), TILES)))
    scores = torch.empty(batch, heads, positions, dtype=torch.float32, device=q.device)
    part_lse = torch.empty(batch, heads, parts, dtype=torch.float32, device=q.device)
    _score[(kv_heads * chunks, parts, batch)](
        q, components, numbers, table, lengths, scales, scores, part_lse,
        q.stride(0), q.stride(1), components.stride(0), block_size, positions, table.stride(0), softmax.soft_cap,
        GROUP=group, ROWS=chunk, CHUNKS=chunks, HEAD=size, COUNT=numbers.shape[2], MAIN=main, REST=rest, TILE=tile,
        RUN=RUN if block_size % RUN == 0 else 1, BLOCK_SIZE=block_size if table.shape[1] > 1 else FAR,
        num_warps=4 if q.element_size() == 2 and chunk <= 32 else 8, num_stages=3,
    )  # fmt: skip
    return summed(scores, part_lse, lengths, kv_heads, softmax=softmax)
