"""Guards KeyDiff: keys least like the mean direction are kept, whatever their length, independent of queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparse_tasks.attention.methods.keydiff import KeyDiff
from tests.attention.methods.naive import kept_lists, make_sequence, top


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n_k", "heads", "kv_heads", "size"), [(70, 4, 2, 64), (51, 3, 3, 96), (90, 8, 1, 128), (20, 2, 2, 16)]
)
def test_like_naive(impl: str, dtype: torch.dtype, n_k: int, heads: int, kv_heads: int, size: int) -> None:
    q, k = make_sequence(3, n_k, heads, kv_heads, size, dtype)
    expected = []
    for head in k.double().numpy().transpose(1, 0, 2):
        anchor = np.mean([key / np.linalg.norm(key) for key in head], 0)
        cosines = np.array([key @ anchor / np.linalg.norm(key) / np.linalg.norm(anchor) for key in head])
        expected.append(top(-cosines, 15, set()))
    assert kept_lists(KeyDiff(capacity=15).keep(q, k, impl=impl)) == expected
    assert kept_lists(KeyDiff(capacity=15).keep(-2 * q, k, impl=impl)) == expected


def test_only_directions_matter() -> None:
    q, k = make_sequence(60, 60, 4, 2, 64)
    longer = k * torch.linspace(0.1, 10, 60)[:, None, None]
    method = KeyDiff(capacity=20)
    assert kept_lists(method.keep(q, longer, impl="torch")) == kept_lists(method.keep(q, k, impl="torch"))


def test_a_zero_key_gives_no_nan() -> None:
    """It has no direction, and counts as unlike all others."""
    q, k = make_sequence(60, 60, 4, 2, 64)
    k = k + 1.0
    k[17] = 0.0
    assert all(17 in head for head in kept_lists(KeyDiff(capacity=2).keep(q, k, impl="torch")))
