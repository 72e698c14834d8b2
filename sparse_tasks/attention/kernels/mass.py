"""The share of a row's weight in an entry and all smaller ones."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import implementation

WHOLE = 1024
"""Most columns that the kernel takes, which compares each with each; sorting is for longer rows."""


def mass_from(weights: Tensor, first: Tensor | None = None, least: int = 0, *, impl: str = "auto") -> Tensor:
    """For each entry of a row, the share of weight in it and all entries after it, in descending order of weight.

    The smallest set with a share ``p`` is the entries for which this is above ``1 - p``. Small entries are summed
    separately from large ones, in fp64, so that they stay distinct; among equal entries the lower column comes first.

    Args:
        weights: fp32 ``[..., columns]``, at least 0; of -inf, which cannot be chosen, the result is -inf.
        first: bool, broadcast to weights: entries that always come first, and count; +inf in the result.
        least: Minimum number of entries of a row that are +inf.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[..., columns]``.
    """
    if implementation(impl, weights) == "torch" or weights.shape[-1] > WHOLE:
        return mass_from_torch(weights, first, least)
    from sparse_tasks.attention.kernels.triton.mass import mass_from_triton

    return mass_from_triton(weights, first, least)


def mass_from_torch(weights: Tensor, first: Tensor | None = None, least: int = 0) -> Tensor:
    """Torch twin of ``mass_from``: a stable sort and a running sum."""
    ranked = weights if first is None else weights.masked_fill(first, float("inf"))
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    sums = weights.clamp_min(0).gather(-1, order).flip(-1).cumsum(-1, dtype=torch.float64).flip(-1).float()
    share = sums / sums[..., :1]  # the first of a row is exactly 1
    share[..., :least] = float("inf")
    mass = torch.empty_like(weights).scatter_(-1, order, share).masked_fill(weights == float("-inf"), float("-inf"))
    return mass if first is None else mass.masked_fill(first, float("inf"))
