"""Selection in Triton, without a sort.

One program per row of up to ``WHOLE`` columns: the threshold is found by bisection over the bits of the floats, which
have the same order as integers; two running sums then place each chosen column. If few entries of a longer row are
chosen, its parts choose first, and then one row of their choices. If more are, several programs share the row, and find
the threshold digit by digit (radix selection), with a histogram of each digit over the whole row. A share of the mass
of a longer row is found by one program, which reads the row from the L2 cache at each step.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2

WHOLE: Final = 16384
"""Columns that a program holds at once, 32 a thread. Below 65,536, for two counts share an integer."""

PART: Final = 8192
"""Columns of a program, of the several that share a longer row. Below 65,536, too."""

_NONE = tl.constexpr(-2139095041)  # the key of -inf
_FORCED = tl.constexpr(2139095040)  # the key of +inf


@triton.jit
def _load_keys(scores, column, columns):
    """Integers in the order of the floats: the bits of negative ones are inverted, and -0 is 0."""
    x = tl.load(scores + column, mask=column < columns, other=float("-inf"))
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _count(keys, bound, MASS: tl.constexpr):
    """Number of keys at or above the bound, and the sum of their finite weights, whose key is their bits."""
    above = keys >= bound
    mass = 0.0
    if MASS:
        mass = tl.sum(tl.where(above & (keys < _FORCED), keys, 0).to(tl.float32, bitcast=True), 0)
    return tl.sum(above.to(tl.int32), 0), mass


@triton.jit
def _measure(keys, scores, columns, bound, MASS: tl.constexpr, TILE: tl.constexpr, LONG: tl.constexpr):
    """``_count`` over a whole row."""
    count, mass = _count(keys, bound, MASS)
    if LONG:
        for first in range(TILE, columns, TILE):
            more, heavier = _count(_load_keys(scores, first + tl.arange(0, TILE), columns), bound, MASS)
            count += more
            mass += heavier
    return count, mass


@triton.jit
def _store(out, keys, column, low, high, need, above, ties):
    """Write the columns of a tile that are chosen: all from ``high`` on, the first ``need`` of those from ``low`` on.

    ``above`` and ``ties`` count earlier tiles; they are returned with this tile's added.
    """
    sure = keys >= high
    tied = (keys >= low) & (keys < high)
    running = tl.cumsum(sure.to(tl.int32) + (tied.to(tl.int32) << 16), 0)
    rank = ties + (running >> 16)
    place = above + (running & 0xFFFF) + tl.minimum(rank, need) - 1
    tl.store(out + place, column, mask=sure | (tied & (rank <= need)))
    both = tl.sum(sure.to(tl.int32) + (tied.to(tl.int32) << 16), 0)
    return above + (both & 0xFFFF), ties + (both >> 16)


@triton.jit(do_not_specialize=["asked", "asked_rows", "inner", "outer_stride", "width"])
def _select(
    scores, asked, asked_rows, mass, out, counts, inner, outer_stride, columns, width,
    MASS: tl.constexpr, ASKED_BY_ROW: tl.constexpr, MASS_BY_ROW: tl.constexpr, TILE: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    line = row // inner * outer_stride + row % inner
    scores += row.to(tl.int64) * columns
    out += line.to(tl.int64) * width
    count = asked
    if ASKED_BY_ROW:
        count = tl.load(asked + row // asked_rows)
    lane = tl.arange(0, TILE)
    keys = _load_keys(scores, lane, columns)

    # At or above low there is enough, at or above high there is not; the interval shrinks.
    low, high = tl.full([], _NONE + 1, tl.int32), tl.full([], _FORCED + 1, tl.int32)
    if not LONG:
        low = tl.min(tl.where(keys > _NONE, keys, _FORCED), 0)
        high = tl.max(keys, 0) + 1
    count_low, mass_low = _measure(keys, scores, columns, low, MASS, TILE, LONG)
    count_high, mass_high = 0, 0.0
    target = 0.0
    if MASS:
        share = mass
        if MASS_BY_ROW:
            share = tl.load(mass + row)
        target = share * mass_low
        forced, _ = _measure(keys, scores, columns, _FORCED, MASS, TILE, LONG)
        count = tl.maximum(count, forced)
    count = tl.maximum(tl.minimum(tl.minimum(count, count_low), width), 0)
    while (high - 1 > low) & (count_low - count_high > 1) & (count_low != count):
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, which cannot overflow
        count_middle, mass_middle = _measure(keys, scores, columns, middle, MASS, TILE, LONG)
        enough = count_middle >= count
        if MASS:
            enough = (enough & (mass_middle >= target)) | (count_middle >= width)
        low = tl.where(enough, middle, low)
        count_low = tl.where(enough, count_middle, count_low)
        high = tl.where(enough, high, middle)
        count_high = tl.where(enough, count_high, count_middle)
        mass_high = tl.where(enough, mass_high, mass_middle)

    # Entries from low up to high may be taken in part: ties, or a single entry, or all.
    need = count - count_high
    if MASS:
        weight = low.to(tl.float32, bitcast=True)
        missing = tl.ceil(tl.div_rn(target - mass_high, tl.where(weight > 0, weight, 1.0)))
        ties = tl.maximum(need, tl.maximum(tl.minimum(missing, count_low), 0.0).to(tl.int32))
        need = tl.where(high - 1 > low, count_low - count_high, ties)
        need = tl.minimum(need, width - count_high)
    need = tl.maximum(tl.minimum(need, count_low - count_high), 0)
    above, ties = _store(out, keys, lane, low, high, need, 0, 0)
    if LONG:
        for first in range(TILE, columns, TILE):
            column = first + lane
            above, ties = _store(out, _load_keys(scores, column, columns), column, low, high, need, above, ties)
    tl.store(counts + line, count_high + need)


_BITS = tl.constexpr(8)  # of a digit
_BINS = tl.constexpr(256)
_DIGITS = tl.constexpr(4)
_SIGN = tl.constexpr(-(2**31))  # turns keys into integers whose order is that of their bits
_MOST = tl.constexpr(2**31 - 2)  # above the key of +inf


@triton.jit
def _leading(keys, DIGITS: tl.constexpr):
    """The first digits of each key."""
    unsigned = (keys ^ _SIGN).to(tl.uint32, bitcast=True)
    return (unsigned >> (32 - _BITS * DIGITS)).to(tl.int32, bitcast=True)


@triton.jit
def _limited(asked, asked_rows, histograms, row, width, ASKED_BY_ROW: tl.constexpr):
    """How many entries of a row are chosen, with the histogram of the first digit, which counts all that can be."""
    count = asked
    if ASKED_BY_ROW:
        count = tl.load(asked + row // asked_rows)
    possible = tl.sum(tl.load(histograms + tl.arange(0, _BINS)), 0)
    return tl.maximum(tl.minimum(tl.minimum(count, possible), width), 0)


@triton.jit
def _threshold(histograms, count, DIGITS: tl.constexpr):
    """The first digits of the entry of a rank, counted from the greatest, and the number of entries with greater ones.

    The rank is at least 1.
    """
    digits, above, bin = tl.full([], 0, tl.int32), 0, tl.arange(0, _BINS)
    for digit in tl.static_range(DIGITS):
        held = tl.load(histograms + digit * _BINS + bin)
        from_here = tl.sum(held, 0) - tl.cumsum(held, 0) + held
        found = tl.max(tl.where(from_here >= count - above, bin, 0), 0)
        digits = (digits << _BITS) | found
        above += tl.sum(tl.where(bin > found, held, 0), 0)
    return digits, above


@triton.jit(do_not_specialize=["asked", "asked_rows", "columns", "width"])
def _count_digits(
    scores, asked, asked_rows, histograms, columns, width,
    DIGIT: tl.constexpr, ASKED_BY_ROW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Histogram of a digit of the entries whose digits before it are those of the threshold."""
    row = tl.program_id(0)
    histograms += row.to(tl.int64) * _DIGITS * _BINS
    keys = _load_keys(scores + row.to(tl.int64) * columns, tl.program_id(1) * TILE + tl.arange(0, TILE), columns)
    counted = keys > _NONE
    if DIGIT > 0:
        count = _limited(asked, asked_rows, histograms, row, width, ASKED_BY_ROW)
        counted &= _leading(keys, DIGIT) == _threshold(histograms, count, DIGIT)[0]
    held = tl.histogram(_leading(keys, DIGIT + 1) & (_BINS - 1), _BINS, mask=counted)
    bin = tl.arange(0, _BINS)
    tl.atomic_add(histograms + DIGIT * _BINS + bin, held, mask=held > 0, sem="relaxed")


