"""Prefill attention that skips tiles on the fly (BLASST: Yuan et al. 2025, section 3)."""

from __future__ import annotations

from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, SkipIndex
from sparse_tasks.attention.kernels.block_sparse import dense_index
from sparse_tasks.attention.kernels.dispatch import check_same, check_sequence, checked_scale, prefill_implementation
from sparse_tasks.attention.ops.true_mass import block_lead
from sparse_tasks.attention.reference import masked_attention
from sparse_tasks.attention.softmax import LOG2_E, PLAIN, Softmax
from sparse_tasks.core.errors import UsageError

_TILE = 128  # of Gluon's kernel, queries and keys


def skips(q: Tensor, v: Tensor, impl: str) -> bool:
    """Whether there is a kernel that skips tiles on the fly: only Gluon's."""
    return prefill_implementation(impl, q, v, _TILE, _TILE) == "gluon"


def skipping_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: SkipIndex,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Softmax attention without the tiles far below the running maximum; ``index.kept`` records which remain.

    Args:
        q: ``[n_q, query_heads, head_size]``; the queries are the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        index: Threshold, and ``kept``, which is filled.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch". If Gluon's kernel does not support the inputs, the torch twin runs.

    Returns:
        ``[n_q, query_heads, value_size]`` in q's dtype.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    check_sequence(q, k, v)
    softmax.check(q)
    scale = checked_scale(scale, q.shape[2])
    check_same("device", q=q, **{"index.kept": index.kept})
    shape = q.shape[1], BlockIndex.rows(len(q), len(k), index.block_q), -(-len(k) // index.block_k)
    if (index.n_q, index.n_k, *index.kept.shape) != (len(q), len(k), *shape):
        raise UsageError("index.kept", tuple(index.kept.shape), f"has to be {shape} for {len(q)} of {len(k)} positions")
    if not 0 < index.threshold <= 1:
        raise UsageError("index.threshold", index.threshold, "has to be above 0, and at most 1")
    if skips(q, v, impl):
        from sparse_tasks.attention.kernels.gluon.block_sparse import skipping_gluon

        return skipping_gluon(q, k, v, index, dense_index(q.device, len(q), len(k)), scale=scale, softmax=softmax)
    return skipping_attention_torch(q, k, v, index, scale=scale, softmax=softmax)


def skipping_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, index: SkipIndex, *, scale: float | None = None, softmax: Softmax = PLAIN
) -> Tensor:
    """Torch twin of ``skipping_attention``: a masked softmax over tiles chosen in advance."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    scaled = q.float() * (scale * q.shape[2] ** 0.5)
    index.kept.copy_(block_lead(scaled, k, index.block_q, index.block_k, softmax) * LOG2_E > index.mark)
    return masked_attention(q, k, v, index.pattern(), scale=scale, softmax=softmax)
