"""Budgets that heads share: the best entries of all heads together."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.selection import select_top


def top_of_all_heads(scores: Tensor, count: int | Tensor, *, width: int, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """The largest entries over all heads of a row, as a list for each head.

    Args:
        scores: fp32 ``[..., heads, columns]``. -inf cannot be chosen, +inf comes first; among equal entries lower heads
            come first, then lower columns.
        count: How many in all heads together; or int32, broadcast to ``[...]``.
        width: Maximum entries per head.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[..., heads, min(width, columns)]``: the chosen columns, ascending, undefined past the count; and the
        counts, int32 ``[..., heads]``.
    """
    flat = scores.flatten(-2)
    size = flat.shape[-1]
    chosen, total = select_top(flat, count, width=size, impl=impl)
    valid = torch.arange(size, device=flat.device) < total[..., None]
    where = torch.where(valid, chosen, size).long()  # undefined entries go to an extra column that is cut off
    kept = torch.zeros(*flat.shape[:-1], size + 1, dtype=torch.bool, device=flat.device).scatter_(-1, where, True)
    kept = kept[..., :size].view(scores.shape)
    return select_top(torch.where(kept, 0.0, float("-inf")), width, impl=impl)
