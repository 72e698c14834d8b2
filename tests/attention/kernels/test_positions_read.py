"""Guards the counting of what decoding read: kernel and twin against the index's own count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.positions_read import add_positions_read
from sparse_tasks.core.errors import UsageError


def ints(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def lists(lengths: list[int], unit: int, heads: int, share: float, maker: torch.Generator) -> PageIndex:
    """Random pages in ascending order, with garbage past the counts."""
    width = ceil_div(max(lengths), unit)
    pages = torch.randint(-9, 2**30, (len(lengths), heads, width), generator=maker, dtype=torch.int32)
    counts = torch.zeros(len(lengths), heads, dtype=torch.int32)
    for row, length in enumerate(lengths):
        for head in range(heads):
            chosen = torch.nonzero(torch.rand(ceil_div(length, unit), generator=maker) < share).flatten().int()
            pages[row, head, : len(chosen)], counts[row, head] = chosen, len(chosen)
    return PageIndex(pages, counts, unit, ints(lengths))


@pytest.mark.parametrize("impl", ["triton", "torch"])
@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    unit=st.sampled_from([1, 4, 16]),
    share=st.floats(0, 1),
    shared=st.booleans(),
    seed=st.integers(0, 999),
)
def test_counts_match_each_index(
    impl: str, lengths: list[int], layers: int, heads: int, unit: int, share: float, shared: bool, seed: int
) -> None:
    """Earlier counts stay, and queries that share a request (one was preempted) add up."""
    maker = torch.Generator().manual_seed(seed)
    indices = [lists(lengths, unit, heads, share, maker) for _ in range(layers)]
    slots = torch.zeros(len(lengths), dtype=torch.int64) if shared else torch.randperm(len(lengths), generator=maker)
    before = torch.randint(0, 2**40, (len(lengths) + 2, layers, heads), generator=maker)
    read, expected = before.clone(), before.clone()
    for row, slot in enumerate(slots.tolist()):
        for layer, index in enumerate(indices):
            expected[slot, layer] += index.computed()[row]
    pages, counts = (torch.stack([getattr(index, name) for index in indices]) for name in ("pages", "counts"))
    add_positions_read(read, slots, pages, counts, ints(lengths), unit=unit, impl=impl)
    assert torch.equal(read, expected)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_lists_of_width_zero_add_nothing(impl: str) -> None:
    read = torch.ones(1, 2, 2, dtype=torch.int64)
    pages, counts = torch.empty(2, 1, 2, 0, dtype=torch.int32), torch.zeros(2, 1, 2, dtype=torch.int32)
    add_positions_read(read, torch.zeros(1, dtype=torch.int64), pages, counts, ints([7]), unit=16, impl=impl)
    assert (read == 1).all()


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("counts", {"counts": torch.zeros(2, 3, 1, dtype=torch.int32)}),
        ("read", {"read": torch.zeros(4, 1, 2, dtype=torch.int64)}),
        ("read", {"read": torch.zeros(4, 2, 2, dtype=torch.int32)}),
        ("slots", {"slots": torch.zeros(2, dtype=torch.int64)}),
        ("lengths", {"lengths": torch.zeros(3, dtype=torch.int64)}),
        ("unit", {"unit": 0}),
    ],
)
def test_bad_input_is_refused(field: str, changed: dict[str, Tensor | int]) -> None:
    given: dict[str, Tensor | int] = {
        "read": torch.zeros(4, 2, 2, dtype=torch.int64),
        "slots": torch.zeros(3, dtype=torch.int64),
        "pages": torch.zeros(2, 3, 2, 5, dtype=torch.int32),
        "counts": torch.zeros(2, 3, 2, dtype=torch.int32),
        "lengths": torch.zeros(3, dtype=torch.int32),
        "unit": 4,
    }
    with pytest.raises(UsageError) as error:
        add_positions_read(**(given | changed), impl="torch")  # type: ignore[arg-type]
    assert error.value.field == field
