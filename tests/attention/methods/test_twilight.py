"""Guards Twilight: top-p of Quest's tokens as written out, and under a sparsity one p for all heads that meets it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.methods.twilight import Twilight
from tests.attention.kernels.test_sparse_decode import make_cache
from tests.attention.methods import test_quest
from tests.attention.methods.naive import Array, page_lists, wide_cache


def base_tokens(q: Tensor, cache: PagedCache, share: float, page: int) -> list[list[list[int]]]:
    """The tokens of Quest's pages."""
    lengths = cache.lengths.tolist()
    pages = [max(1, round((n * share + -n % page) / page)) for n in lengths]
    return [
        [[t for p in head for t in range(p * page, min(n, (p + 1) * page))] for head in row]
        for row, n in zip(test_quest.naive(q, cache, page, pages), lengths, strict=True)
    ]


def estimates(q: Tensor, cache: PagedCache, row: int, head: int, tokens: list[int]) -> Array:
    """Softmax over the tokens with keys of 4 bits, summed over the group."""
    keys, query = cache.gather(row)[0].float().numpy()[tokens, head], q[row].double().numpy()
    group = len(query) // cache.kv_heads
    weights = np.zeros(len(tokens))
    step = np.abs(keys).max(1, keepdims=True) / 7
    rounded = (np.round(keys / step) * step).astype(np.float64)
    for one in query[head * group : (head + 1) * group]:
        scores = rounded @ one / math.sqrt(len(one))
        exponentials = np.exp(scores - scores.max())
        weights += exponentials / exponentials.sum()
    return weights


def naive_top_p(weights: Array, tokens: list[int], p: float) -> list[int]:
    """Tokens from the heaviest on, until they hold the share."""
    chosen, mass = [], 0.0
    for i in np.argsort(-weights):
        if chosen and mass >= p * weights.sum():
            break
        chosen.append(tokens[i])
        mass += weights[i]
    return sorted(chosen)


@pytest.mark.parametrize(
    ("impl", "heads", "kv_heads", "size", "page", "dtype"),
    [
        ("torch", 4, 2, 64, 16, torch.float32),
        ("torch", 8, 1, 96, 8, torch.float16),
        ("torch", 3, 3, 128, 4, torch.float32),
        ("torch", 4, 2, 64, 16, torch.bfloat16),  # Triton's interpreter cannot multiply it
        ("triton", 4, 2, 64, 16, torch.float32),
        ("triton", 8, 1, 96, 8, torch.float16),
    ],
)
def test_like_naive_on_a_ragged_batch(
    impl: str, heads: int, kv_heads: int, size: int, page: int, dtype: torch.dtype
) -> None:
    cache = make_cache([150, 1, 97, 17], kv_heads, size, 16, dtype)
    q = torch.randn(4, heads, size, generator=torch.Generator().manual_seed(3)).to(dtype)
    for p, base in ((0.85, 0.25), (0.5, 0.6)):
        expected = [
            [naive_top_p(estimates(q, cache, row, head, tokens), tokens, p) for head, tokens in enumerate(heads_of_row)]
            for row, heads_of_row in enumerate(base_tokens(q, cache, base, page))
        ]
        found = Twilight(p=p, base=base, page=page).select(q, cache, None, impl=impl)
        assert page_lists(found) == expected


@pytest.mark.parametrize(("impl", "sparsity"), [("torch", 0.95), ("torch", 0.8), ("torch", 0.33), ("triton", 0.8)])
def test_a_sparsity_finds_one_p_for_all_heads(impl: str, sparsity: float) -> None:
    kv_heads, lengths = 3, [300, 150]
    cache = make_cache(lengths, kv_heads, 64, 16)
    q = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(3)) * torch.tensor([1, 1, 2, 2, 6, 6])[:, None]
    index = Twilight(sparsity=sparsity, page=4).select(q, cache, None, impl=impl)
    tokens = base_tokens(q, cache, min(1, max(0.25, 2 * (1 - sparsity))), 4)
    assert index.counts.sum(1).tolist() == [round(kv_heads * n * (1 - sparsity)) for n in lengths]
    for row, kept in enumerate(page_lists(index)):
        met, open_ = [], []  # the mass before the last that is kept, and before the next
        for head, chosen in enumerate(kept):
            weights = estimates(q, cache, row, head, tokens[row][head]) / 2
            order = np.argsort(-weights)
            before = np.cumsum(weights[order]) - weights[order]
            assert chosen == sorted(np.array(tokens[row][head])[order[: len(chosen)]])
            met.append(before[len(chosen) - 1])
            open_.extend(before[len(chosen) : len(chosen) + 1])
        assert max(met) <= min(open_) + 1e-5
        assert len(kept[0]) > len(kept[2])  # sharp attention needs less


@settings(max_examples=15, deadline=None)
@given(length=st.integers(64, 320), sparsity=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_the_density_is_met(length: int, sparsity: float, seed: int) -> None:
    cache = make_cache([length], 2, 16, 16, seed=seed)
    q = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(seed))
    kept = Twilight(sparsity=sparsity).select(q, cache, None, impl="torch").density().mean()
    assert abs(float(kept) - max(1 - sparsity, 1 / length)) <= 0.5 / (2 * length) + 1e-6


def test_zero_sparsity_and_full_mass_are_dense() -> None:
    cache = make_cache([100, 1, 16], 2, 64, 16)
    q = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(1))
    for method in (Twilight(sparsity=0.0), Twilight(p=1.0, base=1.0)):
        assert method.select(q, cache, None, impl="torch").computed().tolist() == [[n, n] for n in (100, 1, 16)]


@pytest.mark.parametrize("method", [Twilight(p=0.0), Twilight(sparsity=0.999)])
def test_each_head_reads_at_least_one_token(method: Twilight) -> None:
    cache = make_cache([100, 1], 2, 64, 16)
    index = method.select(torch.randn(2, 4, 64), cache, None, impl="torch")
    assert index.counts.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("method", [Twilight(), Twilight(sparsity=0.5)])
def test_an_empty_sequence_of_a_padded_batch_reads_nothing(method: Twilight) -> None:
    index = method.select(torch.ones(2, 1, 16), wide_cache([0, 64], 160), None, impl="torch")
    assert index.counts[0].tolist() == [0]
    assert index.counts[1].tolist() != [0]
