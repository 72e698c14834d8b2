"""Guards methods by which all heads of all layers keep the same blocks: which ones, how many, and which in any case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparse_tasks.attention.methods.knorm_blocks import KNormBlocks
from sparse_tasks.attention.methods.shared_blocks import SharedBlocksMethod
from sparse_tasks.attention.methods.snapkv_blocks import SnapKVBlocks
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import Array, attention, ends, kept_lists, make_sequence, top

CASES = [(70, 4, 2, 64), (51, 3, 3, 96), (96, 8, 1, 128), (20, 2, 2, 16), (64, 2, 1, 32)]


def tokens(blocks: list[int], block: int, n_k: int) -> list[int]:
    return [position for number in blocks for position in range(number * block, min(n_k, (number + 1) * block))]


def by_blocks(scores: Array, block: int) -> Array:
    """Summed over blocks: ``[heads, blocks]``."""
    n_k = scores.shape[1]
    return np.stack([scores[:, i : i + block].sum(1) for i in range(0, n_k, block)], 1)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("n_k", "heads", "kv_heads", "size"), CASES)
def test_snapkv_blocks_like_naive(impl: str, n_k: int, heads: int, kv_heads: int, size: int) -> None:
    """The blocks that some head of some layer attends to most, of three layers."""
    layers = [make_sequence(n_k, n_k, heads, kv_heads, size, seed=seed) for seed in range(3)]
    method = SnapKVBlocks(capacity=32, block=8, window=5, recent=8, sinks=1)
    every = -(-n_k // 8)
    most = np.concatenate([by_blocks(attention(q, k)[:, -5:].sum(1), 8) for q, k in layers]).max(0)
    count = min(every, 1 + round((32 - (n_k - (every - 1) * 8)) / 8))
    expected = tokens(top(most, count, ends(every, 1, 1)), 8, n_k)
    stay = method.agree([method.rank(q, k, impl=impl) for q, k in layers], n_k, impl=impl)
    assert stay.dtype == torch.int32
    assert stay.tolist() == expected
    one = by_blocks(attention(*layers[0])[:, -5:].sum(1), 8).max(0)
    alone = method.keep(*layers[0], impl=impl)
    assert kept_lists(alone) == [tokens(top(one, count, ends(every, 1, 1)), 8, n_k)] * kv_heads


@pytest.mark.parametrize(("n_k", "heads", "kv_heads", "size"), CASES)
def test_knorm_blocks_like_naive(n_k: int, heads: int, kv_heads: int, size: int) -> None:
    """Norms are over the mean of their head: one whose keys are all long has as much of a say."""
    layers = [make_sequence(3, n_k, heads, kv_heads, size, seed=seed) for seed in range(3)]
    layers[1] = (layers[1][0], 10 * layers[1][1])
    method = KNormBlocks(capacity=32, block=8, recent=8, sinks=1)
    norms = [np.sqrt((k.double().numpy() ** 2).sum(2)).T for _, k in layers]
    every = -(-n_k // 8)
    least = np.concatenate([by_blocks(-norm / norm.mean(1, keepdims=True), 8) for norm in norms]).max(0)
    count = min(every, 1 + round((32 - (n_k - (every - 1) * 8)) / 8))
    expected = tokens(top(least, count, ends(every, 1, 1)), 8, n_k)
    ranks = [method.rank(q, k, impl="torch") for q, k in layers]
    assert method.agree(ranks, n_k, impl="torch").tolist() == expected


@pytest.mark.parametrize("kind", [SnapKVBlocks, KNormBlocks])
@pytest.mark.parametrize(
    ("capacity", "length", "count", "seen"),
    [
        (1024, 1024, 32, 1024), (1024, 300, 10, 300), (1, 1000, 1, 8), (100, 1000, 4, 104), (119, 1000, 4, 104),
        (121, 1000, 5, 136), (999, 1000, 32, 1000), (5, 5, 1, 5), (32, 64, 1, 32), (49, 64, 2, 64),
    ],
)  # fmt: skip
def test_whole_blocks_are_nearest_to_the_budget(
    kind: type[SharedBlocksMethod], capacity: int, length: int, count: int, seen: int
) -> None:
    method = kind(capacity=capacity)
    assert method.blocks(length, length) == (count, seen)
    budget = min(capacity, length)
    assert method.read_span(length, length + 5) == (min(seen, budget) + 4, max(seen, budget) + 6)
    q, k = make_sequence(3, length, 2, 1, 16)
    assert method.keep(q, k, impl="torch").counts.tolist() == [seen]


@pytest.mark.parametrize(
    ("blocks", "first", "last"), [(1, 0, 1), (2, 1, 1), (3, 1, 1), (5, 1, 2), (9, 1, 4), (99, 1, 4)]
)
def test_first_and_last_blocks_leave_room_for_others(blocks: int, first: int, last: int) -> None:
    assert SnapKVBlocks().fixed(blocks) == (first, last)
    assert SnapKVBlocks(sinks=0, recent=0).fixed(blocks) == (0, 1)  # what is written next has to see what is before it


@pytest.mark.parametrize("settings", [{"block": 0}, {"window": 0}, {"recent": -1}])
def test_sizes_are_checked(settings: Any) -> None:
    with pytest.raises(UsageError):
        SnapKVBlocks(**settings)
