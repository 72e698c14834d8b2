"""Guards gathering: each query block still sees its own key blocks, and a tile lists what any of its own reads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.gather import Gathered, gather_rows
from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from tests.attention.toys import block_index


def make_index(n_q: int, n_k: int, block_q: int, block_k: int, share: float, seed: int) -> BlockIndex:
    maker = torch.Generator().manual_seed(seed)
    shape = (2, BlockIndex.rows(n_q, n_k, block_q), ceil_div(n_k, block_k))
    index = block_index(torch.rand(shape, generator=maker) < share, block_q, block_k, n_q, n_k)
    past = torch.arange(index.blocks.shape[2]) >= index.counts[..., None]
    return dataclasses.replace(index, blocks=torch.where(past, 2**31 - 1, index.blocks))


def expected_lists(index: BlockIndex, tile: int) -> list[list[dict[int, int]]]:
    """For each head and tile: a block that is read, and the bits of the query blocks that read it."""
    group, first = tile // index.block_q, index.first_row * index.block_q // tile
    heads, rows, _ = index.blocks.shape
    tiles = ceil_div(index.n_k, tile) - first
    lists: list[list[dict[int, int]]] = [[{} for _ in range(tiles)] for _ in range(heads)]
    for head in range(heads):
        for row in range(rows):
            place = index.first_row + row
            bits = lists[head][place // group - first]
            for block in index.blocks[head, row, : index.counts[head, row]].tolist():
                bits[block] = bits.get(block, 0) | 1 << place % group
    return lists


def check(index: BlockIndex, tile: int, gathered: Gathered) -> None:
    lists = expected_lists(index, tile)
    assert gathered.blocks.shape == gathered.bits.shape
    assert gathered.counts.shape == gathered.blocks.shape[:2] == (len(lists), len(lists[0]))
    assert (gathered.blocks.dtype, gathered.counts.dtype, gathered.bits.dtype) == (
        torch.int32,
        torch.int32,
        torch.uint8,
    )
    assert all(x.is_contiguous() for x in (gathered.blocks, gathered.counts, gathered.bits))
    for head, tiles in enumerate(lists):
        for number, bits in enumerate(tiles):
            count = int(gathered.counts[head, number])
            assert gathered.blocks[head, number, :count].tolist() == sorted(bits)
            assert gathered.bits[head, number, :count].tolist() == [bits[block] for block in sorted(bits)]


@settings(max_examples=60, deadline=None)
@given(
    n_k=st.integers(1, 300),
    missing=st.integers(0, 250),
    block_q=st.sampled_from([16, 32, 64]),
    block_k=st.sampled_from([16, 64, 128]),
    tile=st.sampled_from([64, 128]),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_tile_lists_what_any_of_its_query_blocks_reads(
    n_k: int, missing: int, block_q: int, block_k: int, tile: int, share: float, seed: int
) -> None:
    """Also where the queries begin within a tile: its first query blocks are not there, and read nothing."""
    index = make_index(max(1, n_k - missing), n_k, block_q, block_k, share, seed)
    check(index, tile, gather_rows(index, tile))


def test_the_eighth_bit_is_used() -> None:
    """Eight query blocks in a tile fill a byte; as a signed number the last would be lost."""
    index = BlockIndex.dense(128, 128, 16, 16)
    gathered = gather_rows(index, 128)
    assert gathered.bits[0, 0].tolist() == [0b11111111, 0b11111110, 0b11111100, 0b11111000,
                                            0b11110000, 0b11100000, 0b11000000, 0b10000000]  # fmt: skip


@pytest.mark.parametrize("block_q", [16, 64])
def test_empty_lists_give_empty_tiles(block_q: int) -> None:
    index = make_index(100, 130, block_q, 16, 0.0, 0)
    gathered = gather_rows(index)
    assert gathered.counts.tolist() == [[0, 0, 0]] * 2
    check(index, 64, gathered)


def test_lists_are_no_wider_than_necessary() -> None:
    """Four lists of one block hold four at most, of however many there are."""
    blocks = torch.arange(40, dtype=torch.int32)[None, :, None]
    index = BlockIndex(blocks, torch.ones(1, 40, dtype=torch.int32), 16, 16, 640, 640)
    assert gather_rows(index).blocks.shape == (1, 10, 4)
    assert gather_rows(BlockIndex.dense(640, 640, 16, 16)).blocks.shape == (1, 10, 40)
