"""Guards block means: parts of blocks at both ends, strided views, types, against a loop over blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.kernels.pooling import mean_pool
from sparse_tasks.core.errors import UsageError

KERNELS = ["triton", "torch"]


def naive(x: Tensor, block: int, offset: int) -> Tensor:
    """A mean for each block, in fp32."""
    means = []
    for first in range(offset // block * block, offset + len(x), block):
        means.append(x[max(0, first - offset) : first + block - offset].float().mean(0))
    return torch.stack(means, 1)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n", "heads", "size", "block", "offset"),
    [(200, 3, 64, 64, 0), (130, 2, 96, 16, 5), (70, 8, 128, 128, 100), (33, 1, 16, 48, 47), (3, 5, 256, 128, 0)],
)
def test_means_of_whole_and_partial_blocks(impl: str, n: int, heads: int, size: int, block: int, offset: int) -> None:
    wide = torch.randn(n, heads + 2, size, generator=torch.Generator().manual_seed(0))
    x = wide[:, 1:-1]  # a view, as of a fused projection
    found = mean_pool(x, block, offset=offset, impl=impl)
    expected = naive(x, block, offset)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_only_at_the_end(impl: str, dtype: torch.dtype) -> None:
    x = (torch.randn(300, 2, 64, generator=torch.Generator().manual_seed(1)) + 30).to(dtype)
    found = mean_pool(x, 128, impl=impl)
    assert found.dtype == dtype
    # The sums differ in order alone, so at most the last bit does after rounding.
    torch.testing.assert_close(found.float(), naive(x, 128, 0), rtol=torch.finfo(dtype).eps, atol=0)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 90), block=st.integers(1, 40), offset=st.integers(0, 100))
def test_the_kernel_matches_its_twin(n: int, block: int, offset: int) -> None:
    x = torch.randn(n, 2, 32, generator=torch.Generator().manual_seed(n))
    twin = mean_pool(x, block, offset=offset, impl="torch")
    torch.testing.assert_close(mean_pool(x, block, offset=offset, impl="triton"), twin, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "block", "offset", "field"),
    [((4, 16), 2, 0, "x"), ((0, 1, 16), 2, 0, "x"), ((4, 1, 16), 0, 0, "block"), ((4, 1, 16), 2, -1, "offset")],
)
def test_bad_input_is_named(shape: tuple[int, ...], block: int, offset: int, field: str) -> None:
    with pytest.raises(UsageError) as error:
        mean_pool(torch.zeros(shape), block, offset=offset)
    assert error.value.field == field
