"""The largest components of queries in Triton: one program per KV head and sequence, no sort.

As in ``selection.py``, bisection over the bits of the (non-negative) sums finds the smallest one to keep.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import power_of_2

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit(do_not_specialize=["r"])
def _choose(
    q, some, numbers, scales, stride_qb, stride_qh, r, GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Writes the chosen components, or only their numbers, whichever is not None."""
    kv_head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, dim = tl.arange(0, ROWS), tl.arange(0, PADDED)
    inside = (row < GROUP)[:, None] & (dim < HEAD)[None, :]
    at = q + sequence * stride_qb + (kv_head * GROUP + row)[:, None] * stride_qh + dim[None, :]
    queries = tl.load(at, mask=inside, other=0.0)
    sizes = tl.abs(queries.to(tl.float32))
    bits = tl.where(dim < HEAD, tl.sum(sizes, 0).to(tl.int32, bitcast=True), -1)
    # At least the number to keep are at or above low, fewer at or above high.
    low, high = tl.full([], 0, tl.int32), tl.max(bits, 0) + 1
    while high - low > 1:
        middle = low + (high - low) // 2
        enough = tl.sum((bits >= middle).to(tl.int32), 0) >= r
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    above = (bits > low).to(tl.int32)
    tied = (bits == low).to(tl.int32)
    kept = (above + tied * (tl.cumsum(tied, 0) <= r - tl.sum(above, 0)).to(tl.int32)) > 0
    share = tl.sum(tl.where(kept[None, :], sizes, 0.0), 1) / tl.maximum(tl.sum(sizes, 1), _TINY)
    line = sequence * tl.num_programs(0) + kv_head
    head = line * GROUP + row
    tl.store(scales + head, 1.0 / tl.maximum(tl.sqrt(share * HEAD), _TINY), mask=row < GROUP)
    if some is not None:
        tl.store(some + head[:, None] * HEAD + dim[None, :], tl.where(kept[None, :], queries, 0.0), mask=inside)
    if numbers is not None:
        tl.store(numbers + line * r + tl.cumsum(kept.to(tl.int32), 0) - 1, dim, mask=kept)


def keep_largest_triton(q: Tensor, kv_heads: int, r: int) -> tuple[Tensor, Tensor]:
    """As ``components.keep_largest``."""
    some = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    return some, _chosen(q, kv_heads, r, some=some)


def top_components_triton(q: Tensor, kv_heads: int, r: int) -> tuple[Tensor, Tensor]:
    """As ``components.top_components``."""
    numbers = torch.empty(len(q), kv_heads, min(r, q.shape[2]), dtype=torch.int32, device=q.device)
    return numbers, _chosen(q, kv_heads, r, numbers=numbers)


def _chosen(q: Tensor, kv_heads: int, r: int, *, some: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
    """Scales of the queries whose components are written to one of the two."""
    batch, heads, size = q.shape
    group = heads // kv_heads
    q = q if q.stride(2) == 1 else q.contiguous()
    scales = torch.empty(batch, heads, dtype=torch.float32, device=q.device)
    _choose[(kv_heads, batch)](
        q, some, numbers, scales, q.stride(0), q.stride(1), min(r, size),
        GROUP=group, ROWS=power_of_2(group), HEAD=size, PADDED=power_of_2(size), num_warps=4,
    )  # fmt: skip
    return scales
