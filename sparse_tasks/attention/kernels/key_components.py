"""Keys stored a second time by component, and the weights of a decoding step from some components (Ribar et al. 2024).

In a cache the components of a key are adjacent, so that reading some of them reads nearly all of its bytes. Here each
component of a block's keys is adjacent, as in the paper's second copy (section 4). Blocks are those of the cache, so
the copy stays right when they are shared, freed and used again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.kernels.dispatch import (
    EIGHT_BITS,
    check_cached,
    check_floats,
    check_same,
    check_written,
    checking,
    implementation,
)
from sparse_tasks.attention.kernels.sparse_decode import check_queries
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError


def new_key_components(cache_keys: Tensor) -> Tensor:
    """Zeroed memory for the keys of a cache by component.

    Args:
        cache_keys: ``[blocks, block_size, kv_heads, head_size]``.

    Returns:
        ``[blocks, kv_heads, head_size, block_size]`` in the keys' dtype.
    """
    blocks, block_size, kv_heads, size = cache_keys.shape
    return cache_keys.new_zeros(blocks, kv_heads, size, block_size)


def update_key_components(components: Tensor, keys: Tensor, slots: Tensor, *, impl: str = "auto") -> None:
    """Store keys just written to the cache, in place.

    Args:
        components: As ``new_key_components`` made it.
        keys: ``[tokens, kv_heads, head_size]``.
        slots: int64 or int32 ``[tokens]``, distinct: ``block * block_size + offset``; below 0 is padding.
        impl: "auto", "triton" or "torch".

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    if checking():
        _check_update(components, keys, slots)
    if implementation(impl, keys) == "torch":
        return update_key_components_torch(components, keys, slots)
    from sparse_tasks.attention.kernels.triton.key_components import update_key_components_triton

    return update_key_components_triton(components, keys, slots)


def update_key_components_torch(components: Tensor, keys: Tensor, slots: Tensor) -> None:
    """Torch twin of ``update_key_components``."""
    written, block_size = slots >= 0, components.shape[3]
    slots = slots[written].long()
    components[slots // block_size, :, :, slots % block_size] = keys[written]


def component_weights(
    q: Tensor,
    components: Tensor,
    cache: PagedCache,
    numbers: Tensor,
    scales: Tensor,
    *,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Softmax weights of one query per sequence, from products of some components alone, summed over the group.

    Args:
        q: ``[batch, query_heads, head_size]``.
        components: ``[blocks, kv_heads, head_size, block_size]``, as of ``update_key_components``; undefined where no
            sequence has a key.
        cache: Blocks and lengths of the sequences; its keys and values are not read.
        numbers: int32 ``[batch, kv_heads, r]``: the components that each KV head's queries read, distinct.
        scales: fp32 ``[batch, query_heads]``: factors of the products.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[batch, kv_heads, capacity]``; -inf past a sequence's end.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    if checking():
        _check(q, components, cache, numbers, scales)
        softmax.check(q)
    if implementation(impl, q) == "torch":
        return component_weights_torch(q, components, cache, numbers, scales, softmax=softmax)
    from sparse_tasks.attention.kernels.triton.key_components import component_weights_triton

    return component_weights_triton(q, components, cache, numbers, scales, softmax=softmax)


def component_weights_torch(
    q: Tensor, components: Tensor, cache: PagedCache, numbers: Tensor, scales: Tensor, *, softmax: Softmax = PLAIN
) -> Tensor:
    """Torch twin of ``component_weights``: components are gathered, and a softmax is taken over them, in fp32."""
    groups = cache.groups(cache.kv_heads * cache.capacity * numbers.shape[2])
    return torch.cat([
        _weights(q[rows], components, some, numbers[rows].long(), scales[rows], softmax) for rows, some in groups
    ])  # fmt: skip


def _weights(
    q: Tensor, components: Tensor, cache: PagedCache, numbers: Tensor, scales: Tensor, softmax: Softmax
) -> Tensor:
    """``component_weights_torch`` of sequences whose components are in memory at once."""
    block, offset, held = cache.locate(torch.arange(cache.capacity, device=q.device)[None])
    head = torch.arange(cache.kv_heads, device=q.device)[:, None, None]
    keys = components[block[:, None, None], head, numbers[..., None], offset[:, None, None]].float()
    queries = q.view(cache.batch, cache.kv_heads, -1, cache.head_size).float()
    queries = queries.gather(3, numbers[:, :, None].expand(-1, -1, queries.shape[2], -1))
    scores = softmax.capped(queries @ keys * scales.view(cache.batch, cache.kv_heads, -1, 1))
    scores = scores.masked_fill(~held[:, None, None], float("-inf"))
    weights = softmax.of(slice(None), cache.kv_heads, -1).weights(scores)
    return weights.sum(2).masked_fill(~held[:, None], float("-inf"))


def _check_update(components: Tensor, keys: Tensor, slots: Tensor) -> None:
    if components.ndim != 4 or not components.is_contiguous():
        raise UsageError("components", tuple(components.shape), "has to be what new_key_components gives")
    check_written(keys, slots, kv_heads=components.shape[1], head_size=components.shape[2], of="components")
    check_cached(components=components, keys=keys)
    check_same("device", components=components, keys=keys, slots=slots)


def _check(q: Tensor, components: Tensor, cache: PagedCache, numbers: Tensor, scales: Tensor) -> None:
    check_queries(q, cache)
    shape = (len(cache.keys), cache.kv_heads, cache.head_size, cache.block_size)
    if tuple(components.shape) != shape or not components.is_contiguous():
        raise UsageError("components", tuple(components.shape), f"has to be {shape}, contiguous")
    if components.dtype != EIGHT_BITS:
        check_floats(q=q, components=components)
    if numbers.ndim != 3 or tuple(numbers.shape[:2]) != (cache.batch, cache.kv_heads) or numbers.dtype != torch.int32:
        given = f"{numbers.dtype} {tuple(numbers.shape)}"
        raise UsageError("numbers", given, f"have to be torch.int32 [{cache.batch}, {cache.kv_heads}, r]")
    if scales.shape != q.shape[:2] or scales.dtype != torch.float32:
        given = f"{scales.dtype} {tuple(scales.shape)}"
        raise UsageError("scales", given, f"have to be torch.float32 {tuple(q.shape[:2])}, one for each query")
    check_same("device", q=q, components=components, numbers=numbers, scales=scales)
