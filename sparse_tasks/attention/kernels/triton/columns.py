"""Keys and values of each head's verticals, gathered side by side, so that they can be read as tiles."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import power_of_2

TILE: Final = 64
"""Verticals of a program."""


@triton.jit(do_not_specialize=["width", "far"])
def _gather(
    k, v, columns, out_k, out_v, stride_kn, stride_kh, stride_vn, stride_vh, width, far, group, index_group,
    HEAD: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    head, kv_head = tl.program_id(1), (tl.program_id(1) // group).to(tl.int64)
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    dim = tl.arange(0, PADDED)
    columns += (head // index_group).to(tl.int64) * width
    at = tl.load(columns + place)
    # Columns ascend, with far ones last; the next tile is part of the same 128 keys, and must be finite.
    if tl.load(columns + tl.program_id(0) // 2 * 2 * TILE) < far:
        held = (at < far)[:, None] & (dim < HEAD)[None, :]
        row = at.to(tl.int64)[:, None]
        key = tl.load(k + row * stride_kn + kv_head * stride_kh + dim[None, :], mask=held, other=0.0)
        value = tl.load(v + row * stride_vn + kv_head * stride_vh + dim[None, :], mask=held, other=0.0)
        to = (place.to(tl.int64)[:, None] * tl.num_programs(1) + head) * HEAD + dim[None, :]
        tl.store(out_k + to, key, mask=(dim < HEAD)[None, :])
        tl.store(out_v + to, value, mask=(dim < HEAD)[None, :])


def gather_columns(k: Tensor, v: Tensor, columns: Tensor, heads: int, far: int) -> tuple[Tensor, Tensor]:
    """The keys and values at each head's verticals.

    Args:
        k: ``[n_k, kv_heads, head_size]``.
        v: Like ``k``.
        columns: int32 ``[index_heads, width]``, contiguous, ascending, ``far`` past the last; the width is a multiple
            of 128. ``index_heads`` is ``query_heads``, ``kv_heads`` or 1.
        heads: Query heads.
        far: Value for no vertical.

    Returns:
        ``[width, query_heads, head_size]`` twice: 0 where there is no vertical; chunks of 128 without any are not
        written.
    """
    (index_heads, width), (_, kv_heads, size) = columns.shape, k.shape
    k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (k, v))
    out = torch.empty(2, width, heads, size, dtype=k.dtype, device=k.device)
    _gather[(width // TILE, heads)](
        k, v, columns, out[0], out[1], k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        width, far, heads // kv_heads, heads // index_heads,
        HEAD=size, PADDED=power_of_2(size), TILE=TILE, num_warps=4,
    )  # fmt: skip
    return out[0], out[1]
