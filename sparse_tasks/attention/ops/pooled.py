"""Budgets that heads share: the best entries of all heads together, and a scale on which heads can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.selection import select_top


def top_of_all_heads(scores: Tensor, count: int | Tensor, *, width: int, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """The largest entries over all heads of a row, as a list for each head.

    Args:
        scores: fp32 ``[..., heads, columns]``. -inf cannot be chosen, +inf comes first; of equal entries those of lower
            heads come first, then lower columns.
        count: How many of all heads together; or int32, broadcast to ``[...]``.
        width: The most that a head may take.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[..., heads, min(width, columns)]``: the chosen columns, ascending, past the count anything; and the
        counts, int32 ``[..., heads]``.
    """
    flat = scores.flatten(-2)
    size = flat.shape[-1]
    chosen, total = select_top(flat, count, width=size, impl=impl)
    valid = torch.arange(size, device=flat.device) < total[..., None]
    where = torch.where(valid, chosen, size).long()  # what means nothing goes to a column that is cut off
    kept = torch.zeros(*flat.shape[:-1], size + 1, dtype=torch.bool, device=flat.device).scatter_(-1, where, True)
    kept = kept[..., :size].view(scores.shape)
    return select_top(torch.where(kept, 0.0, float("-inf")), width, impl=impl)


def mass_from(weights: Tensor, first: Tensor | None = None, least: int = 0) -> Tensor:
    """For each entry of a row the share of weight that it and all after it hold, by weight from the largest on.

    The fewest entries that hold a share ``p`` are those for which this is above ``1 - p``. Summed from the smallest on,
    so that it tells small ones apart; of equal entries the lower column comes first.

    Args:
        weights: fp32 ``[..., columns]``, at least 0; of -inf, which cannot be chosen, the result is -inf.
        first: bool, broadcast to weights: entries that come first, and count; +inf in the result.
        least: How many entries of a row are +inf at least.

    Returns:
        fp32 ``[..., columns]``.
    """
    ranked = weights if first is None else weights.masked_fill(first, float("inf"))
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    sums = weights.clamp_min(0).gather(-1, order).flip(-1).cumsum(-1).flip(-1)
    share = sums / sums[..., :1]  # the first of a row is 1, to the last bit
    share[..., :least] = float("inf")
    mass = torch.empty_like(weights).scatter_(-1, order, share).masked_fill(weights == float("-inf"), float("-inf"))
    return mass if first is None else mass.masked_fill(first, float("inf"))
