"""The attention weights of a decoding step, by which methods select tokens."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.kernels.dispatch import check_same, checking, implementation
from sparse_tasks.attention.kernels.sparse_decode import check_queries
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError

MOST_LEVELS: Final = 127
"""Most levels of rounded keys: they are whole numbers in the queries' type, of which bfloat16 has all up to 256."""


def step_weights(
    q: Tensor,
    cache: PagedCache,
    listed: PageIndex | None = None,
    *,
    scales: Tensor | None = None,
    levels: int | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Softmax weights of one query per sequence over its keys, or those in listed pages, summed over the group.

    Args:
        q: ``[batch, query_heads, head_size]``.
        cache: Keys of the sequences; its values are not read.
        listed: The pages of each KV head; None for all positions.
        scales: fp32 ``[batch, query_heads]``, factors of the scores; ``head_size ** -0.5`` if None.
        levels: Quantisation levels on either side of 0, from 1 to 127, such as 7 for 4 bits; the largest element of a
            key is the highest level. None: no rounding.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[batch, kv_heads, positions]``; -inf past a sequence's end. For listed pages they are in list order,
        ``width * unit`` positions; also -inf past the list's end.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    if checking():
        _check(q, cache, listed, scales, levels)
        softmax.check(q)
    if implementation(impl, q) == "torch":
        return step_weights_torch(q, cache, listed, scales=scales, levels=levels, softmax=softmax)
    from sparse_tasks.attention.kernels.triton.step_weights import step_weights_triton

    return step_weights_triton(q, cache, listed, scales=scales, levels=levels, softmax=softmax)


def step_weights_torch(
    q: Tensor,
    cache: PagedCache,
    listed: PageIndex | None = None,
    *,
    scales: Tensor | None = None,
    levels: int | None = None,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Torch twin of ``step_weights``: keys are gathered, and a softmax is taken over them, in fp32."""
    number = cache.capacity if listed is None else listed.pages.shape[2] * listed.unit
    found = []
    for rows, some in cache.groups(cache.kv_heads * number * cache.head_size):
        factors = None if scales is None else scales[rows]
        found.append(_weights(q[rows], some, None if listed is None else listed.rows(rows), factors, levels, softmax))
    return torch.cat(found)


def _weights(
    q: Tensor, cache: PagedCache, listed: PageIndex | None, scales: Tensor | None, levels: int | None, softmax: Softmax
) -> Tensor:
    """``step_weights_torch`` of sequences whose keys are in memory at once."""
    if listed is None:
        positions = torch.arange(cache.capacity, device=q.device)[None, None]
    else:
        there = torch.arange(listed.pages.shape[2], device=q.device) < listed.counts[..., None]
        first = torch.where(there, listed.pages.long() * listed.unit, cache.capacity)[..., None]
        positions = (first + torch.arange(listed.unit, device=q.device)).flatten(2)
    block, offset, held = cache.locate(positions)
    keys = cache.keys[block, offset, torch.arange(cache.kv_heads, device=q.device)[:, None]].float()
    step: Tensor | float = cache.head_size**-0.5
    queries = q.float().view(cache.batch, cache.kv_heads, -1, cache.head_size)
    if scales is not None:
        step = scales.view(cache.batch, cache.kv_heads, -1, 1)
    if levels is not None:
        largest = torch.maximum(keys.amax(3, keepdim=True), -keys.amin(3, keepdim=True))
        # By a tensor: on a GPU torch multiplies by the reciprocal of a number, and bfloat16 keys are often half way.
        rounding = (largest / torch.full_like(largest, levels)).clamp_min(torch.finfo(torch.float32).tiny)
        keys = keys.div_(rounding).round_()
        step = step * rounding.mT
    scores = softmax.capped(queries @ keys.mT * step)
    weights = softmax.of(slice(None), cache.kv_heads, -1).weights(scores.masked_fill(~held[:, :, None], float("-inf")))
    return weights.sum(2).masked_fill(~held, float("-inf"))


def _check(q: Tensor, cache: PagedCache, listed: PageIndex | None, scales: Tensor | None, levels: int | None) -> None:
    check_queries(q, cache)
    if listed is not None:
        if listed.pages.ndim != 3 or tuple(listed.pages.shape[:2]) != (cache.batch, cache.kv_heads):
            expected = f"[{cache.batch}, {cache.kv_heads}, width]"
            raise UsageError("listed", tuple(listed.pages.shape), f"pages have to be {expected}, as the cache is")
        check_same("device", q=q, listed=listed.pages)
    if scales is not None:
        if scales.shape != q.shape[:2] or scales.dtype != torch.float32:
            given = f"{scales.dtype} {tuple(scales.shape)}"
            raise UsageError("scales", given, f"have to be torch.float32 {tuple(q.shape[:2])}, one for each query")
        check_same("device", q=q, scales=scales)
    if levels is not None and not 1 <= levels <= MOST_LEVELS:
        raise UsageError("levels", levels, f"has to be from 1 to {MOST_LEVELS}; None rounds nothing")
