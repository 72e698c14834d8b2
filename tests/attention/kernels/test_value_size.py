"""Guards keys and values of different sizes: each kernel against fp32, on ragged shapes, with NaN in what is unread.

Of latent attention (DeepSeek-V2): keys of 192 numbers and values of 128 where it is written out for each head; where it
is not, one row of 576 for all heads, of which the first 512 are the value.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import LineIndex, PrefillIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.page_scores import page_scores
from sparse_tasks.attention.kernels.page_summaries import page_summaries
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.kernels.triton.sparse_decode import halves
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels import test_block_sparse, test_page_scores, test_vertical_slash
from tests.attention.kernels.prompts import check, close, make_prompt
from tests.attention.kernels.test_sparse_decode import make_index, naive

KERNELS = ["triton", "torch"]
# Triton's interpreter multiplies bfloat16 as integers, so 16-bit types are float16 there.


def indices(n_q: int, n_k: int, heads: int, seed: int) -> dict[str, PrefillIndex]:
    """One of each way in which a kernel reads a list."""
    return {
        "blocks": test_block_sparse.make_index(n_q, n_k, 64, 64, heads, seed),
        "gathered": test_block_sparse.make_index(n_q, n_k, 16, 32, heads, seed),
        "lines": test_vertical_slash.make_index(n_q, n_k, heads, seed),
    }


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("kind", ["blocks", "gathered", "lines"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "value", "dtype"),
    [
        (100, 100, 2, 2, 48, 32, torch.float16),
        (75, 140, 4, 2, 16, 48, torch.float32),
        (70, 70, 2, 1, 32, 80, torch.float16),
        pytest.param(90, 140, 2, 2, 192, 128, torch.float16, marks=pytest.mark.nightly),
    ],
)
def test_prompts(
    impl: str, kind: str, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, value: int, dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    index = indices(n_q, n_k, heads, seed)[kind]
    assert isinstance(index, LineIndex) == (kind == "lines")
    check(make_prompt(n_q, n_k, heads, kv_heads, size, dtype, seed, value), index, impl, seed)


def rows_of(lengths: list[int], kv_heads: int, size: int, block_size: int, dtype: torch.dtype) -> PagedCache:
    """A cache whose blocks are shuffled, of rows that are both key and value; NaN where there is no position."""
    make = torch.Generator().manual_seed(3)
    wide = max(ceil_div(n, block_size) for n in lengths) + 1
    table = torch.randperm(len(lengths) * wide, generator=make).int().view(-1, wide)
    rows = torch.full((table.numel(), block_size, kv_heads, size), float("nan"), dtype=dtype)
    for row, length in enumerate(lengths):
        for p in range(length):
            rows[table[row, p // block_size], p % block_size] = torch.randn(kv_heads, size, generator=make).to(dtype)
        table[row, ceil_div(length, block_size) :] = -1
    return PagedCache(rows, rows, table, torch.tensor(lengths, dtype=torch.int32))


def with_values(cache: PagedCache, value: int, *, apart: bool) -> PagedCache:
    """A cache whose values are the first part of its keys; in memory of their own if ``apart``."""
    keys = cache.keys
    if value > keys.shape[3]:
        keys = torch.nn.functional.pad(keys, (0, value - keys.shape[3]), value=0.5)
    values = keys[..., :value]
    return PagedCache(cache.keys, values.clone() if apart else values, cache.block_table, cache.lengths)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "size", "value", "block_size", "unit", "dtype"),
    [
        ([130, 1, 77], 4, 2, 48, 32, 16, 16, torch.float32),
        ([90, 31], 2, 2, 192, 128, 16, 1, torch.float16),
        ([70, 20], 6, 2, 16, 96, 12, 8, torch.float32),
        ([100, 1], 4, 1, 576, 512, 16, 16, torch.float16),
        ([50, 33], 40, 1, 576, 512, 16, 1, torch.float32),  # heads of several programs
        ([60], 17, 1, 320, 256, 16, 16, torch.float32),
    ],
)
def test_decoding(
    impl: str, apart: bool, lengths: list[int], heads: int, kv_heads: int, size: int, value: int, block_size: int,
    unit: int, dtype: torch.dtype,
) -> None:  # fmt: skip
    cache = with_values(rows_of(lengths, kv_heads, size, block_size, dtype), value, apart=apart)
    index = make_index(cache, unit, 0.6)
    q = torch.randn(len(lengths), heads, size, generator=torch.Generator().manual_seed(5)).to(dtype)
    out, lse = sparse_decode(q, cache, index, scale=0.1, impl=impl, return_lse=True)
    expected, expected_lse = naive(q, cache, index, 0.1, torch.float32)
    low, _ = naive(q, cache, index, 0.1, dtype)
    assert (out.shape, out.dtype) == ((len(lengths), heads, value), dtype)
    close(out, expected, low.to(dtype), 1e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_latents_in_8_bits_are_dequantised(impl: str) -> None:
    rows = rows_of([40, 3], 1, 576, 16, torch.float32)
    small = rows.keys.to(EIGHT_BITS)
    caches = [PagedCache(x, x[..., :512], rows.block_table, rows.lengths) for x in (small, small.float())]
    q = torch.randn(2, 20, 576, generator=torch.Generator().manual_seed(5))
    out, expected = (sparse_decode(q, x, make_index(x, 16, 0.8), impl=impl) for x in caches)
    assert isinstance(out, Tensor)
    assert torch.equal(out, expected)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("lengths", "heads", "size", "unit", "dtype"),
    [([100, 1, 40], 40, 576, 16, torch.float16), ([60], 17, 320, 4, torch.float32), ([33], 3, 48, 8, torch.float32)],
)
def test_bounds_of_pages(impl: str, lengths: list[int], heads: int, size: int, unit: int, dtype: torch.dtype) -> None:
    cache = rows_of(lengths, 1, size, 16, dtype)
    q = torch.randn(len(lengths), heads, size, generator=torch.Generator().manual_seed(5)).to(dtype)
    summaries = page_summaries(cache, unit, impl=impl)
    scores = page_scores(q, summaries, cache, unit=unit, impl=impl)
    expected = test_page_scores.naive(q, cache, unit, cache.capacity, torch.float32)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)


def test_a_head_is_split_into_powers_of_two_that_cover_it() -> None:
    for size in range(16, 577, 16):
        main, rest = halves(size)
        assert main + rest >= size > (main if rest else main // 2)
        assert (main & (main - 1), rest & (rest - 1)) == (0, 0)
    assert [halves(size) for size in (64, 112, 192, 576)] == [(64, 0), (128, 0), (128, 64), (512, 64)]


def test_output_of_the_wrong_size_is_named() -> None:
    cache = with_values(rows_of([40], 1, 48, 16, torch.float32), 32, apart=False)
    with pytest.raises(UsageError, match=r"^out: \(1, 2, 48\) has to be \(1, 2, 32\)"):
        sparse_decode(torch.zeros(1, 2, 48), cache, make_index(cache, 16, 1.0), out=torch.zeros(1, 2, 48))
