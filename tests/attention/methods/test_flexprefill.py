"""Guards FlexPrefill: patterns and blocks as attention written out decides them, and one gamma under a sparsity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.methods.flexprefill import FlexPrefill
from tests.attention.methods.naive import (
    Array,
    attention,
    before_each,
    block_lists,
    cells,
    make_sequence,
    pooled_products,
)

SHARPNESS = torch.tensor([0.5, 1.0, 6.0, 9.0])[:, None]


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max())
    return np.asarray(exponentials / exponentials.sum())


def of_last_block(q: Tensor, k: Tensor) -> tuple[Array, Array]:
    """Attention of the last 128 queries, by blocks of keys and by blocks of distances: ``[heads, blocks]`` twice."""
    weights = attention(q[-128:], k)
    heads, n_q, n_k = weights.shape
    verticals, slashes = (np.zeros((heads, -(-n_k // 128))) for _ in range(2))
    for i in range(n_q):
        position = n_k - n_q + i
        for key in range(position + 1):
            verticals[:, key // 128] += weights[:, i, key] / n_q
            slashes[:, (position - key) // 128] += weights[:, i, key] / n_q
    return verticals, slashes


def distance(p: Array, q: Array) -> float:
    """The root of the Jensen-Shannon divergence."""
    middle = (p + q) / 2
    return math.sqrt(sum(0.5 * float((x * np.log(x / middle)).sum()) for x in (p, q)))


def shares_before(q: Tensor, k: Tensor, tau: float, sink: bool = True) -> tuple[list[bool], list[list[Array]]]:
    """Whether a head is query-aware; and for each query block the share that comes before each key block."""
    verticals, slashes = of_last_block(q, k)
    means = np.stack([k[i : i + 128].double().numpy().mean(0) for i in range(0, len(k), 128)])
    aware, shares = [], []
    for head, products in enumerate(pooled_products(q, k, 128)):
        query = q[-128:, head].double().numpy().mean(0) / math.sqrt(q.shape[2])
        aware.append(distance(verticals[head], softmax(means[:, head * k.shape[1] // q.shape[1]] @ query)) < tau)
        shares.append([])
        down = before_each(verticals[head], {0} if sink else set())
        along = before_each(slashes[head], {0})
        for row in products:
            own = len(row) - 1
            if aware[-1]:
                shares[-1].append(before_each(softmax(row), {0, own} if sink else {own}))
            else:
                shares[-1].append(np.array([min(down[c], along[own - c]) for c in range(own + 1)]))
    return aware, shares


@pytest.mark.parametrize(
    ("impl", "n_q", "n_k", "gamma", "tau"),
    [
        ("torch", 1024, 1024, 0.7, 0.1),
        ("torch", 333, 801, 0.6, 0.215),  # a chunk that begins within a block
        ("torch", 20, 650, 0.9, 0.22),  # fewer queries than a block
        ("triton", 20, 650, 0.9, 0.22),
        ("torch", 700, 700, 0.0, 0.188),  # sink and diagonal alone
    ],
)
def test_like_naive(impl: str, n_q: int, n_k: int, gamma: float, tau: float) -> None:
    q, k = make_sequence(n_q, n_k, 4, 2, 64)
    q = q * SHARPNESS
    aware, shares = shares_before(q, k, tau)
    assert set(aware) == {True, False}
    index = FlexPrefill(gamma=gamma, tau=tau, min_budget=0).select(q, k, impl=impl)
    assert index is not None
    expected = [[[c for c, x in enumerate(row) if x < 0 or x < gamma] for row in head] for head in shares]
    assert block_lists(index) == expected
    _, lines = shares_before(q, k, tau=0)
    index = FlexPrefill(gamma=gamma, tau=0.0, min_budget=0).select(q, k, impl=impl)
    assert index is not None
    assert block_lists(index) == [[[c for c, x in enumerate(row) if x < 0 or x < gamma] for row in h] for h in lines]


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_minimum_budget_applies_to_verticals_and_slashes(tau: float) -> None:
    q, k = make_sequence(1000, 1000, 2, 1, 64)
    index = FlexPrefill(gamma=0.0, tau=tau, min_budget=300).select(q, k, impl="torch")
    assert index is not None
    verticals, slashes = of_last_block(q, k)
    for head, rows in enumerate(block_lists(index)):
        down = np.argsort(-np.r_[9, verticals[head][1:]])[:3]
        along = np.argsort(-np.r_[9, slashes[head][1:]])[:3]
        for row, blocks in enumerate(rows):
            if tau == 0:
                assert set(blocks) == {c for c in down if c <= row} | {row - d for d in along if d <= row}
            else:
                assert len(blocks) == min(3, row + 1)
                assert {0, row} <= set(blocks)


@pytest.mark.parametrize(
    ("impl", "n_q", "n_k", "tau", "sparsity"),
    [
        *(("torch", 1024, 1024, 0.1, sparsity) for sparsity in (0.3, 0.5, 0.9)),
        *(("torch", 333, 801, 0.215, sparsity) for sparsity in (0.3, 0.5, 0.9)),
        ("triton", 333, 801, 0.215, 0.9),
    ],
)
def test_a_sparsity_finds_one_gamma_for_all_heads(impl: str, n_q: int, n_k: int, tau: float, sparsity: float) -> None:
    q, k = make_sequence(n_q, n_k, 4, 2, 64)
    q = q * SHARPNESS
    index = FlexPrefill(sparsity=sparsity, tau=tau).select(q, k, impl=impl)
    assert index is not None
    first, sink = (n_k - n_q) // 128, sparsity < 0.9  # in so short a prompt there is no room for it beyond
    met, left, total = [0.0], [1.0], 0
    aware, shares = shares_before(q, k, tau, sink)
    assert set(aware) == {True, False}
    for taken, rows in zip(block_lists(index), shares, strict=True):
        for r, (blocks, row) in enumerate(zip(taken, rows, strict=True)):
            assert {first + r, *({0} if sink else ())} <= set(blocks)
            met += [row[c] for c in blocks]
            left += [share for c, share in enumerate(row) if c not in blocks]
            total += sum(cells(first + r, c, 128, n_q, n_k) for c in blocks)
    assert max(met) <= min(left) + 1e-5
    wanted = 4 * (1 - sparsity) * causal_count(n_q, n_k)
    diagonal = 4 * sum(cells(r, r, 128, n_q, n_k) for r in range(first, -(-n_k // 128)))
    assert abs(total - max(wanted, diagonal)) <= 128 * 128 / 2 + 1


def test_heads_of_different_kinds_get_what_they_need() -> None:
    q, k, _ = structured(2000, 4, 2, 32)
    index = FlexPrefill(sparsity=0.7).select(q, k, impl="torch")
    assert index is not None
    density = index.density()
    assert float(density.mean()) == pytest.approx(0.3, abs=0.005)
    assert float(density.max() - density.min()) > 0.05