@triton.jit(do_not_specialize=["asked", "asked_rows", "columns", "width"])
def _count_parts(
    scores, asked, asked_rows, histograms, parts, columns, width, ASKED_BY_ROW: tl.constexpr, TILE: tl.constexpr
):
    """Entries of a part above the threshold, and at it."""
    row = tl.program_id(0)
    histograms += row.to(tl.int64) * _DIGITS * _BINS
    keys = _load_keys(scores + row.to(tl.int64) * columns, tl.program_id(1) * TILE + tl.arange(0, TILE), columns)
    count = _limited(asked, asked_rows, histograms, row, width, ASKED_BY_ROW)
    low = _threshold(histograms, count, _DIGITS)[0] ^ _SIGN
    both = tl.sum((keys > low).to(tl.int32) + ((keys == low).to(tl.int32) << 16), 0)
    tl.store(parts + row * tl.num_programs(1) + tl.program_id(1), both)


@triton.jit(do_not_specialize=["asked", "asked_rows", "inner", "outer_stride", "columns", "width"])
def _store_parts(
    scores, asked, asked_rows, histograms, parts, out, counts, inner, outer_stride, columns, width,
    ASKED_BY_ROW: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write the chosen columns of a part behind those of earlier parts."""
    row, part = tl.program_id(0), tl.program_id(1)
    line = row // inner * outer_stride + row % inner
    histograms += row.to(tl.int64) * _DIGITS * _BINS
    count = _limited(asked, asked_rows, histograms, row, width, ASKED_BY_ROW)
    digits, above = _threshold(histograms, count, _DIGITS)
    low = tl.where(count > 0, digits ^ _SIGN, _MOST)
    earlier = tl.arange(0, PARTS)
    both = tl.load(parts + row * tl.num_programs(1) + earlier, mask=earlier < part, other=0)
    column = part * TILE + tl.arange(0, TILE)
    keys = _load_keys(scores + row.to(tl.int64) * columns, column, columns)
    _store(
        out + line.to(tl.int64) * width, keys, column, low, low + 1, count - above,
        tl.sum(both & 0xFFFF, 0), tl.sum(both >> 16, 0),
    )  # fmt: skip
    if part == 0:
        tl.store(counts + line, count)


def select_rows(
    scores: Tensor, count: int | Tensor, blocks: Tensor, counts: Tensor, *, start: int = 0, mass: float | Tensor = -1.0
) -> None:
    """Launch the kernel, which writes to rows from ``start`` on of a larger list.

    Args:
        scores: fp32 ``[outer, inner, columns]``, contiguous.
        count: How many to choose, or the minimum if ``mass`` is given; or int32, contiguous, each number for an equal
            run of consecutive rows.
        blocks: int32 ``[outer, rows, width]``, contiguous: the lists.
        counts: int32 ``[outer, rows]``, contiguous.
        start: The row of the lists for row 0 of the scores.
        mass: The share of the mass; or fp32 ``[outer, inner]``, contiguous; below 0 if unused.
    """
    outer, inner, columns = scores.shape
    if not outer * inner:
        return
    tile = min(WHOLE, max(32, power_of_2(columns)))
    by_row = isinstance(mass, Tensor)
    asked_rows = outer * inner // count.numel() if isinstance(count, Tensor) else 1
    if not by_row and mass < 0 and columns > WHOLE:
        _select_in_parts(scores, count, asked_rows, blocks, counts, start)
        return
    _select[(outer * inner,)](
        scores, count, asked_rows, mass, blocks[:, start:], counts[:, start:],
        inner, blocks.shape[1], columns, blocks.shape[2],
        MASS=by_row or mass >= 0, ASKED_BY_ROW=isinstance(count, Tensor), MASS_BY_ROW=by_row,
        TILE=tile, LONG=columns > tile, num_warps=max(1, tile // 1024),
    )  # fmt: skip


def _select_in_parts(
    scores: Tensor, count: int | Tensor, asked_rows: int, blocks: Tensor, counts: Tensor, start: int
) -> None:
    """``select_rows`` of long rows, each by several programs."""
    outer, inner, columns = scores.shape
    rows, number, width = outer * inner, ceil_div(columns, PART), blocks.shape[2]
    histograms = torch.zeros(rows, int(_DIGITS), int(_BINS), dtype=torch.int32, device=scores.device)
    parts = torch.empty(rows, number, dtype=torch.int32, device=scores.device)
    shape: dict[str, Any] = {"ASKED_BY_ROW": isinstance(count, Tensor), "TILE": PART, "num_warps": 8}
    grid = (rows, number)
    for digit in range(int(_DIGITS)):
        _count_digits[grid](scores, count, asked_rows, histograms, columns, width, DIGIT=digit, **shape)
    _count_parts[grid](scores, count, asked_rows, histograms, parts, columns, width, **shape)
    _store_parts[grid](
        scores, count, asked_rows, histograms, parts, blocks[:, start:], counts[:, start:], inner, blocks.shape[1],
        columns, width, PARTS=power_of_2(number), **shape,
    )  # fmt: skip


def select_top_triton(scores: Tensor, count: int | Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """As ``selection.select_top``."""
    parts = ceil_div(scores.shape[-1], WHOLE)
    if parts <= 2 or parts * width > WHOLE:
        return _by_row(scores, count, -1.0, width)
    padded = torch.nn.functional.pad(scores, (0, parts * WHOLE - scores.shape[-1]), value=float("-inf"))
    cut = padded.unflatten(-1, (parts, WHOLE))
    each = count[..., None] if isinstance(count, Tensor) and count.ndim else count
    lists, counts = _by_row(cut, each, -1.0, width)
    listed = torch.arange(width, device=scores.device) < counts[..., None]
    lists = torch.where(listed, lists, 0).long()
    best = cut.gather(-1, lists).masked_fill(~listed, float("-inf"))
    # Parts and their lists ascend, so among equal entries lower columns still come first.
    chosen, counts = _by_row(best.flatten(-2), count, -1.0, width)
    columns = (lists + torch.arange(parts, device=scores.device)[:, None] * WHOLE).flatten(-2)
    return columns.gather(-1, chosen.clamp(0, parts * width - 1).long()).int(), counts


def select_mass_triton(scores: Tensor, mass: float | Tensor, *, width: int, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """As ``selection.select_mass``."""
    return _by_row(scores, minimum, mass, width)


def _by_row(scores: Tensor, count: int | Tensor, mass: float | Tensor, width: int) -> tuple[Tensor, Tensor]:
    rows = scores.shape[:-1]
    lists = torch.empty(*rows, width, dtype=torch.int32, device=scores.device)
    counts = torch.empty(rows, dtype=torch.int32, device=scores.device)
    mass = mass.expand(rows).contiguous() if isinstance(mass, Tensor) else mass
    if isinstance(count, Tensor):
        count = _by_leading_rows(count, rows)
    flat = scores.contiguous().view(1, counts.numel(), scores.shape[-1])
    select_rows(flat, count, lists.view(1, counts.numel(), width), counts.view(1, counts.numel()), mass=mass)
    return lists, counts


def _by_leading_rows(count: Tensor, rows: torch.Size) -> Tensor:
    """Numbers that broadcast to rows, in the form for ``select_rows``: unexpanded if only leading dimensions differ."""
    shape = (1,) * (len(rows) - count.ndim) + tuple(count.shape)
    alike = next((place for place, size in enumerate(shape) if size == 1), len(shape))
    if shape[:alike] == tuple(rows[:alike]) and all(size == 1 for size in shape[alike:]):
        return count.contiguous()
    return count.expand(rows).contiguous()
