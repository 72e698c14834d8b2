"""Count of the positions that decoding reads, for many page lists at once."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import check_same, implementation
from sparse_tasks.core.errors import UsageError


def add_positions_read(
    read: Tensor, slots: Tensor, pages: Tensor, counts: Tensor, lengths: Tensor, *, unit: int, impl: str = "auto"
) -> None:
    """Add the positions of a step's page lists to sums by request, layer and KV head, in place.

    Pages of a list ascend, so only the last can be partial.

    Args:
        read: int64 ``[requests, layers, kv_heads]``, contiguous: the sums.
        slots: int64 ``[batch]``: the row of the sums that each query belongs to; several may share one.
        pages: int32 ``[layers, batch, kv_heads, width]``, as a ``PageIndex`` of each layer has them.
        counts: int32 ``[layers, batch, kv_heads]``.
        lengths: int32 ``[batch]``: cached positions.
        unit: Positions in a page.
        impl: "auto", "triton" or "torch".

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    if pages.ndim != 4 or counts.shape != pages.shape[:3]:
        raise UsageError("counts", tuple(counts.shape), f"has to be as pages, {tuple(pages.shape)}, but for the last")
    layers, batch, kv_heads, _ = pages.shape
    if read.ndim != 3 or tuple(read.shape[1:]) != (layers, kv_heads) or not read.is_contiguous():
        raise UsageError("read", tuple(read.shape), f"has to be [requests, {layers}, {kv_heads}], contiguous")
    types = {"read": torch.int64, "slots": torch.int64, "pages": torch.int32, "counts": torch.int32,
              "lengths": torch.int32}  # fmt: skip
    tensors = {"read": read, "slots": slots, "pages": pages, "counts": counts, "lengths": lengths}
    for name, tensor in tensors.items():
        if tensor.dtype != types[name]:
            raise UsageError(name, str(tensor.dtype), f"has to be {types[name]}")
        if name in ("slots", "lengths") and tuple(tensor.shape) != (batch,):
            raise UsageError(name, tuple(tensor.shape), f"has to be [{batch}], one for each query")
    check_same("device", **tensors)
    if unit < 1:
        raise UsageError("unit", unit, "has to be at least 1 position")
    if implementation(impl, pages) == "torch":
        return add_positions_read_torch(read, slots, pages, counts, lengths, unit=unit)
    from sparse_tasks.attention.kernels.triton.positions_read import add_positions_read_triton

    return add_positions_read_triton(read, slots, pages, counts, lengths, unit=unit)


def add_positions_read_torch(
    read: Tensor, slots: Tensor, pages: Tensor, counts: Tensor, lengths: Tensor, *, unit: int
) -> None:
    """Torch twin of ``add_positions_read``."""
    if not pages.shape[3]:
        return  # empty lists
    last = pages.gather(3, (counts.long() - 1).clamp_min(0)[..., None])[..., 0].long()
    missing = ((last + 1) * unit - lengths[:, None]).clamp_min(0)
    held = torch.where(counts > 0, counts.long() * unit - missing, 0)
    read.index_add_(0, slots, held.transpose(0, 1))
