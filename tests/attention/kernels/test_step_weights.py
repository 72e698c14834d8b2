"""Guards the weights of a step: they equal a softmax written out, key by key, over all keys or over listed pages."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention import cache as cache_module
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.step_weights import step_weights
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.test_sparse_decode import make_cache

KERNELS = ["triton", "torch"]


def made(
    lengths: list[int], heads: int, kv_heads: int, size: int, block_size: int, dtype: torch.dtype
) -> tuple[Tensor, PagedCache]:
    """Queries, and a cache that is NaN where no sequence has a key, and has no values."""
    cache = make_cache(lengths, kv_heads, size, block_size, dtype)
    cache.values.fill_(float("nan"))
    q = torch.randn(len(lengths), heads, size, generator=torch.Generator().manual_seed(5)).to(dtype)
    return q, cache


def naive(
    q: Tensor,
    cache: PagedCache,
    lists: list[list[list[int]]],
    width: int,
    scales: Tensor | None = None,
    levels: int | None = None,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Of the positions that each head of each sequence lists; those that a sequence lacks are no keys."""
    (batch, heads, size), kv_heads = q.shape, cache.kv_heads
    found = torch.full((batch, kv_heads, width), float("-inf"))
    for row in range(batch):
        keys = cache.keys[cache.block_table[row].long()].flatten(0, 1).double()
        for head in range(kv_heads):
            held = [(at, position) for at, position in enumerate(lists[row][head]) if position < cache.lengths[row]]
            weights = torch.zeros(len(held), dtype=torch.float64)
            some = keys[[position for _, position in held], head]
            if levels is not None and held:
                step = (some.float().abs().amax(1, keepdim=True) / levels).clamp_min(1e-30)
                some = (some.float() / step).round().double() * step  # in fp32, where halves are met
            for query in range(head * heads // kv_heads, (head + 1) * heads // kv_heads):
                scale = size**-0.5 if scales is None else float(scales[row, query])
                scores = some @ q[row, query].double() * scale
                if softmax.soft_cap is not None:
                    scores = (scores / softmax.soft_cap).tanh() * softmax.soft_cap
                total = scores.exp().sum()
                if softmax.sinks is not None:
                    total += math.exp(float(softmax.sinks[query]))
                weights += scores.exp() / total
            found[row, head, [at for at, _ in held]] = weights.float()
    return found


def everything(cache: PagedCache) -> list[list[list[int]]]:
    return [[list(range(cache.capacity))] * cache.kv_heads] * cache.batch


def drawn(cache: PagedCache, unit: int, width: int) -> tuple[PageIndex, list[list[list[int]]]]:
    """Ragged lists of pages, some of them empty, and their positions; past a count pages are what no sequence has."""
    generator, room = torch.Generator().manual_seed(9), -(-cache.capacity // unit)
    pages = torch.full((cache.batch, cache.kv_heads, width), 2**29, dtype=torch.int32)
    counts = torch.randint(0, min(width, room) + 1, pages.shape[:2], generator=generator, dtype=torch.int32)
    counts[0, 0] = min(width, room)
    lists = []
    for row in range(cache.batch):
        lists.append([])
        for head in range(cache.kv_heads):
            chosen = torch.randperm(room, generator=generator)[: int(counts[row, head])].sort().values
            pages[row, head, : len(chosen)] = chosen
            lists[-1].append([int(page) * unit + i for page in chosen for i in range(unit)])
    return PageIndex(pages, counts, unit, cache.lengths), lists


SHAPES = [
    ([300, 1, 77], 4, 2, 64, 16, torch.float32),  # several tiles
    ([100, 31], 8, 1, 96, 16, torch.float16),  # two parts of a head; Triton's interpreter cannot multiply bfloat16
    ([90], 3, 3, 128, 32, torch.float16),
    ([90, 10], 7, 1, 16, 12, torch.float32),
    ([60], 20, 1, 80, 16, torch.float32),  # a group above 16
    ([70, 40], 20, 1, 272, 16, torch.float16),  # of which a program takes a part
]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("lengths", "heads", "kv_heads", "size", "block_size", "dtype"), SHAPES)
@pytest.mark.parametrize("levels", [None, 7])
def test_like_naive(
    impl: str,
    lengths: list[int],
    heads: int,
    kv_heads: int,
    size: int,
    block_size: int,
    dtype: torch.dtype,
    levels: int | None,
) -> None:
    q, cache = made(lengths, heads, kv_heads, size, block_size, dtype)
    found = step_weights(q, cache, levels=levels, impl=impl)
    assert found.dtype == torch.float32
    expected = naive(q, cache, everything(cache), cache.capacity, levels=levels)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)
    for unit, width in ((16, 3), (1, 40), (5, 7)):
        index, lists = drawn(cache, unit, width)
        found = step_weights(q, cache, index, levels=levels, impl=impl)
        expected = naive(q, cache, lists, width * unit, levels=levels)
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    "softmax",
    [Softmax(sinks=torch.tensor([1.0, -2.0, 0.5, 3.0])), Softmax(soft_cap=1.5)],
    ids=lambda softmax: softmax.what,
)
def test_sinks_caps_and_scales(impl: str, softmax: Softmax) -> None:
    q, cache = made([200, 0, 33], 4, 2, 32, 16, torch.float32)
    scales = torch.rand(3, 4, generator=torch.Generator().manual_seed(2))
    found = step_weights(q, cache, scales=scales, softmax=softmax, impl=impl)
    expected = naive(q, cache, everything(cache), cache.capacity, scales=scales, softmax=softmax)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)
    index, lists = drawn(cache, 4, 9)
    found = step_weights(q, cache, index, scales=scales, levels=100, softmax=softmax, impl=impl)
    expected = naive(q, cache, lists, 36, scales=scales, levels=100, softmax=softmax)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("levels", [None, 7])
