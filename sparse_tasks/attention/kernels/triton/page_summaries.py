"""Minimum and maximum of the keys of each page, in Triton. No atomics: each page and head has its own program."""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.kernels.page_summaries import new_page_summaries

ROWS: Final = 16
"""Keys that are read at once."""


@triton.jit
def _fold(keys, rows, held, low, high, HEAD: tl.constexpr, PADDED: tl.constexpr):
    """The running minimum and maximum, with the keys at ``rows`` where they are ``held``."""
    dim = tl.arange(0, PADDED)
    inside = held[:, None] & (dim < HEAD)[None, :]
    key = tl.load(keys + rows[:, None] + dim[None, :], mask=inside, other=0.0).to(tl.float32)
    low = tl.minimum(low, tl.min(tl.where(inside, key, float("inf")), 0))
    high = tl.maximum(high, tl.max(tl.where(inside, key, float("-inf")), 0))
    return low, high


@triton.jit(do_not_specialize=["tokens", "block_size", "block_pages"])
def _update(
    summaries, keys, slots, stride_kn, stride_kh, tokens, block_size, block_pages,
    UNIT: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A token's program runs only if it is the first of its page in this call; it then folds in all of them."""
    token, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    before = tl.load(slots + token - 1, mask=token > 0, other=-1).to(tl.int64)
    page = slot // block_size * block_pages + slot % block_size // UNIT
    page_before = before // block_size * block_pages + before % block_size // UNIT
    if (slot >= 0) & ((before < 0) | (page_before != page)):
        low = tl.full([PADDED], float("inf"), tl.float32)
        high = tl.full([PADDED], float("-inf"), tl.float32)
        anew = 0
        for first in range(0, UNIT, ROWS):  # slots are distinct, so at most UNIT tokens are in a page
            at = token + first + tl.arange(0, ROWS)
            other = tl.load(slots + at, mask=at < tokens, other=-1).to(tl.int64)
            same = (other >= 0) & (other // block_size * block_pages + other % block_size // UNIT == page)
            anew = tl.maximum(anew, tl.max((same & (other % block_size % UNIT == 0)).to(tl.int32), 0))
            rows = at.to(tl.int64) * stride_kn + head * stride_kh
            low, high = _fold(keys, rows, same, low, high, HEAD, PADDED)
        dim = tl.arange(0, PADDED)
        where = summaries + (page * tl.num_programs(1) + head) * (2 * HEAD) + dim
        fold = dim < tl.where(anew > 0, 0, HEAD)
        low = tl.minimum(low, tl.load(where, mask=fold, other=float("inf")).to(tl.float32))
        high = tl.maximum(high, tl.load(where + HEAD, mask=fold, other=float("-inf")).to(tl.float32))
        tl.store(where, low.to(summaries.dtype.element_ty), mask=dim < HEAD)
        tl.store(where + HEAD, high.to(summaries.dtype.element_ty), mask=dim < HEAD)


@triton.jit(do_not_specialize=["table_stride", "block_size", "block_pages"])
def _build(
    summaries, keys, table, lengths, stride_kb, stride_kn, stride_kh, table_stride, block_size, block_pages,
    UNIT: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # Heads of a page run together: their keys are adjacent.
    head, page, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    start = page * UNIT
    length = tl.load(lengths + sequence)
    if start < length:
        block = tl.load(table + sequence * table_stride + start // block_size).to(tl.int64)
        slot = start % block_size
        low = tl.full([PADDED], float("inf"), tl.float32)
        high = tl.full([PADDED], float("-inf"), tl.float32)
        for first in range(0, UNIT, ROWS):
            within = first + tl.arange(0, ROWS)
            held = (within < UNIT) & (start + within < length)
            rows = block * stride_kb + (slot + within).to(tl.int64) * stride_kn + head * stride_kh
            low, high = _fold(keys, rows, held, low, high, HEAD, PADDED)
        dim = tl.arange(0, PADDED)
        number = block * block_pages + slot // UNIT
        where = summaries + (number * tl.num_programs(0) + head) * (2 * HEAD) + dim
        tl.store(where, low.to(summaries.dtype.element_ty), mask=dim < HEAD)
        tl.store(where + HEAD, high.to(summaries.dtype.element_ty), mask=dim < HEAD)


def update_page_summaries_triton(summaries: Tensor, keys: Tensor, slots: Tensor, *, unit: int, block_size: int) -> None:
    """As ``page_summaries.update_page_summaries``."""
    tokens, kv_heads, size = keys.shape
    if tokens == 0:
        return
    keys = keys if keys.stride(2) == 1 else keys.contiguous()
    _update[(tokens, kv_heads)](
        summaries, keys, slots.contiguous(), keys.stride(0), keys.stride(1),
        tokens, block_size, ceil_div(block_size, unit),
        UNIT=unit, HEAD=size, PADDED=power_of_2(size), ROWS=ROWS, num_warps=2,
    )  # fmt: skip


def page_summaries_triton(cache: PagedCache, unit: int) -> Tensor:
    """As ``page_summaries.page_summaries``."""
    summaries = new_page_summaries(cache.keys, unit)
    keys, table, size = cache.keys, cache.block_table.contiguous(), cache.head_size
    _build[(cache.kv_heads, ceil_div(cache.capacity, unit), cache.batch)](
        summaries, keys, table, cache.lengths.contiguous(), keys.stride(0), keys.stride(1), keys.stride(2),
        table.stride(0), cache.block_size, ceil_div(cache.block_size, unit),
        UNIT=unit, HEAD=size, PADDED=power_of_2(size), ROWS=ROWS, num_warps=2,
    )  # fmt: skip
    return summaries
