"""Attention of the last or of selected queries in Triton, in two passes: normalisers, then sums of probabilities.

Queries are processed in tiles, and keys are cut into splits for parallelism. The sums of diagonals need no atomics:
within a tile, rows are rotated so that diagonals become columns. A tile then contains the second half of one range of
distances and the first half of the next, and the next tile of keys has the missing halves. So a program that goes
through keys in order carries half a range along, and begins one tile early to get the first.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.triton.soft_cap import bent
from sparse_tasks.attention.kernels.window_scores import WindowScores
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax

TILE: Final = 64
"""Queries, and keys, of a tile; half as many in fp32, so that it fits."""

SPLITS: Final = 64
"""Splits of the keys at most: a program holds a number for each, for each of its rows."""

TILES: Final = 4
"""Tiles of keys in a split at least."""

PACK: Final = 4
"""Heads of a group that a program of the first pass takes, in 16 bits, where they come in fours."""


_LOG2_E = tl.constexpr(LOG2_E)


@triton.jit
def _load_queries(q, positions, tile, window, head, n_k, stride_qn, stride_qh, HEAD: tl.constexpr,
                  PADDED: tl.constexpr, TILE: tl.constexpr, PACK: tl.constexpr):  # fmt: skip
    """A tile of queries for some heads, and their positions; -1, which sees no key, past the last."""
    lane = tl.arange(0, PACK * TILE)
    row = tile * TILE + lane % TILE
    dim = tl.arange(0, PADDED)
    held = (row < window)[:, None] & (dim < HEAD)[None, :]
    at = (row.to(tl.int64) * stride_qn + (head + lane // TILE) * stride_qh)[:, None] + dim[None, :]
    queries = tl.load(q + at, mask=held, other=0.0)
    if positions is not None:
        return queries, tl.load(positions + row, mask=row < window, other=-1)
    return queries, tl.where(row < window, n_k - window + row, -1)


@triton.jit
def _score(queries, position, k, first, n_k, stride_kn, factor, bend, HEAD: tl.constexpr, PADDED: tl.constexpr,
           TILE: tl.constexpr):  # fmt: skip
    """Base-2 scores with the keys from ``first`` on; -inf where a query does not see the key."""
    key = first + tl.arange(0, TILE)
    dim = tl.arange(0, PADDED)
    there = (key >= 0) & (key < n_k)
    at = key.to(tl.int64)[:, None] * stride_kn + dim[None, :]
    keys = tl.load(k + at, mask=there[:, None] & (dim < HEAD)[None, :], other=0.0)
    s = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    if bend is not None:
        s = bent(s, bend)
    return tl.where(there[None, :] & (key[None, :] <= position[:, None]), s * factor, float("-inf"))


@triton.jit(do_not_specialize=["window", "n_k", "tiles_each"])
def _normalise(
    q, k, positions, parts, stride_qn, stride_qh, stride_kn, stride_kh,
    window, n_k, tiles_each, query_tiles, group, factor, bend,
    HEAD: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """The base-2 logarithm of the sum of exponentials over a split of the keys."""
    # All heads and query tiles of a split run together, which keeps its keys in the L2 cache.
    head, query_tile = (tl.program_id(0) // query_tiles * PACK).to(tl.int64), tl.program_id(0) % query_tiles
    split, splits = tl.program_id(1), tl.num_programs(1)
    queries, position = _load_queries(
        q, positions, query_tile, window, head, n_k, stride_qn, stride_qh, HEAD, PADDED, TILE, PACK
    )
    k += head // group * stride_kh
    m = tl.full([PACK * TILE], float("-inf"), tl.float32)
    total = tl.zeros([PACK * TILE], tl.float32)
    stop = tl.minimum((split + 1) * tiles_each, tl.cdiv(n_k, TILE))
    if positions is not None:
        stop = tl.minimum(stop, tl.max(position, 0) // TILE + 1)
    for tile in range(split * tiles_each, stop):
        s = _score(queries, position, k, tile * TILE, n_k, stride_kn, factor, bend, HEAD, PADDED, TILE)
        new = tl.maximum(m, tl.max(s, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(m - safe) + tl.sum(tl.exp2(s - safe[:, None]), 1)
        m = new
    lane = tl.arange(0, PACK * TILE)
    row = ((head + lane // TILE) * query_tiles + query_tile) * TILE + lane % TILE
    part = tl.where(total > 0, m + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
    tl.store(parts + row * splits + split, part)


@triton.jit(do_not_specialize=["window", "n_k", "tiles_each", "query_tile", "splits"])
def _sum(
    q, k, positions, ends, parts, vertical, slash, sinks, stride_qn, stride_qh, stride_kn, stride_kh,
    window, n_k, tiles_each, query_tile, query_tiles, splits, group, factor, bend,
    HEAD: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    SLASHES: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    queries, position = _load_queries(
        q, positions, query_tile, window, head, n_k, stride_qn, stride_qh, HEAD, PADDED, TILE, 1
    )
    k += head // group * stride_kh
    vertical += head * n_k
    slash += head * n_k
    lane, split = tl.arange(0, TILE), tl.arange(0, SPLITS)
    at = (head * query_tiles + query_tile) * TILE + lane
    part = tl.load(parts + at[:, None] * splits + split[None, :], mask=(split < splits)[None, :], other=float("-inf"))
    high = tl.max(part, 1)
    high = tl.where(high == float("-inf"), 0.0, high)  # for rows past the window, whose probabilities are 0
    total = tl.sum(tl.exp2(part - high[:, None]), 1)
    if sinks is not None:
        sink = tl.load(sinks + head).to(tl.float32) * _LOG2_E
        highest = tl.maximum(high, sink)
        total = total * tl.exp2(high - highest) + tl.exp2(sink - highest)
        high = highest
    norm = high + tl.log2(tl.where(total > 0, total, 1.0))
    if ends is not None:
        row = query_tile * TILE + lane
        end = tl.load(ends + row, mask=row < window, other=0)

    before = n_k - window + query_tile * TILE  # the position of the tile's first query
    turned = (lane[:, None] - lane[None, :]) & (TILE - 1)  # the lane of each row at a distance
    first_half = lane[None, :] <= lane[:, None]
    carried = tl.zeros([TILE], tl.float32)
    # One extra tile: it completes the last range of distances with zeros.
    start = tl.program_id(1) * tiles_each
    stop = tl.minimum(start + tiles_each, tl.cdiv(n_k, TILE) + 1)
    if ADD and positions is not None:
        stop = tl.minimum(stop, tl.max(position, 0) // TILE + 1)
    for tile in range(start - SLASHES, stop):
        first = tile * TILE
        s = _score(queries, position, k, first, n_k, stride_kn, factor, bend, HEAD, PADDED, TILE)
        p = tl.exp2(s - norm[:, None])
        key = first + lane
        if ends is not None:
            p = tl.where(key[None, :] < end[:, None], p, 0.0)
        ours = key >= start * TILE
        store = ours & (key < n_k)
        column = tl.sum(p, 0)
        if ADD:
            column += tl.load(vertical + key, mask=store, other=0.0)
        tl.store(vertical + key, column, mask=store)
        if SLASHES:
            diagonals = tl.gather(p, turned, 1)
            distance = before - first + lane
            store = ours & (distance >= 0) & (distance < n_k)
            stretch = carried + tl.sum(tl.where(first_half, diagonals, 0.0), 0)
            if ADD:
                stretch += tl.load(slash + distance, mask=store, other=0.0)
            tl.store(slash + distance, stretch, mask=store)
            carried = tl.sum(tl.where(first_half, 0.0, diagonals), 0)


def window_scores_triton(
    q: Tensor,
    k: Tensor,
    positions: Tensor | None = None,
    ends: Tensor | None = None,
    *,
    scale: float,
    slashes: bool,
    softmax: Softmax = PLAIN,
) -> WindowScores:
    """As ``window_scores.window_scores_torch``."""
    (window, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    q, k = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k))
    tile = TILE if q.element_size() == 2 else TILE // 2
    group = heads // kv_heads
    pack = PACK if q.element_size() == 2 and group % PACK == 0 else 1
    tiles, query_tiles = ceil_div(n_k, tile), ceil_div(window, tile)
    tiles_each = max(TILES, ceil_div(tiles, SPLITS))
    splits = ceil_div(tiles, tiles_each)
    parts = torch.empty(heads, query_tiles * tile, splits, dtype=torch.float32, device=q.device)
    vertical = torch.empty(heads, n_k, dtype=torch.float32, device=q.device)
    slash = torch.empty_like(vertical) if slashes else vertical
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1)
    factor, bend = softmax.exponents(scale)
    sizes = {"HEAD": size, "PADDED": power_of_2(size), "TILE": tile}
    settings = {"num_warps": 4 if q.element_size() == 2 else 8, "num_stages": 2}
    _normalise[(heads // pack * query_tiles, splits)](
        q, k, positions, parts, *strides, window, n_k, tiles_each, query_tiles, group, factor, bend,
        **sizes, PACK=pack, **settings,
    )  # fmt: skip
    # The last tile of queries reaches every distance, so it can write first.
    for query_tile in reversed(range(query_tiles)):
        _sum[(heads, ceil_div(tiles + 1, tiles_each))](
            q, k, positions, ends, parts, vertical, slash, softmax.sinks, *strides,
            window, n_k, tiles_each, query_tile, query_tiles, splits, group, factor, bend,
            **sizes, SPLITS=power_of_2(splits), SLASHES=slashes, ADD=query_tile < query_tiles - 1,
            **settings,
        )  # fmt: skip
    return WindowScores(vertical, slash if slashes else None)
