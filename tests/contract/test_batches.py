"""Promises of every method of decoding for batches: each request is treated as if alone, and none adds a launch."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed; pip install '.[attention]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_tasks.attention import cache as cache_module
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.method import METHODS, DecodeMethod, Phase
from tests.attention.methods.naive import page_lists
from tests.methods import OURS

DECODE = [name for name in OURS if METHODS.get(name).phase is Phase.DECODE]
HEADS, KV_HEADS, SIZE, BLOCK = 4, 2, 32, 16


class Operations(TorchDispatchMode):
    """Counts what torch computes, each of which is a launch on a GPU; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def inputs(lengths: list[int], kind: type[DecodeMethod]) -> tuple[Tensor, PagedCache, Tensor | None]:
    """Queries, and a cache with blocks in any order and NaN where no sequence has a position; the method's state."""
    make = torch.Generator().manual_seed(sum(lengths))
    wide = ceil_div(max(lengths), BLOCK)
    table = torch.randperm(len(lengths) * wide, generator=make).int().view(len(lengths), wide)
    keys = torch.full((table.numel(), BLOCK, KV_HEADS, SIZE), float("nan"))
    cache = PagedCache(keys, keys, table, torch.tensor(lengths, dtype=torch.int32))
    state = kind().new_state(cache)
    for row, length in enumerate(lengths):
        position = torch.arange(length)
        slots = table[row, position // BLOCK].long() * BLOCK + position % BLOCK
        written = 2 * torch.randn(length, KV_HEADS, SIZE, generator=make)
        keys.view(-1, KV_HEADS, SIZE)[slots] = written
        kind().update(state, written, slots, BLOCK, impl="torch")
    return torch.randn(len(lengths), HEADS, SIZE, generator=make), cache, state


@pytest.mark.parametrize("name", DECODE)
@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    sparsity=st.sampled_from([None, 0.3, 0.8]),
    numbers=st.sampled_from([1, 40_000, 1 << 25]),
)
def test_a_batch_is_selected_as_each_of_its_sequences(
    name: str, lengths: list[int], sparsity: float | None, numbers: int
) -> None:
    """However many keys are held at once, and whatever longer sequences stand beside."""
    method = METHODS.get(name)(sparsity=sparsity)
    assert isinstance(method, DecodeMethod)
    q, cache, state = inputs(lengths, type(method))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "_NUMBERS", numbers)
        together = page_lists(method.select(q, cache, state, impl="torch"))
        for row, found in enumerate(together):
            which = slice(row, row + 1)
            alone = method.select(q[which], cache.rows(which), state, impl="torch")
            assert page_lists(alone) == [found]


@pytest.mark.parametrize("sparsity", [None, 0.8])
@pytest.mark.parametrize("name", DECODE)
def test_selecting_for_a_batch_takes_no_more_operations(name: str, sparsity: float | None) -> None:
    method = METHODS.get(name)(sparsity=sparsity)
    assert isinstance(method, DecodeMethod)
    counts = []
    for batch in (1, 16):
        q, cache, state = inputs([200] * batch, type(method))
        with Operations() as operations:
            method.select(q, cache, state, impl="torch")
        counts.append(operations.count)
    assert counts[0] == counts[1] > 0
