"""Prefill attention over verticals and bands of slashes (MInference: Jiang et al. 2024, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.kernels.block_sparse import check_prefill
from sparse_tasks.attention.kernels.dispatch import prefill_implementation
from sparse_tasks.attention.reference import masked_attention
from sparse_tasks.attention.softmax import PLAIN, Softmax


def vertical_slash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: LineIndex,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Causal softmax attention in which queries see their head's verticals and the tiles of its bands.

    Args:
        q: ``[n_q, query_heads, head_size]``; the queries are the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        index: Tiles of 64 or 128.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        ``[n_q, query_heads, value_size]`` in q's dtype; 0 where a query sees nothing.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    scale = check_prefill(q, k, v, index, scale, softmax)
    chosen = prefill_implementation(impl, q, v, index.block_q, index.unit)
    if chosen == "torch":
        return vertical_slash_torch(q, k, v, index, scale=scale, softmax=softmax)
    if chosen == "gluon":
        from sparse_tasks.attention.kernels.gluon.block_sparse import vertical_slash_gluon

        return vertical_slash_gluon(q, k, v, index, scale=scale, softmax=softmax)
    from sparse_tasks.attention.kernels.triton.vertical_slash import vertical_slash_triton

    return vertical_slash_triton(q, k, v, index, scale=scale, softmax=softmax)


def vertical_slash_torch(
    q: Tensor, k: Tensor, v: Tensor, index: LineIndex, *, scale: float | None = None, softmax: Softmax = PLAIN
) -> Tensor:
    """Torch twin of ``vertical_slash_attention``: a masked softmax."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    return masked_attention(q, k, v, index.pattern(), scale=scale, softmax=softmax)
