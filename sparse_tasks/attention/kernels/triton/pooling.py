"""Block means in Triton. Memory-bound: every byte is read once, in tiles that keep enough reads in flight."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2

TILE: Final = 8192
"""Elements of a tile: at 4 warps a thread has 8 reads of 16 bytes under way in bf16."""


@triton.jit(do_not_specialize=["n", "offset", "blocks"])
def _pool(
    x, out, stride_n, stride_h, n, offset, blocks, heads,
    BLOCK: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # Heads run together: those of a token are adjacent in memory.
    block = tl.program_id(1)
    lane = tl.arange(0, HEADS * PADDED)
    head, dim = tl.program_id(0) * HEADS + lane // PADDED, lane % PADDED
    inside = (head < heads) & (dim < HEAD)
    first = (offset // BLOCK + block) * BLOCK - offset  # first token of the block; negative if partial
    total = tl.zeros([ROWS, HEADS * PADDED], tl.float32)
    for step in tl.static_range(0, BLOCK, ROWS):
        within = step + tl.arange(0, ROWS)
        token = first + within
        held = ((within < BLOCK) & (token >= 0) & (token < n))[:, None] & inside[None, :]
        where = token.to(tl.int64)[:, None] * stride_n + (head.to(tl.int64) * stride_h + dim)[None, :]
        total += tl.load(x + where, mask=held, other=0.0).to(tl.float32)
    tokens = tl.minimum(first + BLOCK, n) - tl.maximum(first, 0)
    mean = tl.sum(total, 0) / tokens
    tl.store(out + (head.to(tl.int64) * blocks + block) * HEAD + dim, mean.to(out.dtype.element_ty), mask=inside)


def mean_pool_triton(x: Tensor, block: int, *, offset: int = 0) -> Tensor:
    """As ``pooling.mean_pool``."""
    n, heads, size = x.shape
    x = x if x.stride(2) == 1 else x.contiguous()
    blocks = ceil_div(offset + n, block) - offset // block
    out = torch.empty(heads, blocks, size, dtype=x.dtype, device=x.device)
    padded, rows = power_of_2(size), min(32, power_of_2(block))
    together = max(1, min(power_of_2(heads), TILE // rows // padded))
    _pool[(ceil_div(heads, together), blocks)](
        x, out, x.stride(0), x.stride(1), n, offset, blocks, heads,
        BLOCK=block, HEAD=size, PADDED=padded, HEADS=together, ROWS=rows, num_warps=4,
    )  # fmt: skip
    return out
