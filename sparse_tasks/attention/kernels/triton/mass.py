"""Shares of weight in Triton: one program per row, no sort, since all pairs of entries are compared."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import power_of_2

TILE: Final = 64
"""Entries that are compared with as many at once."""


@triton.jit
def _ranked(weights, first, column, columns, FIRST: tl.constexpr):
    """Weights for ranking and for summing; -inf past the last column."""
    weight = tl.load(weights + column, mask=column < columns, other=float("-inf"))
    rank = weight
    if FIRST:
        rank = tl.where(tl.load(first + column, mask=column < columns, other=0) != 0, float("inf"), weight)
    return weight, rank, tl.maximum(weight, 0.0).to(tl.float64)


@triton.jit(do_not_specialize=["rows_of_first", "columns", "least"])
def _mass(
    weights, first, out, rows_of_first, columns, least,
    FIRST: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    weights += row * columns
    out += row * columns
    if FIRST:
        first += row % rows_of_first * columns
    lane = tl.arange(0, TILE)
    whole = tl.zeros([TILE], tl.float64)
    for start in range(0, columns, TILE):
        whole += _ranked(weights, first, start + lane, columns, FIRST)[2]
    total = tl.sum(whole, 0).to(tl.float32)
    for start in range(0, columns, TILE):
        column = start + lane
        # Names in a loop must keep their type.
        weight, rank, own = _ranked(weights, first, column, columns, FIRST)
        held = tl.zeros([TILE], tl.float64)
        before = tl.zeros([TILE], tl.int32)
        for other in range(0, columns, TILE):
            at = other + lane
            raw, others, added = _ranked(weights, first, at, columns, FIRST)
            equal = others[None, :] == rank[:, None]
            after = (others[None, :] < rank[:, None]) | (equal & (at[None, :] >= column[:, None]))
            held += tl.sum(tl.where(after, added[None, :], 0.0), 1)
            before += tl.sum((~after).to(tl.int32), 1)
        share = tl.div_rn(held.to(tl.float32), tl.where(total > 0, total, 1.0))
        share = tl.where(before == 0, 1.0, share)  # exactly, as in the twin
        share = tl.where(before < least, float("inf"), share)
        share = tl.where(weight == float("-inf"), float("-inf"), share)
        share = tl.where(rank == float("inf"), float("inf"), share)
        tl.store(out + column, share, mask=column < columns)


def mass_from_triton(weights: Tensor, first: Tensor | None, least: int) -> Tensor:
    """As ``mass.mass_from``."""
    weights = weights.contiguous()
    out, columns = torch.empty_like(weights), weights.shape[-1]
    if not weights.numel():
        return out
    # The forced entries usually do not depend on the leading dimension (heads), and are then not expanded.
    table = weights if first is None else first.expand(weights.shape[-max(1, first.ndim) :]).contiguous()
    _mass[(weights.numel() // columns,)](
        weights, table, out, table.numel() // columns, columns, least,
        FIRST=first is not None, TILE=min(TILE, max(16, power_of_2(columns))), num_warps=4,
    )  # fmt: skip
    return out
