"""Guards TOVA: the last query decides, no token is safe, and a simulation of its steps with plain lists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparse_tasks.attention.methods.tova import TOVA
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import attention, kept_lists, make_sequence, top


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "dtype"),
    [(70, 70, 4, 2, 64, torch.float32), (1, 51, 3, 3, 96, torch.float16), (5, 90, 8, 1, 128, torch.float32)],
)
def test_like_naive(impl: str, n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    q, k = make_sequence(n_q, n_k, heads, kv_heads, size, dtype)
    scores = attention(q[-1:], k)[:, 0].reshape(kv_heads, -1, n_k).sum(1)
    assert kept_lists(TOVA(capacity=15).keep(q, k, impl=impl)) == [top(head, 15, set()) for head in scores]


@pytest.mark.parametrize(("prompt", "capacity"), [(20, 9), (9, 9), (3, 9), (5, 1)])
def test_steps_match_a_list_implementation(prompt: int, capacity: int) -> None:
    make, method = torch.Generator().manual_seed(0), TOVA(capacity=capacity)
    kept = method.keep(*make_sequence(prompt, prompt, 4, 2, 16), impl="torch")
    held, gone = kept_lists(kept), 0
    for position in range(prompt, prompt + 20):
        weights = torch.rand(2, kept.positions.shape[1] + 1, generator=make)
        kept = method.advance(kept, position, weights)
        for head, row in zip(held, weights.tolist(), strict=True):
            head.append(position)
            if len(head) > capacity:
                dropped = head.pop(row.index(min(row)))
                gone += dropped == position
        assert kept_lists(kept) == held
        assert kept.length == position + 1
    assert kept.counts.tolist() == [capacity] * 2
    assert gone > 0 or prompt < capacity  # the new token itself was the least


def test_weights_and_a_capacity_are_required() -> None:
    method = TOVA(capacity=5)
    kept = method.keep(*make_sequence(10, 10, 2, 1, 16), impl="torch")
    with pytest.raises(UsageError, match=r"weights.*tova"):
        method.advance(kept, 10)
    with pytest.raises(UsageError, match=r"\(1, 6\)"):
        method.advance(kept, 10, torch.ones(2, 6))
    with pytest.raises(UsageError, match="capacity"):
        method.advance(replace(kept, capacity=None), 10, torch.ones(1, 6))
