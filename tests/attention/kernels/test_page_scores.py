"""Guards Quest's page scores: they equal the bound written out, and no key of a page scores above it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.page_scores import page_scores
from sparse_tasks.attention.kernels.page_summaries import page_summaries
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.test_sparse_decode import make_cache

KERNELS = ["triton", "torch"]


def naive(q: Tensor, cache: PagedCache, unit: int, longest: int, dtype: torch.dtype) -> Tensor:
    """The bound as Quest has it, page by page, from the keys themselves."""
    batch, heads, _ = q.shape
    group = heads // cache.kv_heads
    scores = torch.full((batch, cache.kv_heads, ceil_div(longest, unit)), float("-inf"))
    for row in range(batch):
        keys, _ = cache.gather(row)
        for page in range(ceil_div(len(keys), unit)):
            held = keys[page * unit : (page + 1) * unit].to(dtype)
            low, high = held.amin(0), held.amax(0)
            for head in range(heads):
                query = q[row, head].to(dtype)
                bound = torch.maximum(query * low[head // group], query * high[head // group]).sum().float()
                scores[row, head // group, page] = torch.maximum(scores[row, head // group, page], bound)
    return scores


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "size", "block_size", "unit", "dtype"),
    [
        ([500, 1, 77], 4, 2, 64, 16, 4, torch.float32),  # several tiles
        ([100, 31], 8, 1, 96, 16, 16, torch.float16),  # Triton's interpreter cannot multiply bfloat16
        ([90], 3, 3, 128, 32, 8, torch.float16),
        ([90, 10], 7, 1, 16, 12, 3, torch.float32),
        ([60], 20, 1, 80, 16, 16, torch.float32),  # a group above 16
        ([600, 40], 2, 1, 256, 528, 16, torch.float16),  # blocks as large as the state of a layer of another kind
    ],
)
def test_like_naive(
    impl: str,
    lengths: list[int],
    heads: int,
    kv_heads: int,
    size: int,
    block_size: int,
    unit: int,
    dtype: torch.dtype,
) -> None:
    cache = make_cache(lengths, kv_heads, size, block_size, dtype)
    q = torch.randn(len(lengths), heads, size, generator=torch.Generator().manual_seed(5)).to(dtype)
    summaries = page_summaries(cache, unit, impl="torch")
    # Pages that no sequence has must not show.
    used = torch.zeros(len(summaries), dtype=torch.bool)
    for row, length in enumerate(lengths):
        for start in range(0, length, unit):
            block = int(cache.block_table[row, start // block_size])
            used[block * (block_size // unit) + start % block_size // unit] = True
    summaries[~used] = float("nan")
    scores = page_scores(q, summaries, cache, unit=unit, impl=impl)
    assert scores.dtype == torch.float32
    expected = naive(q, cache, unit, cache.capacity, torch.float32)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    # The current page comes first on request, and nothing else changes.
    forced = page_scores(q, summaries, cache, unit=unit, current=True, impl=impl)
    for row, length in enumerate(lengths):
        expected[row, :, (length - 1) // unit] = float("inf")
    torch.testing.assert_close(forced, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("longest", [101, 37])
def test_contiguous_cache_and_a_shorter_result(impl: str, longest: int) -> None:
    keys = torch.randn(2, 2, 101, 64)
    lengths = torch.tensor([min(101, longest), 20], dtype=torch.int32)
    cache = PagedCache.contiguous(keys, keys, lengths)
    q = torch.randn(2, 4, 64)
    scores = page_scores(q, page_summaries(cache, 16, impl=impl), cache, unit=16, longest=longest, impl=impl)
    assert scores.shape == (2, 2, ceil_div(longest, 16))
    torch.testing.assert_close(scores, naive(q, cache, 16, longest, torch.float32), rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 4, 8]), st.integers(0, 99))
def test_no_key_scores_above_its_page(length: int, unit: int, seed: int) -> None:
    cache = make_cache([length], 2, 16, 8, seed=seed)
    q = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(seed))
    scores = page_scores(q, page_summaries(cache, unit, impl="triton"), cache, unit=unit, impl="triton")
    keys, _ = cache.gather(0)
    exact = torch.einsum("hgd,nhd->hgn", q.view(2, 2, 16), keys).amax(1)
    bound = scores[0].repeat_interleave(unit, 1)[:, :length]
    assert (exact <= bound + 1e-4).all()
    if unit == 1:
        torch.testing.assert_close(exact, bound, rtol=1e-4, atol=1e-4)  # a page of one token is no bound but its score


def test_bad_input_is_named() -> None:
    cache = make_cache([40], 2, 64, 16)
    q, summaries = torch.randn(1, 4, 64), page_summaries(cache, 16, impl="torch")
    for field, arguments in {
        "q": (q[0], summaries),
        "summaries": (q, summaries[:-1]),
    }.items():
        with pytest.raises(UsageError) as error:
            page_scores(*arguments, cache, unit=16)
        assert error.value.field == field
    with pytest.raises(UsageError, match="unit"):
        page_scores(q, summaries, cache, unit=5)
    for longest in (0, cache.capacity + 1):
        with pytest.raises(UsageError, match="longest"):
            page_scores(q, summaries, cache, unit=16, longest=longest)
