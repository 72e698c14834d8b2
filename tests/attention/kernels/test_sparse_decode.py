"""Guards sparse decoding: kernel and twin against a loop over positions, on caches whose unused parts are NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.prompts import close

KERNELS = ["triton", "torch"]
# Triton's interpreter multiplies bfloat16 as if it were integers, so that 16 bits are float16 here.


def make_cache(
    lengths: list[int], kv_heads: int, size: int, block_size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> PagedCache:
    """A cache whose blocks are shuffled, with NaN wherever no sequence has a position and -1 past its blocks."""
    make = torch.Generator().manual_seed(seed)
    batch, wide = len(lengths), max(1, max(ceil_div(n, block_size) for n in lengths)) + 2
    blocks = torch.randperm(batch * wide, generator=make).int().view(batch, wide)
    # Strided, as vLLM has it: keys and values in one tensor, here with the heads outermost.
    both = torch.full((2, kv_heads, batch * wide, block_size, size), float("nan"), dtype=dtype).permute(0, 2, 3, 1, 4)
    for row, length in enumerate(lengths):
        for position in range(length):
            numbers = torch.randn(2, kv_heads, size, generator=make)
            both[:, blocks[row, position // block_size], position % block_size] = numbers.to(dtype)
        blocks[row, ceil_div(length, block_size) :] = -1
    return PagedCache(both[0], both[1], blocks, torch.tensor(lengths, dtype=torch.int32))


def make_index(cache: PagedCache, unit: int, share: float, seed: int = 0) -> PageIndex:
    """Random pages, each with probability ``share``; garbage past the counts."""
    make = torch.Generator().manual_seed(seed)
    width = ceil_div(cache.capacity, unit)
    pages = torch.full((cache.batch, cache.kv_heads, width), 2**31 - 1, dtype=torch.int32)
    counts = torch.zeros(cache.batch, cache.kv_heads, dtype=torch.int32)
    for row in range(cache.batch):
        there = ceil_div(int(cache.lengths[row]), unit)
        for head in range(cache.kv_heads):
            chosen = torch.nonzero(torch.rand(there, generator=make) < share).flatten().int()
            pages[row, head, : len(chosen)] = chosen
            counts[row, head] = len(chosen)
    return PageIndex(pages, counts, unit, cache.lengths)


def naive(q: Tensor, cache: PagedCache, index: PageIndex, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp of each head by itself, with matrix products in ``dtype``."""
    batch, heads, _ = q.shape
    out, lse = torch.zeros(batch, heads, cache.value_size), torch.full((batch, heads), float("-inf"))
    for row in range(batch):
        k, v = cache.gather(row)
        for head in range(heads):
            kv_head = head // (heads // cache.kv_heads)
            listed = index.pages[row, kv_head, : index.counts[row, kv_head]].tolist()
            seen = [p for p in range(len(k)) if p // index.unit in listed]
            if seen:
                scores = (k[seen, kv_head].to(dtype) @ q[row, head].to(dtype)).float() * scale
                if index.log_weights is not None:
                    weights = dict(zip(listed, index.log_weights[row, kv_head].tolist(), strict=False))
                    scores += torch.tensor([weights[p // index.unit] for p in seen])
                out[row, head] = (scores.softmax(0).to(dtype) @ v[seen, kv_head].to(dtype)).float()
                lse[row, head] = scores.logsumexp(0)
    return out, lse


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "size", "block_size", "unit", "dtype"),
    [
        ([130, 1, 77], 4, 2, 64, 16, 16, torch.float32),
        ([130, 1, 77], 8, 1, 96, 16, 1, torch.float16),
        ([203, 31], 2, 2, 128, 16, 4, torch.float16),
        ([203, 31], 6, 2, 64, 16, 64, torch.float32),  # pages of several blocks
        ([90, 91], 3, 1, 16, 12, 8, torch.float32),  # neither divides the other
        ([300], 4, 2, 128, 32, 128, torch.float16),
        ([65], 20, 1, 80, 16, 16, torch.float32),  # a group above 16
        ([450, 31], 4, 2, 256, 400, 16, torch.float16),  # blocks as large as the state of a layer of another kind
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
    index = make_index(cache, unit, 0.6)
    q = torch.randn(len(lengths), heads, size, generator=torch.Generator().manual_seed(5)).to(dtype)
    out, lse = sparse_decode(q, cache, index, scale=0.2, impl=impl, return_lse=True)
    expected, expected_lse = naive(q, cache, index, 0.2, torch.float32)
    low, _ = naive(q, cache, index, 0.2, dtype)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    close(out, expected, low.to(dtype), 1e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)


def weighted(index: PageIndex, seed: int = 0) -> PageIndex:
    """With a weight for each page, from a thousandth to a thousand; NaN past the counts."""
    weights = torch.randn(index.pages.shape, generator=torch.Generator().manual_seed(seed)) * 3
    past = torch.arange(index.pages.shape[2]) >= index.counts[..., None]
    return replace(index, log_weights=weights.masked_fill(past, float("nan")))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "size", "block_size", "unit", "dtype"),
    [
        ([330, 1, 77], 4, 2, 64, 16, 1, torch.float32),
        ([330, 77], 4, 2, 128, 16, 1, torch.float16),
        ([130, 0, 77], 2, 1, 64, 16, 5, torch.float32),  # pages that begin and end within tiles
    ],
)
def test_weights_multiply_pages(
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
    index = weighted(make_index(cache, unit, 0.6))
    q = torch.randn(len(lengths), heads, size, generator=torch.Generator().manual_seed(5)).to(dtype)
    out, lse = sparse_decode(q, cache, index, impl=impl, return_lse=True)
    expected, expected_lse = naive(q, cache, index, size**-0.5, torch.float32)
    low, _ = naive(q, cache, index, size**-0.5, dtype)
    close(out, expected, low.to(dtype), 1e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_an_integer_weight_equals_listing_a_page_repeatedly(impl: str) -> None:
    """Sinks join the denominator once, and caps come before weights."""
    cache, softmax = make_cache([90], 1, 64, 16), Softmax(sinks=torch.tensor([1.0, -2.0]), soft_cap=2.0)
    pages = torch.tensor([[[3, 3, 3, 40, 41, 89, 89]]], dtype=torch.int32)
    often = PageIndex(pages, torch.tensor([[7]], dtype=torch.int32), 1, cache.lengths)
    once = PageIndex(
        torch.tensor([[[3, 40, 41, 89]]], dtype=torch.int32),
        torch.tensor([[4]], dtype=torch.int32),
        1,
        cache.lengths,
        torch.tensor([[[3.0, 1.0, 1.0, 2.0]]]).log(),
    )
    q = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(1))
    listed, counted = (sparse_decode(q, cache, x, softmax=softmax, impl=impl, return_lse=True) for x in (often, once))
    torch.testing.assert_close(counted[0], listed[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(counted[1], listed[1], rtol=1e-5, atol=1e-5)


def in_8_bits(cache: PagedCache) -> tuple[PagedCache, PagedCache]:
    """A cache whose numbers are rounded to 8 bits, in these and as they were."""
    small = [x.to(EIGHT_BITS) for x in (cache.keys, cache.values)]
    return (
        replace(cache, keys=small[0], values=small[1]),
        replace(cache, keys=small[0].to(cache.keys.dtype), values=small[1].to(cache.keys.dtype)),
    )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cache_in_8_bits_is_dequantised(impl: str, dtype: torch.dtype) -> None:
    small, large = in_8_bits(make_cache([130, 1, 77], 2, 64, 16, dtype))
    index = make_index(small, 16, 0.6)
    q = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(5)).to(dtype)
    out, expected = (sparse_decode(q, cache, index, impl=impl) for cache in (small, large))
    assert isinstance(out, Tensor)
    assert out.dtype == dtype
    assert torch.equal(out, expected)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_empty_lists_give_zero(impl: str) -> None:
    cache = make_cache([40, 70], 2, 64, 16)
    index = make_index(cache, 16, 1.0)
    index.counts[0, 1] = 0
    q = torch.randn(2, 4, 64)
    out, lse = sparse_decode(q, cache, index, impl=impl, return_lse=True)
    assert (out[0, 2:] == 0).all()
    assert (lse[0, 2:] == float("-inf")).all()
    expected, _ = naive(q, cache, index, 64**-0.5, torch.float32)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("splits", [1, 3, 50])
def test_the_number_of_splits_does_not_matter(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists with much room past their counts leave splits empty; 50 splits are combined in several steps."""
    from sparse_tasks.attention.kernels.triton import sparse_decode as kernel

    cache = make_cache([330, 90], 1, 128, 16)
    index = make_index(cache, 16, 0.9)
    index.counts[1] = 0
    pages = torch.nn.functional.pad(index.pages, (0, 1000), value=2**31 - 1)
    index = PageIndex(pages, index.counts, 16, cache.lengths)
    monkeypatch.setattr(kernel, "PROGRAMS", 2 * splits)
    q = torch.randn(2, 2, 128)
    out, lse = sparse_decode(q, cache, index, impl="triton", return_lse=True)
    expected, expected_lse = naive(q, cache, index, 128**-0.5, torch.float32)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("unit", [1, 16])
def test_contiguous_cache(impl: str, unit: int) -> None:
    """The layout of transformers, whose length is not a multiple of the page, is read in place."""
    keys, values = torch.randn(2, 2, 101, 64), torch.randn(2, 2, 101, 64)
    cache = PagedCache.contiguous(keys, values, torch.tensor([101, 50], dtype=torch.int32))
    assert cache.keys.data_ptr() == keys.data_ptr()
    torch.testing.assert_close(cache.gather(1)[1], values[1].transpose(0, 1)[:50])
    index = make_index(cache, unit, 0.5)
    q = torch.randn(2, 4, 64)
    out = sparse_decode(q, cache, index, impl=impl)
    expected, _ = naive(q, cache, index, 0.125, torch.float32)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", KERNELS)
def test_dense_equals_full_softmax(impl: str) -> None:
    lengths = [33, 128]
    cache = make_cache(lengths, 2, 64, 16)
    q = torch.randn(2, 4, 64)
    out = sparse_decode(q, cache, PageIndex.dense(cache.lengths, 2, 32, 128), impl=impl)
    for row in range(2):
        k, v = (x.repeat_interleave(2, 1).transpose(0, 1) for x in cache.gather(row))
        expected = torch.nn.functional.scaled_dot_product_attention(q[row, :, None], k, v)[:, 0]
        torch.testing.assert_close(out[row], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_parts_combine_to_the_whole(length: int, unit: int, block_size: int, share: float, seed: int) -> None:
    """Listed and unlisted keys, weighted by their log-sum-exps, give dense attention."""
    cache = make_cache([length], 1, 16, block_size, seed=seed)
    index, dense = make_index(cache, unit, share, seed), PageIndex.dense(cache.lengths, 1, unit, cache.capacity)
    there = ceil_div(length, unit)
    kept = set(index.pages[0, 0, : index.counts[0, 0]].tolist())
    others = [page for page in range(there) if page not in kept]
    rest = PageIndex(
        torch.tensor(others or [0], dtype=torch.int32)[None, None],
        torch.tensor([[len(others)]], dtype=torch.int32),
        unit,
        cache.lengths,
    )
    q = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(seed))
    (a, lse_a), (b, lse_b), (whole, lse) = (
        sparse_decode(q, cache, x, impl="triton", return_lse=True) for x in (index, rest, dense)
    )
    torch.testing.assert_close(torch.logaddexp(lse_a, lse_b), lse, rtol=1e-5, atol=1e-5)
    both = a * (lse_a - lse).exp()[..., None] + b * (lse_b - lse).exp()[..., None]
    torch.testing.assert_close(both, whole, rtol=1e-4, atol=1e-5)


def test_bad_input_is_named() -> None:
    cache = make_cache([40], 2, 64, 16)
    index, q = make_index(cache, 16, 1.0), torch.randn(1, 4, 64)
    for field, arguments in {
        "q": (torch.randn(2, 4, 64), cache, index),
        "keys": (q.half(), cache, index),
        "index.pages": (q, cache, PageIndex(index.pages[:, :1], index.counts, 16, cache.lengths)),
        "index.counts": (q, cache, PageIndex(index.pages, index.counts.long(), 16, cache.lengths)),
        "index.unit": (q, cache, PageIndex(index.pages, index.counts, 0, cache.lengths)),
        "index.log_weights": (q, cache, replace(index, log_weights=torch.zeros(index.counts.shape))),
    }.items():
        with pytest.raises(UsageError) as error:
            sparse_decode(*arguments)
        assert error.value.field == field
    with pytest.raises(UsageError, match="query heads"):
        sparse_decode(torch.randn(1, 5, 64), cache, index)
    for scale in (0.0, math.inf):
        with pytest.raises(UsageError, match="scale"):
            sparse_decode(q, cache, index, scale=scale)
