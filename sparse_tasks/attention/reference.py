"""What every kernel is compared with: softmax attention in fp32 under a mask that a pattern draws."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.patterns import Everything, Pattern

__all__ = ["attention_reference"]

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
    drawn: tuple[int, int] | None = None
    for head in range(heads):
        key, value = (x[:, head * kv_heads // heads].float() for x in (k, v))
        for start in range(0, n_q, rows):
            query = torch.arange(start, min(start + rows, n_q), device=q.device)
            position = query + (n_k - n_q)
            of = head * pattern.heads // heads
            if (of, start) != drawn:  # heads that see the same stand together
                drawn, seen = (of, start), pattern.of_head(of, position, n_k) & (keys <= position[:, None])
            scores = (q[query, head].float() @ key.T * scale).masked_fill(~seen, float("-inf"))
            out[query, head] = torch.nan_to_num(scores.softmax(-1), nan=0.0) @ value
    return out
