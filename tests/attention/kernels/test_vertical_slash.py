"""Guards vertical-slash attention: verticals within bands once, chunks, groups, kernel and twin against fp32."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.vertical_slash import vertical_slash_attention
from sparse_tasks.attention.ops.lines import line_index
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.core.errors import UsageError
from tests.attention.kernels.prompts import check, close, epsilon, make_prompt

KERNELS = ["triton", "torch"]
# Triton's interpreter multiplies bfloat16 as integers, so 16-bit types are float16 there.


def listed(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The lists of what is True in bool ``[heads, n]``, with garbage past the counts, and the counts."""
    counts = kept.sum(1, dtype=torch.int32)
    numbers = torch.full((len(kept), int(counts.max()) + 3), 2**31 - 1, dtype=torch.int32)
    numbers[:, -1] = -9
    for head, row in enumerate(kept):
        found = torch.nonzero(row).flatten().int()
        numbers[head, : len(found)] = found
    return numbers, counts


def make_index(
    n_q: int,
    n_k: int,
    heads: int,
    seed: int,
    block_q: int = 64,
    unit: int = 64,
    columns: float = 0.1,
    bands: float = 0.4,
) -> LineIndex:
    """Random columns and random bands, garbage past the counts of both."""
    maker = torch.Generator().manual_seed(seed)
    number = ceil_div(n_k, unit) + block_q // unit
    lists = [listed(torch.rand(heads, n, generator=maker) < share) for n, share in ((n_k, columns), (number, bands))]
    return LineIndex(*lists[0], *lists[1], block_q, unit, n_q, n_k)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "size", "block_q", "unit", "index_heads", "dtype"),
    [
        (200, 200, 4, 2, 64, 64, 64, 2, torch.float16),
        (100, 100, 8, 1, 96, 64, 64, 8, torch.float32),
        (270, 270, 2, 2, 32, 128, 128, 2, torch.float32),
        pytest.param(150, 150, 4, 1, 80, 128, 64, 4, torch.float16, marks=pytest.mark.nightly),
        pytest.param(70, 70, 1, 1, 256, 64, 64, 1, torch.float16, marks=pytest.mark.nightly),
        # Chunks: from within a tile, from its border, one token.
        (75, 205, 4, 2, 128, 64, 64, 4, torch.float16),
        (64, 256, 2, 1, 64, 64, 64, 1, torch.float32),
        pytest.param(100, 300, 2, 1, 16, 128, 64, 2, torch.float32, marks=pytest.mark.nightly),
        (1, 130, 8, 2, 64, 64, 64, 2, torch.float32),
        (5, 5, 1, 1, 16, 128, 128, 1, torch.float16),
    ],
)
def test_like_fp32(
    impl: str,
    n_q: int,
    n_k: int,
    heads: int,
    kv_heads: int,
    size: int,
    block_q: int,
    unit: int,
    index_heads: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    index = make_index(n_q, n_k, index_heads, seed, block_q, unit)
    check(make_prompt(n_q, n_k, heads, kv_heads, size, dtype, seed), index, impl, seed)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("block_q", "unit"), [(64, 64), (128, 64), (128, 128)])
