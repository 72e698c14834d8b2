"""Counts of lines in Triton: two launches for all numbers and heads.

One program counts the best verticals in a unit of keys for all numbers; the other handles the bands of a head for one
number. A vertical adds the queries of later rows whose band, at its distance, is not kept: a running sum along the
bands.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.index import band_interactions
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.line_counts import LineCounts


@triton.jit(do_not_specialize=["n_k", "tried", "units"])
def _take(rank, lines, taken, n_k, tried, units, UNIT: tl.constexpr, TRIED: tl.constexpr):
    """Number of a unit's verticals among the best, by number of lines."""
    unit, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    key, number = unit * UNIT + tl.arange(0, UNIT), tl.arange(0, TRIED)
    place = tl.load(rank + head.to(tl.int64) * n_k + key, mask=key < n_k, other=2147483647)
    line = tl.load(lines + number, mask=number < tried, other=0)
    count = tl.sum((place[None, :] < line[:, None]).to(tl.int32), 1)
    tl.store(taken + (number.to(tl.int64) * heads + head) * units + unit, count, mask=number < tried)


@triton.jit(do_not_specialize=["n_q", "n_k", "bands", "units", "rows", "first"])
def _count(
    best, lines, tiles, taken, computed, alone, n_q, n_k, bands, units, rows, first,
    BLOCK_Q: tl.constexpr, PER_ROW: tl.constexpr, ROWS: tl.constexpr, TAKEN: tl.constexpr,
):  # fmt: skip
    """Interactions of a head's bands for a number of lines, and of the verticals outside them."""
    number, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    line = tl.load(lines + number)
    best += head.to(tl.int64) * bands
    where = (number.to(tl.int64) * heads + head) * units
    row = tl.arange(0, ROWS)
    total = tl.zeros([ROWS], tl.int64)
    for step in tl.static_range(PER_ROW):
        # The band of keys in part ``step`` of a row's own tiles, for the query row ``row`` rows later.
        band = PER_ROW * (row + 1) - 1 - step
        kept = tl.load(best + band, mask=band < bands, other=2147483647) < line
        total += tl.where(kept, tl.load(tiles + band, mask=band < bands, other=0), 0)
        free = tl.where(kept, 0, 1)
        before = tl.cumsum(free, 0) - free
        outside = tl.gather(before, tl.maximum(rows - row, 0), 0) - tl.gather(before, tl.maximum(first - row, 1), 0)
        outside *= BLOCK_Q
        # The first and last row may be partial.
        last = tl.gather(free, tl.maximum(rows - 1 - row, 0), 0)
        outside -= tl.where(row < rows - 1, (rows * BLOCK_Q - n_k) * last, 0)
        early = tl.gather(free, tl.maximum(first - row, 0), 0)
        outside -= tl.where(row < first, (n_k - n_q - first * BLOCK_Q) * early, 0)
        unit = PER_ROW * row + step
        inside = (row < rows) & (unit < units)
        if TAKEN:
            count = tl.load(taken + where + unit, mask=inside, other=0)
            total += outside.to(tl.int64) * count
        else:
            tl.store(alone + where + unit, outside, mask=inside)
    tl.store(computed + number * heads + head, tl.sum(total, 0))


def line_counts_triton(
    best: Tensor, lines: Tensor, rank: Tensor | None, *, n_q: int, n_k: int, block_q: int, unit: int
) -> LineCounts:
    """As ``line_counts.line_counts``."""
    (heads, bands), tried = best.shape, len(lines)
    units, rows = ceil_div(n_k, unit), ceil_div(n_k, block_q)
    tiles = band_interactions(best.device, n_q, n_k, block_q, unit)
    computed = torch.empty(tried, heads, dtype=torch.int64, device=best.device)
    by_unit = torch.empty(tried, heads, units, dtype=torch.int32, device=best.device)
    lines = lines.contiguous()
    if rank is not None:
        _take[(units, heads)](rank.contiguous(), lines, by_unit, n_k, tried, units, UNIT=unit, TRIED=power_of_2(tried))
    _count[(tried, heads)](
        best.contiguous(), lines, tiles, by_unit, computed, by_unit, n_q, n_k, bands, units, rows,
        (n_k - n_q) // block_q, BLOCK_Q=block_q, PER_ROW=block_q // unit, ROWS=power_of_2(rows + 1),
        TAKEN=rank is not None,
    )  # fmt: skip
    return LineCounts(computed.sum(1), None if rank is not None else by_unit)
