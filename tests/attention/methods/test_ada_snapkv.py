"""Guards Ada-SnapKV: the heads' total is exact, none is below its floor, and the rest goes to the highest scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.methods.ada_snapkv import AdaSnapKV
from tests.attention.methods.naive import (
    Array,
    attention,
    ends,
    kept_lists,
    make_sequence,
    smoothed,
    top,
)


def naive(scores: Array, capacity: int, floor: int, always: set[int]) -> list[list[int]]:
    """The floor of each head, and then pairs of head and token, by score."""
    kept = {(h, i) for h, head in enumerate(scores) for i in top(head, max(floor, len(always)), always)}
    ranked = sorted(np.ndindex(scores.shape), key=lambda pair: (pair not in kept, -scores[pair], pair))
    chosen = ranked[: capacity * len(scores)]
    return [sorted(int(i) for h, i in chosen if h == head) for head in range(len(scores))]


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_k", "heads", "kv_heads", "size", "dtype"),
    [(80, 8, 4, 64, torch.float32), (101, 3, 3, 96, torch.float16), (101, 8, 2, 128, torch.float32)],
)
@pytest.mark.parametrize("floor", [0.2, 0.9])
def test_like_naive(
    impl: str, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, floor: float
) -> None:
    q, k = make_sequence(30, n_k, heads, kv_heads, size, dtype)
    q = q * torch.linspace(0.2, 3, heads, dtype=dtype)[:, None]  # some heads are sharp, some are not
    kept = AdaSnapKV(capacity=20, window=12, kernel=3, sinks=1, recent=2, floor=floor).keep(q, k, impl=impl)
    scores = smoothed(attention(q[-12:], k).sum(1), 3).reshape(kv_heads, -1, n_k).max(1)
    assert kept_lists(kept) == naive(scores, 20, int(20 * floor), ends(n_k, 1, 2))
    assert int(kept.counts.sum()) == 20 * kv_heads
    assert kept.length == n_k


def test_sharp_heads_get_less_than_their_share_but_the_floor() -> None:
    q, k = make_sequence(64, 500, 2, 2, 16)
    q[:, 1] *= 100  # all its attention is on a few tokens
    kept = AdaSnapKV(capacity=100, kernel=1, sinks=0, recent=0).keep(q, k, impl="torch")
    flat, sharp = kept.counts.tolist()
    assert flat + sharp == 200
    assert 20 <= sharp < 100 < flat <= kept.positions.shape[1]


def test_a_floor_of_one_gives_equal_heads() -> None:
    q, k = make_sequence(64, 200, 4, 4, 16)
    assert AdaSnapKV(capacity=50, floor=1.0).keep(q, k, impl="torch").counts.tolist() == [50] * 4


@settings(max_examples=15, deadline=None)
@given(
    n_k=st.integers(1, 200), capacity=st.integers(1, 220), kv_heads=st.sampled_from([1, 2, 5]), floor=st.floats(0, 1)
)
def test_the_total_is_exact(n_k: int, capacity: int, kv_heads: int, floor: float) -> None:
    q, k = make_sequence(min(n_k, 8), n_k, kv_heads, kv_heads, 16)
    kept = AdaSnapKV(capacity=capacity, floor=floor).keep(q, k, impl="torch")
    each = min(capacity, n_k)
    assert sum(map(len, kept_lists(kept))) == kv_heads * each
    assert int(kept.counts.min()) >= int(floor * each)


def test_the_next_token_joins_heads_of_different_counts() -> None:
    q, k = make_sequence(64, 500, 2, 2, 16)
    q[:, 1] *= 100
    method = AdaSnapKV(capacity=100, kernel=1)
    kept = method.keep(q, k, impl="torch")
    grown = method.advance(method.advance(kept, 500), 501)
    assert kept_lists(grown) == [[*head, 500, 501] for head in kept_lists(kept)]
