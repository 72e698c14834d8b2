"""Attention of a prompt under a method."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sparse_tasks.attention.index import CorrectedIndex, LineIndex, PrefillIndex, SkipIndex
from sparse_tasks.attention.kernels.block_sparse import block_sparse_attention, dense_index
from sparse_tasks.attention.kernels.dispatch import check_sequence
from sparse_tasks.attention.kernels.skipping import skipping_attention, skips
from sparse_tasks.attention.kernels.vertical_slash import vertical_slash_attention
from sparse_tasks.attention.method import PrefillMethod
from sparse_tasks.attention.ops.correction import corrected
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError


def sparse_prefill(
    method: PrefillMethod | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    length: int | None = None,
    impl: str = "auto",
) -> tuple[Tensor, list[PrefillIndex]]:
    """Attention of a prompt, or of a chunk of it, under a method.

    Args:
        method: None is dense attention.
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        scale: Scale of the scores; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        length: Tokens of the whole prompt, by which budgets are solved; ``n_k`` if None.
        impl: "auto", "triton" or "torch".

    Returns:
        ``[n_q, query_heads, value_size]`` in q's dtype, and the indices that ran: one, or one per chunk of queries if
        the method takes them in turn to bound its index.

    Raises:
        UsageError: Shapes, types or devices do not fit, or the method does not support the softmax.
    """
    check_sequence(q, k, v)
    method = method.under(softmax) if isinstance(method, PrefillMethod) else method
    out: Tensor | None = None
    indices: list[PrefillIndex] = []
    for queries, index in select_stretches(method, q, k, v, length=length, impl=impl):
        part = attend(queries, k[: index.n_k], v[: index.n_k], index, scale=scale, softmax=softmax, impl=impl)
        indices.append(index)
        if len(part) == len(q):
            return part, indices
        # Written in place, so that parts and whole are never in memory together.
        out = part.new_empty(len(q), *part.shape[1:]) if out is None else out
        end = len(q) - (len(k) - index.n_k)
        out[end - len(part) : end] = part
    if out is None:
        raise ValueError(f"{method} gave no stretches of queries")
    return out, indices


def select_stretches(
    method: PrefillMethod | None,
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    length: int | None = None,
    impl: str = "auto",
) -> Iterator[tuple[Tensor, PrefillIndex]]:
    """Select for a prompt, or a chunk of it, in groups of queries.

    Args:
        method: None is dense attention.
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]`` if attention runs under each index before it is inspected: then a kernel may
            select on the fly.
        length: Tokens of the whole prompt, by which budgets are solved; ``n_k`` if None.
        impl: "auto", "triton" or "torch".

    Raises:
        UsageError: The method is not for prefill, or the length is below the number of keys.

    Yields:
        The queries of a group, and their index over the first ``index.n_k`` keys, up to the last of the queries.
    """
    if method is not None and not isinstance(method, PrefillMethod):
        raise UsageError("method", method, "is not a prefill method; give an instance of one, or None for dense")
    n_q, n_k = len(q), len(k)
    length = n_k if length is None else length
    if length < n_k:
        raise UsageError("length", length, f"is that of the whole prompt, and has to be at least that of k, {n_k}")
    seen = n_k - n_q
    for queries in q.split([n_q] if method is None else method.stretches(n_q, n_k, length)):
        seen += len(queries)
        threshold = None if method is None or v is None else method.skip_threshold(seen, length)
        index: PrefillIndex | None = None
        if threshold is not None and v is not None and skips(queries, v, impl):
            index = SkipIndex.new(threshold, q.shape[1], len(queries), seen, q.device)
        elif method is not None:
            index = method.select(queries, k[:seen], length=length, impl=impl)
        if index is None:
            index = dense_index(q.device, len(queries), seen)
        yield queries, index


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: PrefillIndex,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Attention under an index, by the matching kernel."""
    if isinstance(index, CorrectedIndex):
        out = attend(q, k, v, index.sparse, scale=scale, softmax=softmax, impl=impl)
        return corrected(out, q, k, v, index.every, scale=scale, softmax=softmax)
    if isinstance(index, SkipIndex):
        return skipping_attention(q, k, v, index, scale=scale, softmax=softmax, impl=impl)
    if isinstance(index, LineIndex):
        return vertical_slash_attention(q, k, v, index, scale=scale, softmax=softmax, impl=impl)
    return block_sparse_attention(q, k, v, index, scale=scale, softmax=softmax, impl=impl)
