"""The largest components of queries, which dominate their products with keys (Ribar et al. 2024, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import implementation


class Components(NamedTuple):
    """Components of the queries of each KV head, the same for its group.

    Attributes:
        numbers: int64 ``[batch, kv_heads, 1, r]``: their indices.
        queries: fp32 ``[batch, kv_heads, group, r]``.
        temperature: fp32 ``[batch, kv_heads, group, 1]``: divisor of products of these components that makes them
            estimates of scores; it is below the root of the head size, since they are only part of the query.
    """

    numbers: Tensor
    queries: Tensor
    temperature: Tensor


def largest_components(queries: Tensor, r: int) -> Components:
    """The ``r`` components that are largest, by their absolute values summed over the group; all if there are fewer.

    Args:
        queries: fp32 ``[batch, kv_heads, group, head_size]``.
        r: At least 1.
    """
    size, tiny = queries.shape[3], torch.finfo(torch.float32).tiny
    numbers = queries.abs().sum(2).topk(min(r, size)).indices[:, :, None]
    some = queries.gather(3, numbers.expand(-1, -1, queries.shape[2], -1))
    share = some.abs().sum(3, keepdim=True) / queries.abs().sum(3, keepdim=True).clamp_min(tiny)
    return Components(numbers, some, (size * share).sqrt().clamp_min(tiny))


def keep_largest(q: Tensor, kv_heads: int, r: int, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Queries with only the largest components of each KV head's group, and the scales of their scores.

    Args:
        q: ``[batch, query_heads, head_size]``.
        kv_heads: KV heads, which divide the query heads.
        r: Components to keep, at least 1; all if there are fewer. Ties are broken arbitrarily.
        impl: "auto", "triton" or "torch".

    Returns:
        Like q, contiguous, with 0 for other components; and fp32 ``[batch, query_heads]``, 1 over their temperatures.
    """
    if implementation(impl, q) == "torch":
        return keep_largest_torch(q, kv_heads, r)
    from sparse_tasks.attention.kernels.triton.components import keep_largest_triton

    return keep_largest_triton(q, kv_heads, r)


def keep_largest_torch(q: Tensor, kv_heads: int, r: int) -> tuple[Tensor, Tensor]:
    """Torch twin of ``keep_largest``."""
    queries = q.contiguous().unflatten(1, (kv_heads, -1))
    numbers, _, temperature = largest_components(queries.float(), r)
    numbers = numbers.expand(-1, -1, queries.shape[2], -1)
    some = torch.zeros_like(queries).scatter(3, numbers, queries.gather(3, numbers))
    return some.flatten(1, 2), 1 / temperature.view(q.shape[:2])


def top_components(q: Tensor, kv_heads: int, r: int, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """The numbers of the components that ``keep_largest`` keeps, and the scales of their scores.

    Args:
        q: ``[batch, query_heads, head_size]``.
        kv_heads: KV heads, which divide the query heads.
        r: Components, at least 1; all if there are fewer. Ties are broken arbitrarily.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[batch, kv_heads, min(r, head_size)]``, ascending; and fp32 ``[batch, query_heads]``, 1 over their
        temperatures.
    """
    if implementation(impl, q) == "torch":
        return top_components_torch(q, kv_heads, r)
    from sparse_tasks.attention.kernels.triton.components import top_components_triton

    return top_components_triton(q, kv_heads, r)


def top_components_torch(q: Tensor, kv_heads: int, r: int) -> tuple[Tensor, Tensor]:
    """Torch twin of ``top_components``."""
    numbers, _, temperature = largest_components(q.unflatten(1, (kv_heads, -1)).float(), r)
    return numbers[:, :, 0].sort().values.int(), 1 / temperature.view(q.shape[:2])
