"""Vertical-slash prefill in plain Triton: the kernel of ``block_sparse.py`` with bands for lists, then verticals."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, LineIndex
from sparse_tasks.attention.kernels.triton.block_sparse import FAR, launch


def vertical_slash_triton(q: Tensor, k: Tensor, v: Tensor, index: LineIndex, *, scale: float) -> Tensor:
    """As ``vertical_slash.vertical_slash_attention``."""
    heads = q.shape[1]
    rows = BlockIndex.rows(index.n_q, index.n_k, index.block_q)
    row = torch.arange(1, rows + 1, device=q.device, dtype=torch.int32) + (index.n_k - index.n_q) // index.block_q
    columns, bands = index.padded(heads, 128, FAR)
    # How many bands reach back no further than position 0, and how many verticals lie before the tile's end.
    counts = torch.searchsorted(
        bands, (row * (index.block_q // index.unit)).expand(heads, -1).contiguous(), out_int32=True
    )
    reach = torch.searchsorted(columns, (row * index.block_q).expand(heads, -1).contiguous(), out_int32=True)
    flags = index.band_mask().to(torch.int8).repeat_interleave(heads // len(index.bands), 0)
    return launch(q, k, v, bands, counts, index, index.block_q, scale, lines=(columns, reach, flags))
