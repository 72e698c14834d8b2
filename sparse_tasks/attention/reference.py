"""Reference of the kernels: softmax attention in fp32 under a pattern's mask."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.patterns import Everything, Pattern
from sparse_tasks.attention.softmax import PLAIN, Softmax

_CELLS = 1 << 26  # scores in memory at once: 256 MB of fp32
_ROWS = 128  # queries per call of torch's own attention


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | None = None,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Masked softmax attention of one sequence.

    Args:
        q: ``[n_q, query_heads, head_size]``; the queries are the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``; ``query_heads`` is a multiple of ``kv_heads``.
        v: ``[n_k, kv_heads, value_size]``.
        pattern: What queries see, causality understood; its heads are 1, ``kv_heads`` or ``query_heads``. None: all.
        scale: Scale of the scores; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.

    Returns:
        fp32 ``[n_q, query_heads, value_size]``; 0 where a query sees nothing.
    """
    pattern = pattern or Everything()
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    scale = size**-0.5 if scale is None else scale
    out = torch.empty(n_q, heads, v.shape[2], dtype=torch.float32, device=q.device)
    keys = torch.arange(n_k, device=q.device)
    rows = max(1, _CELLS // n_k)
    for head in range(heads):
        key, value = (x[:, head * kv_heads // heads].float() for x in (k, v))
        number = torch.tensor(head * pattern.heads // heads, device=q.device)
        for start in range(0, n_q, rows):
            query = torch.arange(start, min(start + rows, n_q), device=q.device)
            position = query[:, None] + (n_k - n_q)
            seen = pattern.sees(number, position, keys[None, :]) & (keys[None, :] <= position)
            scores = softmax.capped(q[query, head].float() @ key.T * scale).masked_fill(~seen, float("-inf"))
            out[query, head] = torch.nan_to_num(softmax.of(head).weights(scores), nan=0.0) @ value
    return out


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """``attention_reference`` in q's dtype, for devices without kernels; by torch's own attention if possible."""
    (n_q, heads, _), (n_k, kv_heads, _) = q.shape, k.shape
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_zeros(n_q, heads, v.shape[2])
    keys = torch.arange(n_k, device=q.device)
    group = heads // max(kv_heads, pattern.heads)
    for first in range(0, heads, group):  # heads with the same pattern and keys
        some, kv_head = slice(first, first + group), first * kv_heads // heads
        for start in range(0, n_q, _ROWS):
            rows = slice(start, min(start + _ROWS, n_q))
            position = torch.arange(rows.start, rows.stop, device=q.device) + (n_k - n_q)
            seen = pattern.of_head(first * pattern.heads // heads, position, n_k) & (keys <= position[:, None])
            by_any = seen.view(torch.uint8).amax(0).bool()  # any() takes eighty times as long
            count = int(by_any.sum())
            if count == 0:
                continue
            # Only keys that one of the queries sees are multiplied.
            query, key, value = q[rows, some].transpose(0, 1), k[by_any, kv_head], v[by_any, kv_head]
            if softmax.plain:
                keys_and_values = (x.expand(1, group, -1, -1) for x in (key, value))
                attended = torch.nn.functional.scaled_dot_product_attention(
                    query[None], *keys_and_values, attn_mask=seen[:, by_any], scale=scale
                )[0]
            else:
                scores = softmax.capped(query.float() @ key.float().T * scale)
                scores = scores.masked_fill(~seen[:, by_any], float("-inf"))
                attended = (softmax.of(some, -1, 1).weights(scores) @ value.float()).to(q.dtype)
            out[rows, some] = torch.where(seen.any(1)[:, None], attended, 0).transpose(0, 1)
    return out
