"""Upper bounds of the scores of pages for a query (Quest: Tang et al. 2024, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS, check_floats, check_same, checking, implementation
from sparse_tasks.attention.kernels.page_summaries import check_unit
from sparse_tasks.attention.kernels.sparse_decode import check_queries
from sparse_tasks.core.errors import UsageError


def page_scores(
    q: Tensor,
    summaries: Tensor,
    cache: PagedCache,
    *,
    unit: int,
    longest: int | None = None,
    current: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Upper bounds of the scores ``q . k`` of each page, not scaled; a KV head's is the largest of its group's.

    No key of a page scores above ``sum_d max(q_d * min_d, q_d * max_d)``.

    Args:
        q: ``[batch, query_heads, head_size]``.
        summaries: ``[physical pages, kv_heads, 2, head_size]``, as in ``page_summaries.py``.
        cache: Blocks and lengths of the sequences; its keys and values are not read.
        unit: Positions in a page. It divides the block size, or each sequence has one block.
        longest: Bound of the lengths; the capacity of the block table if None.
        current: Whether the page of a sequence's last position is +inf, so that it is always chosen.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[batch, kv_heads, ceil(longest / unit)]``; -inf past a sequence's last page.

    Raises:
        UsageError: Shapes, types or devices do not match.
    """
    longest = cache.capacity if longest is None else longest
    if checking():
        _check(q, summaries, cache, unit, longest)
    if implementation(impl, q) == "torch":
        return page_scores_torch(q, summaries, cache, unit=unit, longest=longest, current=current)
    from sparse_tasks.attention.kernels.triton.page_scores import page_scores_triton

    return page_scores_triton(q, summaries, cache, unit=unit, longest=longest, current=current)


def page_scores_torch(
    q: Tensor,
    summaries: Tensor,
    cache: PagedCache,
    *,
    unit: int,
    longest: int | None = None,
    current: bool = False,
) -> Tensor:
    """Torch twin of ``page_scores``: ``max(q * low, q * high)`` is ``q * high`` for positive q, else ``q * low``."""
    pages = ceil_div(cache.capacity if longest is None else longest, unit)
    groups = cache.groups(2 * pages * cache.kv_heads * cache.head_size)
    return torch.cat([_page_scores(q[rows], summaries, some, unit, pages, current) for rows, some in groups])


def _page_scores(q: Tensor, summaries: Tensor, cache: PagedCache, unit: int, pages: int, current: bool) -> Tensor:
    """Scores of sequences whose summaries are in memory at once."""
    start = torch.arange(pages, device=q.device) * unit
    block, offset, held = cache.locate(start[None])
    number = block * ceil_div(cache.block_size, unit) + torch.div(offset, unit, rounding_mode="floor")
    head = torch.arange(cache.kv_heads, device=q.device)[:, None]
    low, high = summaries[number[:, None], head].float().unbind(3)  # [batch, kv_heads, pages, head_size] each
    queries = q.view(cache.batch, cache.kv_heads, -1, cache.head_size).float()
    bound = (queries.clamp_min(0) @ high.mT + queries.clamp_max(0) @ low.mT).amax(2)
    if current:
        last = held & (start + unit >= cache.lengths[:, None])
        bound = bound.masked_fill(last[:, None], float("inf"))
    return bound.masked_fill(~held[:, None], float("-inf"))


def _check(q: Tensor, summaries: Tensor, cache: PagedCache, unit: int, longest: int) -> None:
    check_queries(q, cache)
    check_unit(cache, unit)
    if not 1 <= longest <= cache.capacity:
        raise UsageError("longest", longest, f"has to be from 1 to what the block table has room for, {cache.capacity}")
    pages = len(cache.keys) * ceil_div(cache.block_size, unit)
    shape = (pages, cache.kv_heads, 2, cache.head_size)
    if tuple(summaries.shape) != shape or not summaries.is_contiguous():
        raise UsageError("summaries", tuple(summaries.shape), f"has to be {shape}, contiguous")
    if summaries.dtype != EIGHT_BITS:
        check_floats(q=q, summaries=summaries)
    check_same("device", q=q, summaries=summaries)
