"""Guards budgets that follow lengths: the device rounds as the host does, and what comes nearest is what is taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.kernels.page_budgets import page_budget, page_budgets
from sparse_tasks.core.errors import UsageError


def positions(pages: int, length: int, unit: int) -> int:
    """Positions of this many pages, including the sequence's last."""
    return (pages - 1) * unit + (length - 1) % unit + 1


@given(
    length=st.integers(1, 2**21),
    density=st.sampled_from([0.05, 0.0667, 0.1, 0.1333, 0.2, 0.3, 1 / 3, 0.5, 0.7, 0.95, 1.0]),
    unit=st.sampled_from([1, 7, 16, 64]),
)
def test_budget_is_the_nearest(length: int, density: float, unit: int) -> None:
    pages = page_budget(length, density, unit)
    assert 1 <= pages <= -(-length // unit)
    error = abs(positions(pages, length, unit) - length * density)
    for other in (pages - 1, pages + 1):
        if 1 <= other <= -(-length // unit):
            assert error <= abs(positions(other, length, unit) - length * density) + 1e-6 * length


@pytest.mark.parametrize("impl", ["triton", "torch"])
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 2**21), min_size=1, max_size=9),
    density=st.floats(0.001, 1.0),
    unit=st.sampled_from([1, 12, 16]),
)
def test_device_rounds_like_the_host(impl: str, lengths: list[int], density: float, unit: int) -> None:
    found = page_budgets(torch.tensor(lengths, dtype=torch.int32), density, unit, impl=impl)
    assert found.dtype == torch.int32
    assert found.tolist() == [page_budget(length, density, unit) for length in lengths]


def test_full_density_is_every_page() -> None:
    assert [page_budget(n, 1.0, 16) for n in (1, 16, 17, 1000)] == [1, 1, 2, 63]


@pytest.mark.parametrize(
    ("field", "lengths", "density", "unit"),
    [
        ("lengths", torch.ones(2, dtype=torch.int64), 0.5, 16),
        ("lengths", torch.ones(2, 2, dtype=torch.int32), 0.5, 16),
        ("density", torch.ones(2, dtype=torch.int32), 0.0, 16),
        ("density", torch.ones(2, dtype=torch.int32), 1.5, 16),
        ("unit", torch.ones(2, dtype=torch.int32), 0.5, 0),
    ],
)
def test_bad_input_is_refused(field: str, lengths: torch.Tensor, density: float, unit: int) -> None:
    with pytest.raises(UsageError) as error:
        page_budgets(lengths, density, unit, impl="torch")
    assert error.value.field == field
