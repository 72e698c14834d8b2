"""Attention of a prompt over the key blocks that an index lists. Dense causal attention is the index of all blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, LineIndex, PrefillIndex
from sparse_tasks.attention.kernels.dispatch import check_same, check_sequence, checked_scale, prefill_implementation
from sparse_tasks.attention.once import cached_small_result
from sparse_tasks.attention.reference import masked_attention
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError

_BLOCK = 128  # block size of dense attention, which only affects speed


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: BlockIndex,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Softmax attention in which each block of queries sees the key blocks of its list, except later keys.

    Args:
        q: ``[n_q, query_heads, head_size]``; the queries are the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        index: Block sizes 16, 32, 64 or 128; blocks below 64 are gathered into larger tiles.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        ``[n_q, query_heads, value_size]`` in q's dtype; 0 where a query sees nothing.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    scale = check_prefill(q, k, v, index, scale, softmax)
    chosen = prefill_implementation(impl, q, v, index.block_q, index.block_k)
    if chosen == "torch":
        return block_sparse_torch(q, k, v, index, scale=scale, softmax=softmax)
    if chosen == "gluon":
        from sparse_tasks.attention.kernels.gluon.block_sparse import block_sparse_gluon

        return block_sparse_gluon(q, k, v, index, scale=scale, softmax=softmax)
    from sparse_tasks.attention.kernels.triton.block_sparse import block_sparse_triton

    return block_sparse_triton(q, k, v, index, scale=scale, softmax=softmax)


def block_sparse_torch(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float | None = None, softmax: Softmax = PLAIN
) -> Tensor:
    """Torch twin of ``block_sparse_attention``: a masked softmax."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    return masked_attention(q, k, v, index.pattern(), scale=scale, softmax=softmax)


def dense_index(device: torch.device, n_q: int, n_k: int) -> BlockIndex:
    """The index of dense attention; shared by all layers if small."""
    return _dense(device, n_q, n_k, _BLOCK)


@cached_small_result
def _dense(device: torch.device, n_q: int, n_k: int, block: int) -> BlockIndex:
    return BlockIndex.dense(n_q, n_k, block, block, device)


def check_prefill(q: Tensor, k: Tensor, v: Tensor, index: PrefillIndex, scale: float | None, softmax: Softmax) -> float:
    """Check the inputs of a prompt's kernel, and return the scale.

    Raises:
        UsageError: Shapes, types, devices, the index, the scale or the sinks do not fit.
    """
    check_sequence(q, k, v)
    softmax.check(q)
    tensors = (
        {"blocks": index.blocks, "counts": index.counts}
        if isinstance(index, BlockIndex)
        else {name: getattr(index, name) for name in ("columns", "column_counts", "bands", "band_counts")}
    )
    check_same("device", q=q, **{f"index.{name}": tensor for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        if str(tensor.dtype) != "torch.int32":
            raise UsageError(f"index.{name}", str(tensor.dtype), "has to be torch.int32")
    if (index.n_q, index.n_k) != (len(q), len(k)):
        raise UsageError("index", (index.n_q, index.n_k), f"has other lengths than q and k, {(len(q), len(k))}")
    heads = next(iter(tensors.values())).shape[0]
    if heads not in (1, k.shape[1], q.shape[1]):
        raise UsageError("index", heads, f"heads have to be 1, {k.shape[1]} (KV heads) or {q.shape[1]} (query heads)")
    if isinstance(index, BlockIndex):
        rows = BlockIndex.rows(index.n_q, index.n_k, index.block_q)
        if index.blocks.ndim != 3 or index.blocks.shape[1] != rows or index.counts.shape != index.blocks.shape[:2]:
            raise UsageError("index.blocks", tuple(index.blocks.shape), f"has to be [heads, {rows}, width]")
        for name, size in (("block_q", index.block_q), ("block_k", index.block_k)):
            if size not in (16, 32, 64, 128):
                raise UsageError(f"index.{name}", size, "has to be 16, 32, 64 or 128")
    elif isinstance(index, LineIndex):
        for name in ("columns", "bands"):
            if tensors[name].ndim != 2 or len(tensors[name]) != heads:
                raise UsageError(
                    f"index.{name}", tuple(tensors[name].shape), f"has to be [heads, width], heads {heads}"
                )
        for name in ("column_counts", "band_counts"):
            if tensors[name].shape != (heads,):
                raise UsageError(f"index.{name}", tuple(tensors[name].shape), f"has to be [heads], heads {heads}")
        if index.block_q not in (64, 128) or index.unit not in (64, 128) or index.block_q < index.unit:
            raise UsageError(
                "index", (index.block_q, index.unit), "tiles have to be 64 or 128, block_q a multiple of unit"
            )
    return checked_scale(scale, q.shape[2])
