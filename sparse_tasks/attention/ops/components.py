"""Attention estimated from the largest components of queries (Ribar et al. 2024, section 4)."""

from __future__ import annotations

from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.kernels.components import keep_largest, top_components
from sparse_tasks.attention.kernels.key_components import component_weights
from sparse_tasks.attention.kernels.step_weights import step_weights
from sparse_tasks.attention.softmax import PLAIN, Softmax


def estimated_weights(
    q: Tensor,
    cache: PagedCache,
    r: int,
    softmax: Softmax = PLAIN,
    *,
    components: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """The attention of a step, estimated from the largest components of its queries and summed over the group.

    Args:
        q: ``[batch, query_heads, head_size]``.
        cache: The cache, including the queries' own tokens.
        r: Components, at least 1; with all of them it is attention itself.
        softmax: The model's sinks and soft cap.
        components: The keys by component, ``[blocks, kv_heads, head_size, block_size]``, of which only these are read.
            If None, keys are read in full, since components of a cached key are adjacent.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[batch, kv_heads, capacity]``; -inf past a sequence's end.
    """
    if components is not None:
        numbers, scales = top_components(q, cache.kv_heads, r, impl=impl)
        return component_weights(q, components, cache, numbers, scales, softmax=softmax, impl=impl)
    some, scales = keep_largest(q, cache.kv_heads, r, impl=impl)
    return step_weights(some, cache, scales=scales, softmax=softmax, impl=impl)
