"""Guards Quest: the paper's budgets, the same count on device and host, and pages as the bound written out has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.methods.quest import Quest
from tests.attention.kernels.test_sparse_decode import make_cache
from tests.attention.methods.naive import DENSITIES, page_lists, top, wide_cache

BUDGETS = {
    16384: (816, 1088, 1632, 2176, 3280, 4912, 6560, 8192, 9824, 11472),
    32768: (1632, 2192, 3280, 4368, 6560, 9824, 13104, 16384, 19664, 22944),
    65536: (3280, 4368, 6560, 8736, 13104, 19664, 26208, 32768, 39328, 45872),
    128000: (6400, 8544, 12800, 17056, 25600, 38400, 51200, 64000, 76800, 89600),
}


def naive(q: Tensor, cache: PagedCache, page: int, pages: list[int]) -> list[list[list[int]]]:
    """The pages of each sequence and KV head, from the keys themselves; ``pages`` says how many."""
    chosen = []
    for row, count in enumerate(pages):
        keys, query = cache.gather(row)[0].double().numpy(), q[row].double().numpy()
        group = len(query) // cache.kv_heads
        total = -(-len(keys) // page)
        chosen.append([])
        for head in range(cache.kv_heads):
            bounds = np.full(total, -np.inf)
            for i in range(total):
                held = keys[i * page : (i + 1) * page, head]
                for one in query[head * group : (head + 1) * group]:
                    bounds[i] = max(bounds[i], np.maximum(one * held.min(0), one * held.max(0)).sum())
            chosen[-1].append(top(bounds, count, {total - 1}))
    return chosen


@pytest.mark.parametrize("length", BUDGETS)
def test_budgets_of_the_paper(length: int) -> None:
    budgets = [Quest(sparsity=1 - density).at(length).token_budget for density in DENSITIES]
    assert tuple(budgets) == BUDGETS[length]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 160_000) | st.integers(1, 99), min_size=1, max_size=8),
    sparsity=st.floats(0, 0.999),
    page=st.sampled_from([16, 8, 1]),
)
def test_the_device_matches_solve(lengths: list[int], sparsity: float, page: int) -> None:
    cache = wide_cache(lengths, 160_000)
    index = Quest(sparsity=sparsity, page=page).select(torch.ones(len(lengths), 1, 16), cache, None, impl="torch")
    solved = [Quest(sparsity=sparsity, page=page).at(length).token_budget // page for length in lengths]
    assert index.counts[:, 0].tolist() == [
        min(pages, -(-length // page)) for pages, length in zip(solved, lengths, strict=True)
    ]
    assert int(index.counts.max()) <= index.pages.shape[2]
    for read, length in zip(index.computed()[:, 0].tolist(), lengths, strict=True):
        nearest = abs(read - length * (1 - sparsity)) <= page / 2 + 1e-6
        assert nearest or read <= page  # one page is the least


@pytest.mark.parametrize(
    ("impl", "heads", "kv_heads", "size", "page", "dtype"),
    [
        ("torch", 4, 2, 64, 16, torch.float32),
        ("torch", 8, 1, 96, 8, torch.float16),
        ("torch", 3, 3, 128, 16, torch.float32),
        ("torch", 2, 1, 64, 4, torch.bfloat16),  # Triton's interpreter cannot multiply it
        ("triton", 4, 2, 64, 16, torch.float32),
        ("triton", 8, 1, 96, 8, torch.float16),
    ],
)
def test_like_naive_on_a_ragged_batch(
    impl: str, heads: int, kv_heads: int, size: int, page: int, dtype: torch.dtype
) -> None:
    cache = make_cache([150, 1, 16, 97, 17], kv_heads, size, 16, dtype)
    q = torch.randn(5, heads, size, generator=torch.Generator().manual_seed(3)).to(dtype)
    fixed = Quest(token_budget=4 * page, page=page).select(q, cache, None, impl=impl)
    assert page_lists(fixed) == naive(q, cache, page, [4] * 5)
    solved = Quest(sparsity=0.6, page=page)
    pages = [solved.at(length).token_budget // page for length in cache.lengths.tolist()]
    assert page_lists(solved.select(q, cache, None, impl=impl)) == naive(q, cache, page, pages)


def test_incremental_summaries_select_like_fresh_ones() -> None:
    cache = make_cache([90, 40], 2, 64, 16)
    quest, state = Quest(token_budget=32), Quest(token_budget=32).new_state(cache)
    for start, end in ((0, 70), (70, 71), (71, 90)):
        for row in range(2):
            position = torch.arange(min(start, int(cache.lengths[row])), min(end, int(cache.lengths[row])))
            slots = cache.block_table[row, position // 16].long() * 16 + position % 16
            quest.update(state, cache.gather(row)[0][position], slots, 16, impl="torch")
    q = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1))
    kept, fresh = (quest.select(q, cache, s, impl="torch") for s in (state, None))
    assert page_lists(kept) == page_lists(fresh)


def test_the_default_budget() -> None:
    index = Quest().select(torch.ones(1, 1, 16), wide_cache([5000], 8000), None, impl="torch")
    assert index.counts.tolist() == [[64]]


def test_a_partial_last_page_leaves_room_for_another() -> None:
    # 19.2 of 32 positions are nearest to one page, 10.2 of 17 to both: the full one and that of one position.
    for length, pages in ((32, 1), (17, 2)):
        index = Quest(sparsity=0.4).select(torch.ones(1, 1, 16), wide_cache([length], 32), None, impl="torch")
        assert index.counts.tolist() == [[pages]]
        assert index.pages.shape[2] >= pages


def test_an_empty_sequence_of_a_padded_batch_reads_nothing() -> None:
    index = Quest(sparsity=0.5).select(torch.ones(2, 1, 16), wide_cache([0, 64], 160), None, impl="torch")
    assert index.counts.tolist() == [[0], [2]]