def test_a_vertical_within_a_band_is_seen_once(impl: str, block_q: int, unit: int, seed: int) -> None:
    """With every band, verticals add nothing: it is dense attention, and were one seen twice it would not be."""
    index = make_index(140, 210, 2, seed, block_q, unit, columns=0.5, bands=1.0)
    prompt = make_prompt(140, 210, 4, 2, 32, torch.float32, seed)
    dense = attention_reference(*prompt)
    close(check(prompt, index, impl, seed), dense, dense, epsilon(torch.float32), f"seed {seed}")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_verticals_or_slashes_alone(impl: str, seed: int) -> None:
    """Verticals without bands, bands without verticals, and neither, which gives 0."""
    prompt = make_prompt(100, 170, 2, 1, 32, torch.float32, seed)
    check(prompt, make_index(100, 170, 2, seed, bands=0.0), impl, seed)
    bands = make_index(100, 170, 2, seed, columns=0.0)
    check(prompt, bands, impl, seed)
    check(prompt, dataclasses.replace(bands, columns=bands.columns[:, :0]), impl, seed)
    out = check(prompt, make_index(100, 170, 2, seed, bands=0.0, columns=0.0), impl, seed)
    assert (out == 0).all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_queries_before_the_first_vertical_get_zero(impl: str, seed: int) -> None:
    columns = torch.tensor([[70, 2**31 - 1], [128, 129]], dtype=torch.int32)
    none = torch.full((2, 1), 7, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    index = LineIndex(columns, torch.tensor([1, 2], dtype=torch.int32), *none, 64, 64, 150, 150)
    out = check(make_prompt(150, 150, 2, 2, 16, torch.float32, seed), index, impl, seed)
    for head, first in enumerate((70, 128)):
        assert (out[:first, head] == 0).all()
        assert (out[first:, head] != 0).all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_more_verticals_than_a_tile_holds(impl: str, seed: int) -> None:
    index = make_index(170, 170, 1, seed, columns=0.95, bands=0.0)
    assert index.column_counts[0] > 128
    check(make_prompt(170, 170, 2, 1, 16, torch.float32, seed), index, impl, seed)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", KERNELS)
def test_lines_of_a_method_run_unchanged(impl: str, seed: int) -> None:
    """Slashes as ``from_lines`` rounds them up to bands."""
    maker = torch.Generator().manual_seed(seed)
    columns, slashes = (listed(torch.rand(2, 200, generator=maker) < share) for share in (0.05, 0.01))
    index = line_index(*columns, *slashes, block_q=128, unit=64, n_q=90, n_k=200, impl=impl)
    check(make_prompt(90, 200, 4, 2, 32, torch.float32, seed), index, impl, seed, scale=0.3)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("stretch", [1, 128])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "block_q", "unit"),
    [(300, 300, 3, 128, 64), (75, 700, 2, 64, 64), (1, 130, 1, 128, 128), (5, 5, 2, 64, 64)],
)
def test_tile_lists_match_loops(
    n_q: int, n_k: int, heads: int, block_q: int, unit: int, stretch: int, seed: int
) -> None:
    """Gluon's kernel, which the interpreter cannot run, reads them too."""
    from sparse_tasks.attention.kernels.triton.lines import FAR, STRETCH, tile_lists

    index = make_index(n_q, n_k, heads, seed, block_q, unit, columns=0.5)
    for kept in (index, dataclasses.replace(index, columns=index.columns[:, :0], column_counts=0 * index.band_counts)):
        found = tile_lists(kept, stretch=stretch)
        assert found.columns.shape[1] % STRETCH == 0
        tiles = range((n_k - n_q) // block_q, ceil_div(n_k, block_q))
        for head in range(heads):
            columns = kept.columns[head, : kept.column_counts[head]].tolist()
            bands = kept.bands[head, : kept.band_counts[head]].tolist()
            assert found.columns[head].tolist() == columns + [FAR] * (found.columns.shape[1] - len(columns))
            assert found.band_counts[head].tolist() == [
                sum((tile + 1) * block_q - (band + 1) * unit >= 0 for band in bands) for tile in tiles
            ]
            assert found.column_counts[head].tolist() == [
                ceil_div(sum(column < (tile + 1) * block_q for column in columns), stretch) for tile in tiles
            ]
            assert torch.equal(found.band_flags[head].bool(), kept.band_mask()[head])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("index_heads", [1, 2, 4])
def test_keys_of_verticals_are_gathered_for_each_query_head(index_heads: int, seed: int) -> None:
    from sparse_tasks.attention.kernels.triton.columns import gather_columns
    from sparse_tasks.attention.kernels.triton.lines import FAR, tile_lists

    _, k, v = make_prompt(310, 310, 4, 2, 48, torch.float32, seed)
    index = make_index(310, 310, index_heads, seed, columns=0.6)
    columns = tile_lists(index, stretch=128).columns
    for gathered, of in zip(gather_columns(k, v, columns, 4, FAR), (k, v), strict=True):
        assert gathered.shape == (columns.shape[1], 4, 48)
        for head in range(4):
            at = columns[head * index_heads // 4]
            stretches = int((at < FAR).sum() + 127) // 128 * 128
            expected = torch.where((at < FAR)[:, None], of[at.clamp_max(309), head // 2], 0.0)
            assert torch.equal(gathered[:stretches, head], expected[:stretches])


INDEX = make_index(100, 100, 1, 0)


@pytest.mark.parametrize(
    ("changed", "field", "value", "remedy"),
    [
        ({"columns": INDEX.columns.long()}, "index.columns", "torch.int64", "has to be torch.int32"),
        ({"bands": INDEX.bands.long()}, "index.bands", "torch.int64", "has to be torch.int32"),
        ({"column_counts": INDEX.column_counts.long()}, "index.column_counts", "torch.int64", "has to be torch.int32"),
        ({"band_counts": INDEX.band_counts.long()}, "index.band_counts", "torch.int64", "has to be torch.int32"),
        ({"n_q": 99}, "index", (99, 100), "has other lengths than q and k, (100, 100)"),
        (
            {name: getattr(INDEX, name).repeat_interleave(3, 0)
             for name in ("columns", "column_counts", "bands", "band_counts")},
            *("index", 3, "heads have to be 1, 2 (KV heads) or 4 (query heads)"),
        ),
        ({"block_q": 32, "unit": 32}, "index", (32, 32), "tiles have to be 64 or 128"),
        ({"unit": 16}, "index", (64, 16), "tiles have to be 64 or 128"),
    ],
)  # fmt: skip
def test_an_invalid_index_is_named(changed: dict[str, Any], field: str, value: object, remedy: str) -> None:
    q, k = torch.zeros(100, 4, 32), torch.zeros(100, 2, 32)
    with pytest.raises(UsageError) as error:
        vertical_slash_attention(q, k, k, dataclasses.replace(INDEX, **changed), impl="torch")
    assert (error.value.field, error.value.value) == (field, value)
    assert error.value.remedy.startswith(remedy)


LISTS = ("columns", "column_counts", "bands", "band_counts")


@pytest.mark.parametrize("name", LISTS)
def test_lists_with_different_heads_are_named(name: str) -> None:
    """The kernel would read past them."""
    q, k = torch.zeros(100, 4, 32), torch.zeros(100, 2, 32)
    wide = {n: getattr(INDEX, n).repeat_interleave(4, 0) for n in LISTS}
    index = dataclasses.replace(INDEX, **wide | {name: wide[name][:2]})
    with pytest.raises(UsageError, match="heads") as error:
        vertical_slash_attention(q, k, k, index, impl="torch")
    assert error.value.field == ("index.bands" if name == "columns" else f"index.{name}")


def test_a_query_block_is_a_multiple_of_the_unit() -> None:
    q = torch.zeros(100, 2, 32)
    with pytest.raises(UsageError, match="block_q a multiple of unit") as error:
        vertical_slash_attention(q, q, q, dataclasses.replace(INDEX, block_q=64, unit=128), impl="torch")
    assert (error.value.field, error.value.value) == ("index", (64, 128))
