"""Guards H2O: heavy hitters of all queries, the recent half, and a simulation of its steps with plain lists."""

from __future__ import annotations

import pytest
import torch

from sparse_tasks.attention.methods.h2o import H2O
from tests.attention.methods.naive import (
    attention,
    ends,
    kept_lists,
    make_sequence,
    top,
)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_k", "heads", "kv_heads", "size", "dtype"),
    [(70, 4, 2, 64, torch.float32), (51, 3, 3, 96, torch.float16), (90, 8, 1, 128, torch.float32)],
)
def test_like_naive(impl: str, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    q, k = make_sequence(n_k, n_k, heads, kv_heads, size, dtype)
    kept = H2O(capacity=15).keep(q, k, impl=impl)
    scores = attention(q, k).sum(1).reshape(kv_heads, -1, n_k).sum(1)
    expected = [top(head, 15, ends(n_k, 0, 8)) for head in scores]
    assert kept_lists(kept) == expected
    of_kept = torch.tensor(scores).gather(1, torch.tensor(expected)).float()
    torch.testing.assert_close(kept.scores, of_kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prompt", "capacity"), [(20, 9), (9, 9), (3, 9), (5, 1), (12, 2)])
def test_steps_match_a_list_implementation(prompt: int, capacity: int) -> None:
    q, k = make_sequence(prompt, prompt, 4, 2, 16)
    make, method = torch.Generator().manual_seed(0), H2O(capacity=capacity)
    kept = method.keep(q, k, impl="torch")
    assert kept.scores is not None
    held = [dict(zip(*pair, strict=True)) for pair in zip(kept_lists(kept), kept.scores.tolist(), strict=True)]
    recent = capacity - capacity // 2
    for position in range(prompt, prompt + 20):
        weights = torch.rand(2, kept.positions.shape[1] + 1, generator=make)
        kept = method.advance(kept, position, weights)
        for head, row in zip(held, weights.tolist(), strict=True):
            head[position] = 0.0
            for token, weight in zip(head, row, strict=True):
                head[token] += weight
            if len(head) > capacity:
                del head[min(list(head)[:-recent], key=head.__getitem__)]
        assert kept_lists(kept) == [list(head) for head in held]
        assert kept.length == position + 1
        torch.testing.assert_close(kept.scores, torch.tensor([list(head.values()) for head in held]))
    assert kept.counts.tolist() == [capacity] * 2


@pytest.mark.parametrize("cuts", [[70], [1, 70], [30, 31, 64, 70], [69, 70]])
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_chunks_sum_up_to_the_attention_of_all_queries(impl: str, cuts: list[int]) -> None:
    """The method remembers one number for each key, and no queries."""
    q, k = make_sequence(70, 70, 4, 2, 64)
    method, seen, start = H2O(capacity=15), None, 0
    for end in cuts:
        before = None if seen is None else seen.clone()
        earlier, seen = seen, method.observe(seen, q[start:end], k[:end], impl=impl)
        assert (seen.shape, seen.dtype) == ((2, end), torch.float32)
        assert before is None or torch.equal(earlier, before)
        start = end
    assert seen is not None
    sums = torch.tensor(attention(q, k).sum(1).reshape(2, -1, 70).sum(1)).float()
    torch.testing.assert_close(seen, sums, rtol=1e-4, atol=1e-5)
    kept, whole = method.settle(seen, k, impl=impl), method.keep(q, k, impl=impl)
    assert kept_lists(kept) == kept_lists(whole)
    torch.testing.assert_close(kept.scores, whole.scores, rtol=1e-4, atol=1e-5)
    assert kept.capacity == whole.capacity == 15


def test_a_solved_capacity_lasts_through_the_steps() -> None:
    q, k = make_sequence(100, 100, 2, 2, 16)
    method = H2O(sparsity=0.9)
    kept = method.keep(q, k, impl="torch")
    for position in range(100, 104):
        kept = method.advance(kept, position, torch.ones(2, 11))
    assert kept.counts.tolist() == [10, 10]
