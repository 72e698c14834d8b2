"""The fewest key blocks that hold a share of the attention."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import BLOCK, causal_count, ceil_div
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.once import cached_small_result
from sparse_tasks.attention.patterns import block_interactions


def room_for_first(n_q: int, n_k: int, density: float | None) -> bool:
    """Whether reading the first key block and the diagonal in all rows fits into a density; None for any density."""

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
    block_q: int | None = None,
    impl: str = "auto",
) -> BlockIndex:
    """The index for one share for all heads and query blocks, given or solved from a density.

    Runs on the device without synchronisation: lists are as wide as the number of key blocks.

    Args:
        mass: fp32 ``[heads, rows, columns]``, as ``mass_from`` gives it; +inf is always read. Entries after the
            diagonal are ignored.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
        share: Minimum share of a row's attention that its blocks hold, in [0, 1].
        density: Instead of ``share``: target interactions over those of dense causal attention, averaged over the
            heads. The index comes as close as blocks allow; among equals, lower heads and rows come first.
        block: Positions in a block of keys.
        block_q: Positions in a block of queries, of which ``block`` is a multiple; ``block`` if None.
        impl: "auto", "triton" or "torch".
    """
    columns = mass.shape[2]
    block_q = block if block_q is None else block_q
    cells, allowed, never = _grid(mass.device, n_q, n_k, block_q, block)
    if density is None:
        kept = mass > 1 - share
    else:
        target = round(density * causal_count(n_q, n_k) * len(mass))
        # Entries after the diagonal have no interactions, so their order does not matter.
        order = mass.flatten().argsort(descending=True, stable=True)
        added = cells.take(order % cells.numel())
        # A block that crosses the target is taken if less than half of it is beyond.
        fits = torch.sub(added, added.cumsum(0), alpha=2) >= -2 * target
        kept = torch.empty_like(fits).scatter_(0, order, fits).view(mass.shape) | (mass == float("inf"))
    blocks, counts = select_top(torch.where(kept, allowed, never), columns, impl=impl)
    return BlockIndex(blocks, counts, block_q, block, n_q, n_k)


@cached_small_result
def always_read(device: torch.device, n_q: int, n_k: int, block: int, first: bool) -> Tensor:
    """Bool ``[rows, columns]``: True on the diagonal, and in the first key block if ``first``; read-only."""
    row, column = _numbers(device, n_q, n_k, block)
    return (column == row) | (column == 0) if first else column == row


@cached_small_result
def after_diagonal(device: torch.device, n_q: int, n_k: int, block: int) -> Tensor:
    """Bool ``[rows, columns]``: True where a key block comes after the query block; read-only."""
    row, column = _numbers(device, n_q, n_k, block)
    return column > row


@cached_small_result
def blocks_before(device: torch.device, n_q: int, n_k: int, block: int) -> Tensor:
    """int64 ``[rows, columns]``: blocks from a key block to the query block, 0 after it; read-only."""
    row, column = _numbers(device, n_q, n_k, block)
    return (row - column).clamp_min(0)


def _numbers(device: torch.device, n_q: int, n_k: int, block: int) -> tuple[Tensor, Tensor]:
    """int64 ``[rows, 1]`` and ``[columns]``: numbers of query blocks and of key blocks."""
    column = torch.arange(ceil_div(n_k, block), device=device)
    return column[(n_k - n_q) // block :, None], column


@cached_small_result
def _grid(device: torch.device, n_q: int, n_k: int, block_q: int, block_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each query block and key block: interactions, int64; 0, or -inf after the diagonal, fp32; and -inf."""
    row = torch.arange((n_k - n_q) // block_q, ceil_div(n_k, block_q), device=device)[:, None]
    column = torch.arange(ceil_div(n_k, block_k), device=device)
    cells = block_interactions(row, column, block_q, block_k, n_q, n_k)
    never = torch.full((), float("-inf"), device=device)
    return cells, torch.where(column * block_k >= (row + 1) * block_q, never, torch.zeros_like(never)), never
