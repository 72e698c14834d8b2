"""Page summaries of Quest: the elementwise minimum and maximum of a page's keys (Tang et al. 2024, section 3).

Summaries belong to physical pages of the cache, so they stay right when blocks are shared, freed and used again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_cached, check_same, check_written, checking, implementation
from sparse_tasks.core.errors import UsageError


def new_page_summaries(cache_keys: Tensor, unit: int) -> Tensor:
    """Zeroed memory for the summaries of all pages of a cache.

    Args:
        cache_keys: ``[blocks, block_size, kv_heads, head_size]``.
        unit: Positions in a page. If it does not divide ``block_size``, a block's last page is shorter.

    Returns:
        ``[blocks * ceil(block_size / unit), kv_heads, 2, head_size]`` in the keys' dtype: minimum, then maximum.

    Raises:
        UsageError: ``unit`` is below 1.
    """
    if unit < 1:
        raise UsageError("unit", unit, "has to be at least 1 position")
    blocks, block_size, kv_heads, size = cache_keys.shape
    return cache_keys.new_zeros(blocks * ceil_div(block_size, unit), kv_heads, 2, size)


def update_page_summaries(
    summaries: Tensor,
    keys: Tensor,
    slots: Tensor,
    *,
    unit: int,
    block_size: int | None = None,
    impl: str = "auto",
) -> None:
    """Update the summaries with keys just written to the cache, in place.

    A page whose first position is among the slots is reset to this call's keys; others fold them in. Slots are
    distinct, and those of one page are adjacent in a call, in any order, as in vLLM: a request's tokens are
    consecutive, and no two requests write to the same block.

    Args:
        summaries: As ``new_page_summaries`` made them.
        keys: ``[tokens, kv_heads, head_size]``.
        slots: int64 or int32 ``[tokens]``: ``block * block_size + offset``; below 0 is padding.
        unit: Positions in a page.
        block_size: Positions in a block of the cache; None: a multiple of ``unit``.
        impl: "auto", "triton" or "torch".

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    if checking():
        _check_update(summaries, keys, slots, unit)
    block_size = unit if block_size is None else block_size
    if implementation(impl, keys) == "torch":
        return update_page_summaries_torch(summaries, keys, slots, unit=unit, block_size=block_size)
    from sparse_tasks.attention.kernels.triton.page_summaries import update_page_summaries_triton

    return update_page_summaries_triton(summaries, keys, slots, unit=unit, block_size=block_size)


def _check_update(summaries: Tensor, keys: Tensor, slots: Tensor, unit: int) -> None:
    if summaries.ndim != 4 or summaries.shape[2] != 2 or not summaries.is_contiguous():
        raise UsageError("summaries", tuple(summaries.shape), "has to be what new_page_summaries gives")
    check_written(keys, slots, kv_heads=summaries.shape[1], head_size=summaries.shape[3], of="summaries")
    if unit < 1:
        raise UsageError("unit", unit, "has to be at least 1 position")
    check_cached(summaries=summaries, keys=keys)
    check_same("device", summaries=summaries, keys=keys, slots=slots)


def update_page_summaries_torch(
    summaries: Tensor, keys: Tensor, slots: Tensor, *, unit: int, block_size: int | None = None
) -> None:
    """Torch twin of ``update_page_summaries``; slots of one page need not be adjacent."""
    block_size = unit if block_size is None else block_size
    keys, slots = keys[slots >= 0].float(), slots[slots >= 0].long()
    offset = slots % block_size
    pages, run = torch.unique(slots // block_size * ceil_div(block_size, unit) + offset // unit, return_inverse=True)
    anew = torch.zeros(len(pages), dtype=torch.bool, device=keys.device)
    anew[run[offset % unit == 0]] = True
    low, high = summaries[pages].float().unbind(2)
    low = torch.where(anew[:, None, None], float("inf"), low)
    high = torch.where(anew[:, None, None], float("-inf"), high)
    run = run[:, None, None].expand_as(keys)
    low, high = low.scatter_reduce(0, run, keys, "amin"), high.scatter_reduce(0, run, keys, "amax")
    summaries[pages] = torch.stack([low, high], dim=2).to(summaries.dtype)  # values of keys, so the cast is exact


def page_summaries(cache: PagedCache, unit: int, *, impl: str = "auto") -> Tensor:
    """The summaries of all pages used by sequences of a cache, from its keys.

    A partly filled page covers only the filled positions; pages shared by sequences are full.

    Args:
        cache: The cache; its values are not read.
        unit: Positions in a page. It divides the block size, or each sequence has one block.
        impl: "auto", "triton" or "torch".

    Returns:
        As ``new_page_summaries`` makes them; unused pages are undefined.

    Raises:
        UsageError: ``unit`` does not fit the cache.
    """
    check_unit(cache, unit)
    if implementation(impl, cache.keys) == "torch":
        return page_summaries_torch(cache, unit)
    from sparse_tasks.attention.kernels.triton.page_summaries import page_summaries_triton

    return page_summaries_triton(cache, unit)


def page_summaries_torch(cache: PagedCache, unit: int) -> Tensor:
    """Torch twin of ``page_summaries``: the keys of each sequence, treated as just written."""
    summaries = new_page_summaries(cache.keys, unit)
    for row in range(cache.batch):
        keys, _ = cache.gather(row)
        position = torch.arange(len(keys), device=keys.device)
        block = cache.block_table[row, position // cache.block_size].long()
        slots = block * cache.block_size + position % cache.block_size
        update_page_summaries_torch(summaries, keys, slots, unit=unit, block_size=cache.block_size)
    return summaries


def check_unit(cache: PagedCache, unit: int) -> None:
    """Refuse pages that cross block boundaries, since summaries are kept per block.

    Raises:
        UsageError: ``unit`` does not divide the block size.
    """
    if unit < 1:
        raise UsageError("unit", unit, "has to be at least 1 position")
    if cache.block_table.shape[1] > 1 and cache.block_size % unit:
        raise UsageError("unit", unit, f"has to divide the cache's block size, {cache.block_size}")