def test_a_one_block_cache_with_unusual_strides_and_8_bits(impl: str, levels: int | None) -> None:
    keys = torch.randn(2, 2, 150, 48, generator=torch.Generator().manual_seed(1))
    q = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(2)).half()
    lengths = torch.tensor([150, 41], dtype=torch.int32)
    for held in (keys.half(), keys.to(EIGHT_BITS)):
        cache = PagedCache.contiguous(held, held, lengths)
        exact = PagedCache.contiguous(held.float(), held.float(), lengths)
        found = step_weights(q, cache, levels=levels, impl=impl)
        torch.testing.assert_close(found, naive(q, exact, everything(exact), 150, levels=levels), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("impl", KERNELS)
def test_sequences_are_processed_in_groups(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, cache = made([50, 90, 3], 4, 2, 16, 16, torch.float32)
    index, _ = drawn(cache, 16, 3)
    scales = torch.rand(3, 4)
    one = [step_weights(q, cache, some, scales=scales, levels=7, impl=impl) for some in (None, index)]
    monkeypatch.setattr(cache_module, "_NUMBERS", 1)
    other = [step_weights(q, cache, some, scales=scales, levels=7, impl=impl) for some in (None, index)]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_zero_keys_and_half_steps_are_rounded_like_torch() -> None:
    keys = torch.zeros(1, 1, 4, 16)
    keys[0, 0, 1, :8] = torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 6.5])  # of which a step is 1
    keys[0, 0, 2, 0], keys[0, 0, 3, 0] = 1e-38, 3e4
    cache = PagedCache.contiguous(keys, keys, torch.tensor([4], dtype=torch.int32))
    q = torch.linspace(-1, 1, 16).view(1, 1, 16)
    found = [step_weights(q, cache, levels=7, impl=impl) for impl in KERNELS]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


def test_bad_input_is_named() -> None:
    q, cache = made([40], 4, 2, 64, 16, torch.float32)
    other, _ = drawn(make_cache([40], 4, 64, 16), 16, 2)
    for field, arguments in {
        "q": {"q": q[0]},
        "listed": {"listed": other},
        "scales": {"scales": torch.ones(1, 2)},
        "levels": {"levels": 128},
    }.items():
        with pytest.raises(UsageError) as error:
            step_weights(**{"q": q, "cache": cache} | arguments)  # type: ignore[arg-type]
        assert error.value.field == field
