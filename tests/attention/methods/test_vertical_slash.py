"""Guards Vertical-Slash: lines as attention written out ranks them, and numbers of lines that meet a density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.methods.vertical_slash import VerticalSlash
from sparse_tasks.attention.ops.eviction import protect
from sparse_tasks.attention.ops.lines import line_index, lines_for_density
from tests.attention.methods.naive import Array, attention, crossed_bands, line_lists, make_sequence, top


def by_distance(weights: Array) -> Array:
    """Sums along diagonals of ``[heads, n_q, n_k]``."""
    heads, n_q, n_k = weights.shape
    sums = np.zeros((heads, n_k))
    for i in range(n_q):
        position = n_k - n_q + i
        for key in range(position + 1):
            sums[:, position - key] += weights[:, i, key]
    return sums


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size"),
    [
        (150, 150, 4, 2, 64),
        (9, 201, 3, 3, 96),  # fewer queries than the window
        (140, 301, 2, 1, 64),
    ],
)
def test_like_naive(impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, size: int) -> None:
    q, k = make_sequence(n_q, n_k, heads, kv_heads, size)
    index = VerticalSlash(verticals=20, slashes=11, window=12, sinks=3, recent=5).select(q, k, impl=impl)
    assert index is not None
    weights = attention(q[-12:], k)
    columns, slashes, bands = line_lists(index)
    assert columns == [top(head, 20, {0, 1, 2}) for head in weights.sum(1)]
    assert slashes == [top(head, 11, {0, 1, 2, 3, 4}) for head in by_distance(weights)]
    assert bands == [crossed_bands(head, 128, 64) for head in slashes]


@pytest.mark.parametrize(("n_q", "n_k"), [(300, 300), (77, 300), (64, 257)])
def test_tiles_contain_the_lines_and_nothing_else_is_seen(n_q: int, n_k: int) -> None:
    q, k = make_sequence(n_q, n_k, 2, 1, 16)
    index = VerticalSlash(verticals=9, slashes=6, window=16, recent=2).select(q, k, impl="torch")
    assert index is not None
    columns, slashes, bands = line_lists(index)
    mask = index.pattern().mask(n_q, n_k)
    lines = 0
    for head in range(2):
        for i, query in enumerate(range(n_k - n_q, n_k)):
            on_lines = {key for key in columns[head] if key <= query} | {query - d for d in slashes[head] if d <= query}
            near = {key for key in range(query + 1) if (query // 128 + 1) * 2 - 1 - key // 64 in bands[head]}
            assert set(mask[head, i].nonzero()[:, 0].tolist()) == on_lines | near
            lines += len(on_lines)
    assert float(index.selected_density().sum()) == pytest.approx(lines / causal_count(n_q, n_k))


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_sinks_and_recent_distances_are_always_seen(sparsity: float) -> None:
    q, k = make_sequence(2000, 2000, 4, 2, 16)
    index = VerticalSlash(sparsity=sparsity, sinks=7, recent=19).select(q, k, impl="torch")
    assert index is not None
    columns, slashes, _ = line_lists(index)
    for head in range(4):
        assert set(range(min(7, len(columns[head])))) <= set(columns[head])
        assert set(range(min(19, len(slashes[head])))) <= set(slashes[head])


def scores(n_k: int, heads: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random verticals, and adjacent slashes as in real heads."""
    draw = torch.Generator().manual_seed(seed)
    vertical = torch.rand(heads, n_k, generator=draw)
    slash = torch.rand(heads, n_k, generator=draw) / (1 + torch.arange(n_k) // 7)
    return protect(vertical, 2, 0), protect(slash, 3, 0)


def computed(vertical: Tensor, slash: Tensor, verticals: int, slashes: int, n_q: int, block_q: int, unit: int) -> float:
    """The mean density of what a kernel computes, counted from the mask."""
    n_k = vertical.shape[1]
    index = line_index(
        *select_top(vertical, verticals, impl="torch"),
        *select_top(slash, slashes, impl="torch"),
        block_q=block_q,
        unit=unit,
        n_q=n_q,
        n_k=n_k,
        impl="torch",
    )
    return float(index.pattern().density(n_q, n_k).mean())


@settings(max_examples=60, deadline=None)
@given(
    n_k=st.integers(1, 300),
    chunk=st.floats(0.01, 1),
    density=st.floats(0.01, 1),
    tiles=st.sampled_from([(16, 8), (16, 4), (8, 8), (128, 64)]),
    heads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_numbers_of_lines_match_a_density(
    n_k: int, chunk: float, density: float, tiles: tuple[int, int], heads: int, seed: int
) -> None:
    n_q, (block_q, unit) = max(1, round(chunk * n_k)), tiles
    vertical, slash = scores(n_k, heads, seed)
    counts = lines_for_density(vertical, slash, n_q=n_q, density=density, block_q=block_q, unit=unit, impl="torch")
    verticals, slashes = (int(count) for count in counts)
    assert 1 <= slashes <= verticals <= n_k

    def of(verticals: int, slashes: int) -> float:
        return computed(vertical, slash, verticals, slashes, n_q, block_q, unit)

    found = of(verticals, slashes)
    assert found <= density + 1e-9 or (verticals, slashes) == (1, 1)
    if slashes < n_k:  # as many verticals as slashes: one more of both is too much, at lengths where each is tried
        assert of(slashes + 1, slashes + 1) > density - 1e-9
    if verticals < n_k:  # and so is one more vertical, which in each head at most all queries see
        assert of(verticals + 1, slashes) > density - 1e-9
        assert found > density - n_q / causal_count(n_q, n_k) - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("impl", "n_q"), [("torch", 1500), ("torch", 700), ("triton", 300)])
def test_a_sparsity_is_met_including_tiles(impl: str, n_q: int) -> None:
    q, k, _ = structured(1500, 4, 2, 32)
    index = VerticalSlash(sparsity=0.6).select(q[-n_q:], k, impl=impl)
    assert index is not None
    assert float(index.density().mean()) == pytest.approx(0.4, abs=0.005)
    assert (index.selected_density() <= index.density()).all()
    counts = torch.cat([index.column_counts, index.slash_counts])
    assert (index.column_counts >= index.slash_counts).all()
    assert counts.min() >= 1


@pytest.mark.parametrize(
    ("method", "n"), [(VerticalSlash(sparsity=0.7), 2000), (VerticalSlash(verticals=1, slashes=1), 700)]
)
def test_first_tokens_and_shortest_distances_are_always_seen(method: VerticalSlash, n: int) -> None:
    index = method.select(*make_sequence(n, n, 4, 2, 32), impl="torch")
    assert index is not None
    assert index.slash_counts is not None
    assert (index.column_counts >= 4).all()
    assert (index.slash_counts >= 64).all()
    mask = index.pattern().mask(n, n)
    query, key = torch.arange(n)[:, None], torch.arange(n)
    always = ((key < 4) | (query - key < 64)) & (key <= query)
    assert mask[:, always].all()


def test_verticals_precede_neighbours_in_short_prompts() -> None:
    q, k, _ = structured(1000, 4, 2, 32)
    index = VerticalSlash(sparsity=0.8).select(q, k, impl="torch")
    assert index is not None
    assert index.slash_counts is not None
    assert float(index.density().mean()) == pytest.approx(0.2, abs=0.005)
    assert index.slash_counts.tolist() == [1] * 4  # 64 would compute a quarter, and leave four verticals
    assert (index.column_counts > 30).all()


def test_the_default_numbers() -> None:
    index = VerticalSlash().select(*make_sequence(70, 1100, 2, 1, 16), impl="torch")
    assert index is not None
    assert index.column_counts.tolist() == [1024, 1024]
    assert index.slash_counts is not None
    assert index.slash_counts.tolist() == [1024, 1024]
