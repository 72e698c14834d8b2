"""Positions of page lists in Triton: one launch for all layers of a step, which keeps counting cheap."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div


@triton.jit(do_not_specialize=["lists", "batch", "kv_heads", "layers", "width"])
def _add(
    read, slots, pages, counts, lengths, lists, batch, kv_heads, layers, width,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < lists
    layer, query, head = number // (batch * kv_heads), number // kv_heads % batch, number % kv_heads
    count = tl.load(counts + number, mask=inside, other=0)
    some = count > 0
    last = tl.load(pages + number.to(tl.int64) * width + count - 1, mask=some, other=0)
    length = tl.load(lengths + query, mask=some, other=0)
    slot = tl.load(slots + query, mask=some, other=0)
    missing = tl.maximum((last.to(tl.int64) + 1) * UNIT - length, 0)
    # Queries of a request that was preempted share its sums.
    tl.atomic_add(read + (slot * layers + layer) * kv_heads + head, count.to(tl.int64) * UNIT - missing, mask=some)


def add_positions_read_triton(
    read: Tensor, slots: Tensor, pages: Tensor, counts: Tensor, lengths: Tensor, *, unit: int
) -> None:
    """As ``positions_read.add_positions_read``."""
    layers, batch, kv_heads, width = pages.shape
    lists = layers * batch * kv_heads
    if lists:
        _add[(ceil_div(lists, 128),)](
            read, slots.contiguous(), pages.contiguous(), counts.contiguous(), lengths.contiguous(),
            lists, batch, kv_heads, layers, width, UNIT=unit, BLOCK=128, num_warps=4,
        )  # fmt: skip
