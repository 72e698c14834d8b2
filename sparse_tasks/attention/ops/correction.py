"""Correction of sparse attention by queries that are also computed densely, with torch on every device."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.once import cached_result
from sparse_tasks.attention.softmax import PLAIN, Softmax

_ROWS: Final = 512  # queries per KV head (over its group) in one call of torch's attention


@cached_result
def anchors(device: torch.device, n_q: int, n_k: int, every: int) -> tuple[Tensor, Tensor]:
    """int64 ``[anchors]`` and ``[n_q]``: rows of the anchors, and the anchor of each query; read-only.

    Anchors are the queries at multiples of ``every``, and the first.
    """
    position = torch.arange(n_k - n_q, n_k, device=device)
    of = position // every - (n_k - n_q) // every
    number = torch.arange((n_k - 1) // every - (n_k - n_q) // every + 1, device=device)
    return (number * every - (n_k - n_q) % every).clamp_min(0), of


def corrected(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    every: int,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Outputs of sparse attention, with each anchor's difference to dense attention added up to the next anchor.

    Args:
        out: ``[n_q, query_heads, value_size]``: of all queries, computed under an index.
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        every: Positions from one anchor to the next.
        scale: Scale of the scores; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.

    Returns:
        Like ``out``; those of the anchors are dense.
    """
    rows, of = anchors(q.device, len(q), len(k), every)
    dense = _dense(q[rows], k, v, rows + (len(k) - len(q)), every, scale, softmax)
    lacking = dense.float() - out[rows].float()
    return (out.float() + lacking[of]).to(out.dtype)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, every: int, scale: float | None, softmax: Softmax
) -> Tensor:
    """Dense attention of queries ``[anchors, query_heads, head_size]`` at positions ``every`` apart, ascending."""
    (count, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    scale, group, out = size**-0.5 if scale is None else scale, heads // kv_heads, q.new_empty(*q.shape[:2], v.shape[2])
    # All queries of a KV head are rows of one product.
    queries = q.view(count, kv_heads, group, size).permute(1, 2, 0, 3)
    at_once = max(1, _ROWS // group)
    for start in range(0, count, at_once):
        some = slice(start, min(start + at_once, count))
        end = max(1, n_k - (count - some.stop) * every)
        seen = torch.arange(end, device=q.device) <= position[some, None]
        query, keys, values = queries[:, :, some], k[:end].transpose(0, 1), v[:end].transpose(0, 1)
        if softmax.plain:
            attended = torch.nn.functional.scaled_dot_product_attention(
                query.flatten(1, 2)[None], keys[None], values[None], attn_mask=seen.repeat(group, 1), scale=scale
            )[0].unflatten(1, (group, -1))
        else:
            scores = softmax.capped(query.float() @ keys.float().mT[:, None] * scale)
            weights = softmax.of(slice(None), kv_heads, -1, 1).weights(scores.masked_fill(~seen, float("-inf")))
            attended = (weights @ values.float()[:, None]).to(q.dtype)
        out[some] = attended.permute(2, 0, 1, 3).flatten(1, 2)
    return out
