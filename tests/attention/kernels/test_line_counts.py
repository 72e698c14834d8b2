"""Guards counts of lines: kernel and twin against what the index of these lines computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import queries_outside
from sparse_tasks.attention.kernels.line_counts import line_counts
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.ops.lines import best_by_band, line_index
from sparse_tasks.core.errors import UsageError


def places(heads: int, n: int, maker: torch.Generator) -> Tensor:
    """A random order of ``n`` for each head."""
    return torch.stack([torch.randperm(n, generator=maker) for _ in range(heads)]).int()


def best(rank: Tensor, number: int) -> tuple[Tensor, Tensor]:
    return select_top(-rank.float(), number, impl="torch")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", ["triton", "torch"])
@settings(deadline=None, max_examples=15)
@given(
    n_k=st.integers(1, 400),
    chunk=st.floats(0.01, 1),
    tiles=st.sampled_from([(16, 8), (16, 4), (8, 8), (128, 64)]),
    heads=st.integers(1, 3),
    tried=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)
def test_counts_match_an_index(
    impl: str, n_k: int, chunk: float, tiles: tuple[int, int], heads: int, tried: list[int], seed: int
) -> None:
    n_q, (block_q, unit), maker = max(1, round(chunk * n_k)), tiles, torch.Generator().manual_seed(seed)
    vertical, slash = places(heads, n_k, maker), places(heads, n_k, maker)
    slash = torch.where(slash == 0, slash[:, :1], slash)
    slash[:, 0] = 0
    lines = [min(number, n_k) for number in tried]
    bands = best_by_band(slash, block_q, unit)
    shape = {"n_q": n_q, "n_k": n_k, "block_q": block_q, "unit": unit}

    def index(verticals: int, slashes: int) -> Tensor:
        chosen = line_index(*best(vertical, verticals), *best(slash, slashes), **shape, impl="torch")
        return chosen.computed().sum()

    numbers = torch.tensor(lines, dtype=torch.int32)
    both = line_counts(bands, numbers, vertical, **shape, impl=impl)
    assert both.computed.tolist() == [int(index(number, number)) for number in lines]
    assert both.alone is None
    alone = line_counts(bands, numbers, **shape, impl=impl)
    assert alone.computed.tolist() == [int(index(0, number)) for number in lines]
    assert alone.alone is not None
    assert torch.equal(alone.alone, queries_outside(bands < numbers[:, None, None], **shape).int())


def test_invalid_input_is_refused() -> None:
    shape = {"n_q": 100, "n_k": 100, "block_q": 128, "unit": 64}
    bands, lines = torch.zeros(2, 4, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
    with pytest.raises(UsageError, match="best"):
        line_counts(bands[:, :3], lines, **shape, impl="torch")
    with pytest.raises(UsageError, match="lines"):
        line_counts(bands, lines.long(), **shape, impl="torch")
    with pytest.raises(UsageError, match="rank"):
        line_counts(bands, lines, torch.zeros(2, 99, dtype=torch.int32), **shape, impl="torch")
