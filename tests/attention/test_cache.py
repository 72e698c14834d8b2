"""Guards the paged cache: positions are found through the table, views are not copied, and misfits are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.core.errors import UsageError


def numbered(blocks: int, block_size: int, kv_heads: int = 2, size: int = 16) -> Tensor:
    """Keys that say where they lie: ``[block, offset, head, number]``."""
    return torch.arange(blocks * block_size * kv_heads * size).float().view(blocks, block_size, kv_heads, size)


def test_positions_are_found_through_the_table() -> None:
    """Blocks in any order; entries past a sequence's length mean nothing, also where they are no blocks."""
    keys = numbered(6, 4)
    table = torch.tensor([[5, 0, 3], [2, -1, 99]], dtype=torch.int32)
    cache = PagedCache(keys, -keys, table, torch.tensor([9, 4], dtype=torch.int32))
    for sequence, blocks in enumerate(([5, 5, 5, 5, 0, 0, 0, 0, 3], [2, 2, 2, 2])):
        expected = torch.stack([keys[block, position % 4] for position, block in enumerate(blocks)])
        found_keys, found_values = cache.gather(sequence)
        assert torch.equal(found_keys, expected)
        assert torch.equal(found_values, -expected)


def test_a_cache_reports_its_sizes() -> None:
    keys = numbered(6, 4, 3, 32)
    cache = PagedCache(keys, keys, torch.zeros(2, 5, dtype=torch.int32), torch.ones(2, dtype=torch.int32))
    assert (cache.batch, cache.block_size, cache.kv_heads, cache.head_size, cache.capacity) == (2, 4, 3, 32, 20)


@pytest.mark.parametrize("view", [False, True])
def test_a_contiguous_cache_is_viewed(view: bool) -> None:
    """As transformers keeps it, also where it holds room for more: a block a sequence, whose length fits no page."""
    rows = torch.randn(3, 2, 50, 16)
    keys, values = (rows[:, :, :37], rows[:, :, 13:]) if view else (rows, rows + 1)
    lengths = torch.tensor([1, 20, 37], dtype=torch.int32)
    cache = PagedCache.contiguous(keys, values, lengths)
    assert (cache.batch, cache.block_size, cache.capacity) == (3, keys.shape[2], keys.shape[2])
    assert cache.keys.data_ptr() == keys.data_ptr()
    assert cache.values.data_ptr() == values.data_ptr()
    for row, length in enumerate(lengths.tolist()):
        found_keys, found_values = cache.gather(row)
        assert torch.equal(found_keys, keys[row, :, :length].transpose(0, 1))
        assert torch.equal(found_values, values[row, :, :length].transpose(0, 1))


KEYS, TABLE, LENGTHS = numbered(3, 4), torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
LAYOUT = "has to be [blocks, block_size, kv_heads, head_size], none 0"
INTS = "has to be torch.int32"


@pytest.mark.parametrize(
    ("changed", "field", "value", "remedy"),
    [
        ({"keys": KEYS[0]}, "keys", (4, 2, 16), LAYOUT),
        ({"keys": KEYS[:0]}, "keys", (0, 4, 2, 16), LAYOUT),
        ({"values": KEYS[:2]}, "values", (2, 4, 2, 16), "has to be [3, 4, 2, value_size], one for each of the keys"),
        ({"values": KEYS[..., :8]}, "value_size", 8, "has to be a multiple of 16 from 16 to 576"),
        ({"values": KEYS.half()}, "values", "torch.float16", "differs from torch.float32 of the other inputs"),
        (
            {"keys": KEYS.double(), "values": KEYS.double()},
            "keys",
            "torch.float64",
            "is not a supported type",
        ),
        ({"values": KEYS.mT.contiguous().mT}, "values", (128, 32, 1, 2), "strides have to end in 1"),
        ({"block_table": TABLE[0]}, "block_table", (3,), "has to be [batch, max_blocks], not empty"),
        ({"block_table": TABLE[:, :0]}, "block_table", (1, 0), "has to be [batch, max_blocks], not empty"),
        ({"lengths": LENGTHS.repeat(2)}, "lengths", (2,), "has to be [batch], batch 1 as block_table"),
        ({"block_table": TABLE.long()}, "block_table", "torch.int64", INTS),
        ({"lengths": LENGTHS.long()}, "lengths", "torch.int64", INTS),
        ({"lengths": LENGTHS.to("meta")}, "lengths", "meta", "is not the device of keys, cpu"),
    ],
)
def test_invalid_input_is_named(changed: dict[str, Any], field: str, value: object, remedy: str) -> None:
    arguments = {"keys": KEYS, "values": KEYS, "block_table": TABLE, "lengths": LENGTHS} | changed
    with pytest.raises(UsageError) as error:
        PagedCache(**arguments)
    assert (error.value.field, error.value.value) == (field, value)
    assert error.value.remedy.startswith(remedy)


@pytest.mark.parametrize("name", ["keys", "values"])
def test_a_contiguous_cache_of_the_wrong_shape_is_named(name: str) -> None:
    pieces = {"keys": torch.zeros(1, 2, 5, 16), "values": torch.zeros(1, 2, 5, 16)}
    with pytest.raises(UsageError, match=r"has to be \[batch, kv_heads, n, head_size\]") as error:
        PagedCache.contiguous(**pieces | {name: torch.zeros(2, 5, 16)}, lengths=LENGTHS)
    assert (error.value.field, error.value.value) == (name, (2, 5, 16))
