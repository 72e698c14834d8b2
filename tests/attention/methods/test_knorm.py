"""Guards KNorm: the shortest keys stay, longest go, and queries have no say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparse_tasks.attention.methods.knorm import KNorm
from tests.attention.methods.naive import ends, kept_lists, make_sequence, top


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n_k", "heads", "kv_heads", "size"), [(70, 4, 2, 64), (51, 3, 3, 96), (90, 8, 1, 128), (20, 2, 2, 16)]
)
def test_like_naive(impl: str, dtype: torch.dtype, n_k: int, heads: int, kv_heads: int, size: int) -> None:
    q, k = make_sequence(3, n_k, heads, kv_heads, size, dtype)
    norms = np.sqrt((k.double().numpy() ** 2).sum(2)).T
    expected = [top(-head, 15, ends(n_k, 4, 0)) for head in norms]
    assert kept_lists(KNorm(capacity=15).keep(q, k, impl=impl)) == expected
    assert kept_lists(KNorm(capacity=15).keep(-2 * q, k, impl=impl)) == expected


def test_first_tokens_take_half_of_a_short_budget() -> None:
    assert [KNorm().fixed(capacity) for capacity in (1, 3, 8, 100)] == [(0, 0), (1, 0), (4, 0), (4, 0)]
