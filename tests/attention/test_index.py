"""Guards indices: what they make visible, and that they count it exactly, whatever is past the counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.index import (
    BlockIndex,
    Kept,
    KeptBatch,
    LineIndex,
    PageIndex,
    band_interactions,
    ceil_div,
    line_interactions,
)
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.ops.lines import line_index
from tests.attention.toys import block_index

GARBAGE = (2**31 - 1, -7, 10**6)
LENGTHS = {"n_k": st.integers(1, 200), "missing": st.integers(0, 150)}


def random_flags(*shape: int, share: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def listed(kept: Tensor, extra: int = 3) -> tuple[Tensor, Tensor]:
    """The lists of what is True in bool ``[..., n]``, with garbage past the counts, and the counts."""
    counts = kept.sum(-1, dtype=torch.int32)
    numbers = torch.tensor([GARBAGE[i % 3] for i in range(int(counts.max()) + extra)], dtype=torch.int32)
    numbers = numbers.repeat(*kept.shape[:-1], 1)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in kept.shape[:-1])).view(-1, kept.ndim - 1).tolist():
        found = torch.nonzero(kept[tuple(place)]).flatten().int()
        numbers[tuple(place)][: len(found)] = found
    return numbers, counts


def make_blocks(
    n_q: int, n_k: int, block_q: int, block_k: int, heads: int = 2, share: float = 0.4, seed: int = 0
) -> tuple[BlockIndex, Tensor]:
    """A random index with garbage past the counts, and its mask, in which nothing is after the diagonal."""
    rows, columns = BlockIndex.rows(n_q, n_k, block_q), ceil_div(n_k, block_k)
    kept = random_flags(heads, rows, columns, share=share, seed=seed)
    first = (n_k - n_q) // block_q
    for row in range(rows):
        kept[:, row, ceil_div((first + row + 1) * block_q, block_k) :] = False
    return BlockIndex(*listed(kept), block_q, block_k, n_q, n_k), kept


def pairs(kept: Tensor, block_q: int, block_k: int, n_q: int, n_k: int) -> Tensor:
    """Bool ``[heads, n_q, n_k]`` of a mask of tiles, cell by cell."""
    first = (n_k - n_q) // block_q
    out = torch.zeros(len(kept), n_q, n_k, dtype=torch.bool)
    for i in range(n_k - n_q, n_k):
        for column in range(kept.shape[2]):
            start, end = column * block_k, min((column + 1) * block_k, i + 1)
            if start < end:
                out[:, i - (n_k - n_q), start:end] = kept[:, i // block_q - first, column, None]
    return out


# --- blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_q", "n_k", "block_q", "row"), [(9, 9, 4, 0), (1, 9, 4, 2), (5, 9, 4, 1), (6, 9, 4, 0)])
def test_the_grid_begins_at_position_zero(n_q: int, n_k: int, block_q: int, row: int) -> None:
    touched = {i // block_q for i in range(n_k - n_q, n_k)}
    index = BlockIndex.dense(n_q, n_k, block_q, 2)
    assert index.first_row == row == min(touched)
    assert BlockIndex.rows(n_q, n_k, block_q) == len(touched) == index.blocks.shape[1]


@settings(max_examples=40, deadline=None)
@given(
    **LENGTHS, block_q=st.sampled_from([16, 32, 64]), block_k=st.sampled_from([16, 40, 128]), seed=st.integers(0, 99)
)
def test_blocks_are_seen_and_counted_as_listed(n_k: int, missing: int, block_q: int, block_k: int, seed: int) -> None:
    n_q = max(1, n_k - missing)
    index, kept = make_blocks(n_q, n_k, block_q, block_k, seed=seed)
    assert torch.equal(index.mask(), kept)
    expected = pairs(kept, block_q, block_k, n_q, n_k)
    assert torch.equal(index.pattern().mask(n_q, n_k), expected)
    assert index.seen().tolist() == expected.sum((1, 2)).tolist()
    assert index.selected_density().tolist() == [int(s) / causal_count(n_q, n_k) for s in index.seen()]


@settings(max_examples=40, deadline=None)
@given(
    **LENGTHS, block_q=st.sampled_from([16, 32, 64, 128]), block_k=st.sampled_from([16, 64]), seed=st.integers(0, 99)
)
def test_small_blocks_cost_their_tile(n_k: int, missing: int, block_q: int, block_k: int, seed: int) -> None:
    """Every query of a tile of 64 is multiplied with the blocks that any of them reads."""
    n_q = max(1, n_k - missing)
    index, kept = make_blocks(n_q, n_k, block_q, block_k, share=0.2, seed=seed)
    tile = max(64, block_q)
    first = (n_k - n_q) // tile
    union = torch.zeros(len(kept), ceil_div(n_k, tile) - first, kept.shape[2], dtype=torch.bool)
    for row in range(kept.shape[1]):
        union[:, (index.first_row + row) * block_q // tile - first] |= kept[:, row]
    expected = pairs(union, tile, block_k, n_q, n_k).sum((1, 2))
    assert index.computed().dtype == torch.int64
    assert index.computed().tolist() == expected.tolist()
    assert index.density().tolist() == [int(c) / causal_count(n_q, n_k) for c in expected]
    assert (index.computed() >= index.seen()).all()


@pytest.mark.parametrize(("n_q", "n_k"), [(150, 150), (41, 150), (1, 1), (1, 129)])
@pytest.mark.parametrize(("block_q", "block_k"), [(16, 16), (32, 128), (64, 64), (128, 64), (128, 32)])
def test_the_dense_index_sees_everything_and_lists_no_more(n_q: int, n_k: int, block_q: int, block_k: int) -> None:
    index = BlockIndex.dense(n_q, n_k, block_q, block_k)
    assert index.seen().tolist() == index.computed().tolist() == [causal_count(n_q, n_k)]
    assert index.density().tolist() == index.selected_density().tolist() == [1.0]
    full = torch.ones(1, *index.blocks.shape[1:], dtype=torch.bool)
    assert torch.equal(index.mask(), block_index(full, block_q, block_k, n_q, n_k).mask())


@settings(max_examples=60, deadline=None)
@given(
    **LENGTHS,
    last=st.integers(1, 200),
    block_q=st.sampled_from([16, 32, 64, 128]),
    block_k=st.sampled_from([16, 64]),
    seed=st.integers(0, 99),
)
def test_the_tail_of_blocks_matches_the_last_queries(
    n_k: int, missing: int, last: int, block_q: int, block_k: int, seed: int
) -> None:
    """Also where the first row, of the whole or of the tail, is a part of a block."""
    n_q = max(1, n_k - missing)
    last = min(last, n_q)
    index, kept = make_blocks(n_q, n_k, block_q, block_k, share=0.3, seed=seed)
    tail = index.tail(last)
    assert (tail.n_q, tail.n_k, tail.block_q, tail.block_k) == (last, n_k, block_q, block_k)
    assert tail.blocks.shape[1] == BlockIndex.rows(last, n_k, block_q)
    seen = index.pattern().mask(n_q, n_k)[:, n_q - last :]
    assert torch.equal(tail.pattern().mask(last, n_k), seen)
    assert tail.seen().tolist() == seen.sum((1, 2)).tolist()
    assert tail.selected_density().tolist() == [int(s) / causal_count(last, n_k) for s in tail.seen()]
    # Tiles are gathered of the rows that are left.
    made = BlockIndex(*listed(kept[:, kept.shape[1] - tail.blocks.shape[1] :]), block_q, block_k, last, n_k)
    assert tail.computed().tolist() == made.computed().tolist()
    assert block_q < 64 or tail.computed().tolist() == tail.seen().tolist()
    assert torch.equal(index.tail(n_q).mask(), index.mask())


# --- lines --------------------------------------------------------------------------------------------------


def make_lines(
    n_q: int, n_k: int, block_q: int = 64, unit: int = 64, heads: int = 2, share: float = 0.05, seed: int = 0
) -> tuple[LineIndex, Tensor, Tensor]:
    """A random index with garbage in it, and which columns and slashes it was made of."""
    columns = random_flags(heads, n_k, share=share, seed=seed)
    slashes = random_flags(heads, n_k, share=share / 3, seed=seed + 1)
    index = line_index(*listed(columns), *listed(slashes), block_q=block_q, unit=unit, n_q=n_q, n_k=n_k, impl="torch")
    return index, columns, slashes


def on_lines(columns: Tensor, slashes: Tensor, n_q: int, n_k: int) -> Tensor:
    """Bool ``[heads, n_q, n_k]``: whether a key is in a column or on a slash."""
    distance = torch.arange(n_k - n_q, n_k)[:, None] - torch.arange(n_k)
    return (columns[:, None] | slashes[:, distance.clamp_min(0)]) & (distance >= 0)


def poison_bands(index: LineIndex) -> LineIndex:
    """With other numbers past the counts of the bands."""
    past = torch.arange(index.bands.shape[1]) >= index.band_counts[:, None]
    return dataclasses.replace(index, bands=torch.where(past, GARBAGE[0], index.bands))


TILES = st.sampled_from([(16, 16), (32, 16), (64, 64), (128, 64), (128, 128)])


@settings(max_examples=40, deadline=None)
@given(tiles=TILES, slashes=st.lists(st.integers(0, 299), max_size=4, unique=True))
def test_a_slash_becomes_the_bands_that_it_crosses(tiles: tuple[int, int], slashes: list[int]) -> None:
    """Checked along a slash, from a late query block, so that all of its keys exist."""
    block_q, unit = tiles
    kept = torch.zeros(1, 300, dtype=torch.bool)
    kept[0, slashes] = True
    none = torch.zeros(1, 0, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    index = line_index(*none, *listed(kept), block_q=block_q, unit=unit, n_q=300, n_k=300, impl="torch")
    end = 1024
    crossed = {end // unit - 1 - (i - d) // unit for d in slashes for i in range(end - block_q, end)}
    assert index.bands[0, : index.band_counts[0]].tolist() == sorted(crossed)
    assert torch.nonzero(index.band_mask()[0]).flatten().tolist() == sorted(crossed)


@settings(max_examples=40, deadline=None)
@given(**LENGTHS, tiles=TILES, share=st.floats(0, 0.3), seed=st.integers(0, 99), heads=st.integers(1, 3))
def test_lines_are_seen_and_counted_once(
    n_k: int, missing: int, tiles: tuple[int, int], share: float, seed: int, heads: int
) -> None:
    n_q, (block_q, unit) = max(1, n_k - missing), tiles
    index, columns, slashes = make_lines(n_q, n_k, block_q, unit, heads, share, seed)
    index = poison_bands(index)
    seen = index.pattern().mask(n_q, n_k)
    bands = [set(index.bands[h, : index.band_counts[h]].tolist()) for h in range(heads)]
    for head in range(heads):
        for i in range(n_k - n_q, n_k):
            end = (i // block_q + 1) * (block_q // unit) - 1
            listed_keys = [bool(columns[head, j]) or end - j // unit in bands[head] for j in range(i + 1)]
            assert seen[head, i - (n_k - n_q)].tolist() == listed_keys + [False] * (n_k - 1 - i)
    lines = on_lines(columns, slashes, n_q, n_k)
    assert (seen | ~lines).all()  # rounding up to bands loses nothing
    assert index.computed().dtype == torch.int64
    assert index.computed().tolist() == seen.sum((1, 2)).tolist() == index.pattern().count(n_q, n_k).tolist()
    assert index.density().tolist() == [int(c) / causal_count(n_q, n_k) for c in index.computed()]
    asked = lines.sum((1, 2))
    assert index.selected_density().tolist() == [int(c) / causal_count(n_q, n_k) for c in asked]


def make_bands(n_q: int, n_k: int, block_q: int, unit: int, heads: int, share: float, seed: int) -> LineIndex:
    """Random columns and bands, that of the query's own tile among them or not, with garbage."""
    columns = random_flags(heads, n_k, share=share, seed=seed)
    bands = random_flags(heads, ceil_div(n_k, unit) + block_q // unit, share=0.3, seed=seed + 1)
    return LineIndex(*listed(columns), *listed(bands), block_q, unit, n_q, n_k)


@settings(max_examples=80, deadline=None)
@given(**LENGTHS, tiles=TILES, share=st.floats(0, 0.5), seed=st.integers(0, 999), heads=st.integers(1, 3))
def test_lines_are_counted_where_the_diagonal_is_not_listed(
    n_k: int, missing: int, tiles: tuple[int, int], share: float, seed: int, heads: int
) -> None:
    """Then a vertical within the query's own block is seen by the queries from it on."""
    n_q = max(1, n_k - missing)
    index = make_bands(n_q, n_k, *tiles, heads, share, seed)
    assert index.computed().dtype == torch.int64
    assert index.computed().tolist() == index.pattern().count(n_q, n_k).tolist()


def test_a_vertical_alone_is_counted_from_its_own_query_on() -> None:
    none = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    for key in (0, 5, 63, 64, 99):
        columns = torch.tensor([[key]], dtype=torch.int32), torch.ones(1, dtype=torch.int32)
        assert LineIndex(*columns, *none, 64, 64, 100, 100).computed().tolist() == [100 - key]
        assert LineIndex(*columns, *none, 64, 64, 30, 100).computed().tolist() == [min(30, 100 - key)]


@settings(max_examples=80, deadline=None)
@given(**LENGTHS, last=st.integers(1, 200), tiles=TILES, share=st.floats(0, 0.5), seed=st.integers(0, 999))
def test_the_tail_of_lines_matches_the_last_queries(
    n_k: int, missing: int, last: int, tiles: tuple[int, int], share: float, seed: int
) -> None:
    n_q = max(1, n_k - missing)
    last = min(last, n_q)
    for index in (
        make_bands(n_q, n_k, *tiles, 2, share, seed),
        make_lines(n_q, n_k, *tiles, 2, share, seed)[0],
    ):
        tail = index.tail(last)
        assert (tail.n_q, tail.n_k) == (last, n_k)
        seen = index.pattern().mask(n_q, n_k)[:, n_q - last :]
        assert torch.equal(tail.pattern().mask(last, n_k), seen)
        assert tail.computed().tolist() == seen.sum((1, 2)).tolist()
        assert tail.density().tolist() == [int(c) / causal_count(last, n_k) for c in tail.computed()]


def test_the_selected_density_of_the_last_queries_is_that_of_their_lines() -> None:
    index, columns, slashes = make_lines(150, 150, share=0.1)
    asked = on_lines(columns, slashes, 40, 150).sum((1, 2))
    assert index.tail(40).selected_density().tolist() == [int(c) / causal_count(40, 150) for c in asked]


def test_without_a_count_of_lines_the_bands_are_what_was_selected() -> None:
    index, _, _ = make_lines(150, 150, share=0.1)
    bare = dataclasses.replace(index, slashes=None, slash_counts=None)
    assert torch.equal(bare.selected_density(), index.density())
    assert (index.selected_density() < index.density()).all()


def test_lines_without_columns_are_counted() -> None:
    index, _, _ = make_lines(90, 90, share=0.0, heads=1)
    assert dataclasses.replace(index, columns=index.columns[:, :0]).computed().tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(n_k=st.integers(1, 90), missing=st.integers(0, 80), tiles=st.sampled_from([(4, 4), (8, 4), (32, 8), (64, 64)]))
def test_interactions_of_bands_match_a_loop(n_k: int, missing: int, tiles: tuple[int, int]) -> None:
    n_q, (block_q, unit) = max(1, n_k - missing), tiles
    found = band_interactions(torch.device("cpu"), n_q, n_k, block_q, unit)
    expected = [0] * len(found)
    for i in range(n_k - n_q, n_k):
        for j in range(i + 1):
            expected[(i // block_q + 1) * (block_q // unit) - 1 - j // unit] += 1
    assert found.tolist() == expected
    assert sum(expected) == causal_count(n_q, n_k)


@settings(max_examples=60, deadline=None)
@given(n_k=st.integers(1, 60), missing=st.integers(0, 50), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_interactions_on_lines_match_a_loop(n_k: int, missing: int, share: float, seed: int) -> None:
    n_q = max(1, n_k - missing)
    columns, slashes = random_flags(2, 2, n_k, share=share, seed=seed)
    expected = on_lines(columns, slashes, n_q, n_k).sum((1, 2)).tolist()
    assert line_interactions(columns, slashes, n_q).tolist() == expected


# --- pages --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    unit=st.integers(1, 20),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_pages_are_read_up_to_each_length(lengths: list[int], unit: int, share: float, seed: int) -> None:
    """The last page may be a part; pages past a sequence's end are garbage that no count reaches."""
    longest, heads = max(lengths), 2
    kept = random_flags(len(lengths), heads, ceil_div(longest, unit), share=share, seed=seed)
    for row, length in enumerate(lengths):
        kept[row, :, ceil_div(length, unit) :] = False
    index = PageIndex(*listed(kept), unit, torch.tensor(lengths, dtype=torch.int32))
    expected = torch.zeros(len(lengths), heads, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        for position in range(length):
            expected[row, :, position] = kept[row, :, position // unit]
    assert torch.equal(index.mask(longest), expected)
    assert index.computed().tolist() == expected.sum(2).tolist()
    shares = [[int(n) / length for n in row] for row, length in zip(expected.sum(2), lengths, strict=True)]
    assert index.density().tolist() == shares


@pytest.mark.parametrize("unit", [1, 7])
def test_weights_apply_to_all_positions_of_their_pages(unit: int) -> None:
    lengths, never = torch.tensor([40, 12], dtype=torch.int32), float("nan")
    pages = torch.tensor([[[0, 3], [5, -1]], [[1, 2**31 - 1], [9, 9]]], dtype=torch.int32)
    counts = torch.tensor([[2, 1], [1, 0]], dtype=torch.int32)
    weights = torch.tensor([[[0.5, 2.0], [3.0, never]], [[-1.0, never], [never, never]]])
    index = PageIndex(pages, counts, unit, lengths, weights)
    expected = torch.zeros(2, 2, 40)
    for row, head, page, weight in ((0, 0, 0, 0.5), (0, 0, 3, 2.0), (0, 1, 5, 3.0), (1, 0, 1, -1.0)):
        expected[row, head, page * unit : (page + 1) * unit] = weight
    shifts = index.shifts(40)
    assert shifts is not None
    assert torch.equal(shifts, expected)
    second = index.rows(slice(1, 2))
    assert torch.equal(second.shifts(40), expected[1:])  # type: ignore[arg-type]
    assert torch.equal(second.mask(40), index.mask(40)[1:])
    assert index.nbytes() == 4 * (8 + 4 + 8)
    assert PageIndex(pages, counts, unit, lengths).shifts(40) is None


@pytest.mark.parametrize("unit", [1, 16, 64])
def test_dense_pages_cover_all_positions(unit: int) -> None:
    lengths = torch.tensor([1, 33, 64], dtype=torch.int32)
    index = PageIndex.dense(lengths, 2, unit, 64)
    assert index.pages.dtype == index.counts.dtype == torch.int32
    assert index.pages.shape == (3, 2, ceil_div(64, unit))
    assert index.counts.tolist() == [[ceil_div(n, unit)] * 2 for n in (1, 33, 64)]
    assert torch.equal(index.mask(64), (torch.arange(64) < lengths[:, None, None]).expand(3, 2, 64))
    assert (index.density() == 1).all()
    assert index.nbytes() == 4 * 6 * (ceil_div(64, unit) + 1)


# --- what is kept -------------------------------------------------------------------------------------------


def test_a_new_position_follows_each_heads_last() -> None:
    """Heads keep different numbers of tokens; entries past their counts are overwritten or unread."""
    kept = Kept(
        torch.tensor([[0, 3, 8], [5, GARBAGE[0], GARBAGE[1]]], dtype=torch.int32),
        torch.tensor([3, 1], dtype=torch.int32),
        9,
        torch.tensor([[0.5, 0.25, 0.125], [1.0, float("nan"), float("nan")]]),
        capacity=4,
    )
    later = kept.append(9).append(10)
    assert later.counts.dtype == later.positions.dtype == torch.int32
    assert later.counts.tolist() == [5, 3]
    assert later.positions[0].tolist() == [0, 3, 8, 9, 10]
    assert later.positions[1, :3].tolist() == [5, 9, 10]
    assert (later.length, later.capacity) == (11, 4)
    assert later.scores is not None
    assert later.scores[0].tolist() == [0.5, 0.25, 0.125, 0.0, 0.0]
    assert later.scores[1, :3].tolist() == [1.0, 0.0, 0.0]
    assert kept.counts.tolist() == [3, 1]  # the old one is as it was
    assert kept.positions.shape == (2, 3)


def test_kept_tokens_without_scores_get_none() -> None:
    assert Kept(torch.zeros(1, 1).int(), torch.ones(1).int(), 1).append(1).scores is None


def test_kept_tokens_are_read_as_pages_of_one_position() -> None:
    kept = Kept(torch.tensor([[0, 3], [4, GARBAGE[0]]], dtype=torch.int32), torch.tensor([2, 1], dtype=torch.int32), 6)
    index = kept.pages()
    assert (index.unit, index.lengths.tolist(), index.lengths.dtype) == (1, [6], torch.int32)
    assert torch.nonzero(index.mask(6)[0]).tolist() == [[0, 0], [0, 3], [1, 4]]
    assert index.density().tolist() == [[2 / 6, 1 / 6]]


def kept(size: int, capacity: int, scores: bool) -> Kept:
    positions = torch.arange(2 * size, dtype=torch.int32).view(2, size)
    numbers = positions + 0.5 if scores else None
    return Kept(positions, torch.full((2,), size, dtype=torch.int32), 50, numbers, capacity)


def test_joining_and_taking_sequences_keeps_their_data() -> None:
    """Padded to the longest that is there, and no further; scores that a method has yet to give begin at 0."""
    alone = [kept(3, 4, True), kept(1, 7, False), kept(6, 6, True)]
    batch = KeptBatch.joined([KeptBatch.of(one) for one in alone])
    assert (batch.sizes, batch.limits, batch.positions.shape) == ((3, 1, 6), (4, 7, 6), (3, 2, 6))
    few = batch.take([1, 0])
    assert (few.sizes, few.limits, few.capacities.tolist()) == ((1, 3), (7, 4), [7, 4])
    assert few.positions.shape == (2, 2, 3)
    assert few.scores is not None
    for row, one in ((0, alone[1]), (1, alone[0])):
        size = one.positions.shape[1]
        assert torch.equal(few.positions[row, :, :size], one.positions)
        assert torch.equal(few.counts[row], one.counts)
        expected = torch.zeros(2, size) if one.scores is None else one.scores
        assert torch.equal(few.scores[row, :, :size], expected)
    grown = few.append(torch.tensor([50, 60], dtype=torch.int32)).widen([False, True])
    assert grown.positions[:, 1].tolist() == [[1, 50, 0, 0], [3, 4, 5, 60]]
    assert grown.scores is not None
    assert grown.scores[:, 1].tolist() == [[0, 0, 0, 0], [3.5, 4.5, 5.5, 0]]
    assert (grown.sizes, grown.limits, grown.capacities.tolist()) == ((2, 4), (7, 5), [7, 5])
    assert few.widen([True, True]).capacities.tolist() == [8, 5]
