"""Guards keys by component: the copy equals the cache, and weights from it equal those from the cache, key by key."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention import cache as cache_module
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.kernels.components import keep_largest, top_components
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.key_components import (
    component_weights,
    new_key_components,
    update_key_components,
)
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.test_step_weights import KERNELS, SHAPES, everything, made, naive


def by_component(cache: PagedCache) -> Tensor:
    """NaN where no sequence has a key, as the cache is."""
    return cache.keys.permute(0, 2, 3, 1).contiguous()


def same_bytes(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.float().nan_to_num(7e7), expected.float().nan_to_num(7e7))


def slots_of(cache: PagedCache, row: int) -> Tensor:
    position = torch.arange(int(cache.lengths[row]))
    block = cache.block_table[row, position // cache.block_size].long()
    return block * cache.block_size + position % cache.block_size


def check_weights(q: Tensor, cache: PagedCache, components: Tensor, r: int, softmax: Softmax, impl: str) -> None:
    """Against a softmax written out for each key, with queries that are 0 elsewhere."""
    numbers, scales = top_components(q, cache.kv_heads, r, impl=impl)
    found = component_weights(q, components, cache, numbers, scales, softmax=softmax, impl=impl)
    assert found.dtype == torch.float32
    some, _ = keep_largest(q, cache.kv_heads, r, impl=impl)
    expected = naive(some, cache, everything(cache), cache.capacity, scales=scales, softmax=softmax)
    torch.testing.assert_close(found, expected, rtol=3e-4, atol=1e-6)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("heads", "kv_heads", "size", "r"), [(4, 2, 64, 32), (5, 1, 96, 7), (6, 3, 16, 99)])
def test_numbers_are_those_of_the_kept_components(impl: str, heads: int, kv_heads: int, size: int, r: int) -> None:
    q = torch.randn(3, heads, size, generator=torch.Generator().manual_seed(4))
    some, kept_scales = keep_largest(q, kv_heads, r, impl="torch")
    numbers, scales = top_components(q, kv_heads, r, impl=impl)
    assert numbers.dtype == torch.int32
    assert numbers.shape == (3, kv_heads, min(r, size))
    kept = (some.view(3, kv_heads, -1, size) != 0).any(2)
    assert numbers.tolist() == [[head.nonzero()[:, 0].tolist() for head in row] for row in kept]
    torch.testing.assert_close(scales, kept_scales)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, EIGHT_BITS])
@pytest.mark.parametrize("block_size", [16, 12, 48])
def test_the_copy_equals_the_cache(impl: str, dtype: torch.dtype, block_size: int) -> None:
    """Whatever the order of slots, and whatever was in a block before."""
    _, cache = made([100, 1, 31], 6, 3, 48, block_size, torch.float32)
    cache = PagedCache(cache.keys.to(dtype), cache.values.to(dtype), cache.block_table, cache.lengths)
    components = new_key_components(cache.keys).copy_(torch.tensor(float("nan")))
    for earlier in (True, False):
        for row in range(3):
            slots = slots_of(cache, row)
            keys = cache.keys.flatten(0, 1)[slots]
            keys = torch.full_like(keys, 3.0) if earlier else keys
            order = torch.randperm(len(slots), generator=torch.Generator().manual_seed(row))
            padded = torch.cat([slots[order], torch.tensor([-1, -1])])
            wide = torch.cat([keys[order], keys.new_zeros(2, 3, 48)])
            wide = wide.transpose(0, 1).contiguous().transpose(0, 1)  # of other strides
            update_key_components(components, wide, padded.int() if row else padded, impl=impl)
    assert same_bytes(components, by_component(cache))
    update_key_components(components, cache.keys.flatten(0, 1)[:0], torch.zeros(0, dtype=torch.int64), impl=impl)
    assert same_bytes(components, by_component(cache))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("lengths", "heads", "kv_heads", "size", "block_size", "dtype"), SHAPES)
def test_like_naive(
    impl: str, lengths: list[int], heads: int, kv_heads: int, size: int, block_size: int, dtype: torch.dtype
) -> None:
    q, cache = made(lengths, heads, kv_heads, size, block_size, dtype)
    for r in (7, 40, size):
        check_weights(q, cache, by_component(cache), r, PLAIN, impl)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    "softmax",
    [Softmax(sinks=torch.tensor([1.0, -2.0, 0.5, 3.0])), Softmax(soft_cap=1.5)],
    ids=lambda softmax: softmax.what,
)
def test_sinks_and_caps(impl: str, softmax: Softmax) -> None:
    q, cache = made([200, 0, 33], 4, 2, 32, 16, torch.float32)
    check_weights(q, cache, by_component(cache), 20, softmax, impl)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("length", [160, 150])  # by whole runs, and not
def test_a_one_block_cache_and_8_bits(impl: str, length: int) -> None:
    keys = torch.randn(2, 2, length, 48, generator=torch.Generator().manual_seed(1))
    q = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(2)).half()
    lengths = torch.tensor([length, 41], dtype=torch.int32)
    for held in (keys.half(), keys.to(EIGHT_BITS)):
        cache = PagedCache.contiguous(held, held, lengths)
        exact = PagedCache.contiguous(held.float(), held.float(), lengths)
        numbers, scales = top_components(q, 2, 20, impl=impl)
        found = component_weights(q, by_component(cache), cache, numbers, scales, impl=impl)
        some, _ = keep_largest(q, 2, 20, impl=impl)
        expected = naive(some, exact, everything(exact), length, scales=scales)
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("impl", KERNELS)
def test_sequences_are_processed_in_groups(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, cache = made([50, 90, 3], 4, 2, 16, 16, torch.float32)
    numbers, scales = top_components(q, 2, 5, impl=impl)
    one = component_weights(q, by_component(cache), cache, numbers, scales, impl=impl)
    monkeypatch.setattr(cache_module, "_NUMBERS", 1)
    assert torch.equal(component_weights(q, by_component(cache), cache, numbers, scales, impl=impl), one)


def test_bad_input_is_named() -> None:
    q, cache = made([40], 4, 2, 64, 16, torch.float32)
    components = by_component(cache)
    numbers, scales = top_components(q, 2, 8, impl="torch")
    for field, arguments in {
        "q": {"q": q[0]},
        "components": {"components": cache.keys},
        "numbers": {"numbers": numbers.long()},
        "scales": {"scales": scales[:, :2]},
    }.items():
        given = {"q": q, "components": components, "cache": cache, "numbers": numbers, "scales": scales} | arguments
        with pytest.raises(UsageError) as error:
            component_weights(**given)  # type: ignore[arg-type]
        assert error.value.field == field
    keys, slots = torch.zeros(3, 2, 64), torch.arange(3)
    for field, updated in {
        "components": (components[0], keys, slots),
        "keys": (components, keys[:, :1], slots),
        "slots": (components, keys, slots[:2]),
    }.items():
        with pytest.raises(UsageError) as error:
            update_key_components(*updated)
        assert error.value.field == field
    with pytest.raises(UsageError, match="int32"):
        update_key_components(components, keys, slots.double())
