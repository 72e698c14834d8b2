"""Guards the choice of blocks: causality, sinks and diagonal, groups of heads, rows taken in stretches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels import block_scores
from sparse_tasks.attention.kernels.block_scores import top_blocks
from sparse_tasks.core.errors import UsageError

KERNELS = ["triton", "torch"]


def make(heads: int, kv_heads: int, rows: int, columns: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pooled queries and keys of small whole numbers: their products are exact, and tie."""
    maker = torch.Generator().manual_seed(seed)
    q = torch.randint(-2, 3, (heads, rows, size), generator=maker).float()
    return q, torch.randint(-2, 3, (kv_heads, columns, size), generator=maker).float()


def naive(
    q: Tensor, k: Tensor, top_k: int, n_q: int, n_k: int, block_q: int, block_k: int, sinks: int
) -> list[list[list[int]]]:
    """A list for each head and row, by sorting."""
    index = []
    for head in range(len(q)):
        index.append([])
        for row in range(q.shape[1]):
            begin = ((n_k - n_q) // block_q + row) * block_q
            ranked = []
            for column in range(k.shape[1]):
                positions = range(column * block_k, (column + 1) * block_k)
                if positions[0] >= begin + block_q:
                    continue
                forced = column < sinks or positions[-1] >= begin
                score = float(q[head, row].double() @ k[head * len(k) // len(q), column].double())
                ranked.append((not forced, -score, column))
            index[-1].append(sorted(column for _, _, column in sorted(ranked)[:top_k]))
    return index


def lists(index: BlockIndex) -> list[list[list[int]]]:
    """The lists of an index, without undefined entries past the counts."""
    return [
        [row[:count] for row, count in zip(rows, counts, strict=True)]
        for rows, counts in zip(index.blocks.tolist(), index.counts.tolist(), strict=True)
    ]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_q", "n_k", "block_q", "block_k", "heads", "kv_heads", "size", "top_k", "sinks"),
    [
        (100, 100, 16, 16, 4, 2, 64, 3, 1),
        (300, 1250, 128, 128, 3, 1, 128, 4, 2),
        (300, 900, 64, 16, 4, 1, 96, 9, 0),
        (129, 2100, 16, 32, 2, 2, 16, 200, 1),  # more columns than a tile has
        (1, 33, 48, 32, 1, 1, 32, 3, 1),
    ],
)
def test_the_highest_products_are_taken(
    impl: str, n_q: int, n_k: int, block_q: int, block_k: int, heads: int, kv_heads: int, size: int, top_k: int,
    sinks: int,
) -> None:  # fmt: skip
    rows, columns = BlockIndex.rows(n_q, n_k, block_q), ceil_div(n_k, block_k)
    q, k = make(heads, kv_heads, rows, columns, size)
    index = top_blocks(q, k, top_k, n_q=n_q, n_k=n_k, block_q=block_q, block_k=block_k, sinks=sinks, impl=impl)
    assert index.blocks.shape == (heads, rows, min(top_k, columns))
    assert index.blocks.dtype == index.counts.dtype == torch.int32
    assert lists(index) == naive(q, k, top_k, n_q, n_k, block_q, block_k, sinks)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_bounded_memory_gives_the_same_result(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = make(2, 1, 10, 23, 32)
    sizes = {"n_q": 150, "n_k": 360, "block_q": 16, "block_k": 16}
    whole = top_blocks(q, k, 5, **sizes, impl=impl)
    monkeypatch.setattr(block_scores, "CELLS", 130)
    assert lists(top_blocks(q, k, 5, **sizes, impl=impl)) == lists(whole)


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 8), rows=st.integers(1, 300), first=st.integers(0, 50), cells=st.integers(1, 5000),
    block_q=st.sampled_from([16, 128]), block_k=st.sampled_from([16, 64]),
)  # fmt: skip
def test_chunks_cover_all_rows_within_the_memory_limit(
    heads: int, rows: int, first: int, cells: int, block_q: int, block_k: int
) -> None:
    columns = ceil_div((first + rows) * block_q, block_k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_scores, "CELLS", cells)
        chunks = list(block_scores.row_chunks(heads, rows, columns, first, block_q, block_k))
    assert [row for start, stop, _ in chunks for row in range(start, stop)] == list(range(rows))
    for start, stop, reach in chunks:
        assert stop == start + 1 or heads * (stop - start) * reach <= cells
        assert reach * block_k >= min(columns * block_k, (first + stop) * block_q)


@pytest.mark.usefixtures("poisoned")
def test_low_precision_and_views_are_accepted() -> None:
    q, k = (x.half() for x in make(2, 2, 9, 9, 64))  # Triton's interpreter cannot multiply bfloat16
    sizes = {"n_q": 140, "n_k": 140, "block_q": 16, "block_k": 16}
    strided = q.transpose(0, 1).contiguous().transpose(0, 1)
    assert lists(top_blocks(strided, k, 4, **sizes, impl="triton")) == naive(q, k, 4, 140, 140, 16, 16, 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"top_k": 1}, "top_k"),
        ({"n_q": 65}, "q_pool"),
        ({"n_q": 0}, "n_q"),
        ({"n_k": 200}, "q_pool"),
        ({"sinks": -1}, "sinks"),
        ({"block_k": 0}, "block_k"),
        ({"block_k": 32}, "k_pool"),
    ],
)
def test_bad_input_is_named(change: dict[str, int], field: str) -> None:
    q, k = make(1, 1, 4, 8, 16)
    arguments = {"top_k": 3, "n_q": 64, "n_k": 128, "block_q": 16, "block_k": 16} | change
    with pytest.raises(UsageError) as error:
        top_blocks(q, k, **arguments)
    assert error.value.field == field
