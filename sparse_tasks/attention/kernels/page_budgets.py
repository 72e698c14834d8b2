"""Page budgets of the sequences of a batch, as a share of each one's length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import implementation
from sparse_tasks.core.errors import UsageError


def page_budget(length: int, density: float, unit: int) -> int:
    """The number of pages whose positions, with a partial last page, come nearest to ``length * density``; at least 1.

    Args:
        length: Positions.
        density: The share of them that may be read.
        unit: Positions in a page.
    """
    return max(1, math.floor(ceil_div(length, unit) - length * ((1 - density) / unit) + 0.5))


def page_budgets(lengths: Tensor, density: float, unit: int, *, impl: str = "auto") -> Tensor:
    """``page_budget`` of each sequence, on the device, bit-identical to the host's.

    Args:
        lengths: int32 ``[batch]``.
        density: The share of its positions that each sequence may read, in (0, 1].
        unit: Positions in a page.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[batch]``.

    Raises:
        UsageError: Types or sizes do not fit.
    """
    if lengths.ndim != 1 or lengths.dtype != torch.int32:
        raise UsageError("lengths", f"{lengths.dtype} {tuple(lengths.shape)}", "has to be torch.int32 [batch]")
    if not 0 < density <= 1:
        raise UsageError("density", density, "has to be a share in (0, 1]")
    if unit < 1:
        raise UsageError("unit", unit, "has to be at least 1 position")
    if implementation(impl, lengths) == "torch":
        return page_budgets_torch(lengths, density, unit)
    from sparse_tasks.attention.kernels.triton.page_budgets import page_budgets_triton

    return page_budgets_triton(lengths, density, unit)


def page_budgets_torch(lengths: Tensor, density: float, unit: int) -> Tensor:
    """Torch twin of ``page_budgets``."""
    pages = torch.div(lengths + (unit - 1), unit, rounding_mode="floor").double()
    return (pages - lengths.double() * ((1 - density) / unit) + 0.5).floor().clamp_min(1).int()
