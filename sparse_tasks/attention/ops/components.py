"""The largest components of queries, on which their products with keys hang mostly (Ribar et al. 2024, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.softmax import PLAIN, Softmax


class Components(NamedTuple):
    """Some components of the queries of each KV head, the same ones for its group.

    Attributes:
        numbers: int64 ``[batch, kv_heads, 1, r]``: which they are.
        queries: fp32 ``[batch, kv_heads, group, r]``.
        temperature: fp32 ``[batch, kv_heads, group, 1]``: by which products of these alone are divided to stand for
            scores; it is below the root of the head size, as these hold less than the whole query does.
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


def estimated_weights(q: Tensor, cache: PagedCache, r: int, softmax: Softmax = PLAIN) -> Tensor:
    """The attention of a step as the largest components of its queries estimate it, summed over the group.

    Args:
        q: ``[batch, query_heads, head_size]``.
        cache: The cache, with the queries' own tokens in it.
        r: Components, at least 1; with all of them it is attention itself.
        softmax: Sinks and soft cap of the model.

    Returns:
        fp32 ``[batch, kv_heads, capacity]``; -inf past a sequence's end.
    """
    groups = cache.groups(cache.kv_heads * cache.capacity * min(r, cache.head_size))
    return torch.cat([_estimated_weights(q[rows], some, r, softmax) for rows, some in groups])


def _estimated_weights(q: Tensor, cache: PagedCache, r: int, softmax: Softmax) -> Tensor:
    """``estimated_weights`` of sequences whose keys are held at once."""
    queries = q.float().view(cache.batch, cache.kv_heads, -1, cache.head_size)
    largest, some, temperature = largest_components(queries, r)
    block, offset, held = cache.locate(torch.arange(cache.capacity, device=q.device)[None])
    head, held = torch.arange(cache.kv_heads, device=q.device)[:, None, None], held[:, None]
    # Of each key only these components are read: [batch, kv_heads, capacity, r].
    keys = cache.keys[block[:, None, :, None], offset[:, None, :, None], head, largest]
    scores = softmax.capped(some @ keys.float().mT / temperature)
    weights = softmax.of(slice(None), cache.kv_heads, -1).weights(scores.masked_fill(~held[:, None], float("-inf")))
    return weights.sum(2).masked_fill(~held, float("-inf"))
