"""Guards the largest components of queries: those of a group together, and the temperature of what is left."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_tasks.attention.kernels.components import keep_largest


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "r"),
    [(4, 2, 64, 9), (8, 1, 96, 1), (3, 3, 16, 16), (6, 2, 80, 200), (20, 1, 576, 32)],
)
def test_like_naive(impl: str, dtype: torch.dtype, heads: int, kv_heads: int, size: int, r: int) -> None:
    wide = torch.randn(3, heads, 2 * size, generator=torch.Generator().manual_seed(1)).to(dtype)
    q = wide[:, :, size:]  # as it comes: a part of a larger tensor
    q[1, 0, 3] = -7.0
    some, scales = keep_largest(q, kv_heads, r, impl=impl)
    assert (some.dtype, some.is_contiguous(), scales.dtype) == (dtype, True, torch.float32)
    for row in range(3):
        for head in range(kv_heads):
            of_group = slice(head * heads // kv_heads, (head + 1) * heads // kv_heads)
            queries = q[row, of_group].double()
            kept = sorted(range(size), key=lambda d, x=queries: -float(x[:, d].abs().sum()))[:r]  # type: ignore[misc]
            expected = torch.zeros_like(queries)
            expected[:, kept] = queries[:, kept]
            assert torch.equal(some[row, of_group].double(), expected)
            share = expected.abs().sum(1) / queries.abs().sum(1)
            torch.testing.assert_close(scales[row, of_group].double(), 1 / (size * share).sqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_ties_keep_no_more_components_than_requested(impl: str) -> None:
    some, scales = keep_largest(torch.ones(1, 2, 32), 1, 5, impl=impl)
    assert (some != 0).sum(2).tolist() == [[5, 5]]
    assert torch.equal(some[0, 0], some[0, 1])
    torch.testing.assert_close(scales, torch.full((1, 2), 1 / math.sqrt(5)))


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_zero_queries_have_a_finite_scale(impl: str) -> None:
    some, scales = keep_largest(torch.zeros(1, 2, 32), 1, 5, impl=impl)
    assert not some.any()
    assert scales.isfinite().all()
