"""What every kernel is compared with: softmax attention in fp32 under a mask that a pattern draws."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.patterns import Everything, Pattern

__all__ = ["attention_reference", "masked_attention"]

_CELLS = 1 << 26  # scores held at once: 256 MB of fp32


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | None = None, *, scale: float | None = None
) -> Tensor:
    """Masked softmax attention of one sequence.

    Args:
        q: ``[n_q, query_heads, head_size]``; the queries are the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``; ``query_heads`` is a multiple of ``kv_heads``.
        v: Like ``k``.
        pattern: What queries see, causality understood; its heads are 1, ``kv_heads`` or ``query_heads``. None: all.
        scale: Factor of the scores; ``head_size ** -0.5`` if None.

    Returns:
        fp32 ``[n_q, query_heads, head_size]``; 0 where a query sees nothing.
    """
    pattern = pattern or Everything()
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    scale = size**-0.5 if scale is None else scale
    out = torch.empty(n_q, heads, size, dtype=torch.float32, device=q.device)
    keys = torch.arange(n_k, device=q.device)
    rows = max(1, _CELLS // n_k)
    for head in range(heads):
        key, value = (x[:, head * kv_heads // heads].float() for x in (k, v))
        number = torch.tensor(head * pattern.heads // heads, device=q.device)
        for start in range(0, n_q, rows):
            query = torch.arange(start, min(start + rows, n_q), device=q.device)
            position = query[:, None] + (n_k - n_q)
            seen = pattern.sees(number, position, keys[None, :]) & (keys[None, :] <= position)
            scores = (q[query, head].float() @ key.T * scale).masked_fill(~seen, float("-inf"))
            out[query, head] = torch.nan_to_num(scores.softmax(-1), nan=0.0) @ value
    return out


def masked_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *, scale: float) -> Tensor:
    """The same by torch's own attention, in the type of q, which is what runs without a GPU; arguments as above."""
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    keys = torch.arange(n_k, device=q.device)
    group, rows = heads // max(kv_heads, pattern.heads), max(1, _CELLS // n_k)
    for first in range(0, heads, group):  # heads that see the same, and the same keys
        some, kv_head = slice(first, first + group), first * kv_heads // heads
        for start in range(0, n_q, rows):
            position = torch.arange(start, min(start + rows, n_q), device=q.device) + (n_k - n_q)
            seen = pattern.of_head(first * pattern.heads // heads, position, n_k) & (keys <= position[:, None])
            attended = torch.nn.functional.scaled_dot_product_attention(
                q[start : start + rows, some].transpose(0, 1)[None],
                k[:, kv_head].expand(1, group, n_k, size),
                v[:, kv_head].expand(1, group, n_k, size),
                attn_mask=seen,
                scale=scale,
            )
            attended = torch.where(seen.any(1)[:, None], attended[0], 0)
            out[start : start + rows, some] = attended.transpose(0, 1)
    return out
