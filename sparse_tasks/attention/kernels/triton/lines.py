"""What kernels read of a ``LineIndex`` besides its bands, made in one launch, since many prompts are short."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, LineIndex
from sparse_tasks.attention.interactions import ceil_div

FAR: Final = 2**30
"""A position after every query, which hides what has it."""

STRETCH: Final = 128
"""The width of the columns is a multiple of it: keys of the largest tile."""

TILE: Final = 256

_FAR = tl.constexpr(FAR)


class Lines(NamedTuple):
    """Lists for tiles of ``block_q`` queries, of each head of the index.

    Attributes:
        columns: int32 ``[heads, width]``: verticals, ascending; ``FAR`` past the last, up to a multiple of ``STRETCH``.
        band_counts: int32 ``[heads, tiles]``: number of bands within the prompt.
        column_counts: int32 ``[heads, tiles]``: number of chunks of verticals that begin before the tile's end.
        band_flags: int8 ``[heads, bands]``: 1 for a band that is read.
    """

    columns: Tensor
    band_counts: Tensor
    column_counts: Tensor
    band_flags: Tensor


@triton.jit
def _before(numbers, count, limit, steps):
    """How many of the first ``count`` numbers (ascending) are below each limit."""
    low = limit * 0
    high = low + count
    for _ in range(steps):
        middle = (low + high) // 2
        below = tl.load(numbers + middle, mask=low < high, other=_FAR) < limit
        high = tl.where((low < high) & ~below, middle, high)
        low = tl.where((low < high) & below, middle + 1, low)
    return low


@triton.jit(do_not_specialize=["columns_width", "bands_width", "width", "tiles", "number", "first", "steps"])
def _list(
    columns, column_counts, bands, band_counts, out_columns, out_bands, out_reach, out_flags,
    columns_width, bands_width, width, tiles, number, first, steps,
    BLOCK_Q: tl.constexpr, PER_ROW: tl.constexpr, STRETCH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column_count, band_count = tl.load(column_counts + head), tl.load(band_counts + head)
    columns += head * columns_width
    bands += head * bands_width
    column = tl.load(columns + place, mask=place < column_count, other=_FAR)
    tl.store(out_columns + head * width + place, column, mask=place < width)
    row = first + place + 1
    reach = _before(columns, column_count, row * BLOCK_Q, steps)
    tl.store(out_reach + head * tiles + place, (reach + STRETCH - 1) // STRETCH, mask=place < tiles)
    tl.store(out_bands + head * tiles + place, _before(bands, band_count, row * PER_ROW, steps), mask=place < tiles)
    at = _before(bands, band_count, place, steps)
    read = tl.load(bands + at, mask=at < band_count, other=-1) == place
    tl.store(out_flags + head * number + place, read.to(tl.int8), mask=place < number)


def tile_lists(index: LineIndex, *, stretch: int) -> Lines:
    """The lists that prefill kernels read, for an index on their device.

    Args:
        index: ``bands`` are read directly, up to ``band_counts``.
        stretch: Verticals per chunk: 1, or the keys of a tile.
    """
    heads, tiles = len(index.bands), BlockIndex.rows(index.n_q, index.n_k, index.block_q)
    columns, bands = index.columns.contiguous(), index.bands.contiguous()
    width = STRETCH * max(1, ceil_div(columns.shape[1], STRETCH))
    number, device = ceil_div(index.n_k, index.unit) + index.block_q // index.unit, bands.device
    lists = Lines(
        torch.empty(heads, width, dtype=torch.int32, device=device),
        torch.empty(heads, tiles, dtype=torch.int32, device=device),
        torch.empty(heads, tiles, dtype=torch.int32, device=device),
        torch.empty(heads, number, dtype=torch.int8, device=device),
    )
    _list[(ceil_div(max(width, tiles, number), TILE), heads)](
        columns, index.column_counts.contiguous(), bands, index.band_counts.contiguous(), *lists,
        columns.shape[1], bands.shape[1], width, tiles, number, (index.n_k - index.n_q) // index.block_q,
        max(columns.shape[1], bands.shape[1]).bit_length(),
        BLOCK_Q=index.block_q, PER_ROW=index.block_q // index.unit, STRETCH=stretch, TILE=TILE, num_warps=4,
    )  # fmt: skip
    return lists
