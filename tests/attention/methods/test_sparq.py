"""Guards SparQ: tokens as the paper's estimate, written out, ranks them; recent ones; counts by each length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention import cache as cache_module
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.methods.sparq import SparQ
from tests.attention.kernels.test_sparse_decode import make_cache
from tests.attention.methods.naive import attention, page_lists, top, wide_cache


def naive(q: Tensor, cache: PagedCache, r: int, tokens: list[int]) -> list[list[list[int]]]:
    """Steps 1 and 2 of the paper's algorithm, head by head."""
    chosen = []
    for row, budget in enumerate(tokens):
        keys, query = cache.gather(row)[0].double().numpy(), q[row].double().numpy()
        n, group = len(keys), len(query) // cache.kv_heads
        chosen.append([])
        for head in range(cache.kv_heads):
            queries = query[head * group : (head + 1) * group]
            largest = np.argsort(-np.abs(queries).sum(0))[:r]
            estimate = np.zeros(n)
            for one in queries:
                share = np.abs(one[largest]).sum() / np.abs(one).sum()
                scores = keys[:, head][:, largest] @ one[largest] / math.sqrt(len(one) * share)
                exponentials = np.exp(scores - scores.max())
                estimate += exponentials / exponentials.sum()
            recent = min(n, math.ceil(budget / 4))
            chosen[-1].append(top(estimate, budget, set(range(n - recent, n))))
    return chosen


def estimate(q: Tensor, cache: PagedCache, sequence: int, r: int) -> Tensor:
    """The estimated softmax of one sequence of a batch, ``[kv_heads, length]``, with a few operations on it alone."""
    keys = cache.gather(sequence)[0].transpose(0, 1).float()
    queries = q[sequence].float().view(cache.kv_heads, -1, cache.head_size)
    largest = queries.abs().sum(1).topk(min(r, cache.head_size)).indices[:, None]
    some = queries.gather(2, largest.expand(-1, queries.shape[1], -1))
    share = some.abs().sum(2) / queries.abs().sum(2)
    scores = some @ keys.gather(2, largest.expand(-1, keys.shape[1], -1)).mT
    return (scores / (cache.head_size * share).sqrt()[..., None]).softmax(2).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("numbers", [1, 5000, 1 << 25])
def test_a_batch_is_estimated_as_each_of_its_sequences(
    numbers: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any group of sequences in memory."""
    monkeypatch.setattr(cache_module, "_NUMBERS", numbers)
    lengths = [1, 160, 33, 2, 97, 160, 16]
    cache = make_cache(lengths, 2, 64, 16, dtype)
    q = torch.randn(len(lengths), 4, 64, generator=torch.Generator().manual_seed(5)).to(dtype)
    method = SparQ(token_budget=20, r=8, recent=0.0)
    found = page_lists(method.select(q, cache, None, impl="torch"))
    for row in range(len(lengths)):
        assert found[row] == [top(head, 20, set()) for head in estimate(q, cache, row, 8).numpy()]


@pytest.mark.parametrize(
    ("impl", "heads", "kv_heads", "size", "r", "dtype"),
    [
        ("torch", 4, 2, 64, 32, torch.float32),
        ("torch", 8, 1, 96, 7, torch.bfloat16),  # Triton's interpreter cannot multiply it
        ("torch", 3, 3, 128, 32, torch.float16),
        ("torch", 2, 2, 16, 32, torch.float32),
        ("triton", 4, 2, 64, 32, torch.float32),
        ("triton", 8, 1, 96, 7, torch.float16),
        ("triton", 2, 2, 16, 32, torch.float32),
    ],
)
def test_like_naive_on_a_ragged_batch(
    impl: str, heads: int, kv_heads: int, size: int, r: int, dtype: torch.dtype
) -> None:
    lengths = [150, 1, 97, 2, 17]
    cache = make_cache(lengths, kv_heads, size, 16, dtype)
    q = torch.randn(5, heads, size, generator=torch.Generator().manual_seed(3)).to(dtype)
    fixed = SparQ(token_budget=30, r=r).select(q, cache, None, impl=impl)
    assert page_lists(fixed) == naive(q, cache, r, [30] * 5)
    solved = SparQ(sparsity=0.8, r=r).select(q, cache, None, impl=impl)
    assert page_lists(solved) == naive(q, cache, r, [30, 1, 19, 1, 3])


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 160_000) | st.integers(1, 99), min_size=1, max_size=3),
    sparsity=st.floats(0, 0.999),
)
def test_the_device_matches_solve(lengths: list[int], sparsity: float) -> None:
    cache = wide_cache(lengths, 160_000)
    method = SparQ(sparsity=sparsity, r=1)
    index = method.select(torch.ones(len(lengths), 1, 16), cache, None, impl="torch")
    assert index.counts[:, 0].tolist() == [method.at(length).token_budget for length in lengths]
    assert int(index.counts.max()) <= index.pages.shape[2]
    for read, length in zip(index.computed()[:, 0].tolist(), lengths, strict=True):
        assert abs(read - length * (1 - sparsity)) <= 0.5 or read == 1  # a token is the least


def test_with_all_components_the_estimate_equals_attention() -> None:
    cache = make_cache([60], 1, 64, 16)
    q = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(1))
    weights = attention(q, cache.gather(0)[0])[0, 0]
    index = SparQ(token_budget=9, r=64, recent=0.0).select(q, cache, None, impl="torch")
    assert page_lists(index) == [[top(weights, 9, set())]]


def test_recent_tokens_alone() -> None:
    cache = make_cache([100, 3], 1, 64, 16)
    index = SparQ(token_budget=5, recent=1.0).select(torch.randn(2, 2, 64), cache, None, impl="torch")
    assert page_lists(index) == [[[95, 96, 97, 98, 99]], [[0, 1, 2]]]


def test_a_query_of_zeros_and_an_empty_sequence() -> None:
    index = SparQ(sparsity=0.5).select(torch.zeros(2, 1, 16), wide_cache([0, 64], 160), None, impl="torch")
    assert index.counts.tolist() == [[0], [32]]


def test_the_default_budget() -> None:
    index = SparQ().select(torch.ones(1, 1, 16), wide_cache([5000], 8000), None, impl="torch")
    assert index.counts.tolist() == [[128]]
