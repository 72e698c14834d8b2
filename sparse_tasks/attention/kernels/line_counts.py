"""Computed interactions for many numbers of verticals and slashes at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparse_tasks.attention.index import band_interactions, queries_outside
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_same, implementation
from sparse_tasks.core.errors import UsageError


class LineCounts(NamedTuple):
    """Interactions of the best lines.

    Attributes:
        computed: int64 ``[tried]``: causal interactions of all heads.
        alone: int32 ``[tried, heads, units]``: what a vertical in each unit of keys adds to the bands; None if
            verticals are counted.
    """

    computed: Tensor
    alone: Tensor | None


def line_counts(
    best: Tensor,
    lines: Tensor,
    rank: Tensor | None = None,
    *,
    n_q: int,
    n_k: int,
    block_q: int,
    unit: int,
    impl: str = "auto",
) -> LineCounts:
    """Count the interactions of a ``LineIndex`` of each head's best lines, without making one.

    Args:
        best: int32 ``[heads, bands]``: the rank, among its head's slashes, of the best that crosses each band; the best
            is distance 0, so a key's own row always sees it.
        lines: int32 ``[tried]``: number of slashes of each head, and of verticals.
        rank: int32 ``[heads, n_k]``: the rank of each vertical within its head; None counts only bands.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
        block_q: Queries in the tiles that slashes are rounded up to, a multiple of ``unit``.
        unit: Keys in these tiles.
        impl: "auto", "triton" or "torch".

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    tensors = {"best": best, "lines": lines} | ({} if rank is None else {"rank": rank})
    shapes = {"best": (len(best), ceil_div(n_k, unit) + block_q // unit), "lines": (lines.numel(),),
              "rank": (len(best), n_k)}  # fmt: skip
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int32 or tensor.shape != shapes[name]:
            raise UsageError(name, f"{tensor.dtype} {tuple(tensor.shape)}", f"has to be torch.int32 {shapes[name]}")
    check_same("device", **tensors)
    if implementation(impl, best) == "torch":
        return line_counts_torch(best, lines, rank, n_q=n_q, n_k=n_k, block_q=block_q, unit=unit)
    from sparse_tasks.attention.kernels.triton.line_counts import line_counts_triton

    return line_counts_triton(best, lines, rank, n_q=n_q, n_k=n_k, block_q=block_q, unit=unit)


def line_counts_torch(
    best: Tensor, lines: Tensor, rank: Tensor | None, *, n_q: int, n_k: int, block_q: int, unit: int
) -> LineCounts:
    """Torch twin of ``line_counts``."""
    tiles = band_interactions(best.device, n_q, n_k, block_q, unit)
    kept = best < lines[:, None, None]
    alone = queries_outside(kept, n_q, n_k, block_q, unit)
    computed = (kept * tiles).sum((1, 2))
    if rank is None:
        return LineCounts(computed, alone.int())
    taken = torch.nn.functional.pad(rank < lines[:, None, None], (0, alone.shape[2] * unit - n_k))
    taken = taken.unflatten(2, (-1, unit)).sum(3)
    return LineCounts(computed + (taken * alone).sum((1, 2)), None)
