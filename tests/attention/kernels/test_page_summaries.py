"""Guards Quest's page summaries: every way of keeping them gives each page the extremes of the keys it holds now."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.page_scores import page_scores
from sparse_tasks.attention.kernels.page_summaries import new_page_summaries, page_summaries, update_page_summaries
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.test_sparse_decode import in_8_bits, make_cache

KERNELS = ["triton", "torch"]


def naive(cache: PagedCache, row: int, unit: int) -> Tensor:
    """The extremes of a sequence's pages in their logical order, ``[pages, kv_heads, 2, head_size]``."""
    keys, _ = cache.gather(row)
    pages = [keys[start : start + unit] for start in range(0, len(keys), unit)]
    return torch.stack([torch.stack([page.amin(0), page.amax(0)], dim=1) for page in pages])


def of_sequence(summaries: Tensor, cache: PagedCache, row: int, unit: int) -> Tensor:
    """A sequence's summaries in their logical order."""
    per_block = -(-cache.block_size // unit)
    starts = range(0, int(cache.lengths[row]), unit)
    blocks = cache.block_table[row].tolist()
    return summaries[[blocks[s // cache.block_size] * per_block + s % cache.block_size // unit for s in starts]]


def slots_of(cache: PagedCache, row: int) -> Tensor:
    """Where the cache keeps each position of a sequence."""
    blocks = cache.block_table[row].tolist()
    size = cache.block_size
    return torch.tensor([blocks[p // size] * size + p % size for p in range(int(cache.lengths[row]))])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("lengths", "kv_heads", "size", "block_size", "unit", "dtype"),
    [
        ([50, 1, 33], 2, 64, 16, 16, torch.float32),
        ([50, 17], 1, 96, 32, 8, torch.bfloat16),
        ([70], 3, 128, 64, 32, torch.float16),
        ([40], 1, 16, 24, 24, torch.float32),  # no power of 2
        ([9], 1, 64, 16, 1, torch.float32),
    ],
)
def test_whole_cache(
    impl: str, lengths: list[int], kv_heads: int, size: int, block_size: int, unit: int, dtype: torch.dtype
) -> None:
    cache = make_cache(lengths, kv_heads, size, block_size, dtype)
    summaries = page_summaries(cache, unit, impl=impl)
    assert summaries.dtype == dtype
    for row in range(len(lengths)):
        assert torch.equal(of_sequence(summaries, cache, row, unit), naive(cache, row, unit))


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=4),
    st.sampled_from(KERNELS),
    st.sampled_from([(16, 16), (16, 4), (40, 12), (24, 24)]),
)
def test_updates_in_any_chunks(
    lengths: tuple[int, int], cuts: list[tuple[int, int]], impl: str, sizes: tuple[int, int]
) -> None:
    """Chunks of two sequences side by side, padding in between: as if all were seen at once.

    Pages held something else before, which must not show.
    """
    block_size, unit = sizes
    cache = make_cache(list(lengths), 2, 16, block_size, seed=sum(lengths))
    summaries = new_page_summaries(cache.keys, unit).fill_(1000.0)
    rows = [(slots_of(cache, row), cache.gather(row)[0]) for row in range(2)]
    done = [0, 0]
    for ends in [*zip(*(sorted(cut[row] for cut in cuts) for row in range(2)), strict=True), lengths]:
        slots, keys = [torch.tensor([-1])], [torch.full((1, 2, 16), float("nan"))]
        for row, end in enumerate(ends):
            slots += [rows[row][0][done[row] : end], torch.tensor([-1, -1])]
            keys += [rows[row][1][done[row] : end], torch.full((2, 2, 16), float("nan"))]
            done[row] = end
        update_page_summaries(summaries, torch.cat(keys), torch.cat(slots), unit=unit, block_size=block_size, impl=impl)
    for row in range(2):
        assert torch.equal(of_sequence(summaries, cache, row, unit), naive(cache, row, unit))


@pytest.mark.parametrize("impl", KERNELS)
def test_order_within_a_page_does_not_matter(impl: str) -> None:
    """The page's first position may come last: it still begins the page anew, with all of this call's keys."""
    keys, slots = torch.randn(5, 1, 64), torch.tensor([18, 17, 16, 33, 34], dtype=torch.int32)
    summaries = torch.full((3, 1, 2, 64), 50.0)
    summaries[:, :, 0] = -50.0
    update_page_summaries(summaries, keys, slots, unit=16, impl=impl)
    assert torch.equal(summaries[1, 0], torch.stack([keys[:3, 0].amin(0), keys[:3, 0].amax(0)]))  # anew
    assert (summaries[[0, 2], :, 0] == -50).all()  # untouched, and folded into what was wider
    assert (summaries[[0, 2], :, 1] == 50).all()


@pytest.mark.parametrize("impl", KERNELS)
def test_keys_in_8_bits_give_summaries_in_8_bits(impl: str) -> None:
    """The extremes of keys are keys, so that nothing is rounded again."""
    small, large = in_8_bits(make_cache([50, 1, 33], 2, 64, 16))
    built = page_summaries(small, 16, impl=impl)
    assert built.dtype == EIGHT_BITS
    updated = new_page_summaries(small.keys, 16)
    for row in range(3):
        keys, slots = small.gather(row)[0], slots_of(small, row)
        for part in (slice(0, 20), slice(20, None)):
            if len(slots[part]):
                update_page_summaries(updated, keys[part], slots[part], unit=16, impl=impl)
        for summaries in (built, updated):
            assert torch.equal(of_sequence(summaries.float(), small, row, 16), naive(large, row, 16))
    q = torch.randn(3, 4, 64)
    scores = page_scores(q, built, small, unit=16, impl=impl)
    assert torch.equal(scores, page_scores(q, built.float(), large, unit=16, impl=impl))


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("slots", [[], [-1, -1]])
def test_nothing_written(impl: str, slots: list[int]) -> None:
    summaries = torch.randn(2, 1, 2, 64)
    before = summaries.clone()
    update_page_summaries(
        summaries, torch.randn(len(slots), 1, 64), torch.tensor(slots, dtype=torch.int64), unit=16, impl=impl
    )
    assert torch.equal(summaries, before)


def test_bad_input_is_named() -> None:
    cache = make_cache([40], 2, 64, 16)
    summaries = new_page_summaries(cache.keys, 16)
    keys, slots = torch.zeros(3, 2, 64), torch.zeros(3, dtype=torch.int64)
    for field, arguments in {
        "summaries": (summaries[:, :, 0], keys, slots),
        "keys": (summaries, keys[:, :1], slots),
        "slots": (summaries, keys, slots[:2]),
    }.items():
        with pytest.raises(UsageError) as error:
            update_page_summaries(*arguments, unit=16)
        assert error.value.field == field
    with pytest.raises(UsageError, match="int64"):
        update_page_summaries(summaries, keys, slots.float(), unit=16)
    for unit in (0, 12, 32):
        with pytest.raises(UsageError, match="unit"):
            page_summaries(cache, unit)
    with pytest.raises(UsageError, match="unit"):
        new_page_summaries(cache.keys, 0)
    with pytest.raises(UsageError, match="unit"):
        update_page_summaries(summaries, keys, slots, unit=0)
