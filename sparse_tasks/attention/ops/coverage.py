"""The fewest key blocks that hold a share of the attention."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import BLOCK, causal_count
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.patterns import block_interactions


def room_for_first(n_q: int, n_k: int, density: float | None) -> bool:
    """Whether the first key block and the diagonal fit into a density if all rows read both; None for any density."""

    def diagonal(end: int) -> int:
        """Interactions of the positions before ``end`` with their own blocks."""
        blocks, rest = divmod(end, BLOCK)
        return blocks * (BLOCK * (BLOCK + 1) // 2) + rest * (rest + 1) // 2

    before = n_k - n_q
    always = diagonal(n_k) - diagonal(before) + BLOCK * max(0, n_k - max(before, BLOCK))
    return density is None or always <= density * causal_count(n_q, n_k)


def blocks_that_hold(
    mass: Tensor,
    *,
    n_q: int,
    n_k: int,
    share: float = 1.0,
    density: float | None = None,
    block: int = BLOCK,
    impl: str = "auto",
) -> BlockIndex:
    """The index under one share for all heads and query blocks, given or found by a density.

    All on the device, without waiting for it: lists are as wide as there are key blocks.

    Args:
        mass: fp32 ``[heads, rows, columns]``, as ``mass_from`` gives it; +inf is always read. What lies after the
            diagonal is ignored.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
        share: Least share of the attention of a row that its blocks hold, in [0, 1].
        density: Instead of it, target interactions over those of dense causal attention, averaged over the heads. The
            index comes as near as blocks allow; of those that need the same share, lower heads and rows come first.
        block: Positions in a block.
        impl: "auto", "triton" or "torch".
    """
    rows, columns = mass.shape[1:]
    row = torch.arange(rows, device=mass.device)[:, None] + (n_k - n_q) // block
    column = torch.arange(columns, device=mass.device)
    if density is None:
        kept = mass > 1 - share
    else:
        target = round(density * causal_count(n_q, n_k) * len(mass))
        cells = block_interactions(row, column, block, block, n_q, n_k)
        order = mass.masked_fill(column > row, float("-inf")).flatten().argsort(descending=True, stable=True)
        added = cells.flatten()[order % cells.numel()]
        # A block that crosses the mark is taken if less than half of it is beyond.
        fits = 2 * added.cumsum(0) - added <= 2 * target
        kept = torch.empty_like(fits).scatter_(0, order, fits).view(mass.shape) | (mass == float("inf"))
    kept = kept & (column <= row)
    blocks, counts = select_top(torch.where(kept, 0.0, float("-inf")), columns, impl=impl)
    return BlockIndex(blocks, counts, block, block, n_q, n_k)
