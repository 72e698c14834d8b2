"""Attention of the next token over the pages of the cache that an index lists.

Dense attention is the index of all pages (``PageIndex.dense``); an evicted cache is an index with pages of one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.kernels.dispatch import (
    EIGHT_BITS,
    LATENT,
    check_floats,
    check_heads,
    check_same,
    check_size,
    checked_scale,
    checking,
    implementation,
)
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError


def sparse_decode(
    q: Tensor,
    cache: PagedCache,
    index: PageIndex,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
    return_lse: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention of one query per sequence over the pages listed for its KV head.

    Args:
        q: ``[batch, query_heads, head_size]``; ``query_heads`` is a multiple of the cache's KV heads.
        cache: Keys and values. Positions beyond its lengths are not seen.
        index: Pages of any size, with weights or without; unrelated to the cache's blocks.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".
        return_lse: Whether to return the logarithm of the softmax's denominator too.
        out: Contiguous output tensor; allocated if None.

    Returns:
        ``[batch, query_heads, value_size]`` in q's dtype, 0 where nothing is listed; with ``return_lse`` also fp32
        ``[batch, query_heads]``, the natural logarithm of the sum of exponentials, that of the sink among them; -inf
        where nothing is listed and there is no sink.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    scale = checked_scale(scale, q.shape[2])
    out = q.new_empty(*q.shape[:2], cache.value_size) if out is None else out
    if checking():
        _check(q, cache, index, out)
        softmax.check(q)
    if implementation(impl, q) == "torch":
        return sparse_decode_torch(q, cache, index, scale=scale, softmax=softmax, return_lse=return_lse, out=out)
    from sparse_tasks.attention.kernels.triton.sparse_decode import sparse_decode_triton

    return sparse_decode_triton(q, cache, index, out, scale=scale, softmax=softmax, return_lse=return_lse)


def sparse_decode_torch(
    q: Tensor,
    cache: PagedCache,
    index: PageIndex,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    return_lse: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Torch twin of ``sparse_decode``: positions are gathered, and a softmax is taken over them, in fp32."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out = q.new_empty(*q.shape[:2], cache.value_size) if out is None else out
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    held = cache.kv_heads * index.pages.shape[2] * index.unit * (cache.head_size + cache.value_size)
    for rows, some in cache.groups(held):
        out[rows], lse[rows] = _attend(q[rows], some, index.rows(rows), scale, softmax)
    return (out, lse) if return_lse else out


def _attend(q: Tensor, cache: PagedCache, index: PageIndex, scale: float, softmax: Softmax) -> tuple[Tensor, Tensor]:
    """``sparse_decode_torch`` of sequences whose keys and values are in memory at once, and the logarithms of sums."""
    listed = (torch.arange(index.pages.shape[2], device=q.device) < index.counts[..., None])[..., None]
    within = torch.arange(index.unit, device=q.device)
    position = torch.where(listed, index.pages.long()[..., None] * index.unit + within, cache.capacity).flatten(2)
    block, offset, seen = cache.locate(position)  # [batch, kv_heads, width * unit]
    # Unseen memory in block 0 may contain anything, even NaN.
    where = (block, offset, torch.arange(cache.kv_heads, device=q.device)[:, None])
    keys, values = (torch.where(seen[..., None], x[where], 0).float() for x in (cache.keys, cache.values))
    scores = softmax.capped(q.unflatten(1, (cache.kv_heads, -1)).float() @ keys.mT * scale)
    if index.log_weights is not None:
        scores += index.log_weights.repeat_interleave(index.unit, 2)[:, :, None]
    scores = scores.masked_fill(~seen[:, :, None], float("-inf"))
    lse = softmax.of(slice(None), cache.kv_heads, -1).log_sum(scores)
    weights = torch.where(seen[:, :, None], scores - lse[..., None], float("-inf")).exp()
    return (weights @ values).flatten(1, 2).to(q.dtype), lse.flatten(1)


def check_queries(q: Tensor, cache: PagedCache) -> None:
    """Check that there is one query per sequence, with heads that match the cache.

    Raises:
        UsageError: They do not match.
    """
    if q.ndim != 3 or q.shape[0] != cache.batch or q.shape[2] != cache.head_size:
        expected = f"[{cache.batch}, query_heads, {cache.head_size}]"
        raise UsageError("q", tuple(q.shape), f"has to be {expected}, one query a sequence of the cache")
    check_heads(q.shape[1], cache.kv_heads)
    check_size("head_size", q.shape[2], LATENT, device=q.device.type)
    check_floats(q=q) if cache.keys.dtype == EIGHT_BITS else check_floats(q=q, keys=cache.keys)
    check_same("device", q=q, keys=cache.keys)


def _check(q: Tensor, cache: PagedCache, index: PageIndex, out: Tensor) -> None:
    """Check the inputs of the kernel."""
    check_queries(q, cache)
    check_same("device", q=q, **{"index.pages": index.pages, "index.counts": index.counts}, out=out)
    if index.pages.ndim != 3 or tuple(index.pages.shape[:2]) != (cache.batch, cache.kv_heads):
        expected = f"[{cache.batch}, {cache.kv_heads}, width]"
        raise UsageError("index.pages", tuple(index.pages.shape), f"has to be {expected}, as q and the cache are")
    if index.counts.shape != index.pages.shape[:2]:
        raise UsageError("index.counts", tuple(index.counts.shape), f"has to be {tuple(index.pages.shape[:2])}")
    for name, tensor in (("pages", index.pages), ("counts", index.counts)):
        if tensor.dtype != torch.int32:
            raise UsageError(f"index.{name}", str(tensor.dtype), "has to be torch.int32")
    if index.log_weights is not None:
        check_same("device", q=q, **{"index.log_weights": index.log_weights})
        if index.log_weights.shape != index.pages.shape or index.log_weights.dtype != torch.float32:
            given = f"{index.log_weights.dtype} {tuple(index.log_weights.shape)}"
            raise UsageError("index.log_weights", given, f"has to be torch.float32 {tuple(index.pages.shape)}")
    if index.unit < 1:
        raise UsageError("index.unit", index.unit, "has to be at least 1 position")
    if out.shape != (*q.shape[:2], cache.value_size):
        raise UsageError("out", tuple(out.shape), f"has to be {(*q.shape[:2], cache.value_size)}")
    check_floats(q=q, out=out)
    if not out.is_contiguous():
        raise UsageError("out", out.stride(), "strides have to be those of a contiguous tensor")
