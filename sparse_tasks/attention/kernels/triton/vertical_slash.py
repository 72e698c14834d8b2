"""Vertical-slash prefill in plain Triton: the kernel of ``block_sparse.py`` over bands, then verticals."""

from __future__ import annotations

from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.kernels.triton.block_sparse import launch
from sparse_tasks.attention.kernels.triton.lines import tile_lists
from sparse_tasks.attention.softmax import PLAIN, Softmax


def vertical_slash_triton(
    q: Tensor, k: Tensor, v: Tensor, index: LineIndex, *, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """As ``vertical_slash.vertical_slash_attention``."""
    columns, counts, reach, flags = tile_lists(index, stretch=1)
    lines = columns, reach, flags
    return launch(q, k, v, index.bands, counts, index, index.block_q, scale, softmax, lines=lines)
