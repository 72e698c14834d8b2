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
from sparse_tasks.attention.method import METHODS, ONLY, DecodeMethod, EvictMethod, Phase, StepMethod
from sparse_tasks.attention.vllm.evicted import Evicted
from sparse_tasks.attention.vllm.plan import Plan, Prompt
from sparse_tasks.attention.vllm.requests import Row
from tests.attention.methods.naive import page_lists
from tests.methods import OURS

DECODE, EVICT = ([name for name in OURS if METHODS.get(name).phase is phase] for phase in (Phase.DECODE, Phase.EVICT))
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
    """For any memory limit, and next to longer sequences."""
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


@pytest.mark.parametrize("sparsity", [None, 0.8])
@pytest.mark.parametrize("name", EVICT)
def test_evicting_from_a_batch_takes_no_more_operations(name: str, sparsity: float | None) -> None:
    """While the same requests decode; one that joins or leaves has its lists moved."""
    method, prompt, counts = METHODS.get(name)(sparsity=sparsity), 100, []
    assert isinstance(method, EvictMethod)
    assert not method.each_step or (isinstance(method, StepMethod) and method.together)
    for batch in (1, 16):
        evicted, names = Evicted(method, ONLY, "torch"), [str(number) for number in range(batch)]
        keys = torch.randn(batch, prompt + 9, KV_HEADS, SIZE, generator=torch.Generator().manual_seed(0))
        for row, request in enumerate(names):
            one = keys[row, :prompt]
            evicted.read(Prompt(row, request, 0, 0, prompt, prompt), one.repeat(1, 2, 1), one, one)
        for end in (prompt + 1, prompt + 2):
            rows = [Row(request, row, end - 1, end, prompt) for row, request in enumerate(names)]
            table = torch.arange(batch, dtype=torch.int32)[:, None]
            steps = Plan.of(rows, table, torch.full((batch,), end, dtype=torch.int32), keys.shape[1]).steps
            assert steps is not None
            q, cache = torch.randn(batch, HEADS, SIZE), PagedCache(keys, keys, steps.table, steps.cached)
            with Operations() as operations:
                evicted.step(steps, q, cache)
        counts.append(operations.count)
    assert counts[0] == counts[1] > 0
